"""Around a training: the loss curve, saved and live; Ctrl-C and SIGTERM; and the memory of the machine."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import Trainer, TrainerCallback

from emrrg_lib.files import InputError, Terminated, any_process, gather, write_text
from emrrg_lib.sharding import whole
from emrrg_lib.training.shares import study_names

COLUMNS = ["step", "loss", "grad_norm", "learning_rate"]
TWICE = 2.0  # seconds: torchrun sends a Ctrl-C once more to processes that already got it
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


def curve(log_history: list[dict]) -> list[dict]:
    """The log's rows that hold a training loss."""
    return [entry for entry in log_history if "loss" in entry]


class LossCurve(TrainerCallback):
    """Writes `file` (CSV) whenever a loss is logged and, in a notebook, redraws the curve."""

    def __init__(self, file: Path) -> None:
        self.file, self.display = file, None

    def on_log(self, args, state, control, **kwargs) -> None:
        if "loss" not in state.log_history[-1] or not state.is_world_process_zero:
            return
        rows = curve(state.log_history)
        write_text(self.file, pd.DataFrame(rows)[COLUMNS].to_csv(index=False))
        if in_notebook():
            from emrrg_lib.interpret.figures import loss_curve

            figure = loss_curve([row["step"] for row in rows], [row["loss"] for row in rows])
            self.display = redraw(figure, self.display)


def redraw(figure: Any, shown: Any = None) -> Any:
    """Shows a figure in a notebook, in the place of the one `shown` before; returns what is shown now."""
    from IPython.display import display

    if shown is None:
        return display(figure, display_id=True)
    shown.update(figure)
    return shown


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


class StopOnSignal(TrainerCallback):
    """A context in which Ctrl-C or SIGTERM ends the step, saves a checkpoint and raises KeyboardInterrupt.

    A second signal stops at once. Only the main thread gets signals; in another thread nothing changes.
    """

    KINDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}

    def __init__(self, trainer: Trainer) -> None:
        trainer.add_callback(self)
        self.trainer, self.asked, self.before = trainer, 0.0, {}
        self.kind: type[KeyboardInterrupt] = KeyboardInterrupt

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in self.KINDS}
        return self

    def __exit__(self, *error) -> None:
        for callback in self.trainer.callback_handler.callbacks:
            if bar := getattr(callback, "training_bar", None):
                bar.close()  # the next message is printed below it
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        self.kind = self.KINDS[number]
        if self.asked and time.monotonic() - self.asked > TWICE:
            raise self.kind
        self.asked = self.asked or time.monotonic()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if any_process(self.asked > 0):
            self.asked, control.should_save = self.asked or time.monotonic(), True

    def on_save(self, args, state, control, **kwargs) -> None:
        if self.asked:
            raise self.kind(f"step {state.global_step} is saved in {args.output_dir}")


class FiniteGradients:
    """Stops a training whose loss or gradient is not finite, before its weights are.

    On a CPU each step is looked at. A GPU would have to be waited for: there the optimiser leaves such a step
    out by itself, and the norms are looked at when something is logged or saved.

    Args:
        names: of the studies, for the message.
    """

    def __init__(self, names: Sequence[str] | None) -> None:
        self.names = names
        self.unseen: list[tuple[int, torch.Tensor, list[int]]] = []  # step, norm, its studies

    def note(self, step: int, norm: torch.Tensor | float, studies: list[int], optimizer: Any) -> None:
        """Takes the gradient's norm of a step before `optimizer`, a fused AdamW on a GPU, uses it."""
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        found = torch.as_tensor(whole(norm))
        self.unseen.append((step, found, studies))
        fused = optimizer.param_groups[0].get("fused")  # not after a resume from a CPU's checkpoint
        if found.device.type == "cuda" and fused and type(found) is type(norm):  # not a part under FSDP2
            optimizer.found_inf = 1 - found.isfinite().float()
        else:
            self.look()

    def look(self) -> None:
        """Raises InputError that names step and studies of the first norm that is not finite."""
        unseen, self.unseen = self.unseen, []
        finite = torch.stack([norm for _, norm, _ in unseen]).isfinite().tolist() if unseen else []
        if all(finite):
            return
        step, _, studies = unseen[finite.index(False)]
        raise InputError(
            f"training stopped at step {step}: loss or gradient is not finite (NaN) on the studies "
            f"{study_names(gather(studies), self.names)}. Look at their images and reports; else lower the "
            "learning rate or turn clipping on (clip 1). Earlier checkpoints are intact"
        )


def keep_freed_memory() -> None:
    """Lets glibc keep freed memory instead of returning it after every step (faster on a CPU)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library has no mallopt
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for parameter, value in ((M_TRIM_THRESHOLD, 2**31 - 1), (M_MMAP_MAX, 0)):
            mallopt(parameter, value)


@contextlib.contextmanager
def memory_explained(batch_size: int, accumulation: int):
    """Turns an error of missing memory into an InputError that says which settings to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's errors are RuntimeErrors
        said = str(error).lower()
        if not (isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said):
            raise
        raise InputError(
            f"out of memory with {batch_size} studies at once: raise accumulation (now {accumulation}; the "
            "same training in smaller batches), set gradient_checkpointing, or lower batch_size, max_length "
            "or image_size; --resume goes on from the last checkpoint"
        ) from error
