"""What the tables of the README files share: a file of data/, a score with its interval, a Markdown table."""

import json
import re

from emrrg_lib.files import KIT

DATA = KIT / "data"


def read_json(*parts):
    """The content of data/…"""
    return json.loads(DATA.joinpath(*parts).read_text(encoding="utf-8"))


def score(value, interval=None, digits=3):
    """ ".593 [.573, .613]"; a dash for a score that does not exist."""
    if value is None:
        return "–"
    text = re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}").replace("-", "−")
    if text.strip("−.0") == "":
        text = text.lstrip("−")
    return f"{text} [{', '.join(score(end, digits=digits) for end in interval)}]" if interval else text


def markdown(header, rows):
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
