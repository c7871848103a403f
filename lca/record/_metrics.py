"""`Metrics`: numbers that training gives, such as an accuracy, by step."""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

from lca.errors import LCAError

MOST = 10_000
"""The most values that are kept of one metric; beyond that, every second one is dropped."""
Given = tuple[int, str, float | None]
"""The number of updates before a value, the name of its metric, and the value; ``None``: it is not finite."""


class Metrics:
    """The values of each metric, with the number of updates that were made before.

    A value that is given again after the same number of updates replaces the earlier one, so that a run which
    is continued may give it once more.

    Parameters
    ----------
    given
        The values so far, in their order.

    Examples
    --------
    >>> metrics = Metrics([(10, "accuracy", 0.5), (20, "accuracy", 0.7)])
    >>> metrics.add(20, "accuracy", 0.75)
    >>> metrics.by_name()
    {'accuracy': {'step': [10, 20], 'value': [0.5, 0.75]}}
    """

    def __init__(self, given: Iterable[Given] = ()) -> None:
        self._values: dict[str, list[tuple[int, float | None]]] = {}
        for each in given:
            self.add(*each)

    @classmethod
    def of(cls, by_name: Mapping[str, Any]) -> "Metrics":
        """The metrics of which `by_name` is this."""
        made = cls()
        made._values = {name: [*zip(own["step"], own["value"], strict=True)] for name, own in by_name.items()}
        return made

    def add(self, step: int, name: str, value: float | None) -> None:
        """Add one value."""
        own = self._values.setdefault(name, [])
        if own and own[-1][0] == step:
            own.pop()
        own.append((step, value))
        if len(own) > MOST:
            del own[1::2]

    def given(self) -> list[Given]:
        """The values, as the class takes them."""
        return [(step, name, value) for name, own in self._values.items() for step, value in own]

    def until(self, step: int) -> "Metrics":
        """The values given after at most ``step`` updates."""
        return Metrics(each for each in self.given() if each[0] <= step)

    def by_name(self) -> dict[str, dict[str, list[Any]]]:
        """Steps and values by name, for JSON."""
        return {
            name: {"step": [step for step, _ in own], "value": [value for _, value in own]}
            for name, own in self._values.items()
        }


def as_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as numbers.

    Raises
    ------
    LCAError
        If one is not a number.

    Examples
    --------
    >>> as_numbers({"accuracy": 1})
    {'accuracy': 1.0}
    """
    numbers = {}
    for name, value in values.items():
        try:
            numbers[str(name)] = float(value.detach() if hasattr(value, "detach") else value)  # of torch
        except (TypeError, ValueError) as error:
            raise LCAError(
                f"the metric {name!r} is {value!r:.60}, which is not a number; pass numbers by name."
            ) from error
    return numbers


def as_given(step: int, values: Mapping[str, Any]) -> list[Given]:
    """Metrics that were given after ``step`` updates; raises as `as_numbers`."""
    return [(step, name, v if isfinite(v) else None) for name, v in as_numbers(values).items()]
