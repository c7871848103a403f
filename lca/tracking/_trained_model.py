"""`TrainedModel`: why the gradients of a model in training may differ from those of the measured loss."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lca.objective import Objective, Sum


class TrainedModel:
    """Tells what makes the gradients of training others than those of the measured loss.

    A framework overrides what it knows.

    Parameters
    ----------
    model
        The model that is trained.
    losses
        The framework's measured losses of it.
    """

    def __init__(self, model: Any, losses: Sequence[Any]) -> None:
        self._model, self._losses = model, losses

    def dropout(self) -> Iterable[str]:
        """The names of the layers that drop units or add noise at random in training."""
        return ()

    def frozen_statistics(self) -> Iterable[str]:
        """The names of the layers that train with the statistics of a batch and are measured without."""
        return ()

    def in_training(self) -> Mapping[str, type]:
        """The modules in training mode, by name, but for dropout and statistics that are reported anyway."""
        return {}

    def gradient_hooks(self) -> Iterable[str]:
        """The names of the parameters and layers with hooks that may alter the gradients of training."""
        return ()

    def keeps_order(self, loader: object) -> bool:
        """Whether a loader is known to yield examples in the order of its data."""
        return False

    def terms(self, objective: Objective) -> Mapping[str, Objective]:
        """The terms of a measured loss that a loop has to add to the others, by what they are called."""
        if not isinstance(objective, Sum) or len(objective.terms) == 1:
            return {}
        return {f"the term {name!r}": own for name, own in objective.terms.items()}
