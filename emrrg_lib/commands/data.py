"""`emrrg data`: make or check a data folder."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from emrrg_lib.errors import InputError

from .parsing import add_command, add_group, add_out, add_seed, at_least


def register(subparsers) -> None:
    """Adds the parsers of this group."""
    kinds = add_group(subparsers, "data", "make or check a data folder",
                      "emrrg data phantom --studies 1000 --seed 0 --out phantom", "emrrg data check phantom")
    _add_phantom(kinds)
    check_command = add_command(kinds, "check", check, "read every entry and image of a data folder",
                                "emrrg data check phantom")
    check_command.add_argument("data", type=Path, metavar="DIR", help="annotation.json + images/")


def _add_phantom(kinds) -> None:
    command = add_command(kinds, "phantom", phantom, "draw PhantomCXR studies in the R2Gen layout",
                          "emrrg data phantom --studies 1000 --seed 0 --out phantom")
    add_out(command, None, "folder to write; must be empty or new")
    command.add_argument("--studies", type=at_least(1), required=True, metavar="N", help="how many studies")
    command.add_argument("--size", type=at_least(32), default=96, help="side in pixels (default: 96)")
    command.add_argument("--workers", type=at_least(1), default=2, help="processes that draw (default: 2)")
    add_seed(command)


def phantom(options: Namespace) -> int:
    """Draws a phantom data set."""
    if options.out.exists() and any(options.out.iterdir()):
        raise InputError(f"{options.out} is not empty: remove it or choose another --out")
    from emrrg_lib.data.phantom import write_phantom

    folder = write_phantom(options.out, options.studies, options.seed, size=options.size,
                           workers=options.workers)
    print(f"Wrote {options.studies} studies to {folder}; next: emrrg train --data {folder}")
    return 0


def check(options: Namespace) -> int:
    """Reads every entry and every image of a data folder and names each image that is unfit."""
    from tqdm import tqdm

    from emrrg_lib.data.loading import load_annotation, load_rgb

    studies = load_annotation(options.data, check_images=False)
    bad = []
    for image in tqdm([image for study in studies for image in study.images], unit="image"):
        try:
            load_rgb(image)
        except InputError as error:
            bad.append(str(error))
    if bad:
        listed = "\n  ".join(bad)
        raise InputError(f"{options.data}: {len(bad)} image(s) cannot be used:\n  {listed}")
    print(f"{options.data} is fine: {len(studies)} studies, every image can be read")
    return 0
