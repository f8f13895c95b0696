"""Which files a folder holds, their SHA-256 and what each was made from; so work can stop and go on."""

from __future__ import annotations

import json
from pathlib import Path

from emrrg_lib.errors import InputError
from emrrg_lib.files import write_json


class Manifest:
    """The files of a folder in the making: `manifest.json`, and until `finish` a journal beside it.

    Args:
        folder: New, empty, or begun earlier with the same settings.
        settings: What decides the files' contents: command, size, seed, inputs.

    Raises:
        InputError: The folder holds something else, or was begun with other settings.
    """

    def __init__(self, folder: str | Path, settings: dict):
        self.folder, self.settings = Path(folder), settings
        self.path, self.journal = self.folder / "manifest.json", self.folder / "manifest.jsonl"
        self.files: dict[str, dict] = {}
        if self.path.is_file():
            self._take_up()
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise InputError(f"{folder} holds something else: choose a new or an empty folder")
        self._write(complete=False)

    def _take_up(self) -> None:
        """Reads what an earlier call has made; a line cut off by a kill counts for nothing."""
        try:
            old = json.loads(self.path.read_text(encoding="utf-8"))
            settings, self.files = old["settings"], dict(old["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path} is damaged: remove the folder and begin again") from error
        other = {key for key in {*settings, *self.settings} if settings.get(key) != self.settings.get(key)}
        if other:
            raise InputError(f"{self.folder} was begun with another {', '.join(sorted(other))}: give the same"
                             " again, or choose another folder")
        if self.journal.is_file():
            for line in self.journal.read_text(encoding="utf-8").splitlines():
                try:
                    self.files.update(json.loads(line))
                except ValueError:
                    break

    def _write(self, **more) -> None:
        write_json(self.path, {"settings": self.settings, **more, "files": dict(sorted(self.files.items()))})
        self.journal.unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        """Whether the file is there and is, byte for byte, the one that was written; else it is forgotten."""
        entry, path = self.files.get(name), self.folder / name
        same = entry is not None and path.is_file() and describe(path)["sha256"] == entry["sha256"]
        if not same:
            self.files.pop(name, None)
        return same

    def add(self, name: str, entry: dict) -> None:
        """Notes a file that was written; `entry` comes from `describe`."""
        self.files[name] = entry
        with open(self.journal, "a", encoding="utf-8") as file:
            file.write(json.dumps({name: entry}) + "\n")

    def finish(self, **more) -> None:
        """Writes `manifest.json` with all files, and `more` about them."""
        self._write(complete=True, **more)


def describe(path: str | Path, source: str | None = None) -> dict:
    """{"sha256", "bytes"} of a file, and the name of what it was made from."""
    import pooch

    path = Path(path)
    entry = {"sha256": pooch.file_hash(str(path), alg="sha256"), "bytes": path.stat().st_size}
    return entry if source is None else {**entry, "source": source}
