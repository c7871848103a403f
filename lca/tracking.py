"""`Measurement`: what a tracker or callback of any framework does with the steps it sees.

A framework's hooks know when a step began and ended; everything behind that is here, once: which steps are
measured, what an error in measuring does to the training, and where the allocations go.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, get_args

from lca.allocation import Estimator, start_each
from lca.errors import LCAError, LCAWarning, UnknownNameError
from lca.estimators import Adaptive
from lca.layout import Layout
from lca.objective import Objective, State, state_of
from lca.step import Step
from lca.summary import RunViews, summarize
from lca.views import View

OnError: TypeAlias = Literal["warn", "raise"]
Schedule: TypeAlias = int | Callable[[int], bool]


def check_options(every: Schedule, on_error: OnError) -> None:
    """Raise `LCAError` unless these are options of a `Measurement`."""
    if on_error not in get_args(OnError):
        raise UnknownNameError("on_error", on_error, get_args(OnError))
    if not callable(every) and (not isinstance(every, int) or every < 1):
        raise LCAError(f"every must be a positive integer or a function of the step, got {every!r}.")


class Measurement:
    """Allocates the steps of a training run that somebody else drives.

    Parameters
    ----------
    objective
        The measured loss, or several by name; a single one is called ``train``.
    estimator
        How a step is allocated; default `lca.Adaptive`.
    every
        Measure every n-th step, or those for which ``every(index)`` is true.
    views
        Makes the view of one measured loss from its layout; default: everything `summary` needs.
    on_error
        ``"warn"``: an error in measuring ends the measuring with a warning, and the training goes on.
        ``"raise"``: it is raised.

    Attributes
    ----------
    views
        The view of each measured loss, by name.
    error
        What ended the measuring, or ``None``.
    """

    def __init__(
        self,
        objective: Objective | Mapping[str, Objective],
        estimator: Estimator | None = None,
        *,
        every: Schedule = 1,
        views: Callable[[Layout], View] = RunViews.of,
        on_error: OnError = "warn",
    ) -> None:
        check_options(every, on_error)
        self.objectives = dict(objective) if isinstance(objective, Mapping) else {"train": objective}
        self._allocate = start_each(self.objectives, estimator or Adaptive())
        self._every = every
        self._on_error = on_error
        self.views = {name: views(measured.layout) for name, measured in self.objectives.items()}
        self.error: Exception | None = None

    def wants(self, index: int) -> bool:
        """Whether this step is to be measured."""
        if self.error is not None:
            return False
        return self._every(index) if callable(self._every) else index % self._every == 0

    def state(self) -> State | None:
        """A copy of what the measured losses depend on besides θ (`lca.objective.Stateful`)."""
        states = [state_of(objective) or {} for objective in self.objectives.values()]
        return {name: value for state in states for name, value in state.items()} or None

    def measure(self, step: Step) -> None:
        """Allocate a step and show it to the views."""
        for name, allocation in self._allocate(step).items():
            self.views[name].update(allocation)

    @contextmanager
    def guarded(self, index: int) -> Iterator[None]:
        """Whatever goes wrong inside, while measuring step ``index``, is handled as ``on_error`` says."""
        try:
            yield
        except Exception as error:
            if self._on_error == "raise":
                raise
            self.error = error
            warnings.warn(
                f"measuring stopped at step {index}, training goes on: {type(error).__name__}: {error}",
                LCAWarning,
                stacklevel=2,
            )

    def summary(self) -> dict[str, dict[str, Any]]:
        """`lca.summary.summarize` of each measured loss, by name.

        Raises
        ------
        LCAError
            If no step was measured, or ``views`` are not the default ones.
        """
        summaries = {}
        for name, view in self.views.items():
            if not isinstance(view, RunViews):
                raise LCAError("summary() needs the default views; read your own from `views`.")
            if not len(view.trace.rows):
                raise LCAError(f"no step was measured{self._why()}.")
            summaries[name] = summarize(view)
        return summaries

    def _why(self) -> str:
        return "" if self.error is None else f": {type(self.error).__name__}: {self.error}"
