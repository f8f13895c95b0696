"""JupyterLab in a real browser: notebook 07 runs, its explorers answer, its pages work without a network.

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
import pytest

from emrrg_lib.course.build import NOTEBOOKS
from emrrg_lib.files import KIT, TINY_DIR, write_text
from emrrg_lib.interpret.style import Picture

pytestmark = pytest.mark.browser
NAME = "07_gate_and_attention_explorer"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()
TOKEN, SHOTS = "browser-test", KIT / "runs" / "browser"
SETTINGS = {  # no news, no pop-ups; cells out of sight are drawn too
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}
READY = """async () => {
  await window.jupyterapp.restored;
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.context.ready;
  await panel.sessionContext.ready;
  return panel.sessionContext.session.kernel.status === "idle";
}"""
MOVE, RUN_MINUTES = 20_000, 5  # milliseconds for an answer; minutes for all cells on a busy machine


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
def lab(tmp_path_factory):
    """Address of a JupyterLab on loopback with a copy of the notebook, and settings of its own."""
    home = tmp_path_factory.mktemp("lab")
    (home / "config" / "labconfig").mkdir(parents=True)
    (home / "config" / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))
    (home / "notebooks").mkdir()
    shutil.copy(NOTEBOOKS / f"{NAME}.ipynb", home / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    own = {name: str(home / name.lower()) for name in folders}
    environment = {
        **os.environ,
        **own,
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "PYTHONPATH": str(KIT),
        "EMRRG_RUN": str(TINY_DIR / "run"),
        "HF_HUB_OFFLINE": "1",
    }
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--LabApp.expose_app_in_browser=True",
            "--ip=127.0.0.1",
            f"--IdentityProvider.token={TOKEN}",
            f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0",
            "--allow-root",
            "--no-browser",
            f"--ServerApp.root_dir={home / 'notebooks'}",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/api/status?token={TOKEN}", server)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def wait_for(url, server):
    for _ in range(240):
        assert server.poll() is None, "JupyterLab ended before it answered"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError("JupyterLab did not answer within two minutes")


@pytest.fixture(scope="module")
def notebook(browser, lab):
    """The page with notebook 07 run from top to bottom."""
    page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{lab}/lab/tree/{NAME}.ipynb?token={TOKEN}&reset")
    page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.context")
    page.wait_for_function(READY, timeout=120_000)
    # resolves when the last cell has ended
    page.evaluate(
        "() => { window.ended = false; window.jupyterapp.commands.execute("
        "'notebook:run-all-cells').then(() => { window.ended = true; }); }"
    )
    page.wait_for_function("() => window.ended", timeout=RUN_MINUTES * 60_000)
    return page


def explorer(page, label):
    """The live explorer that has a control of this label."""
    name = page.locator(".widget-label", has_text=re.compile(f"^{label}$"))
    return page.locator(".jp-OutputArea-child", has=page.locator(".widget-vbox", has=name)).first


def answer(page, live, act):
    """Does something and waits until the picture has changed and the read-out is no longer a note."""
    picture = live.locator("img").first
    before = picture.get_attribute("src")
    act()
    handle = live.element_handle()
    page.wait_for_function(
        "([live, before]) => live.querySelector('img').src !== before && "
        "!live.querySelector('[role=status]').textContent.endsWith('…')",
        arg=[handle, before],
        timeout=MOVE,
    )
    return live.locator("[role=status]").inner_text()


@pytest.mark.timeout(900)
def test_all_cells_ran_and_every_explorer_stands_live_and_still(notebook):
    assert notebook.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert notebook.locator(".jp-OutputArea-output .widget-vbox").count() >= 4
    explorer(notebook, "Word").scroll_into_view_if_needed()
    notebook.screenshot(path=SHOTS / "notebook.png")
    for label in ("Word", "to", "Step", "Rank"):
        live = explorer(notebook, label)
        live.scroll_into_view_if_needed()
        assert live.locator("img").first.get_attribute("alt")
        live.screenshot(path=SHOTS / f"live_{label.lower()}.png")


@pytest.mark.timeout(900)
def test_moving_the_gate_slider_writes_the_report_again(notebook):
    live = explorer(notebook, "to")
    live.scroll_into_view_if_needed()
    live.locator(".noUi-handle").focus()
    told = answer(notebook, live, lambda: [notebook.keyboard.press("ArrowLeft") for _ in range(12)])
    assert re.search(r"Gate of all layers at 0\.\d\d", told) and "at 1.00" not in told
    notebook.wait_for_timeout(3000)  # the last of the twelve steps
    live.screenshot(path=SHOTS / "gate_moved.png")


@pytest.mark.timeout(900)
def test_picking_a_word_moves_the_map(notebook):
    live = explorer(notebook, "Word")
    live.scroll_into_view_if_needed()
    words = live.locator("button")
    told = answer(notebook, live, words.first.click)
    assert f"“{words.first.inner_text()}”" in told
    live.locator(".noUi-handle").first.focus()
    told = answer(notebook, live, lambda: notebook.keyboard.press("ArrowRight"))
    assert f"“{words.nth(1).inner_text()}”" in told
    live.screenshot(path=SHOTS / "word_picked.png")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["words", "gate", "scan", "lora"])
def test_the_offline_page_shows_its_picture_and_reacts(notebook, browser, name):
    """The pages that the notebook has just written, in a browser whose network is off."""
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 950})
    page, errors, asked = context.new_page(), [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((KIT / "runs" / "explorers" / f"{name}.html").as_uri())
    seen = page.locator("#pictures canvas, #pictures img").first
    before, told = seen.screenshot(), page.inner_text("#told")
    page.locator("input[type=range]").first.focus()
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#told") != told
    page.keyboard.press("ArrowLeft")
    assert seen.screenshot() != before
    if name == "words":
        page.locator("#report button").first.click()
        page.locator("canvas").nth(1).press("ArrowDown")
        assert "of the lateral view" in page.inner_text("#told")
    page.screenshot(path=SHOTS / f"page_{name}.png")
    assert not errors and not [url for url in asked if not url.startswith(("file:", "data:"))]
    context.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("viewer", ["JupyterLab", "nbconvert"])
def test_a_stored_picture_has_its_sentence_in_the_accessibility_tree(viewer, browser, lab, tmp_path):
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
        place = f"{lab}/api/contents/picture.ipynb"
        urllib.request.urlopen(urllib.request.Request(place, content, headers, method="PUT")).close()
        address = f"{lab}/lab/tree/picture.ipynb?token={TOKEN}&reset"
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
