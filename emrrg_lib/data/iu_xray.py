"""IU X-ray as Open-i (XML reports) and as Kaggle (two CSV files) give it out.

The report is the FINDINGS section, as in R2Gen, whose 2,955 studies are those with findings and two
images or more. A study is named as there: its first image's name in sorted order without the last
field. Every report belongs to another patient.
"""

from __future__ import annotations

import re
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from emrrg_lib.data.archives import is_archive, unpacked
from emrrg_lib.data.study import Problem, Study, is_blank, left_out, plain_id, read_table, view_of
from emrrg_lib.files import InputError

REPORTS, PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
ARCHIVE, UNPACKED = "NLMCXR_reports.tgz", "ecgen-radiology"
_VIEW = {name: name for name in ("frontal", "lateral")}
_PICTURES = (".png", ".jpg", ".jpeg")
_MAX_XML = 2**20  # bytes; Open-i's largest report has 12 kB


@dataclass(frozen=True)
class OpeniReport:
    """One XML file: AbstractText by label, sorted ids of the images, major MeSH terms."""

    uid: str
    sections: dict[str, str]
    images: tuple[str, ...]
    mesh: tuple[str, ...]

    @property
    def study_id(self) -> str:
        """R2Gen's name of the study (checked against all 2,955 of its annotation)."""
        return self.images[0].rsplit("-", 1)[0] if self.images else self.uid


def openi_reports(path: str | Path, problems: list[Problem]) -> list[OpeniReport]:
    """Every report of Open-i's archive (`NLMCXR_reports.tgz`) or of a folder of its XML files, by number.

    Args:
        path: The archive or the folder.
        problems: Where to note a file that is not a report of Open-i; the others are read.

    Raises:
        InputError: There is no XML file, no report in any, or the archive is damaged.
    """
    path = Path(path)
    if is_archive(path):
        with tempfile.TemporaryDirectory() as place, unpacked([path], Path(place) / "reports") as folder:
            reports = _parse_all(folder, f"{path}, ", problems)
    else:
        reports = _parse_all(path, f"{path}/", problems)
    if not reports:
        why = problems[0].message if problems else f"no XML report in {path}"
        raise InputError(f"{why}: give {ARCHIVE} or the folder unpacked from it")
    return sorted(reports, key=lambda report: (len(report.uid), report.uid))


def _parse_all(folder: Path, where: str, problems: list[Problem]) -> list[OpeniReport]:
    reports = []
    for file in sorted(folder.rglob("*.xml")):
        name = file.relative_to(folder).as_posix()
        try:
            reports.append(_parse(file, where + name))
        except InputError as error:
            problems.append(Problem("broken report", name, f"{error}; it is left out", unusable=False))
    return reports


def _parse(file: Path, where: str) -> OpeniReport:
    try:
        text = file.read_bytes() if file.stat().st_size <= _MAX_XML else None
        if text is None or b"<!ENTITY" in text:
            raise InputError(f"{where} is not a report of Open-i: it is too long or defines entities")
        root = ET.fromstring(text)
    except (ET.ParseError, OSError, LookupError) as error:
        raise InputError(f"{where} is not XML that can be read ({error}): fetch it again") from error
    uid = root.find("uId")
    if uid is None or not uid.get("id"):
        raise InputError(f"{where} is not a report of Open-i: it has no uId")
    return OpeniReport(
        uid.get("id"),
        {part.get("Label", ""): " ".join((part.text or "").split()) for part in root.iter("AbstractText")},
        tuple(sorted(image.get("id", "") for image in root.iter("parentImage"))),
        tuple(term.text or "" for term in root.iter("major")),
    )


def read_openi(source: Path, problems: list[Problem]) -> list[Study]:
    """Open-i's reports with the images found around them; the split is left empty.

    Open-i does not say which view an image is. Studies without findings or images are noted.

    Args:
        source: The archive, a folder of XML files, or one of its files.
        problems: Where to note them.
    """
    reports = openi_reports(source.parent if source.suffix == ".xml" else source, problems)
    folder = source if source.is_dir() and source.name != UNPACKED else source.parent
    files = picture_files(folder)
    rows = []
    for report in reports:
        places = {image: folder / "images" / f"{image}.png" for image in report.images}
        images = [(files.get(picture_key(image), place), None) for image, place in places.items()]
        rows.append((report.study_id, report.uid, report.sections.get("FINDINGS", ""), images))
    return _usable(rows, problems)


def read_kaggle(source: Path, problems: list[Problem]) -> list[Study]:
    """Kaggle's two tables (`source` is their folder or one of them) with the images found around them."""
    folder = source if source.is_dir() else source.parent
    files, images = picture_files(folder), defaultdict(list)
    for uid, name, view in read_table(folder / PROJECTIONS, ("uid", "filename", "projection")).to_numpy():
        key, uid = picture_key(name), plain_id(uid)
        path = files.get(key, folder / "images" / PureWindowsPath(name).name)
        key = f"CXR1_{key}" if uid == "1" else f"CXR{key}"
        images[uid].append((key, path, view_of(view, _VIEW, key.rsplit("-", 1)[0], problems)))
    reports, rows = read_table(folder / REPORTS, ("uid", "findings")), []
    reports["uid"] = reports["uid"].map(plain_id)
    for uid in sorted(images.keys() - set(reports["uid"])):
        problems.append(left_out("no report", f"CXR{uid}"))
    for uid, findings in reports.to_numpy():
        views = sorted(images[uid])
        name = views[0][0].rsplit("-", 1)[0] if views else f"CXR{uid}"
        rows.append((name, f"CXR{uid}", " ".join(findings.split()), [view[1:] for view in views]))
    return _usable(rows, problems)


def _usable(rows: Iterable[tuple], problems: list[Problem]) -> list[Study]:
    """Turns (id, patient, findings, [(path, view)]) rows into studies; a row that lacks a part is noted."""
    studies = []
    for name, patient, findings, images in rows:
        lack = "no findings section" if is_blank(findings) else "" if images else "no image"
        if lack:
            problems.append(left_out(lack, name))
            continue
        views = None if images[0][1] is None else tuple(view for _, view in images)
        studies.append(
            Study(name, tuple(path for path, _ in images), findings, "", views=views, patient=patient)
        )
    return studies


def picture_key(name: str) -> str:
    """The part that Open-i's and Kaggle's names of one image have in common ("1_IM-0001-3001")."""
    stem = re.sub(r"(\.dcm)?(\.(png|jpe?g))?$", "", PureWindowsPath(name).name)
    return re.sub(r"^1_1_", "1_", stem.removeprefix("CXR"))


def picture_files(folder: Path) -> dict[str, Path]:
    """`picture_key` -> file, for all pictures below a folder."""
    return {
        picture_key(path.name): path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _PICTURES
    }
