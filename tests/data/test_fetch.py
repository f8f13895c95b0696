"""Downloads against a local server that cuts, corrupts and forgets."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from small_archives import tar_bytes

from emrrg_lib.cli import main
from emrrg_lib.data import fetch
from emrrg_lib.files import InputError


@pytest.fixture
def server(monkeypatch):
    """A server of two archives; each entry of `faults` spoils one reply, in order."""
    noise = np.random.default_rng(1).bytes(200_000)
    files = {
        "NLMCXR_reports.tgz": tar_bytes(("ecgen-radiology/1.xml", b"<eCitation/>")),
        "NLMCXR_png.tgz": tar_bytes(("CXR1_1_IM-0001-3001.png", noise)),
    }
    faults, ranges = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body, asked = files.get(self.path.rsplit("/", 1)[-1]), self.headers.get("Range")
            fault = faults.pop(0) if faults else None
            if body is None or fault == "busy":
                return self.send_error(503 if body else 404)
            ranges.append(asked)
            start = int(asked[6:-1]) if asked and fault != "no ranges" else 0
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            data = bytearray(body[start:])
            if fault == "corrupt":
                data[len(data) // 2] ^= 255
            self.wfile.write(data[: len(data) // 3] if fault == "cut" else data)

        def log_message(self, *_):
            pass

    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    monkeypatch.setattr(fetch, "MEASURED", {})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    httpd.url, httpd.files, httpd.faults, httpd.ranges = (
        f"http://127.0.0.1:{httpd.server_port}/mirror",
        files,
        faults,
        ranges,
    )
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def _whole(folder, server) -> bool:
    return all((folder / name).read_bytes() == data for name, data in server.files.items())


@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["cut"],
        ["cut", "cut", "busy"],
        ["corrupt"],
        ["cut", "corrupt", None],
        ["cut", "no ranges"],
    ],
)
def test_fetch_survives_a_bad_line(tmp_path, server, faults):
    server.faults[:] = [None, *faults]
    fetch.fetch_iu_xray(tmp_path, server.url)
    assert _whole(tmp_path, server)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "NLMCXR_png.tgz",
        "NLMCXR_reports.tgz",
        "downloads.json",
    ]
    record = json.loads((tmp_path / "downloads.json").read_text())
    for name, data in server.files.items():
        assert record[name]["sha256"] == hashlib.sha256(data).hexdigest()
        assert record[name]["url"] == f"{server.url}/{name}"


def test_fetch_goes_on_where_it_stopped(tmp_path, server, monkeypatch):
    monkeypatch.setattr(fetch, "TRIES", 1)
    server.faults[:] = [None, "cut"]
    with pytest.raises(InputError, match="call again to go on"):
        fetch.fetch_iu_xray(tmp_path, server.url)
    part = (tmp_path / "NLMCXR_png.tgz.part").stat().st_size
    assert 0 < part < len(server.files["NLMCXR_png.tgz"]) and not (tmp_path / "NLMCXR_png.tgz").exists()
    fetch.fetch_iu_xray(tmp_path, server.url)
    assert server.ranges[-1] == f"bytes={part}-" and _whole(tmp_path, server)


def test_a_second_fetch_checks_and_mends(tmp_path, server):
    fetch.fetch_iu_xray(tmp_path, server.url)
    asked = len(server.ranges)
    fetch.fetch_iu_xray(tmp_path, server.url)
    assert len(server.ranges) == asked
    (tmp_path / "NLMCXR_png.tgz").write_bytes(b"rotten")
    fetch.fetch_iu_xray(tmp_path, server.url)
    assert _whole(tmp_path, server) and len(server.ranges) == asked + 1
    (tmp_path / "NLMCXR_png.tgz").unlink()
    server.files["NLMCXR_png.tgz"] = tar_bytes(("other.png", b"another file under the same name"))
    with pytest.raises(InputError, match="hash"):
        fetch.fetch_iu_xray(tmp_path, server.url)


def test_a_stale_part_is_thrown_away(tmp_path, server):
    (tmp_path / "NLMCXR_png.tgz.part").write_bytes(bytes(300_000))
    fetch.fetch_iu_xray(tmp_path, server.url)
    assert _whole(tmp_path, server)


def test_a_damaged_file_put_there_by_hand_is_refused(tmp_path, server):
    (tmp_path / "NLMCXR_png.tgz").write_bytes(server.files["NLMCXR_png.tgz"][:1000])
    with pytest.raises(InputError, match="is damaged"):
        fetch.fetch_iu_xray(tmp_path, server.url)


@pytest.mark.parametrize("fault", ["away", "no space", "stopped", "busy"])
def test_a_download_that_never_begins_leaves_no_folder(tmp_path, server, monkeypatch, fault):
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(fetch, "TRIES", 1)
    monkeypatch.setattr(server, "url", server.url.replace("/mirror", "") if fault == "busy" else server.url)
    if fault == "away":
        server.shutdown()
        server.server_close()
    elif fault == "no space":
        monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: type("Disk", (), {"free": 10}))
    elif fault == "busy":
        server.faults[:] = ["busy"]
    else:
        monkeypatch.setattr(fetch.pooch, "create", lambda *a, **b: (_ for _ in ()).throw(KeyboardInterrupt))
    for folder in (tmp_path / "new", tmp_path / "kept" / "a" / "b"):
        server.faults[:] = ["busy"] if fault == "busy" else []
        with pytest.raises((InputError, OSError, KeyboardInterrupt)):
            fetch.fetch_iu_xray(folder, server.url)
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


def test_the_command_asks_for_a_folder_and_names_it_with_the_size(tmp_path, server, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "fetch", "iu-xray"]) == 2
    assert "about 1.5 GB: emrrg data fetch iu-xray --to openi" in capsys.readouterr().err
    assert main(["data", "fetch", "mimic-cxr"]) == 2 and "physionet.org" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(["data", "fetch", "iu-xray", "--to", "here", "--url", server.url]) == 0
    assert f"IU X-ray: about 1.5 GB go to {tmp_path / 'here'}\n" in capsys.readouterr().out
    assert _whole(tmp_path / "here", server)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"NLMCXR_png.tgz": 3}', "[" * 50_000, '{"NLMCXR_png.tgz": {}}']
)
def test_a_damaged_record_is_named(tmp_path, server, content):
    (tmp_path / "downloads.json").write_text(content)
    with pytest.raises(InputError, match="downloads.json is damaged: remove it"):
        fetch.fetch_iu_xray(tmp_path, server.url)


def test_fetch_stops_before_a_full_disk(tmp_path, server, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: type("Disk", (), {"free": 10}))
    with pytest.raises(OSError, match="No space left"):
        fetch.fetch_iu_xray(tmp_path, server.url)
