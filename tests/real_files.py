"""The real IU X-ray files, where they lie beside the checkout or where `EMRRG_SHARED` says; never shipped."""

import csv
import os
from pathlib import Path

import pytest

from emrrg_lib.files import KIT

IU = Path(os.environ.get("EMRRG_SHARED") or KIT.parent / "shared") / "data" / "iu_xray"
real = pytest.mark.skipif(not (IU / "annotation.json").is_file(), reason="no real IU X-ray files are here")


def images_here() -> set[str]:
    """Names of the image files that are here."""
    return {path.name for path in IU.rglob("*.jpg")}


def images_with_findings() -> set[str]:
    """Those among them whose report has a findings section, by the tables themselves."""
    with open(IU / "indiana_reports.csv", encoding="utf-8") as file:
        kept = {row["uid"] for row in csv.DictReader(file) if row["findings"].strip()}
    return {name for name in images_here() if name.split("_")[0].removeprefix("CXR") in kept}
