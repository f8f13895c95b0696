"""`emrrg bench`: benchmarks that print ratios."""

from __future__ import annotations

import importlib
import json
from argparse import Namespace
from pathlib import Path

from emrrg_lib.cli.parsing import add_command, add_group, at_least

KINDS = {
    "scan": "the selective scan: backend cpu, the reference loop, a naive scan",
    "encoder": "the base encoder forward and backward, beside its Linear layers alone",
    "hybrid": "generation with and without hybrid layers at Qwen1.5-1.8B's layer shape",
    "train": "a training step of stage 3 without each of its savings",
    "generate": "beam search without each of its savings",
    "data": "reading images: decode and resize, and from the cache",
    "full-size": "one study through the paper's iu-xray system with random weights: time and memory",
}


def register(subparsers) -> None:
    """Adds the parsers of this group."""
    kinds = add_group(
        subparsers,
        "bench",
        "measure how fast the parts run on this machine, as ratios",
        "emrrg bench scan",
        "emrrg bench encoder --json encoder.json",
    )
    for kind, summary in KINDS.items():
        command = add_command(kinds, kind, bench, summary, f"emrrg bench {kind} --quick")
        command.add_argument("--quick", action="store_true", help="small sizes: only to see that it runs")
        command.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
        command.add_argument("--threads", type=at_least(1), default=2, help="CPU threads (default: 2)")
        command.set_defaults(kind=kind)


def bench(options: Namespace) -> int:
    """Runs one benchmark and prints its figures with hardware and versions."""
    import time

    import torch

    from emrrg_lib.files import write_json
    from emrrg_lib.run_folder import run_record

    torch.set_num_threads(options.threads)
    started = time.time()
    module = importlib.import_module(f"emrrg_lib.bench.{options.kind.replace('-', '_')}")
    figures = module.run(options.quick)
    record = run_record(f"bench {options.kind}", started, quick=options.quick, figures=figures)
    print(json.dumps(record, indent=1))
    if options.json:
        print(f"Wrote {write_json(options.json, record)}")
    return 0
