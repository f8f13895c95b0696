"""Tar archives in memory, for the tests of downloads."""

import io
import tarfile


def tar_bytes(*entries, mode="w:gz") -> bytes:
    """An archive of (name, bytes) or ready `TarInfo` entries."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return buffer.getvalue()
