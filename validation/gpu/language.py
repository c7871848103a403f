"""Part (d): the cost of a cheap estimator in training GPT-2 with 124M parameters in bfloat16 autocast."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from lca.estimators import CrossFit, LaggedCrossFit
from lca.estimators import StochasticEstimator as Stochastic
from lca_torch import Objective, Tracker
from validation.gpu.setting import Setting
from validation.language_model.gpt import GPT, SIZES, next_token_loss
from validation.language_model.text import Windows, library_bytes
from validation.language_model.training import PartTotals
from validation.timing import interleaved

ESTIMATORS: dict[str, Stochastic] = {"cross-fit": CrossFit(2), "lagged": LaggedCrossFit()}
MEASURED = 16
"""Sequences of the measured loss; an estimator on training batches measures it only when it is checked."""


def cost(setting: Setting) -> None:
    """The ratio of the time of a step with an estimator to that of a step without, and the memory.

    Both kinds of steps take turns. The memory is that needed beyond training.
    """
    size = SIZES["tiny" if setting.small else "124M"]
    windows = Windows(library_bytes(100_000), size.length, seed=0, device=setting.device)
    for name, estimator in ESTIMATORS.items():
        torch.manual_seed(0)
        loop = _Loop(setting, GPT(size).to(setting.device), windows, 4 if setting.small else 16)
        setting.results.add(**{name: _cost_of(loop, estimator)})
        del loop


def _cost_of(loop: "_Loop", estimator: Stochastic) -> dict[str, Any]:
    setting, k = loop.setting, sum(parameter.numel() for parameter in loop.model.parameters())
    plain = loop.peak(setting.waiting(lambda: [loop.step() for _ in range(loop.steps)]))
    with loop.tracker(estimator) as tracker:
        watched = loop.peak(setting.waiting(lambda: [loop.step(tracker) for _ in range(loop.steps)]))
    return {
        **_in_turns(loop, estimator, rounds=1 if setting.small else 7),
        "parameters": k,
        "sequences_a_batch": loop.batch,
        "memory_of_training_bytes": plain,
        "memory_beyond_training_in_K": (watched - plain) / (4 * k),
    }


def _in_turns(loop: "_Loop", estimator: Stochastic, rounds: int) -> dict[str, Any]:
    """Both kinds of training in turns; the first step of each turn with a tracker waits for its next one."""
    totals: dict[str, float] = {}

    def watched() -> None:
        with loop.tracker(estimator) as tracker:
            for _ in range(loop.steps):
                loop.step(tracker)
            view: Any = tracker.views["train"]
            totals.update(view.totals.by_name())

    def plain() -> None:
        for _ in range(loop.steps):
            loop.step()

    setting = loop.setting
    found = interleaved(setting.waiting(watched), setting.waiting(plain), rounds)
    seconds = {"plain_step_s": found.b / loop.steps, "ratio": found.ratio, "fastest_ratio": found.fastest}
    return {**seconds, "steps_a_turn": loop.steps, "parts_of_last_turn": totals}


class _Loop:
    """Training in bfloat16 autocast, plain or with a tracker."""

    def __init__(self, setting: Setting, model: GPT, windows: Windows, batch: int) -> None:
        self.setting, self.model, self._windows, self.batch = setting, model, windows, batch
        self.steps = 2 if setting.small else 12
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        self._autocast = torch.bfloat16
        fixed = windows.draw(2 if setting.small else MEASURED)
        self._objective = Objective(
            model, None, fixed, batch_loss=next_token_loss, batch_size=len(fixed), autocast=self._autocast
        )

    def tracker(self, estimator: Stochastic) -> Tracker:
        return Tracker(
            self.model,
            self.optimizer,
            self._objective,
            estimator,
            views=PartTotals,
            check_every=None,
            on_error="raise",
        )

    def step(self, tracker: Tracker | None = None) -> None:
        """One update; with a tracker on two halves of the batch, which plain training takes whole."""
        batch = self._windows.draw(self.batch)
        self.optimizer.zero_grad()
        if tracker is None:
            self._backward(batch, 1.0)
        else:
            tracker.begin_batch(batch)
            for half, weight in tracker.micro_batches(batch, 2):
                self._backward(half, weight)
        self.optimizer.step()

    def _backward(self, batch: Tensor, weight: float) -> None:
        kind = torch.device(self.setting.device).type
        with torch.autocast(kind, self._autocast) if self._autocast else nullcontext():
            loss = weight * next_token_loss(self.model, batch)
        loss.backward()

    def peak(self, action: Any) -> int:
        """The largest memory in use during ``action``, in bytes; 0 on a CPU, where it is not known."""
        action()
        if self.setting.device == "cpu":
            return 0
        torch.cuda.reset_peak_memory_stats()
        action()
        return torch.cuda.max_memory_allocated()
