"""The website and the slides: every link and picture leads somewhere; a browser needs no network for them."""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest

from emrrg_lib.course.build import NOTEBOOKS
from emrrg_lib.course.notebook import ROWS
from emrrg_lib.files import KIT

bs4 = pytest.importorskip("bs4", reason="the book's packages are not installed (extra book)")
pytest.importorskip("myst_nb", reason="the book's packages are not installed (extra book)")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
STEMS = sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
SHOTS = KIT / "runs" / "browser"


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    from emrrg_lib.course.book import build_book

    return build_book(tmp_path_factory.mktemp("site") / "book").parent


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    from emrrg_lib.course.slides import build_slides

    return build_slides(tmp_path_factory.mktemp("slides") / "slides")[0].parent


def soup(path):
    return bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def faults(folder):
    """Links, pictures, styles and scripts of the pages of a folder that lead nowhere, or out of it."""
    pages = {path: soup(path) for path in folder.glob("**/*.html") if "_static" not in path.parts}
    names = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    found = []
    for path, page in pages.items():
        for tag in page.find_all(["a", "img", "script", "link", "iframe"]):
            target = tag.get("href") or tag.get("src") or ""
            if tag.name == "img" and not (target and tag.get("alt")):
                found.append(f"{path.name}: a picture without its text {target[:60]}")
            if re.match(r"data:|mailto:|#$", target) or (tag.name == "a" and target.startswith("http")):
                continue
            file, _, name = unquote(target).partition("#")
            file = (path.parent / file.partition("?")[0]).resolve() if file else path
            if "://" in target or not file.is_file() or (name and name not in names.get(file, {name})):
                found.append(f"{path.name}: {target[:100]}")
    return found, len(pages)


@pytest.mark.notebooks
@pytest.mark.timeout(600)
def test_every_link_and_picture_of_the_book_is_there(book):
    found, pages = faults(book)
    assert found == [] and pages > 2 * len(STEMS)
    menu = {Path(a["href"]).stem for a in soup(book / "index.html").select("nav a[href]")}
    assert {*STEMS, "glossary", "explorers", "teaching"} <= menu
    assert len(soup(book / "glossary.html").select("table tbody tr")) == len(ROWS)
    assert soup(book / "07_gate_and_attention_explorer.html").select("iframe.explorers")
    raw = [stem for stem in STEMS for p in soup(book / f"{stem}.html").find_all("p") if "| |" in p.get_text()]
    assert raw == []  # a table of an output that was not recognised
    folded = soup(book / "04_hybrid_cross_attention.html").find_all("summary", string=re.compile("Solution"))
    assert folded and not any(each.parent.has_attr("open") for each in folded)
    assert (book / "handout.pdf").read_bytes().count(b"/Type /Page ") == 2


@pytest.mark.notebooks
@pytest.mark.timeout(600)
def test_every_deck_is_a_deck(slides):
    """Title with the objectives, ideas, pictures, one exercise without its solution, summary."""
    found, pages = faults(slides)
    assert found == [] and pages > len(STEMS)
    for stem in STEMS:
        sections = soup(slides / f"{stem}.html").select(".slides > section")
        texts = [section.get_text(" ", strip=True) for section in sections]
        assert 8 <= len(sections) <= 25, (stem, len(sections))
        assert sections[0].h1.get_text().startswith(stem[:2]) and sections[0].select("ul > li")
        assert all(section.find(["h1", "h2", "h3"]) for section in sections)
        assert sum(text.startswith("Exercise ") for text in texts) == 1
        exercise = next(text for text in texts if text.startswith("Exercise "))
        assert "# your" in exercise or "raise NotImplementedError" in exercise
        assert not any("Solution" in text or "Hint" in text for text in texts)
        assert "Summary" in texts[-1] and sum(bool(each.find(["img", "svg"])) for each in sections) >= 1


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the package chromium, or name one by CHROMIUM")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


def quiet_page(browser, width, scheme):
    """A page of this width that notes errors and requests to any network."""
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    page.noted = []
    page.on("pageerror", lambda error: page.noted.append(str(error)))
    outside = ("http:", "https:", "ws:")
    page.on("request", lambda asked: page.noted.append(asked.url) if asked.url.startswith(outside) else None)
    page.on("requestfailed", lambda asked: page.noted.append(f"failed: {asked.url}"))
    return page


def brightness(colour):
    """The mean of red, green and blue of rgb(…)."""
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


@pytest.mark.browser
@pytest.mark.timeout(900)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400], ids=["phone", "desk"])
def test_the_book_works_from_a_folder(book, browser, width, scheme):
    page = quiet_page(browser, width, scheme)
    for stem in ("index", "glossary", *STEMS):
        page.goto((book / f"{stem}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1"), f"{stem} is too wide"
        assert page.evaluate("[...document.images].every((each) => each.complete && each.naturalWidth > 0)")
        if stem in ("index", "04_hybrid_cross_attention"):
            page.screenshot(path=SHOTS / f"book_{stem}_{width}_{scheme}.png")
    page.goto((book / "04_hybrid_cross_attention.html").as_uri())
    page.wait_for_selector("mjx-container")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == scheme
    page.goto((book / "search.html").as_uri() + "?q=discretisation")
    page.wait_for_selector("#search-results a[href*='02_mamba_block']")
    page.goto((book / "explorers.html").as_uri())
    view = page.frame_locator("iframe.explorers")
    view.locator("button, [role=button]").first.wait_for()
    page.screenshot(path=SHOTS / f"book_explorers_{width}_{scheme}.png")
    other = {"light": "dark", "dark": "light"}[scheme]
    page.evaluate(f"document.documentElement.dataset.theme = '{other}'")  # as the theme's button does
    view.locator(f"body[data-scheme={other}]").wait_for()
    papers = page.locator("body"), view.locator(".emrrg").first
    first, second = (each.evaluate("node => getComputedStyle(node).backgroundColor") for each in papers)
    assert (brightness(first) < 128) == (brightness(second) < 128) == (other == "dark")
    assert page.noted == []


TOO_LARGE = """async () => {
  const found = [];
  for (let n = 0; n < Reveal.getTotalSlides(); n++) {
    Reveal.slide(n);
    await new Promise((done) => setTimeout(done, 60));
    const slide = Reveal.getCurrentSlide();
    const [high, wide] = [slide.scrollHeight - slide.clientHeight, slide.scrollWidth - slide.clientWidth];
    if (high > 1 || wide > 1) found.push(n);
  }
  return found;
}"""


@pytest.mark.browser
@pytest.mark.timeout(600)
def test_slides_turn_without_a_network_and_none_overflows(slides, browser):
    page = quiet_page(browser, 1280, "light")
    page.set_viewport_size({"width": 1280, "height": 720})
    for stem in STEMS:
        page.goto((slides / f"{stem}.html").as_uri())
        page.wait_for_function("window.Reveal && Reveal.isReady()")
        page.evaluate("() => MathJax.startup.promise")
        assert page.evaluate(TOO_LARGE) == [], stem
    page.goto((slides / "04_hybrid_cross_attention.html").as_uri())
    page.wait_for_selector("mjx-container", state="attached")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("Reveal.getIndices().h === 1")
    page.screenshot(path=SHOTS / "slides.png")
    assert page.noted == []
