"""Downloads the public archives of IU X-ray from Open-i; a cut download goes on where it stopped."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

from emrrg_lib.data.archives import check_archive
from emrrg_lib.data.prepare import file_record
from emrrg_lib.files import InputError, existing_parent, write_json

OPENI = "https://openi.nlm.nih.gov/imgs/collections/"
ARCHIVES = ("NLMCXR_reports.tgz", "NLMCXR_png.tgz")
MEASURED = {"NLMCXR_reports.tgz": "8fb6de7eec73d8c3665067ad4bb003ccd57f971ae316d2642e1627ac7268667a"}
"""SHA-256 of the copies this kit was measured with; Open-i publishes none, so another one is not an error."""
TRIES = 5


class ResumingDownload:
    """A pooch downloader: bytes go to `part`, a later call asks the server only for the rest.

    Raises:
        requests.RequestException: The server refused, the line was cut, or nothing came for `timeout`
            seconds; pooch tries again.
        ValueError: The file came to its end, but is damaged; pooch tries again from the start.
        OSError: The disk has too little space.
    """

    def __init__(self, part: Path, timeout: float = 30):
        self.part, self.timeout = part, timeout

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        have = self.part.stat().st_size if self.part.is_file() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as reply:
            if reply.status_code == requests.codes.requested_range_not_satisfiable:
                self.part.unlink()  # longer than the server's file: it has changed since
            reply.raise_for_status()
            have = have if reply.status_code == requests.codes.partial_content else 0
            self._receive(reply, have)
        try:
            check_archive(self.part)
        except InputError:
            self.part.unlink()
            raise
        os.replace(self.part, output_file)

    def _receive(self, reply: requests.Response, have: int) -> None:
        rest = int(reply.headers.get("Content-Length", 0))
        if shutil.disk_usage(self.part.parent).free < rest:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.part))
        name = self.part.name.removesuffix(".part")
        with (
            open(self.part, "ab" if have else "wb") as file,
            tqdm(total=have + rest or None, initial=have, unit="B", unit_scale=True, desc=name) as bar,
        ):
            for chunk in reply.iter_content(2**15):
                bar.update(file.write(chunk))
        if rest and self.part.stat().st_size < have + rest:
            raise requests.ConnectionError(f"the connection ended after {self.part.stat().st_size:,} bytes")


def fetch_iu_xray(folder: str | Path, url: str = OPENI) -> list[Path]:
    """Downloads reports and images of IU X-ray into `folder`; files that are there already are only checked.

    Each file's SHA-256 is written to `downloads.json` at the first download; later calls compare with it.

    Args:
        folder: Where the archives go.
        url: Folder of the archives on the web: Open-i's, or a mirror's.

    Returns:
        The archives, whole and readable.

    Raises:
        InputError: `TRIES` attempts failed (the part that came is kept, and the next call goes on), or a
            file that was put there by hand is damaged. Folders that stay empty are removed.
    """
    folder = Path(folder)
    found = existing_parent(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _fetch_all(folder, url)
    finally:
        for part in folder.glob("*.part"):
            if not part.stat().st_size:
                part.unlink()
        for made in (folder.absolute(), *folder.absolute().parents):
            if made == found or any(made.iterdir()):
                break
            made.rmdir()


def _fetch_all(folder: Path, url: str) -> list[Path]:
    record = folder / "downloads.json"
    try:
        known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        sums = {name: entry["sha256"] for name, entry in known.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{record} is damaged: remove it, and call again to check the archives") from None
    for name in ARCHIVES:
        if (folder / name).is_file() and name not in known:
            check_archive(folder / name)  # put there by hand
        store = pooch.create(
            folder,
            url.rstrip("/") + "/",
            retry_if_failed=TRIES - 1,
            registry={name: sums.get(name)},
        )
        try:
            store.fetch(name, downloader=ResumingDownload(folder / f"{name}.part"))
        except (ValueError, requests.RequestException) as error:
            raise InputError(
                f"cannot fetch {store.get_url(name)} ({error}): call again to go on, or name a"
                " mirror with --url"
            ) from error
        known[name] = {"url": store.get_url(name), **file_record(folder / name)}
        write_json(record, known)
        if known[name]["sha256"] != MEASURED.get(name, known[name]["sha256"]):
            print(f"{name} is not the copy this kit was measured with: run `emrrg data check` on the result")
    return [folder / name for name in ARCHIVES]
