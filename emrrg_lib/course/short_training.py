"""A training that shows its effect within a minute: phantoms with one of three findings, one view each.

The encoder runs once, then projector, cross-attention and gates learn from its tokens, as in the warm part
of stage 3. The measure is the loss on held-out studies with their own image and with another patient's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import TrainerCallback

from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.study_set import pixels
from emrrg_lib.interpret.figures_training import watch_picture
from emrrg_lib.interpret.style import Picture
from emrrg_lib.language.hybrid_decoder import hybrid_modules
from emrrg_lib.language.prompt import text_batch
from emrrg_lib.model import EMRRG
from emrrg_lib.phantom.catalogue import draw_findings
from emrrg_lib.phantom.dataset import PhantomStudy, draw_study, stream
from emrrg_lib.training.watch import in_notebook, keep_freed_memory, redraw

THREE = ("effusion", "pneumothorax", "cardiomegaly")
ENCODE_BATCH = 16


def one_finding(count: int, seed: int, size: int = 96, kinds: Sequence[str] = THREE) -> list[PhantomStudy]:
    """The first `count` phantoms of a seed that show one finding, of one of these kinds, and no other."""
    studies: list[PhantomStudy] = []
    index = 0
    while len(studies) < count:
        found = [finding["kind"] for finding in draw_findings(stream(seed, index, 0))]
        if len(found) == 1 and found[0] in kinds:
            studies.append(draw_study(seed, index, size))
        index += 1
    return studies


class ShortLesson:
    """Phantoms to train on and to hold out, with the encoder's tokens of their frontal views.

    Attributes:
        studies: first those to train on, then those held out. reports: cleaned, one a study.
        train: how many are for training. tokens: (studies, M + 1, d).
    """

    def __init__(self, model: EMRRG, train: int = 160, held_out: int = 32, seed: int = 21) -> None:
        keep_freed_memory()
        self.settings, self.tokenizer, self.train = model.settings, model.tokenizer, train
        self.studies = one_finding(train + held_out, seed, model.settings.encoder.image_size)
        self.reports = [clean_report(s.report, model.settings.data.cleaning) for s in self.studies]
        self.held_out = list(range(train, train + held_out))
        self.tokens = self.encode(model)

    def pixels(self, numbers: Sequence[int]) -> Tensor:
        """(B, 3, H, W): the frontal views of these studies."""
        return pixels([self.studies[n].images[:1] for n in numbers], self.settings)[0]

    @torch.no_grad()
    def encode(self, model: EMRRG, numbers: Sequence[int] | None = None) -> Tensor:
        """(studies, M + 1, d): the encoder's tokens of the frontal views of these studies; None: of all."""
        model.eval()
        parts = torch.tensor(range(len(self.studies)) if numbers is None else numbers).split(ENCODE_BATCH)
        return torch.cat([model.encoder(self.pixels(part.tolist())) for part in parts])

    def batch(
        self, numbers: Sequence[int], images: Sequence[int] | None = None, encoded: bool = True
    ) -> dict[str, Tensor]:
        """A batch of the model.

        Args:
            numbers: of the studies whose reports are learnt. images: of those whose images are shown;
                None: the same. encoded: give the stored tokens; else the pixels.
        """
        numbers, shown = list(numbers), list(numbers if images is None else images)
        data, prompt_image = self.settings.data, self.settings.llm.image_in_prompt
        reports = [self.reports[n] for n in numbers]
        text = text_batch(self.tokenizer, data.prompt, reports, data.max_length, prompt_image)
        side = {"tokens": self.tokens[shown]} if encoded else {"pixel_values": self.pixels(shown)}
        return {**side, "view_mask": torch.ones(len(numbers), 1, dtype=torch.bool), **text.data}

    @torch.no_grad()
    def right_and_wrong(self, model: EMRRG) -> tuple[float, float]:
        """Loss on the held-out studies with their own image and with the next patient's."""
        shifted = self.held_out[1:] + self.held_out[:1]
        own, other = self.batch(self.held_out), self.batch(self.held_out, shifted)
        was_training = model.training
        model.eval()
        losses = float(model(**own)["loss"]), float(model(**other)["loss"])
        model.train(was_training)
        return losses


class Watch(TrainerCallback):
    """Measures a training every `every` steps and, in a notebook, draws it while it runs.

    Attributes:
        steps, right, wrong, gates: the points, as `watch_picture` takes them.
    """

    def __init__(self, model: EMRRG, lesson: ShortLesson, every: int = 20) -> None:
        self.model, self.lesson, self.every = model, lesson, every
        self.steps: list[int] = []
        self.right: list[float] = []
        self.wrong: list[float] = []
        self.gates: list[list[float]] = []
        self.display = None

    def measure(self, step: int) -> None:
        """Adds the point of this step."""
        right, wrong = self.lesson.right_and_wrong(self.model)
        gates = [abs(float(m.opening.detach())) for m in hybrid_modules(self.model.llm).values()]
        self.steps.append(step)
        self.right.append(right)
        self.wrong.append(wrong)
        self.gates.append(gates)

    def picture(self) -> Picture:
        """The points so far."""
        return watch_picture(self.steps, self.right, self.wrong, self.gates)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.measure(0)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        self.measure(state.global_step)
        if in_notebook():
            self.display = redraw(self.picture(), self.display)
