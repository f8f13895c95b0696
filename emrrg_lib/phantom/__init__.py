"""PhantomCXR: synthetic chest X-rays with reports, labels, truth and masks, made on the spot."""

from emrrg_lib.phantom.catalogue import KINDS
from emrrg_lib.phantom.dataset import PhantomStudy, draw_study, shifted, truth_of, write_phantom
from emrrg_lib.phantom.wording import commonest_wording, reword
