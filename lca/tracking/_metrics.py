"""`Metrics`: numbers that training gives, such as an accuracy, by step."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from lca.errors import LCAError

MOST = 10_000
"""The most values that are kept of one metric; beyond that, every second one is dropped."""


class Metrics:
    """The values of each metric, with the number of updates that were made before.

    Examples
    --------
    >>> metrics = Metrics()
    >>> metrics.add(10, {"accuracy": 0.5})
    >>> metrics.add(20, {"accuracy": 0.75})
    >>> metrics.by_name()
    {'accuracy': {'step': [10, 20], 'value': [0.5, 0.75]}}
    """

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[int, float]]] = {}

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Add one value each; raises `LCAError` if one is no number."""
        for name, value in values.items():
            try:
                number = float(value.detach() if hasattr(value, "detach") else value)  # of torch
            except (TypeError, ValueError) as error:
                raise LCAError(
                    f"the metric {name!r} is {value!r:.60}, which is no number; pass numbers by name."
                ) from error
            own = self._values.setdefault(str(name), [])
            own.append((step, number))
            if len(own) > MOST:
                del own[1::2]

    def by_name(self) -> dict[str, dict[str, list[Any]]]:
        """Steps and values by name, for JSON: NaN and infinite values are ``None``."""
        return {
            name: {
                "step": [step for step, _ in own],
                "value": [value if isfinite(value) else None for _, value in own],
            }
            for name, own in self._values.items()
        }
