"""DICOM files as pictures: rescale, window, MONOCHROME1, bit depths; and files that cannot be read."""

import numpy as np
import pytest
from PIL import Image

from emrrg_lib.data.images import load_picture
from emrrg_lib.files import InputError
from emrrg_lib.training.batches import find_images

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (extra dicom)")
RAMP = np.linspace(0, 4095, 64 * 48).reshape(64, 48).astype(np.uint16)  # 12 bits


def write(path, values=RAMP, **tags):
    """A small secondary capture; `tags` replace or add elements."""
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.SOPClassUID, file.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, "1.2.3"
    file.PatientName, file.PatientID = "Nobody^Here", "secret-7"
    file.PhotometricInterpretation, file.SamplesPerPixel = "MONOCHROME2", 1
    file.Rows, file.Columns = values.shape[:2]
    file.BitsAllocated, file.PixelRepresentation = 8 * values.dtype.itemsize, int(values.dtype.kind == "i")
    file.BitsStored = 12 if values.dtype.itemsize == 2 else 8
    file.HighBit = file.BitsStored - 1
    file.PixelData = values.tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)
    return path


def grey(path):
    picture = load_picture(path)
    assert picture.mode == "L"
    return np.asarray(picture).astype(int)


def scaled(values):
    values = np.asarray(values, dtype=float)
    return np.round((values - values.min()) * 255 / (values.max() - values.min()))


def test_twelve_bits_fill_the_range(tmp_path):
    assert np.abs(grey(write(tmp_path / "a.dcm")) - scaled(RAMP)).max() <= 1


def test_monochrome1_is_inverted(tmp_path):
    path = write(tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1")
    assert np.abs(grey(path) - (255 - scaled(RAMP))).max() <= 1


def test_a_window_is_applied_after_the_rescale(tmp_path):
    tags = dict(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=1000, WindowWidth=1001)
    yours = grey(write(tmp_path / "a.dcm", **tags))
    inside = np.clip((RAMP * 2.0 - 1000 - 500) / 1000, 0, 1)  # values from 500 to 1500 fill the range
    assert np.abs(yours - np.round(255 * inside)).max() <= 2


def test_signed_values_and_a_negative_window(tmp_path):
    values = (RAMP.astype(np.int32) - 1000).astype(np.int16)
    path = write(tmp_path / "a.dcm", values, BitsStored=16, HighBit=15, WindowCenter=0, WindowWidth=801)
    inside = np.clip((values + 400.0) / 800, 0, 1)
    assert np.abs(grey(path) - np.round(255 * inside)).max() <= 2


@pytest.mark.parametrize("kind, bits", [(np.uint8, 8), (np.uint16, 16)])
def test_other_depths(tmp_path, kind, bits):
    values = (RAMP / 4095 * (2**bits - 1)).astype(kind)
    path = write(tmp_path / "a.dcm", values, BitsStored=bits, HighBit=bits - 1)
    assert np.abs(grey(path) - scaled(values)).max() <= 1


def test_the_name_does_not_matter_and_a_folder_of_them_is_found(tmp_path):
    write(tmp_path / "a.dcm")
    write(tmp_path / "without_suffix")
    assert (grey(tmp_path / "a.dcm") == grey(tmp_path / "without_suffix")).all()
    assert find_images(tmp_path) == [tmp_path / "a.dcm"]


def test_a_constant_picture_is_black(tmp_path):
    assert (grey(write(tmp_path / "a.dcm", np.full((8, 8), 700, dtype=np.uint16))) == 0).all()


def test_colour_and_frames_are_refused(tmp_path):
    rgb = np.zeros((8, 8, 3), dtype=np.uint8)
    tags = dict(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    with pytest.raises(InputError, match="not one grey picture"):
        load_picture(write(tmp_path / "a.dcm", rgb, **tags))
    frames = np.zeros((2, 8, 8), dtype=np.uint8)
    with pytest.raises(InputError, match="not one grey picture"):
        load_picture(write(tmp_path / "b.dcm", frames, Rows=8, Columns=8, NumberOfFrames=2))


@pytest.mark.parametrize("cut", [133, 200, 600])
def test_a_damaged_file_is_one_sentence(tmp_path, cut):
    path = write(tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="cannot read the picture in .*a.dcm .*convert it to PNG") as refusal:
        load_picture(path)
    assert "\n" not in str(refusal.value)


def test_compressed_data_without_its_decoder_is_one_sentence(tmp_path):
    path = write(tmp_path / "a.dcm")
    file = pydicom.dcmread(path)
    file.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    file.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51 nothing"])
    file["PixelData"].is_undefined_length = True
    file.save_as(path)
    with pytest.raises(InputError, match="cannot read the picture"):
        load_picture(path)


def test_without_pydicom_the_advice_names_it(tmp_path, monkeypatch):
    import sys

    path = write(tmp_path / "a.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match="pip install pydicom"):
        load_picture(path)


def test_no_tag_of_a_patient_is_kept(tmp_path):
    picture = load_picture(write(tmp_path / "a.dcm"))
    picture.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    assert not picture.info and b"Nobody" not in content and b"secret" not in content
    with Image.open(tmp_path / "a.png") as saved:
        assert not saved.info
