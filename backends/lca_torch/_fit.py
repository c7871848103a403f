"""`FitCallback`: what the callbacks of Lightning and Hugging Face have in common."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from torch import nn

from lca.objective import Objective as AnyObjective
from lca.objective import leaves
from lca.tracking import CallbackBase
from lca_torch._objective import Objective
from lca_torch._policies import random_state_kept
from lca_torch._tracker import Tracker

MakeObjective: TypeAlias = Callable[[Any], AnyObjective | Mapping[str, AnyObjective]]
"""From the model, on its device, to the measured loss or several by name."""


class FitCallback(CallbackBase[Tracker]):
    """Makes the objective and a `Tracker` on the optimizer when a run begins."""

    _tracker: ClassVar[type[Tracker]] = Tracker

    def _begin_fit(self, model: nn.Module, optimizers: Sequence[Any]) -> None:
        def make() -> Tracker:
            with random_state_kept(next(model.parameters()).device):
                return self._make_tracker(model, optimizers)

        self._begin(make)

    def _make_tracker(self, model: nn.Module, optimizers: Sequence[Any]) -> Tracker:
        objective = self._measured(model)
        own = [leaf for leaf in leaves(objective) if isinstance(leaf, Objective)]
        measured = own[0].model if own else model
        return self._tracker(measured, list(optimizers), objective, self._estimator, **self._options)
