"""What a case sees of the measuring: `Run`, and the stand-in for a tracker where nothing is measured."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

import lca
from validation.wild.case import Mode, Outcome
from validation.wild.fingerprint import digest

SHARP = lca.Adaptive(tol=1e-5, nested_tol=3e-3, max_gradients=17)
"""As the default, with tolerances below those of the table, so that an error cannot pass as quadrature."""


class HalfWay(RuntimeError):
    """Raised by the measured loss in the third step, in the part ``failing``."""


class Run:
    """The part that one training of a case plays; subclasses know a framework.

    Attributes
    ----------
    mode
        The part.
    estimator
        Replaces `SHARP` as the estimator of cases that name none.
    """

    def __init__(self, mode: Mode, estimator: Any = SHARP) -> None:
        self.mode, self.estimator = mode, estimator
        self.outcome = Outcome()
        self.log: list[str] = []
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - the global state is what users' code reads

    @property
    def measures(self) -> bool:
        """Whether the package is at work."""
        return self.mode in ("measured", "failing")

    def note(self, *things: Any) -> None:
        """Remember what training saw, e.g. a batch: its order must not depend on the measuring."""
        self.log.append(digest(things))

    def plant(self, measured: Any, steps: Callable[[], int]) -> None:
        """In the part ``failing``: let the evaluation of the measured loss raise in the third step."""
        if self.mode != "failing":
            return
        for leaf in lca.objective.leaves(measured):
            loss = getattr(leaf, "_loss", None)
            if loss is not None:
                loss.evaluate = _failing(loss.evaluate, steps, _fuse)
                loss.evaluate_each = _failing(loss.evaluate_each, steps, lambda groups: [*map(_fuse, groups)])


def _fuse(batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        yield batch
        raise HalfWay("the measured loss raised half-way")


def _failing(
    evaluate: Callable[..., Any], steps: Callable[[], int], fuse: Callable[[Any], Any]
) -> Callable[..., Any]:
    def failing(theta: Any, batches: Any, *args: Any, **options: Any) -> Any:
        return evaluate(theta, fuse(batches) if steps() >= 2 else batches, *args, **options)

    return failing


class NoTracker:
    """Does to the loop what a tracker does, and measures nothing."""

    steps = 0

    def __init__(self, around: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._around = around

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        return iter(loader)

    def begin_batch(self, *batch: Any) -> None:
        """Nothing to remember."""

    def scores(self, *scores: Any) -> None:
        """Nothing to remember."""

    def micro_batches(self, batch: Any, n: int) -> Iterator[tuple[Any, float]]:
        whole = len(batch[0])
        cuts = [round(i * whole / n) for i in range(n + 1)]
        for low, high in zip(cuts, cuts[1:], strict=False):
            yield tuple(part[low:high] for part in batch), (high - low) / whole

    def add(self, total: Any, gradients: Any) -> list[Any]:
        return list(gradients) if total is None else [a + b for a, b in zip(total, gradients, strict=True)]

    @contextmanager
    def step(self) -> Iterator[None]:
        with self._around():
            yield
