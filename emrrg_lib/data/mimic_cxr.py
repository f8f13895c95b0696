"""MIMIC-CXR-JPG as PhysioNet gives it out, with MIMIC-CXR's free-text reports.

    mimic-cxr-2.0.0-metadata.csv(.gz)   dicom_id, subject_id, study_id, ViewPosition
    mimic-cxr-2.0.0-split.csv(.gz)      the official split (optional)
    files/p10/p10000032/s50414267/<dicom_id>.jpg
    files/p10/p10000032/s50414267.txt   (or below reports/, mimic-cxr-reports/)

The report is the FINDINGS section, as in R2Gen's annotation.
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from emrrg_lib.data.study import Problem, Study, in_parallel, is_blank, left_out, plain_id, read_table
from emrrg_lib.files import InputError

METADATA, SPLIT = "mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.0.0-split.csv"
VIEW = {"PA": "frontal", "AP": "frontal", "LATERAL": "lateral", "LL": "lateral"}
_SPLITS = {"train": "train", "validate": "val", "test": "test"}
_REPORTS = ("files", "mimic-cxr-reports/files", "reports/files", "mimic-cxr-reports", "reports", ".")

_TARGET = r"(?:FINDINGS?|IMPRESSIONS?|CONCLUSIONS?)(?:\s*(?:AND|/|&)\s*(?:FINDINGS?|IMPRESSIONS?))?"
_OTHER = (
    r"(?:(?:CLINICAL|PATIENT) )?(?:INDICATIONS?|HISTORY|INFORMATION)|COMPARISONS?|TECHNIQUES?|STUDY"
    r"|EXAM(?:INATION)?S?|REASON FOR (?:THE )?EXAM(?:INATION)?|RECOMMENDATIONS?(?:\(S\))?|PROCEDURE"
    r"|NOTIFICATIONS?|ADDENDUM|WET READ|PFI|SUMMARY|OPINION|DIAGNOSIS"
)
_BRACKET = r"(?:[ \t]*[(\[][^()\[\]\n]*[)\]])?"  # FINDINGS (PA AND LATERAL)
_END = r"(?:[ \t]*:|[ \t]+[-–—]+|[-–—]+(?=\s))"  # a colon, or a dash beside a space
_HEADING = re.compile(
    rf"^[ \t]*((?i:{_TARGET}|{_OTHER})){_BRACKET}[ \t]*:"  # opens a line, in any case
    rf"|^[ \t]*((?i:{_TARGET})|{_OTHER}){_BRACKET}{_END}"
    rf"|^[ \t]*({_TARGET}){_BRACKET}[ \t]*$|(?<=\s)({_TARGET}){_BRACKET}{_END}",
    re.M,
)  # capitals: alone, or inside a line


def report_sections(text: str) -> list[tuple[str, str]]:
    """(heading in capitals, text with single spaces) of every section of a free-text report, in order.

    Only headings of whole sections count, so that "LUNGS:" inside the findings stays text. A combined
    heading such as "FINDINGS AND IMPRESSION" is one section.
    """
    marks = list(_HEADING.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        (" ".join(mark.group(mark.lastindex).upper().split()), " ".join(text[mark.end() : end].split()))
        for mark, end in zip(marks, ends, strict=False)
    ]  # without a mark, one end


def findings_of(text: str) -> str:
    """The last section with text whose heading names findings, alone or combined; "" if there is none."""
    sections = reversed(report_sections(text))
    return next((body for name, body in sections if "FINDING" in name and not is_blank(body)), "")


def read_mimic_cxr(metadata: Path, problems: list[Problem]) -> list[Study]:
    """Every study with findings, split as in the official table where it is there (else left empty).

    Images are not looked at; reports are. Studies without a report, findings or split are noted.

    Raises:
        InputError: A table is missing or damaged.
    """
    folder, rows = metadata.parent, _studies(metadata)
    tables = sorted(folder.glob(f"{SPLIT}*"))
    rules = read_table(tables[0], ("study_id", "split")) if tables else None
    splits = {} if rules is None else dict(zip(rules["study_id"].map(plain_id), rules["split"], strict=True))
    names = [f"p{patient[:2]}/p{patient}/s{study}" for patient, study, _ in rows]
    roots = [folder / sub for sub in _REPORTS]
    root = next((r for r in roots if any((r / f"{name}.txt").is_file() for name in names[:100])), roots[0])
    texts = in_parallel(_read_report, (root / f"{name}.txt" for name in names))
    studies = []
    for (patient, study, images), name, text in zip(rows, names, texts, strict=True):
        split = _SPLITS.get(splits.get(study, ""), "")
        if text is None:
            problems.append(left_out("no report", f"s{study}", f" ({root / name}.txt)"))
        elif not (report := findings_of(text)):
            problems.append(left_out("no findings section", f"s{study}"))
        elif splits and not split:
            problems.append(left_out("no split", f"s{study}"))
        else:
            files = tuple(folder / "files" / name / f"{dicom}.jpg" for dicom, _ in images)
            views = tuple(VIEW.get(view, "other") for _, view in images)
            studies.append(Study(f"s{study}", files, report, split, views=views, patient=patient))
    return studies


def _studies(metadata: Path) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(subject, study, [(dicom, view position)]) in order, from the metadata table."""
    keys = ("subject_id", "study_id", "dicom_id")
    table = read_table(metadata, (*keys, "ViewPosition"))
    for key in keys:
        table[key] = table[key].map(plain_id)
        wrong = table[key][~table[key].str.fullmatch(r"[0-9a-f-]+")]
        if len(wrong):
            raise InputError(f"{metadata}, line {wrong.index[0]}: {wrong.iloc[0]!r} is not a {key}")
    rows = table.sort_values(list(keys)).itertuples(index=False, name=None)
    return [(*key, [row[2:] for row in group]) for key, group in groupby(rows, key=lambda row: row[:2])]


def _read_report(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
