"""DICOM files as pictures (extra `dicom`). Only pixels are taken: no tag of a patient leaves this file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emrrg_lib.files import InputError, first_line


def is_dicom(path: Path) -> bool:
    """Whether the file has the mark of a DICOM file, behind its preamble of 128 bytes."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: Path) -> np.ndarray:
    """The picture as a screen shows it: whole numbers (H, W), a larger one is brighter.

    The steps are those of the standard: rescale (or modality table), then the window or table of values of
    interest; MONOCHROME1 is inverted. Without a window all values stay.

    Raises:
        InputError: pydicom is missing, or the file is damaged, compressed in a way that pydicom cannot
            undo here, in colour, or holds several frames.
    """
    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut, apply_voi_lut
    except ImportError:
        raise InputError(f"{path} is a DICOM file: run `pip install pydicom`, or convert it to PNG") from None
    try:
        file = pydicom.dcmread(path)
        values = apply_voi_lut(apply_modality_lut(file.pixel_array, file), file).astype(np.float64)
    except Exception as error:  # pydicom and its decoders raise many kinds
        why = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"cannot read the picture in {path} ({why}); convert it to PNG") from error
    if values.ndim != 2:
        raise InputError(f"{path} holds {values.shape}, not one grey picture; save the one to read by itself")
    if file.get("PhotometricInterpretation") == "MONOCHROME1":
        values = values.max() + values.min() - values
    span = float(values.max() - values.min())
    wider = 65_535 / span if 0 < span < 256 else 1.0  # of a window from 0 to 1, rounding would leave nothing
    return np.round(values * wider).astype(np.int64)
