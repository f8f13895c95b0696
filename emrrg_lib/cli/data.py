"""`emrrg data`: make or check a data folder."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from emrrg_lib.cli.parsing import add_command, add_group, add_number, add_out, add_path, add_preset, add_seed
from emrrg_lib.data.sources import SOURCES
from emrrg_lib.files import InputError

FETCHED_GB = 1.5  # Open-i's two archives
SHOWN = 10  # unusable items that `data check` prints; its list has them all


def register(subparsers) -> None:
    """Adds the parsers of this group."""
    kinds = add_group(
        subparsers,
        "data",
        "Make or check a data folder.",
        "emrrg data phantom --studies 1000 --seed 0 --out phantom",
        "emrrg data check phantom",
    )
    command = add_command(kinds, "phantom", phantom)
    add_out(command, None, "folder to write; must be empty or new")
    add_number(command, "--studies", "how many studies", required=True)
    add_number(command, "--size", "side in pixels", 96, low=32)
    add_number(command, "--workers", "processes that draw", 2, high=1024)
    add_seed(command)
    text = (
        "images as another machine sends them: inverted, exposed, coarse, solarised, upside-down, rotated, "
        "scrambled, or mixed (study by study another)"
    )
    command.add_argument("--shift", help=text)
    _add_check(kinds)
    _add_fetch(kinds)
    _add_prepare(kinds)
    _add_rehearse(kinds)


def _public() -> list[str]:
    """The data sets that the kit itself can download and prepare."""
    return [source.command for source in SOURCES if not source.access]


def phantom(options: Namespace) -> int:
    """Draw PhantomCXR studies in the R2Gen layout.

    emrrg data phantom --studies 1000 --seed 0 --out phantom
    emrrg data phantom --studies 1200 --shift inverted --out shifted
    """
    if options.out.exists() and any(options.out.iterdir()):
        raise InputError(f"{options.out} is not empty: remove it or choose another --out")
    from emrrg_lib.phantom import write_phantom

    folder = write_phantom(
        options.out,
        options.studies,
        options.seed,
        size=options.size,
        workers=options.workers,
        shift=options.shift,
    )
    print(f"Wrote {options.studies} studies to {folder}; next: emrrg train --data {folder}")
    return 0


def _add_check(kinds) -> None:
    command = add_command(kinds, "check", check_folder)
    text = "data folder in any layout, or its annotation, table or archive"
    command.add_argument("data", type=Path, metavar="PATH", help=text)
    text = "where every item is listed, .csv or .json"
    add_path(command, "--list", text, "FILE", default=Path("data_check.csv"))
    add_preset(command, "whose cleaning, tokenizer, max_length and views count")
    add_seed(command)


def check_folder(options: Namespace) -> int:
    """Read every report and image of a data set; exit code 1 if any cannot be used.

    emrrg data check phantom
    emrrg data check iu_xray --list found.csv
    """
    from emrrg_lib.data.check import check_data, write_list
    from emrrg_lib.presets import preset

    config = preset(options.preset)
    found = check_data(options.data, config, _token_counter(config.llm.name), options.seed)
    unusable = [problem.message for problem in found.problems if problem.unusable]
    print("\n".join(found.lines + [f"    {message}" for message in unusable[:SHOWN]]))
    write_list(options.list, found.problems)
    print(f"{len(found.problems):,} items, {len(unusable):,} of them unusable: listed in {options.list}")
    return 0 if found.usable else 1


def _token_counter(name: str):
    """Texts → lengths in tokens of this language model; None, with a sentence, where it is missing."""
    from transformers import AutoTokenizer

    from emrrg_lib.files import cache_folder
    from emrrg_lib.language.named import NAMED

    kept = cache_folder(name)
    source = kept if (kept / "config.json").is_file() else NAMED[name].source if name in NAMED else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError):
        print(f"the tokenizer of '{name}' is not on this machine: lengths in tokens are left out")
        return None
    return lambda texts: [len(ids) for ids in tokenizer(list(texts)).input_ids]


def _add_fetch(kinds) -> None:
    command = add_command(kinds, "fetch", fetch)
    command.add_argument("what", choices=[source.command for source in SOURCES], help="data set")
    text = f"folder for the archives of a public data set, about {FETCHED_GB} GB"
    add_path(command, "--to", text, dest="out")
    command.set_defaults(writes="out")
    command.add_argument("--url", metavar="URL", help="a mirror's folder (default: Open-i's)")


def fetch(options: Namespace) -> int:
    """Download a public data set, or say where to apply for it.

    emrrg data fetch iu-xray --to openi
    emrrg data fetch mimic-cxr
    """
    source = next(source for source in SOURCES if source.command == options.what)
    if source.access:
        raise InputError(source.access)
    if options.out is None:
        example = f"emrrg data fetch {options.what} --to openi"
        raise InputError(f"name the folder for the archives, about {FETCHED_GB} GB: {example}")
    from emrrg_lib.data.fetch import OPENI, fetch_iu_xray

    print(f"{source.name}: about {FETCHED_GB} GB go to {options.out.absolute()}", flush=True)
    fetch_iu_xray(options.out, options.url or OPENI)
    print(f"{options.out} is complete; next: emrrg data prepare iu-xray --from {options.out} --to iu_xray")
    return 0


def _add_prepare(kinds) -> None:
    command = add_command(kinds, "prepare", prepare)
    command.add_argument("what", choices=_public(), help="data set")
    text = "folder of the archives, or of CSV files and images"
    add_path(command, "--from", text, dest="source", required=True)
    add_out(command, None, "folder to write; called again, it goes on", "--to")
    text = "R2Gen's annotation.json; without it the split is not the published one"
    add_path(command, "--annotation", text, "FILE")
    add_number(command, "--size", "shorter side in pixels, never enlarged (default: as they are)", low=32)
    add_number(command, "--workers", "threads (default: one a core)", high=1024)
    add_seed(command)


def prepare(options: Namespace) -> int:
    """Build the R2Gen layout from a download of Open-i or Kaggle.

    The exit code is 1 if anything is missing.

    emrrg data prepare iu-xray --from openi --to iu_xray --annotation annotation.json
    """
    from emrrg_lib.data.prepare import prepare_iu_xray
    from emrrg_lib.data.sources import read_dataset

    done = prepare_iu_xray(
        options.source, options.out, options.annotation, options.size, options.seed, options.workers
    )
    print(done.summary)
    if done.studies:
        print(f"{options.out}: {read_dataset(options.out).caption}")
    return 1 if done.missing else 0


def _add_rehearse(kinds) -> None:
    command = add_command(kinds, "rehearse", rehearse)
    command.add_argument("what", choices=_public(), help="data set")
    add_path(command, "--annotation", "R2Gen's annotation.json", "FILE", required=True)
    text = "NLMCXR_reports.tgz or the folder of its XML files; their MeSH terms are drawn"
    add_path(command, "--reports", text, "PATH", required=True)
    add_out(command, None, "folder to write; called again, it goes on", "--to")
    add_number(command, "--size", "side in pixels", 224, low=32)
    add_number(command, "--limit", "only the first N studies of each split")
    add_number(command, "--workers", "processes that draw", 2, high=1024)
    add_seed(command)


def rehearse(options: Namespace) -> int:
    """Draw SYNTHETIC images for the real reports, to try the full-size path.

    emrrg data rehearse iu-xray --annotation annotation.json --reports NLMCXR_reports.tgz --to trial
    """
    from emrrg_lib.data.sources import read_dataset
    from emrrg_lib.phantom.rehearse import rehearse_iu_xray

    done = rehearse_iu_xray(
        options.annotation,
        options.reports,
        options.out,
        options.size,
        options.seed,
        options.workers,
        options.limit,
    )
    print(f"{options.out}: {read_dataset(options.out).caption}")
    drawn = ", ".join(f"{kind} {count}" for kind, count in done["drawn"].items())
    print(
        f"Drawn: {drawn or 'no finding'}; not drawn: {sum(done['not_drawn'].values())} MeSH terms,"
        f" counted in {options.out / 'synthetic.json'}"
    )
    return 0
