"""Benchmarks of hybrid layers, reading of images, batches, and of threads that wait on a busy machine.

Threads of OpenMP spin while they wait for work. That saves time where every thread has a core. Beside other
programs it burns the share of the machine that the work needs. `emrrg_lib` therefore shortens the spin
(`QUIET_THREADS`). `load` measures each setting in a process of its own, because the runtime reads it once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, PreTrainedModel

from emrrg_lib.bench import interleaved
from emrrg_lib.bench.system import batch_of
from emrrg_lib.data.images import SHARD, colour, jitter, normalise, open_views
from emrrg_lib.files import QUIET_THREADS
from emrrg_lib.language.hybrid_decoder import NAME, hybrid_modules, install_hybrid_layers
from emrrg_lib.language.llm import load_llm
from emrrg_lib.language.named import NAMED
from emrrg_lib.language.prompt import text_batch
from emrrg_lib.model import EMRRG
from emrrg_lib.presets import preset

# hybrid: 8 layers of the shape of Qwen1.5-1.8B, every second one hybrid
LAYERS, HYBRID, VOCABULARY = 8, (0, 2, 4, 6), 1024
PROMPT, VISUAL = 26, 145  # text tokens of the paper's prompt; 144 patches and the cls token
TOKENS = 24  # new ones; a real report has about 60


def hybrid_llm(dtype: torch.dtype) -> PreTrainedModel:
    """The layers with random weights and open gates; the vocabulary is small."""
    config = NAMED["qwen1.5-1.8b"].config()
    config.num_hidden_layers, config.vocab_size, config.eos_token_id = LAYERS, VOCABULARY, None
    config.layer_types = config.layer_types[:LAYERS]
    torch.manual_seed(0)
    llm = install_hybrid_layers(AutoModelForCausalLM.from_config(config, dtype=dtype).eval(), HYBRID)
    for module in hybrid_modules(llm).values():
        torch.nn.init.constant_(module.warm_up, 0.5)
    return llm


@torch.no_grad()
def write_report(llm: PreTrainedModel, with_hybrid: bool, beams: int, tokens: int) -> None:
    """Writes one report; without hybrid layers the same weights run plain sdpa attention."""
    llm.set_attn_implementation(NAME if with_hybrid else "sdpa")
    ids = torch.arange(PROMPT)[None]
    visual = {
        "visual_states": torch.ones(1, VISUAL, llm.config.hidden_size, dtype=llm.dtype),
        "visual_mask": torch.ones(1, VISUAL, dtype=torch.bool),
        "text_mask": torch.ones(1, PROMPT, dtype=torch.bool),
    }
    llm.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        num_beams=beams,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        **(visual if with_hybrid else {}),
    )


def hybrid(quick: bool = False) -> dict:
    """Best of interleaved runs with and without, in the faster of float32 and bfloat16, on the CPU.

    The share of the hybrid layers falls with the length: their keys and values are made once a report. It is
    processor time, because on a busy machine the wall clock does not show a few per cent.

    Returns:
        {"goal", "dtype", "threads", "prompt", "visual_tokens", "new_tokens",
        "rows": [{"beams", "plain_s", "hybrid_s", "ratio"}]}; a ratio above the goal costs too much.
    """
    threads, rows = torch.get_num_threads(), []
    torch.set_num_threads(1)  # threads that wait for each other would be counted as work
    try:
        kinds = {kind: hybrid_llm(kind) for kind in (torch.float32, torch.bfloat16)}
        short = {kind: partial(write_report, llm, False, 1, 4) for kind, llm in kinds.items()}
        seconds = interleaved(short, rounds=1, clock=time.process_time)
        dtype = min(seconds, key=seconds.get)
        for beams in (1,) if quick else (1, 3):
            tasks = {kind: partial(write_report, kinds[dtype], kind, beams, TOKENS) for kind in (False, True)}
            plain, with_hybrid = interleaved(tasks, rounds=3, clock=time.process_time).values()
            values = {"plain_s": plain, "hybrid_s": with_hybrid, "ratio": with_hybrid / plain}
            rows.append({"beams": beams} | {name: round(value, 3) for name, value in values.items()})
    finally:
        torch.set_num_threads(threads)
    return {
        "goal": 1.15,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": 1,
        "prompt": PROMPT,
        "visual_tokens": VISUAL,
        "new_tokens": TOKENS,
        "rows": rows,
    }


# data: width, height of Open-i's small pictures and of full-size radiographs
SIZES = ((512, 624), (2048, 2500))
FILES, SIDE, DRAWN = 6000, 192, 4


def data(quick: bool = False) -> dict:
    """Seconds for 6,000 files at 192 px, first and second epoch, and their ratio, for each picture size.

    A sample is timed and scaled up. Its files repeat a few drawn pictures, which lie in memory already, so
    the disk's own speed is not part of the figures. On a machine that does other work too, the processor's
    seconds over the number of threads are more reliable.
    """
    sample = 60 if quick else 300
    result: dict = {"files": FILES, "sample": sample, "side": SIDE, "threads": os.cpu_count()}
    for width, height in SIZES:
        with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, EMRRG_CACHE=folder):
            drawn = [_draw(Path(folder) / f"{i}.png", width, height, i) for i in range(DRAWN)]
            paths = [drawn[i % DRAWN] for i in range(sample)]
            cpu = time.process_time()
            first = _epoch(paths)
            cpu = time.process_time() - cpu
            second = min(_epoch(paths) for _ in range(3))
            size = drawn[0].stat().st_size
        result[f"{width}x{height}"] = {
            "first_epoch_seconds": first * FILES / sample,
            "first_epoch_cpu_seconds": cpu * FILES / sample,
            "second_epoch_seconds": second * FILES / sample,
            "ratio": first / second,
            "bytes_a_file": size,
        }
    return result


def _draw(path: Path, width: int, height: int, seed: int) -> Path:
    """A grey PNG that compresses like a radiograph: smooth shapes and film-like noise."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (20, 16), dtype=np.uint8)).resize((width, height), 3)
    noisy = np.asarray(smooth) + rng.normal(0, 4, (height, width))
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path)
    return path


def _epoch(paths: list[Path]) -> float:
    """Seconds to open the views and to yield each as (H, W, 3) once."""
    start = time.perf_counter()
    shards = open_views(paths, SIDE)
    for i in range(len(paths)):
        colour(shards[i // SHARD][i % SHARD])
    return time.perf_counter() - start


def batch(quick: bool = False) -> dict:
    """The processor's milliseconds that making one batch takes, at the sizes of the paper's presets."""
    result, tokenizer, rng = {}, load_llm("tiny")[1], np.random.default_rng(0)
    for name in ("iu-xray",) if quick else ("iu-xray", "mimic-cxr"):
        config = preset(name)
        size, studies = config.encoder.image_size, config.train.batch_size
        views = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(2 * studies)]
        reports = [" ".join(["the lungs are clear ."] * config.data.max_length)] * studies
        tasks = {
            "pixels": lambda views=views: normalise([colour(view) for view in views]),
            "jitter": lambda views=views: jitter(views, rng),
            "words": lambda reports=reports, data=config.data: text_batch(
                tokenizer, data.prompt, reports, data.max_length, True
            ),
        }
        seconds = interleaved(tasks, rounds=1 if quick else 9, clock=time.process_time)
        milliseconds = {f"{task}_ms": round(1000 * value, 1) for task, value in seconds.items()}
        result[name] = {"studies": studies, "images": len(views), "size": size} | milliseconds
    return result


# load: name → environment of the process
SETTINGS: dict[str, dict[str, str]] = {
    "as shipped": {},
    "without the setting": {"GOMP_SPINCOUNT": "300000"},  # libgomp's own default
    "one thread": {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
}


def load(quick: bool = False) -> dict:
    """Seconds of a training step, the encoder and reports, idle and beside one busy process a core."""
    figures: dict[str, dict] = {}
    for state, others in (("idle", 0), ("busy", os.cpu_count() or 1)):
        with busy_processes(others):
            figures[state] = {name: _in_process(values, quick) for name, values in SETTINGS.items()}
    shipped = "as shipped"
    ratios = {
        state: {
            name: {task: round(s / runs[base][task], 2) for task, s in runs[shipped].items()}
            for name, base in (("times_without", "without the setting"), ("times_one_thread", "one thread"))
        }
        for state, runs in figures.items()
    }
    return {"busy_processes": os.cpu_count(), "setting": QUIET_THREADS, "seconds": figures, "shipped": ratios}


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Within it `count` processes compute without a pause."""
    endless = [sys.executable, "-c", "while True: sum(range(100_000))"]
    workers = [subprocess.Popen(endless) for _ in range(count)]
    try:
        yield
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _in_process(values: dict[str, str], quick: bool) -> dict[str, float]:
    environment = os.environ | QUIET_THREADS | values
    command = [sys.executable, "-m", "emrrg_lib.bench.parts", *["quick"] * quick]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(quick: bool) -> dict[str, float]:
    """The median seconds of each task, in this process."""
    model, studies = EMRRG.from_preset("tiny").train(), 2 if quick else 16
    batch = batch_of(model, studies)
    pixels = batch.pop("pixel_values")
    with torch.no_grad():
        tokens = model.encoder(pixels)

    def step() -> None:
        model(**batch, tokens=tokens)["loss"].backward()
        model.zero_grad(set_to_none=True)

    tasks = {
        "training step": step,
        "encoder": lambda: model.encoder(pixels).sum().backward(),
        "reports": lambda: model.generate(
            pixels[:4], batch["view_mask"][:2], max_new_tokens=4 if quick else 30
        ),
    }
    seconds = {}
    for name, task in tasks.items():
        times = []
        for _ in range(2 if quick else 9):
            started = time.perf_counter()
            task()
            times.append(time.perf_counter() - started)
        seconds[name] = round(sorted(times[1:])[len(times[1:]) // 2], 4)
    return seconds


if __name__ == "__main__":
    print(json.dumps(_measure("quick" in sys.argv)))
