"""Image files to planes and tensors: what is read, equal to upstream's resize, and what is refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from emrrg_lib.data.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    load_mask,
    load_picture,
    normalise,
    read_view,
)
from emrrg_lib.files import InputError


def grey(folder, values, name="x.png"):
    path = folder / name
    Image.fromarray(values).save(path)
    return path


def test_the_preprocessing_is_bicubic_then_imagenet(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    found = normalise([read_view(grey(tmp_path, values), 24)])[0].numpy()
    assert found.shape == (3, 24, 24) and found.dtype == np.float32
    resized = np.asarray(Image.fromarray(values).resize((24, 24), 3), dtype=np.float64) / 255
    expected = (resized - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(found.transpose(1, 2, 0), expected, atol=1e-5)


def test_a_grey_picture_becomes_three_equal_channels(tmp_path):
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    found = normalise([read_view(grey(tmp_path, values), 8)])[0].numpy() * IMAGENET_STD[:, None, None]
    found = (found + IMAGENET_MEAN[:, None, None]) * 255
    for channel in found:
        np.testing.assert_allclose(channel, values, atol=1e-3)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("png", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    + [("tif", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I")]
    + [("jpg", mode) for mode in ("1", "L", "RGB", "CMYK")],
)
def test_every_kind_of_picture_reads_alike(tmp_path, suffix, mode):
    values = np.zeros((16, 16), dtype=np.uint8)
    values[:, 8:] = 255
    picture = Image.fromarray(values)
    if mode.startswith("I"):
        wide = values.astype(np.int32) * 257
        picture = Image.fromarray(wide.astype(np.uint16) if mode == "I;16" else wide)
    else:
        picture = picture.convert("RGB").convert(mode)
    picture.save(tmp_path / f"x.{suffix}")
    found = read_view(tmp_path / f"x.{suffix}", 16).astype(int)
    assert found.shape == (16, 16, 3)
    assert np.abs(found - values[..., None]).max() <= 12  # JPEG rings a little


def test_sixteen_bits_are_scaled_not_wrapped(tmp_path):
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    found = np.asarray(load_picture(grey(tmp_path, values))).ravel().astype(int)
    assert (np.diff(found) >= 0).all() and found[0] == 0 and found[-1] == 255
    np.testing.assert_array_equal(found, np.round(values.ravel() / 257.0))


def test_twelve_bits_in_sixteen_use_the_whole_range(tmp_path):
    values = np.linspace(500, 4095, 256).astype(np.uint16).reshape(16, 16)
    found = np.asarray(load_picture(grey(tmp_path, values))).ravel().astype(int)
    assert found[0] == 0 and found[-1] == 255 and (np.diff(found) >= 0).all()
    np.testing.assert_allclose(found, (values.ravel().astype(float) - 500) * 255 / 3595, atol=0.51)
    flat = np.asarray(load_picture(grey(tmp_path, np.full((4, 4), 300, dtype=np.uint16))))
    assert (flat == 0).all()


def gradient(low=500, high=4095, side=64):
    return np.linspace(low, high, side * side).astype(np.uint16).reshape(side, side)


def spots(values, *marks):
    """`values` with (place, value) marks; a place is a pixel or a block."""
    values = values.copy()
    for place, value in marks:
        values[place] = value
    return values


@pytest.mark.parametrize(
    "marks",
    [
        [((5, 5), 65535)],
        [((5, 5), 65535), ((60, 3), 65535), ((9, 40), 30000)],
        [((slice(2, 8), slice(50, 60)), 65535)],  # a marker, 1.5 % of the picture
        [((5, 5), 10000), ((6, 6), 20000), ((7, 7), 40000), ((8, 8), 65535)],
    ],
)
@pytest.mark.parametrize("low, high", [(500, 4095), (0, 1023), (8000, 16383)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_hot_pixels_and_markers_do_not_make_the_rest_black(tmp_path, suffix, low, high, marks):
    values = gradient(low, high)
    marked = spots(
        values, *[(place, value) for place, value in marks if value > 3 * high] or [((5, 5), 65535)]
    )
    found = np.asarray(load_picture(grey(tmp_path, marked, f"x.{suffix}"))).astype(int)
    plain = np.asarray(load_picture(grey(tmp_path, values, f"y.{suffix}"))).astype(int)
    np.testing.assert_array_equal(found, np.where(marked != values, 255, plain))


def test_dead_pixels_do_not_make_the_rest_white(tmp_path):
    values = gradient(40_000, 44_000)
    found = np.asarray(load_picture(grey(tmp_path, spots(values, ((5, 5), 0), ((9, 9), 65535)))))
    plain = np.asarray(load_picture(grey(tmp_path, values, "y.png")))
    assert found[5, 5] == 0 and found[9, 9] == 255 and (found == plain).mean() > 0.999


@pytest.mark.parametrize("low, high", [(0, 65535), (0, 255), (7, 8), (1000, 1000), (60_000, 65_535)])
@pytest.mark.parametrize("side", [2, 16, 300])
def test_gradients_keep_their_whole_range(tmp_path, low, high, side):
    values = gradient(low, high, side)
    found = np.asarray(load_picture(grey(tmp_path, values)))
    expected = np.round((values.astype(float) - low) * (255.0 / max(high - low, 1)))
    np.testing.assert_array_equal(found, expected)


def test_values_that_fit_no_grey_scale_are_refused(tmp_path):
    path = grey(tmp_path, np.full((4, 4), 70_000, dtype=np.int32), "x.tif")
    with pytest.raises(InputError, match="outside 0..65535"):
        load_picture(path)
    path = grey(tmp_path, np.zeros((4, 4), dtype=np.float32), "y.tif")
    with pytest.raises(InputError, match="floating-point"):
        load_picture(path)


def test_the_orientation_tag_is_obeyed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("L", (20, 10)).save(tmp_path / "x.jpg", exif=exif)
    assert load_picture(tmp_path / "x.jpg").size == (10, 20)


def damaged_files(folder):
    """Yields (path, words expected in the sentence) for files that are no single still picture."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    for suffix in ("png", "jpg", "tif"):
        path = grey(folder, noise, f"cut.{suffix}")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        yield path, "damaged|not an image"
    for name, content in (("a.png", b""), ("b.jpg", b"hello"), ("c.png", b"%PDF-1.7 ...")):
        (folder / name).write_bytes(content)
        yield folder / name, "not an image"
    frames = [Image.fromarray(noise), Image.fromarray(255 - noise)]
    for suffix in ("gif", "tif", "png"):
        frames[0].save(folder / f"two.{suffix}", save_all=True, append_images=frames[1:])
        yield folder / f"two.{suffix}", "2 pictures"
    yield folder / "nowhere.png", "no image file"
    yield folder, "no image file"


def test_bad_images_give_one_sentence_naming_the_file(tmp_path):
    for path, words in damaged_files(tmp_path):
        with pytest.raises(InputError, match=words) as caught:
            read_view(path, 32)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_png_checksum(tmp_path):
    path = grey(tmp_path, np.zeros((64, 64), dtype=np.uint8))
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        load_picture(path)


@pytest.mark.parametrize("side", [10_001, 14_000])
def test_a_decompression_bomb_is_refused(tmp_path, side):
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match=r"bomb.png is too large"):
        load_picture(tmp_path / "bomb.png")


def test_a_picture_of_thirty_thousand_pixels_a_side_is_refused_by_its_header(tmp_path):
    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    with pytest.raises(InputError, match=r"huge.png is too large"):
        load_picture(tmp_path / "huge.png")


def test_masks_are_boolean_and_keep_their_size(tmp_path):
    values = np.zeros((12, 12), dtype=bool)
    values[3:6, 4:9] = True
    path = grey(tmp_path, values, "mask.png")
    np.testing.assert_array_equal(load_mask(path), values)
    doubled = load_mask(path, 24)
    assert doubled.dtype == bool
    np.testing.assert_array_equal(doubled, values.repeat(2, 0).repeat(2, 1))
