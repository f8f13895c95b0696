"""CheXpert Plus as Stanford AIMI gives it out: one CSV row an image, and the pictures as PNG.

    df_chexpert_plus_240401.csv     path_to_image, frontal_lateral, deid_patient_id, section_findings, ...
    PNG/train/patient42142/study5/view1_frontal.png

The report is the findings section, as in R2GenCSR; three of four studies have none. The table's own split
has 234 validation images and no test part, so it is not used.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path, PurePosixPath

from emrrg_lib.data.annotation import inside
from emrrg_lib.data.study import Problem, Study, is_blank, left_out, read_table, view_of

TABLE = "df_chexpert_plus_*.csv"
_COLUMNS = ("path_to_image", "frontal_lateral", "deid_patient_id", "section_findings")
_VIEW = {"frontal": "frontal", "lateral": "lateral"}


def read_chexpert_plus(table: Path, problems: list[Problem]) -> list[Study]:
    """Every study of the table with findings; the split is left empty, images are not looked at.

    Raises:
        InputError: The table is damaged, or a path in it leaves the folder.
    """
    rows = read_table(table, _COLUMNS)
    rows["path_to_image"] = rows["path_to_image"].str.replace("\\", "/")  # written on Windows
    rows = rows.sort_values("path_to_image", kind="stable")
    folder, suffix = _pictures(table.parent, rows["path_to_image"].iloc[0] if len(rows) else "")
    studies = []
    for place, group in groupby(rows.to_numpy(), lambda row: row[0].rpartition("/")[0]):
        images = list(group)
        name = "/".join(place.split("/")[-2:])  # patient42142/study5
        report = next((text for *_, text in images if not is_blank(text)), "")
        if not report:
            problems.append(left_out("no findings section", name))
            continue
        files = [inside(folder, path, f"{table}, study {name}") for path, *_ in images]
        studies.append(
            Study(
                name,
                tuple(_with_suffix(file, suffix) for file in files),
                report,
                "",
                views=tuple(view_of(view, _VIEW, name, problems) for _, view, *_ in images),
                patient=images[0][2] or place.split("/")[-2],
            )
        )
    return studies


def _pictures(folder: Path, first: str) -> tuple[Path, str]:
    """The folder and ending of the pictures: those under which the table's first image is there."""
    tried = [
        (folder / sub, suffix)
        for sub in ("PNG", "PNG/PNG", "PNGs", "images", ".")
        for suffix in (".png", PurePosixPath(first).suffix)
    ]
    return next((found for found in tried if _with_suffix(found[0] / first, found[1]).is_file()), tried[0])


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_suffix(suffix) if suffix else path
