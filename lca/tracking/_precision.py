"""`PrecisionDifference`: how far a loss that is measured in another precision is from that of the model."""

import warnings
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from lca.arrays import Vector
from lca.errors import LCAError, LCAWarning
from lca.objective import Objective, Scaled, Sum, leaves


@runtime_checkable
class OtherPrecision(Protocol):
    """An objective that may measure a model in another precision than its own."""

    @property
    def model_dtype(self) -> str | None:
        """The dtype of the model where it is another than that of θ, else ``None``."""

    def precision_difference(self, theta: Vector) -> float:
        """The loss of the model in its own dtype minus L(θ)."""


class PrecisionDifference:
    """Compares the losses of a run with those of the model in its own precision, where steps begin and end.

    Cost: two forward passes at the first measured step and two at the end, for each loss that is measured in
    another precision; nothing for others.

    Parameters
    ----------
    objectives
        The measured losses by name.
    """

    def __init__(self, objectives: Mapping[str, Objective]) -> None:
        dtypes = {name: _model_dtype(objective) for name, objective in objectives.items()}
        self._dtypes = {name: dtype for name, dtype in dtypes.items() if dtype is not None}
        self._objectives = objectives
        self._start: dict[str, float | None] = {}
        self._end: dict[str, float | None] = {}

    def begin(self, theta: Vector) -> None:
        """The first measured step begins at θ; later calls do nothing."""
        if self._dtypes and not self._start:
            self._start = self._at(theta)

    def end(self, theta: Vector) -> None:
        """Process the end θ of the measured steps."""
        if self._start:
            self._end = self._at(theta)

    def summary(self, name: str) -> dict[str, Any]:
        """The entries of a summary; empty for a loss that is measured in the precision of the model."""
        if name not in self._dtypes:
            return {}
        return {
            "model_dtype": self._dtypes[name],
            "precision_difference_start": self._start.get(name),
            "precision_difference_end": self._end.get(name),
        }

    def _at(self, theta: Vector) -> dict[str, float | None]:
        return {name: self._tried(name, theta) for name in self._dtypes}

    def _tried(self, name: str, theta: Vector) -> float | None:
        """The difference, or ``None`` and a warning if the model cannot be evaluated in its own precision."""
        try:
            return _difference(self._objectives[name], theta)
        except LCAError as error:
            warnings.warn(
                f"the difference of the loss {name!r} from that of the model in {self._dtypes[name]} could "
                f"not be measured: {error}",
                LCAWarning,
                stacklevel=2,
            )
            return None


def _model_dtype(objective: Objective) -> str | None:
    """The dtype of the model of a loss, if any term of it is measured in another."""
    found = (own.model_dtype for own in leaves(objective) if isinstance(own, OtherPrecision))
    return next((dtype for dtype in found if dtype is not None), None)


def _difference(objective: Objective, theta: Vector) -> float:
    if isinstance(objective, Scaled):
        return objective.factor * _difference(objective.objective, theta)
    if isinstance(objective, Sum):
        if objective.whole is not None:
            return _difference(objective.whole, theta)
        return sum(_difference(term, theta) for term in objective.terms.values())
    return objective.precision_difference(theta) if isinstance(objective, OtherPrecision) else 0.0
