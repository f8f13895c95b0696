"""Sound archives are unpacked; archives that mean harm or are damaged are refused in one sentence."""

import gzip
import io
import stat
import tarfile
import zipfile

import numpy as np
import pytest
from small_archives import tar_bytes

from emrrg_lib.data.archives import SMALL, check_archive, escapes, unpacked
from emrrg_lib.files import InputError


def special(kind: bytes, name="a/b", target="/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("suffix", [".tgz", ".tar", ".zip"])
def test_an_archive_is_checked_and_unpacked_for_a_while(tmp_path, suffix):
    files = {"a.xml": b"one", "folder/b.png": b"two" * 1000}
    path = tmp_path / f"archive{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("folder/", b"")
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        path.write_bytes(tar_bytes(*files.items(), mode="w:gz" if suffix == ".tgz" else "w"))
    assert check_archive(path) == 3003
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "left behind by a kill").write_text("x")
    with unpacked([path], tmp_path / "place") as place:
        found = {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()}
        assert found == files
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def refused(path, words):
    """Whether checking and unpacking are refused with these words, and nothing is left."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(InputError, match=words):
        check_archive(path)
    with pytest.raises(InputError, match=words), unpacked([path], path.parent / "place"):
        pass
    assert sorted(path.parent.rglob("*")) == before


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
    refused(path, "is refused, nothing was written")


@pytest.mark.parametrize("name, mode", [("../evil.png", 0), ("link", stat.S_IFLNK), ("pipe", stat.S_IFIFO)])
def test_harmful_zip_members_are_refused(tmp_path, name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(info, b"/etc/passwd")
    refused(tmp_path / "evil.zip", "is refused, nothing was written")


def test_bombs_are_refused(tmp_path):
    zeros = bytes(SMALL + 1)
    (tmp_path / "member.tgz").write_bytes(tar_bytes(("zeros", zeros)))
    (tmp_path / "header.tgz").write_bytes(tar_bytes(special(tarfile.REGTYPE, "n" * len(zeros))))
    (tmp_path / "tail.tgz").write_bytes(tar_bytes(("a", b"x")) + gzip.compress(zeros))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", zeros)
    for name in ("member.tgz", "header.tgz", "tail.tgz", "bomb.zip"):
        refused(tmp_path / name, "unpacks to far more than its own size")


def test_a_sparse_member_is_refused(tmp_path):
    """It claims a size that its archive does not hold."""
    sparse = special(tarfile.GNUTYPE_SPARSE, "big", "")
    sparse.size = 0
    block = bytearray(tar_bytes(sparse, mode="w"))
    block[483:495] = b"77777777777\0"  # the real size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    (tmp_path / "sparse.tar").write_bytes(block)
    refused(tmp_path / "sparse.tar", "a link or device")


def test_a_member_that_is_file_and_folder_leaves_nothing(tmp_path):
    (tmp_path / "odd.tgz").write_bytes(tar_bytes(("a", b"file"), ("a/b", b"in it")))
    with pytest.raises(InputError, match="odd.tgz is damaged"):
        with unpacked([tmp_path / "odd.tgz"], tmp_path / "place"):
            pass
    assert [p.name for p in tmp_path.iterdir()] == ["odd.tgz"]


def test_damaged_archives_are_named(tmp_path):
    noise = np.random.default_rng(0).bytes(50_000)
    whole = tar_bytes(("a.png", noise))
    wrong_sum = bytearray(whole)
    wrong_sum[-6] ^= 1  # only gzip's checksum can tell
    plain = tar_bytes(("a.png", noise), mode="w")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", noise)
    zip_sum = bytearray(buffer.getvalue())
    zip_sum[1000] ^= 1
    cases = {
        "cut": whole[:30_000],
        "sum": bytes(wrong_sum),
        "page": b"<html>log in</html>" * 100,
        "empty": b"",
        "plain": plain[:20_000],
        "zip": b"PK\x03\x04" + noise,
        "zip sum": bytes(zip_sum),
    }
    for name, data in cases.items():
        path = tmp_path / f"{name}.tgz"
        path.write_bytes(data)
        refused(path, f"{name}.tgz is damaged or no tar or zip archive")
    with pytest.raises(InputError, match="no archive at"):
        check_archive(tmp_path / "none.tgz")
