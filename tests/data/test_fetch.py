"""Downloads against a local server that cuts, corrupts and forgets, and archives that mean harm."""

import gzip
import hashlib
import io
import json
import stat
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from emrrg_lib.data import archives, fetch
from emrrg_lib.data.archives import check_archive, escapes, members
from emrrg_lib.files import InputError


def tar_bytes(*entries, mode="w:gz") -> bytes:
    """An archive of (name, bytes) or ready `TarInfo` entries."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return buffer.getvalue()


def special(kind: bytes, name="a/b", target="/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


# ------------------------------------------------------------------------------------- archives


@pytest.mark.parametrize("suffix", [".tgz", ".tar", ".zip"])
def test_members_are_read_in_order(tmp_path, suffix):
    files = [("a.xml", b"one"), ("folder/b.png", b"two" * 1000)]
    path = tmp_path / f"archive{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("folder/", b"")
            for name, data in files:
                archive.writestr(name, data)
    else:
        path.write_bytes(tar_bytes(*files, mode="w:gz" if suffix == ".tgz" else "w"))
    assert [(name, read()) for name, read in members(path)] == files
    assert check_archive(path) == {"a.xml": 3, "folder/b.png": 3000}


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "C:\\x", "C:x", "..\\x", "\\x", "a\0b"])
def test_names_that_leave_the_folder_are_known(name):
    assert escapes(name)
    assert not escapes("ecgen-radiology/1.xml")


@pytest.mark.parametrize(
    "entry",
    [
        ("../evil.png", b"x"),
        ("/evil.png", b"x"),
        ("a\\..\\..\\evil.png", b"x"),
        special(tarfile.SYMTYPE),
        special(tarfile.LNKTYPE),
        special(tarfile.CHRTYPE),
        special(tarfile.FIFOTYPE),
    ],
)
def test_harmful_tar_members_are_refused(tmp_path, entry):
    path = tmp_path / "evil.tgz"
    path.write_bytes(tar_bytes(("good.png", b"x"), entry))
    with pytest.raises(InputError, match="is refused, nothing was written"):
        check_archive(path)
    assert [p.name for p in tmp_path.iterdir()] == ["evil.tgz"]


@pytest.mark.parametrize("name, mode", [("../evil.png", 0), ("link", stat.S_IFLNK), ("pipe", stat.S_IFIFO)])
def test_harmful_zip_members_are_refused(tmp_path, name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(info, b"/etc/passwd")
    with pytest.raises(InputError, match="is refused, nothing was written"):
        check_archive(tmp_path / "evil.zip")


def test_bombs_are_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_FREE", 2**20)
    zeros = bytes(20 * 2**20)
    (tmp_path / "member.tgz").write_bytes(tar_bytes(("zeros", zeros)))
    (tmp_path / "header.tgz").write_bytes(tar_bytes(special(tarfile.REGTYPE, "n" * len(zeros))))
    (tmp_path / "tail.tgz").write_bytes(tar_bytes(("a", b"x")) + gzip.compress(zeros))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", zeros)
    for name in ("member.tgz", "header.tgz", "tail.tgz", "bomb.zip"):
        with pytest.raises(InputError, match="unpacks to far more than its own size"):
            check_archive(tmp_path / name)
    monkeypatch.setattr(archives, "MAX_MEMBER", 10)
    (tmp_path / "large.tar").write_bytes(tar_bytes(("large", b"x" * 11), mode="w"))
    with pytest.raises(InputError, match="11 bytes, more than 10"):
        check_archive(tmp_path / "large.tar")


def test_damaged_archives_are_named(tmp_path):
    noise = np.random.default_rng(0).bytes(50_000)
    whole = tar_bytes(("a.png", noise))
    wrong_sum = bytearray(whole)
    wrong_sum[-6] ^= 1  # only gzip's checksum can tell
    plain = tar_bytes(("a.png", noise), mode="w")
    cases = {
        "cut": whole[:30_000],
        "sum": bytes(wrong_sum),
        "page": b"<html>log in</html>" * 100,
        "empty": b"",
        "plain": plain[:20_000],
        "zip": b"PK\x03\x04" + noise,
    }
    for name, data in cases.items():
        path = tmp_path / f"{name}.tgz"
        path.write_bytes(data)
        with pytest.raises(InputError, match=f"{name}.tgz is damaged or no tar or zip archive"):
            check_archive(path)
    with pytest.raises(InputError, match="no archive at"):
        check_archive(tmp_path / "none.tgz")


# ---------------------------------------------------------------------------------------- fetch


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


def test_fetch_stops_before_a_full_disk(tmp_path, server, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: type("Disk", (), {"free": 10}))
    with pytest.raises(OSError, match="No space left"):
        fetch.fetch_iu_xray(tmp_path, server.url)
