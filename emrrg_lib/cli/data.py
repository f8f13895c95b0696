"""`emrrg data`: make or check a data folder."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from emrrg_lib.cli.parsing import add_command, add_group, add_out, add_seed, at_least
from emrrg_lib.data.sources import SOURCES
from emrrg_lib.files import InputError

SHOWN = 10  # unusable items that `data check` prints; its list has them all


def register(subparsers) -> None:
    """Adds the parsers of this group."""
    kinds = add_group(
        subparsers,
        "data",
        "make or check a data folder",
        "emrrg data phantom --studies 1000 --seed 0 --out phantom",
        "emrrg data check phantom",
    )
    _add_phantom(kinds)
    _add_check(kinds)
    _add_fetch(kinds)
    _add_prepare(kinds)
    _add_rehearse(kinds)


def _public() -> list[str]:
    """The data sets that the kit itself can download and prepare."""
    return [source.command for source in SOURCES if not source.access]


def _add_phantom(kinds) -> None:
    command = add_command(
        kinds,
        "phantom",
        phantom,
        "draw PhantomCXR studies in the R2Gen layout",
        "emrrg data phantom --studies 1000 --seed 0 --out phantom",
    )
    add_out(command, None, "folder to write; must be empty or new")
    command.add_argument("--studies", type=at_least(1), required=True, metavar="N", help="how many studies")
    command.add_argument("--size", type=at_least(32), default=96, help="side in pixels (default: 96)")
    command.add_argument("--workers", type=at_least(1), default=2, help="processes that draw (default: 2)")
    add_seed(command)


def _add_check(kinds) -> None:
    command = add_command(
        kinds,
        "check",
        check,
        "read every report and image of a data set; exit code 1 if any cannot be used",
        "emrrg data check phantom",
        "emrrg data check iu_xray --list found.csv",
    )
    command.add_argument(
        "data",
        type=Path,
        metavar="PATH",
        help="data folder in any layout, or its annotation, table or archive",
    )
    command.add_argument(
        "--list",
        type=Path,
        default=Path("data_check.csv"),
        metavar="FILE",
        help="where every item is listed, .csv or .json (default: %(default)s)",
    )
    command.add_argument(
        "--preset",
        default="tiny",
        help="whose cleaning, tokenizer, max_length and views count (default: tiny)",
    )
    add_seed(command)


def phantom(options: Namespace) -> int:
    """Draws a phantom data set."""
    if options.out.exists() and any(options.out.iterdir()):
        raise InputError(f"{options.out} is not empty: remove it or choose another --out")
    from emrrg_lib.phantom import write_phantom

    folder = write_phantom(
        options.out, options.studies, options.seed, size=options.size, workers=options.workers
    )
    print(f"Wrote {options.studies} studies to {folder}; next: emrrg train --data {folder}")
    return 0


def check(options: Namespace) -> int:
    """Prints what `data.check` finds and lists every item; 1 if any item cannot be used."""
    from emrrg_lib.config import preset
    from emrrg_lib.data.check import check_data, write_list

    config = preset(options.preset)
    found = check_data(options.data, config, _token_counter(config.llm.name), options.seed)
    unusable = [problem.message for problem in found.problems if problem.unusable]
    print("\n".join(found.lines + [f"    {message}" for message in unusable[:SHOWN]]))
    write_list(options.list, found.problems)
    print(f"{len(found.problems):,} items, {len(unusable):,} of them unusable: listed in {options.list}")
    return 0 if found.usable else 1


def _token_counter(name: str):
    """Texts → lengths in tokens of this language model; None, with a sentence, where it is not here."""
    from transformers import AutoTokenizer

    from emrrg_lib.files import cache_folder
    from emrrg_lib.language.llm import NAMED

    kept = cache_folder(name)
    source = kept if (kept / "config.json").is_file() else NAMED[name].source if name in NAMED else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError):
        print(f"the tokenizer of '{name}' is not on this machine: lengths in tokens are left out")
        return None
    return lambda texts: [len(ids) for ids in tokenizer(list(texts)).input_ids]


def _add_fetch(kinds) -> None:
    command = add_command(
        kinds,
        "fetch",
        fetch,
        "download a public data set, or say where to apply for it",
        "emrrg data fetch iu-xray --to openi",
        "emrrg data fetch mimic-cxr",
    )
    command.add_argument("what", choices=[source.command for source in SOURCES], help="data set")
    add_out(command, "openi", "folder for the archives, about 1.5 GB", "--to")
    command.add_argument("--url", metavar="URL", help="a mirror's folder (default: Open-i's)")


def fetch(options: Namespace) -> int:
    """Downloads Open-i's archives of IU X-ray; the other data sets are given on application only."""
    from emrrg_lib.data.fetch import OPENI, fetch_iu_xray

    source = next(source for source in SOURCES if source.command == options.what)
    if source.access:
        raise InputError(source.access)
    fetch_iu_xray(options.out, options.url or OPENI)
    print(f"{options.out} is complete; next: emrrg data prepare iu-xray --from {options.out} --to iu_xray")
    return 0


def _add_prepare(kinds) -> None:
    command = add_command(
        kinds,
        "prepare",
        prepare,
        "build the R2Gen layout from a download of Open-i or Kaggle",
        "emrrg data prepare iu-xray --from openi --to iu_xray --annotation annotation.json",
    )
    command.add_argument("what", choices=_public(), help="data set")
    command.add_argument(
        "--from",
        dest="source",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the archives, or of CSV files and images",
    )
    add_out(command, None, "folder to write; called again, it goes on", "--to")
    command.add_argument(
        "--annotation",
        type=Path,
        metavar="FILE",
        help="R2Gen's annotation.json; without it the split is not the published one",
    )
    command.add_argument(
        "--size",
        type=at_least(32),
        metavar="N",
        help="shorter side in pixels, never enlarged (default: as they are)",
    )
    command.add_argument("--workers", type=at_least(1), metavar="N", help="threads (default: one a core)")
    add_seed(command)


def prepare(options: Namespace) -> int:
    """Builds the layout and prints what is missing; 1 if anything is."""
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
    command = add_command(
        kinds,
        "rehearse",
        rehearse,
        "draw SYNTHETIC images for the real reports, to try the full-size path",
        "emrrg data rehearse iu-xray --annotation annotation.json --reports NLMCXR_reports.tgz --to trial",
    )
    command.add_argument("what", choices=_public(), help="data set")
    command.add_argument(
        "--annotation", type=Path, required=True, metavar="FILE", help="R2Gen's annotation.json"
    )
    command.add_argument(
        "--reports",
        type=Path,
        required=True,
        metavar="PATH",
        help="NLMCXR_reports.tgz or the folder of its XML files; their MeSH terms are drawn",
    )
    add_out(command, None, "folder to write; called again, it goes on", "--to")
    command.add_argument("--size", type=at_least(32), default=224, help="side in pixels (default: 224)")
    command.add_argument("--workers", type=at_least(1), default=2, help="processes that draw (default: 2)")
    add_seed(command)


def rehearse(options: Namespace) -> int:
    """Draws the data set and says which terms the phantom could not draw."""
    from emrrg_lib.data.rehearse import rehearse_iu_xray
    from emrrg_lib.data.sources import read_dataset

    done = rehearse_iu_xray(
        options.annotation, options.reports, options.out, options.size, options.seed, options.workers
    )
    print(f"{options.out}: {read_dataset(options.out).caption}")
    drawn = ", ".join(f"{kind} {count}" for kind, count in done["drawn"].items())
    print(
        f"Drawn: {drawn or 'no finding'}; not drawn: {sum(done['not_drawn'].values())} MeSH terms,"
        f" counted in {options.out / 'synthetic.json'}"
    )
    return 0
