"""PhantomCXR: synthetic chest X-rays with reports, labels, truth and masks, made on the spot."""

from .catalogue import KINDS
from .dataset import PhantomStudy, draw_study, truth_of, write_phantom
from .sheet import contact_sheet
from .wording import commonest_wording, reword

__all__ = [
    "KINDS",
    "PhantomStudy",
    "contact_sheet",
    "draw_study",
    "commonest_wording", "reword",
    "truth_of",
    "write_phantom",
]
