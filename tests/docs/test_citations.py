"""Every citation has a target: "NOTES A7" a heading of NOTES.md, a link of a README a file and a heading."""

import re

import pytest
from readme_tables import READMES

from emrrg_lib.files import KIT

NOTES = KIT / "emrrg_lib" / "NOTES.md"
NUMBER = r"(?:[A-GM]\d*|0\.\d+)\b"
CITATION = re.compile(rf"\bNOTES\s+({NUMBER}(?:(?:, | and | to |–){NUMBER})*)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CITING = [
    *sorted((KIT / "emrrg_lib").glob("**/*.py")),
    *sorted((KIT / "notebooks").rglob("*.py")),
    *sorted(path for path in (KIT / "tests").glob("**/*.py") if path.parent.name != "docs"),
    *READMES,
]


def headings(text):
    """The headings outside of code blocks."""
    return HEADING.findall(re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(text):
    """The anchors that code hosts give to the headings."""
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in headings(text))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


def cited(text):
    """The numbers that a text cites; a range counts with all between its ends."""
    for found in CITATION.findall(text):
        for item in re.split(r", | and ", found):
            first, *last = re.split(r"–| to ", item)
            if last:
                yield from (f"{first[0]}{n}" for n in range(int(first[1:]), int(last[0][1:]) + 1))
            else:
                yield first


def test_ranges_and_lists_are_expanded():
    text = "(NOTES A6–A8) and NOTES E25 to E27 show; NOTES B3, E and NOTES 0.10."
    assert list(cited(text)) == ["A6", "A7", "A8", "E25", "E26", "E27", "B3", "E", "0.10"]


def test_every_cited_note_exists():
    numbers = {title.split()[0] for title in headings(NOTES.read_text(encoding="utf-8"))}
    lost = {
        f"{path.relative_to(KIT)}: NOTES {number}"
        for path in CITING
        for number in cited(path.read_text(encoding="utf-8"))
        if number not in numbers
    }
    assert not lost


def test_the_notes_are_numbered_without_a_gap():
    numbers = [title.split()[0] for title in headings(NOTES.read_text(encoding="utf-8"))]
    last = {"0.": 10, "A": 8, "B": 3, "C": 2, "D": 2, "E": 40, "M": 3}
    wanted = [f"{part}{n}" for part, end in last.items() for n in range(1, end + 1)]
    assert [number for number in numbers if number in wanted] == wanted


def test_nothing_is_cited_that_is_not_in_the_repository():
    gone = re.compile(r"upstream_audit|\b[Aa]udit §?[A-G0]\b|\b[Aa]udit [A-G]\d|[Tt]he audit\b|metrics notes")
    texts = {path: path.read_text(encoding="utf-8") for path in [*CITING, NOTES]}
    assert not [f"{path.relative_to(KIT)}" for path, text in texts.items() if gone.search(text)]


@pytest.mark.parametrize("page", [*READMES, NOTES], ids=lambda path: str(path.relative_to(KIT)))
def test_links_lead_to_files_and_headings(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists() and target.is_relative_to(KIT), link
        if anchor:
            found = target if target.suffix == ".md" else target / "README.md"
            assert anchor in anchors(found.read_text(encoding="utf-8")), link
