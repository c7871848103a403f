"""`FitTracking`: what the callbacks of Lightning and Hugging Face have in common.

Both call back when a fit has begun, with the model on its device and the optimizer made, and when it has
ended. All else is a `Tracker` on that optimizer.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn

from lca.allocation import Estimator
from lca.errors import LCAError, LCAWarning
from lca.objective import Objective, leaves
from lca.summary import RunViews
from lca.tracking import MakeViews, OnError, RecordTo, Schedule, check_options
from lca.views import View
from lca_torch.objective import Objective as TorchObjective
from lca_torch.policies import random_state_kept
from lca_torch.tracker import Tracker

MakeObjective: TypeAlias = Callable[[Any], Objective | Mapping[str, Objective]]


class FitTracking:
    """Makes the objective and the tracker when a fit begins, and keeps the views when it has ended."""

    def __init__(
        self,
        make_objective: MakeObjective,
        estimator: Estimator | None = None,
        *,
        every: Schedule = 1,
        views: MakeViews = RunViews.of,
        on_error: OnError = "warn",
        record: RecordTo | None = None,
    ) -> None:
        check_options(every, on_error)
        self._record = record
        self._make_objective = make_objective
        self._estimator = estimator
        self._every: Schedule = every
        self._make_views = views
        self._on_error: OnError = on_error
        self._failed: Exception | None = None
        self.tracker: Tracker | None = None

    @property
    def views(self) -> Mapping[str, View]:
        """The view of each measured loss, by name; empty before the fit has begun."""
        return {} if self.tracker is None else self.tracker.views

    @property
    def error(self) -> Exception | None:
        """What ended the measuring, or kept it from beginning, or ``None``."""
        return self._failed if self.tracker is None else self.tracker.error

    def summary(self) -> dict[str, dict[str, Any]]:
        """`lca.summary.summarize` of each measured loss and each term of one, by name.

        Raises
        ------
        LCAError
            If no step was measured, or ``views`` are not the default ones.
        """
        if self.tracker is None:
            why = f"{type(self._failed).__name__}: {self._failed}" if self._failed else "no fit has begun."
            raise LCAError(f"no step was measured: {why}")
        return self.tracker.summary()

    def _begin(self, model: nn.Module, optimizers: Sequence[Any]) -> None:
        self._end()
        self.tracker = self._failed = None
        try:
            with random_state_kept(next(model.parameters()).device):
                self.tracker = self._make_tracker(model, optimizers)
        except Exception as error:
            if self._on_error == "raise":
                raise
            self._failed = error
            warnings.warn(
                f"measuring did not begin, training goes on: {type(error).__name__}: {error}",
                LCAWarning,
                stacklevel=3,
            )
        else:
            self.tracker.__enter__()

    def _make_tracker(self, model: nn.Module, optimizers: Sequence[Any]) -> Tracker:
        if len(optimizers) != 1:
            raise LCAError(
                f"a fit with one optimizer can be measured, this one has {len(optimizers)}; in a training "
                "loop of your own, put a Tracker on each."
            )
        objective = self._make_objective(model)
        measured = next((o for o in leaves(objective) if isinstance(o, TorchObjective)), None)
        return Tracker(
            model if measured is None else measured.model,
            optimizers[0],
            objective,
            self._estimator,
            every=self._every,
            views=self._make_views,
            on_error=self._on_error,
            record=self._record,
        )

    def _end(self, error: BaseException | None = None) -> None:
        if self.tracker is not None:
            self.tracker.__exit__(None if error is None else type(error), error, None)
