"""The explorers in a real browser: in JupyterLab, in Notebook 7, and as a page without a network.

`make browser-test`. It needs Chromium on the machine (Debian: `apt-get install chromium`), named by the
variable CHROMIUM or found on the path; nothing is downloaded. Screenshots go to runs/browser.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbconvert
import nbformat
import numpy as np
import pytest

from emrrg_lib.explorers import GateExplorer, WordExplorer, explorer_html
from emrrg_lib.files import KIT, TINY_DIR, write_text
from emrrg_lib.interpret.style import Picture
from emrrg_lib.run.explore import write_explorers
from emrrg_lib.trace import Trace

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()
TOKEN, SHOTS = "browser-test", KIT / "runs" / "browser"
KINDS = ("words", "gate", "scan", "lora")
TITLES = ("Where words look", "What the gates let in", "Four scans over one image", "Partial LoRA")
PLACES = {"lab": "lab/tree", "notebook": "notebooks"}  # of a notebook on the server, by host
SETTINGS = {  # no news, no pop-ups; cells out of sight are drawn too
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}
CELLS = [
    "import torch\n"
    "torch.set_num_threads(1)\n"
    "from emrrg_lib.explorers import GateExplorer\n"
    "from emrrg_lib.model import EMRRG\n"
    "from emrrg_lib.phantom import draw_study\n"
    "from emrrg_lib.run.explore import explorers_of\n"
    f"model = EMRRG.from_run({str(TINY_DIR / 'run')!r})\n"
    "others = [draw_study(7, number, 96) for number in range(3)]\n"
    "words, gate, scan, lora = explorers_of(model, draw_study(7, 654, 96), others)\n"
    "def fails(scales):\n"
    "    raise RuntimeError('no memory left')",
    *KINDS,
    "GateExplorer(gate.trace, fails).widget()",
]
READY = """async () => {
  await window.jupyterapp.restored;
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.context.ready;
  await panel.sessionContext.ready;
  return panel.sessionContext.session.kernel.status === "idle";
}"""
# milliseconds until the sentence has changed and the browser could paint, after the mouse moved onto a node
HOVER_TIME = """(node) => new Promise((done) => {
  const begin = performance.now(), at = node.getBoundingClientRect();
  const given = { bubbles: true, pointerType: "mouse", clientX: at.left + 3, clientY: at.top + 3 };
  node.dispatchEvent(new PointerEvent("pointermove", given));
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - begin)));
})"""


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the package chromium, or name one by CHROMIUM")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the notebook of CELLS and settings of its own."""
    home = tmp_path_factory.mktemp("lab")
    (home / "config" / "labconfig").mkdir(parents=True)
    (home / "config" / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))
    (home / "notebooks").mkdir()
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for host in PLACES:
        made = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
        nbformat.write(made, home / "notebooks" / f"{host}.ipynb")
    return home


@pytest.fixture(scope="module")
def server(home):
    """Address of a server on loopback that offers JupyterLab and Notebook 7."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    environment = {
        **os.environ,
        **{name: str(home / name.lower()) for name in folders},
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "PYTHONPATH": str(KIT),
        "HF_HUB_OFFLINE": "1",
    }
    options = [
        "--LabApp.expose_app_in_browser=True",
        "--JupyterNotebookApp.expose_app_in_browser=True",
        "--ServerApp.jpserver_extensions={'notebook': True}",
        "--ip=127.0.0.1",
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        "--allow-root",
        "--no-browser",
        f"--ServerApp.root_dir={home / 'notebooks'}",
    ]
    with (home / "server.log").open("w") as log:
        program = [sys.executable, "-m", "jupyterlab", *options]
        running = subprocess.Popen(program, env=environment, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/status?token={TOKEN}", running)
            yield f"http://127.0.0.1:{port}"
        finally:
            running.terminate()
            running.wait(30)


def wait_for(url, server):
    for _ in range(240):
        assert server.poll() is None, "JupyterLab ended before it answered"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError("JupyterLab did not answer within two minutes")


def watched(page):
    """The page's errors and the hosts it asked, filled as they come."""
    seen = {"errors": [], "asked": set()}
    page.on("pageerror", lambda error: seen["errors"].append(str(error)))
    page.on("console", lambda message: message.type == "error" and seen["errors"].append(message.text))
    page.on("request", lambda request: seen["asked"].add(request.url.split("/")[2]))
    return seen


@pytest.fixture(scope="module", params=PLACES)
def notebook(request, browser, home, server):
    """Host, page and what it did, with the notebook run from top to bottom."""
    page = browser.new_context(viewport={"width": 1600, "height": 1000}).new_page()
    page.set_default_timeout(60_000)
    seen = watched(page)
    page.goto(f"{server}/{PLACES[request.param]}/{request.param}.ipynb?token={TOKEN}")
    page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.context")
    page.wait_for_function(READY, timeout=120_000)
    seen["errors"].clear()  # those of the host's own start
    page.evaluate(
        "() => { window.ended = false; window.jupyterapp.commands.execute("
        "'notebook:run-all-cells').then(() => { window.ended = true; }); }"
    )
    page.wait_for_function("() => window.ended", timeout=300_000)
    page.wait_for_function("() => document.querySelectorAll('.emrrg').length === 5")
    yield request.param, page, seen
    page.context.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of a phantom study."""
    return write_explorers(TINY_DIR / "run", "654", out=tmp_path_factory.mktemp("pages") / "page.html")


@pytest.fixture(scope="module", params=["light", "dark"])
def offline(request, browser, written):
    """Scheme, the page in a browser without a network, and what it did."""
    page = browser.new_context(
        offline=True, color_scheme=request.param, viewport={"width": 1280, "height": 1000}
    ).new_page()
    seen = watched(page)
    page.goto(written.as_uri())
    yield request.param, page, seen
    page.context.close()


def view(page, kind, number=0):
    shown = page.locator(".emrrg", has=page.get_by_role("heading", name=TITLES[KINDS.index(kind)])).nth(
        number
    )
    shown.scroll_into_view_if_needed()
    return shown


def told(shown):
    return shown.locator(".told").inner_text()


def works(page, shot):
    """Points, clicks and types in every view that needs no kernel."""
    words = view(page, "words")
    first, chosen = words.locator(".report span").first, told(words)
    first.hover()
    assert told(words).startswith(f"“{first.inner_text()}” looks most in")
    page.mouse.move(1, 1)
    assert told(words) == chosen  # what only the pointer chose goes with it
    first.click()
    report = words.get_by_role("slider", name="Word of the report")
    assert report.get_attribute("aria-valuetext") == first.inner_text()
    report.press("ArrowRight")
    second = words.locator(".report span").nth(1).inner_text()
    assert report.get_attribute("aria-valuetext") == second
    assert words.get_by_role("status").inner_text().startswith(f"“{second}” looks")
    lateral = words.get_by_role("slider", name="Patch of the X-ray, lateral view")
    lateral.hover(position={"x": 5, "y": 5})
    assert "row 1, column 1 of the lateral view" in told(words)
    lateral.click(position={"x": 5, "y": 5})
    lateral.press("ArrowDown")
    assert "row 2, column 1 of the lateral view" in words.get_by_role("status").inner_text()
    words.screenshot(path=SHOTS / f"{shot}_words.png")

    gate = view(page, "gate")
    gate.locator(".cells [data-place]").nth(2).hover()
    assert re.search(r"“.+”.*, layer \d+: gate [+−]0\.\d{3}, where tanh α is .* Head \d looks", told(gate))
    cells = gate.get_by_role("slider", name="Gate of a word in a layer")
    gate.locator(".cells [data-place]").first.click()
    before = told(gate)
    cells.press("ArrowDown")
    assert told(gate) != before and "layer 1" in cells.get_attribute("aria-valuetext")
    gate.screenshot(path=SHOTS / f"{shot}_gate.png")

    scan = view(page, "scan")
    step, high = scan.get_by_role("slider", name="Step", exact=True), scan.bounding_box()["height"]
    assert step.get_attribute("aria-valuetext") == "step 49"
    step.press("ArrowRight")
    assert step.get_attribute("aria-valuetext") == "step 50" and "step 50 of 145" in told(scan)
    scan.get_by_role("button", name="Play").click()
    heights = []
    for _ in range(8):
        page.wait_for_timeout(150)
        heights.append(scan.bounding_box()["height"])
    scan.get_by_role("button", name="Pause").click()
    assert set(heights) == {high} and int(re.search(r"step (\d+) of", told(scan))[1]) > 52  # nothing jumps
    relative = told(scan)
    scan.get_by_role("combobox", name="Scale").select_option("absolute")
    scan.get_by_role("combobox", name="Direction").select_option("columns backwards")
    assert told(scan) != relative and "columns backwards, step" in told(scan)
    path = scan.get_by_role("slider", name="Patch, goes to the step that reads it")
    path.hover(position={"x": 4, "y": 4})
    assert "row 1, column 1: read at step 145" in told(scan)
    scan.screenshot(path=SHOTS / f"{shot}_scan.png")

    lora = view(page, "lora")
    lora.get_by_role("slider", name="Rank").press("ArrowLeft")
    assert "rank 4 costs" in told(lora) and lora.locator(".loss.on").count() == 2
    lora.get_by_role("slider", name="Part of ΔW, block 0").hover(position={"x": 4, "y": 4})
    assert "block 0: rows 0 to 3, columns 0 to 3: ΔW of size" in told(lora)
    lora.get_by_role("combobox", name="Target").select_option("dt_proj")
    assert "No adapter of this target was trained" in told(lora)
    lora.get_by_role("combobox", name="Target").select_option("X")
    assert "nats per token" in lora.locator(".verdict").inner_text()
    lora.screenshot(path=SHOTS / f"{shot}_lora.png")


def scan_for_barriers(page):
    """What axe-core finds in the views, serious or worse."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, context=".emrrg").response["violations"]
    return [
        (rule["id"], [node["html"][:200] for node in rule["nodes"]][:3])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


def test_the_views_answer_in_a_notebook(notebook):
    host, page, seen = notebook
    assert page.get_by_text("Traceback").count() == 0
    works(page, host)
    words = view(page, "words")
    times = [words.locator(".report span").nth(word).evaluate(HOVER_TIME) for word in range(8)]
    print(f"{host}: a hover takes {sorted(times)[4]:.0f} ms, at most {max(times):.0f} ms")
    assert page.evaluate("[...document.images].filter((image) => !image.naturalWidth).length") == 0
    assert words.bounding_box()["width"] > 1000  # of 1600


def test_the_slider_writes_the_report_anew(notebook):
    host, page, _ = notebook
    gate = view(page, "gate")
    old = gate.locator(".card").first.inner_text()
    slider = gate.get_by_role("slider", name="Scale of the gate")
    began = time.monotonic()
    slider.press("Home")
    assert slider.get_attribute("aria-valuetext") == "0.00"
    new = gate.get_by_role("heading", name="Gate of all layers at 0.00", exact=True)
    new.wait_for(timeout=20_000)
    print(f"{host}: a report written anew takes {time.monotonic() - began:.2f} s")
    assert "new words" in gate.get_by_role("status").inner_text() and gate.locator("mark").count()
    assert gate.locator(".card").first.inner_text() == old and gate.locator("del").count()
    assert gate.locator(".cells [data-place]").first.get_attribute("style").endswith(" 0%, var(--paper))")
    gate.screenshot(path=SHOTS / f"{host}_gate_closed.png")
    gate.get_by_role("combobox").select_option("layer 3")
    gate.get_by_role("heading", name="Gate of layer 3 at 0.00", exact=True).wait_for(timeout=20_000)
    slider.press("End")
    gate.get_by_text("the same words as at 1.00").first.wait_for()


def test_an_error_of_the_kernel_is_in_the_view(notebook):
    host, page, _ = notebook
    broken = view(page, "gate", 1)
    broken.get_by_role("slider", name="Scale of the gate").press("Home")
    broken.locator(".failed").wait_for(timeout=20_000)
    assert told(broken).endswith("RuntimeError: no memory left")
    assert "not written" in broken.locator(".card").nth(1).inner_text()
    broken.screenshot(path=SHOTS / f"{host}_error.png")


def test_dark_theme_width_and_barriers_in_a_notebook(notebook):
    host, page, seen = notebook
    assert scan_for_barriers(page) == []
    page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    page.set_viewport_size({"width": 1280, "height": 1000})
    paper = view(page, "words").evaluate("node => getComputedStyle(node).backgroundColor")
    assert all(int(part) < 60 for part in re.findall(r"\d+", paper)[:3])
    assert scan_for_barriers(page) == []
    for kind in KINDS:
        shown = view(page, kind)
        assert shown.evaluate("node => node.scrollWidth <= node.clientWidth")
        shown.screenshot(path=SHOTS / f"{host}_dark_{kind}.png")
    assert seen["errors"] == []
    assert {host.split(":")[0] for host in seen["asked"]} <= {"127.0.0.1", ""}


def test_the_page_works_without_a_network(offline):
    scheme, page, seen = offline
    works(page, f"page_{scheme}")
    gate = view(page, "gate")
    slider = gate.get_by_role("slider", name="Scale of the gate")
    slider.press("Home")
    assert slider.get_attribute("aria-valuetext") == "0.00" and gate.locator("mark").count()
    gate.get_by_role("combobox").select_option("layer 3")
    assert slider.get_attribute("aria-valuetext") == "0.00"
    assert gate.get_by_role("heading", name="Gate of layer 3 at 0.00").count() == 1
    assert scan_for_barriers(page) == []
    assert not seen["errors"] and {host for host in seen["asked"] if host} == set()


def test_a_drawing_that_fails_says_so_and_the_others_are_drawn(browser, written, tmp_path):
    kind = re.compile("(kind&#34;: ?&#34;)scan(?=&#34;)")
    text, count = kind.subn(r"\g<1>none", written.read_text(encoding="utf-8"))
    assert count == 1
    page = browser.new_page()
    page.goto(write_text(tmp_path / "broken.html", text).as_uri())
    assert told(view(page, "scan")).startswith("not drawn: TypeError")
    assert told(view(page, "lora")) and page.locator(".failed").count() == 1
    page.close()


@pytest.mark.parametrize("width", [390, 1600, 1920])
def test_the_page_fits_every_width(offline, width):
    scheme, page, _ = offline
    page.set_viewport_size({"width": width, "height": 1000})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for kind in KINDS:
        shown = view(page, kind)
        assert shown.bounding_box()["width"] > 0.85 * width
        shown.screenshot(path=SHOTS / f"page_{scheme}_{width}_{kind}.png")


LONG = tuple(f" word{number}" if number % 7 else " x" + 70 * "y" for number in range(90))
TURNED = (
    " <b>x</b>",
    " &amp;",
    " \u202eturned",
    " \u0645\u0631\u062d\u0628\u0627",
    " \U0001f600",
    " </script>",
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("tokens", [(), (" effusion",), TURNED, LONG], ids=["empty", "one", "turned", "long"])
def test_a_strange_report_is_drawn(tokens, browser, tmp_path):
    """No error, nothing wider than a phone, every word as it is; without its gates it becomes empty."""
    trace, empty = trace_of(tokens), trace_of(())
    looks = [WordExplorer([np.zeros((32, 32), np.uint8)], trace)] if tokens else []
    gate = GateExplorer(trace, lambda scales: empty if min(scales.values()) == 0 else trace)
    path = write_text(tmp_path / "page.html", explorer_html([*looks, gate], "A strange report", stills=False))
    page = browser.new_context(viewport={"width": 390, "height": 800}).new_page()
    seen = watched(page)
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shown = view(page, "gate")
    assert shown.locator(".card bdi, .card del").all_inner_texts()[: len(tokens)] == [
        t.strip() for t in tokens
    ]
    shown.get_by_role("slider", name="Gate of a word in a layer").press("End")
    shown.get_by_role("slider", name="Scale of the gate").press("Home")
    assert "gone" in told(shown) if tokens else "the same words" in told(shown)
    shown.get_by_role("slider", name="Gate of a word in a layer").press("ArrowRight")
    assert told(shown) == "The report is empty." and page.locator(".failed").count() == 0
    assert seen["errors"] == []
    page.context.close()


def trace_of(tokens):
    """A trace of these tokens, one view of 3 × 3 patches, one layer."""
    attention = np.full((1, 1, len(tokens), 1, 9), 0.1)
    return Trace(tokens, np.full((1, len(tokens)), 0.5), attention, (3, 3), (0,), np.full(1, 0.9))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("viewer", ["JupyterLab", "nbconvert"])
def test_a_stored_picture_has_its_sentence_in_the_accessibility_tree(viewer, browser, server, tmp_path):
    """Shown once and described, in a notebook that was only opened and is not trusted."""
    alt = "A curve that falls from 3 to 1."
    cell = nbformat.v4.new_code_cell("figure", execution_count=1)
    bundle = Picture((3, 2), alt=alt)._repr_mimebundle_()
    cell.outputs = [nbformat.v4.new_output("execute_result", bundle, execution_count=1)]
    stored = nbformat.v4.new_notebook(cells=[cell])
    if viewer == "nbconvert":
        page, address = nbconvert.HTMLExporter().from_notebook_node(stored)[0], tmp_path / "page.html"
        address = write_text(address, page).as_uri()
    else:
        headers = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}
        content = json.dumps({"type": "notebook", "content": stored}).encode()
        place = f"{server}/api/contents/picture.ipynb"
        urllib.request.urlopen(urllib.request.Request(place, content, headers, method="PUT")).close()
        address = f"{server}/lab/tree/picture.ipynb?token={TOKEN}&reset"
    page = browser.new_context().new_page()
    page.goto(address)
    page.locator(f'img[alt="{alt}"]').first.wait_for(timeout=60_000)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    found = [node["name"]["value"] for node in tree if node["role"]["value"] == "image"]
    assert found.count(alt) == 1
    if viewer == "nbconvert":
        assert found == [alt]
    assert page.locator(f'img[alt="{alt}"]').evaluate("image => image.naturalWidth") == 600
    page.context.close()
