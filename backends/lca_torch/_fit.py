"""`FitCallback`: what the callbacks of Lightning and Hugging Face have in common."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, Unpack

from torch import nn

from lca.allocation import Estimator
from lca.errors import LCAError
from lca.live import Logger
from lca.live._logging import loggers_of
from lca.objective import Objective as AnyObjective
from lca.objective import leaves
from lca.tracking import CallbackBase
from lca.tracking._call import Call
from lca.tracking._options import Options, names_options
from lca_torch._objective import Objective
from lca_torch._policies import random_state_kept
from lca_torch._tracker import Tracker

MakeObjective: TypeAlias = Callable[[Any], AnyObjective | Mapping[str, AnyObjective]]
"""Maps the model, on its device, to the measured loss or to several by name."""


AnyTracker = TypeVar("AnyTracker", bound=Tracker)


class FitCallback(CallbackBase[AnyTracker]):
    """Makes the objective and a `Tracker` on the optimizers when a run begins."""

    _tracker: type[AnyTracker]
    _trainer_logger: Logger | None = None

    @names_options
    def __init__(
        self, make_objective: MakeObjective, estimator: Estimator | None = None, **options: Unpack[Options]
    ) -> None:
        if isinstance(make_objective, type | AnyObjective | Mapping) or not callable(make_objective):
            kind = (
                "a class" if isinstance(make_objective, type) else f"of type {type(make_objective).__name__}"
            )
            raise LCAError(
                f"make_objective is {kind}; the order is {type(self).__name__}(make_objective, estimator), "
                "with a function from the model to its Objective, which is called when the run begins: "
                "lambda model: Objective(model, loss, data)."
            )
        super().__init__(make_objective, estimator, **options)

    def _begin_fit(
        self,
        model: nn.Module,
        optimizers: Sequence[Any],
        updates: int | None,
        made: int,
        call: Call | None = None,
    ) -> None:
        def make() -> AnyTracker:
            with random_state_kept(next(model.parameters()).device):
                return self._make_tracker(model, optimizers)

        self._begin(make, updates, made, call)

    def _make_tracker(self, model: nn.Module, optimizers: Sequence[Any]) -> AnyTracker:
        objective = self._measured(model)
        if not isinstance(objective, AnyObjective | Mapping):
            raise LCAError(
                f"make_objective returned {objective!r} and not an Objective; write lambda model: "
                "Objective(model, loss, data), or return the objective from the function."
            )
        own = [leaf for leaf in leaves(objective) if isinstance(leaf, Objective)]
        measured = own[0].model if own else model
        options = self._options.copy()
        options["log_to"] = loggers_of(options.get("log_to"), self._trainer_logger)
        return self._tracker(measured, list(optimizers), objective, self._estimator, **options)
