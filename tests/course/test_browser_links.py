"""JupyterLab as `make lab` starts it: no notebook has a broken picture or a link that leads nowhere."""

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

import pytest

from emrrg_lib.course.build import NOTEBOOKS
from emrrg_lib.files import KIT

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
TOKEN = "browser-test"
SETTINGS = {  # cells out of sight are drawn too
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}
READY = """async () => {
  await window.jupyterapp.restored;
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.context.ready; await panel.revealed;
  return document.querySelectorAll('.jp-RenderedMarkdown h1').length > 0;
}"""
LINKS = """() => [...document.querySelectorAll('.jp-NotebookPanel a[href]')].map((each) => each.href)"""
BROKEN = """() => [...document.querySelectorAll('.jp-NotebookPanel img')]
  .filter((each) => each.complete && each.naturalWidth === 0).map((each) => each.src.slice(0, 200))"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab with the options of `make lab` and settings of its own."""
    home = tmp_path_factory.mktemp("lab")
    (home / "labconfig").mkdir()
    (home / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))
    command = re.search(r"exec \$\(BIN\)/jupyter lab .*?(?=\n\n)", (KIT / "Makefile").read_text(), re.DOTALL)[
        0
    ]
    assert "--ServerApp.root_dir=$(or $(FOLDER),.)" in command
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    own = {name: str(home / name.lower()) for name in folders} | {"JUPYTER_CONFIG_DIR": str(home)}
    options = (
        f"--ip=127.0.0.1 --IdentityProvider.token={TOKEN} --ServerApp.port={port} --allow-root --no-browser"
    )
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--LabApp.expose_app_in_browser=True", *options.split()]
        + ["--ServerApp.root_dir=."],
        cwd=KIT,
        env={**os.environ, **own, "PYTHONPATH": str(KIT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert server.poll() is None, "JupyterLab ended before it answered"
            try:
                urllib.request.urlopen(f"{address}/api/status?token={TOKEN}", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.timeout(900)
def test_every_picture_and_link_of_every_notebook_works(lab):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the package chromium, or name one by CHROMIUM")
    followed, faults = set(), []
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = chromium.new_context(viewport={"width": 1280, "height": 1000}).new_page()
        page.set_default_timeout(90_000)
        for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
            page.goto(f"{lab}/lab/tree/notebooks/{path.name}?token={TOKEN}&reset")
            page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.context")
            page.wait_for_function(READY)
            page.wait_for_timeout(1500)
            faults += [f"{path.name}: picture {source}" for source in page.evaluate(BROKEN)]
            local = {link.partition("#")[0] for link in page.evaluate(LINKS) if link.startswith(lab)}
            for link in sorted(local - followed):
                place = re.sub(r"/(lab/tree|files)/", "/api/contents/", link.partition("?")[0])
                status = page.request.get(f"{place}?content=0&token={TOKEN}").status
                faults += [f"{path.name}: {status} {link}"] if status != 200 else []
            followed |= local
        chromium.close()
    assert faults == []
    assert any("emrrg_lib" in link for link in followed) and len(followed) > 20
