"""`Run`: what the sections of a report read from a record, each of it read once."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lca.analysis import group_names, group_signs, group_totals
from lca.analysis.reading import is_class
from lca.errors import LCAError
from lca.layout import Layout
from lca.views.signs import Signs

if TYPE_CHECKING:
    from xarray import Dataset


@dataclass(frozen=True, eq=False)
class Run:
    """A record with at least one step, and shorthands for it.

    Arrays have the steps along their first axis; allocations are in units of the loss, negative = helped.
    """

    record: "Dataset"

    def __post_init__(self) -> None:
        if not self.record.sizes.get("step"):
            raise LCAError(
                "the record has no complete step yet, so there is nothing to report; a run that is still "
                "going on shows its first block after 64 steps, or after Record.flush()."
            )

    @cached_property
    def measured(self) -> tuple[str, ...]:
        """The names of all measured losses; the first one is what the page is about."""
        return tuple(map(str, self.record["measured"].values))

    @cached_property
    def losses(self) -> tuple[str, ...]:
        """Those that are no loss of a class and no term of another."""
        whole = [name for name in self.measured if not is_class(name) and "/" not in name]
        return tuple(whole) or self.measured[:1]

    @cached_property
    def steps(self) -> np.ndarray:
        """The index of every measured step, (T,)."""
        return np.asarray(self.record["step"].values)

    @property
    def gapless(self) -> bool:
        """Whether every step between the first and the last was measured."""
        return bool(np.all(np.diff(self.steps) == 1))

    @cached_property
    def layers(self) -> tuple[str, ...]:
        return group_names(self.record, "layer")

    @cached_property
    def layout(self) -> Layout:
        held = json.loads(self.record.attrs["layout"])
        return Layout(held["names"], held["shapes"], held["neuron_axes"])

    @cached_property
    def layer_of(self) -> tuple[str, ...]:
        """The layer of every tensor of `layout`."""
        return tuple(map(str, self.record["tensor_layer"].values))

    def scalar(self, name: str, measured: str) -> np.ndarray:
        """One number a step, (T,)."""
        return np.asarray(self.record[name].sel(measured=measured).values)

    def rows(self, measured: str) -> np.ndarray:
        """Layer totals, (T, layers)."""
        return group_totals(self.record, "layer", measured)

    def signs(self, measured: str) -> Signs:
        """Counts by layer, (T, layers)."""
        return group_signs(self.record, "layer", measured)

    def sampled(self, measured: str) -> bool:
        """Whether steps were estimated from samples, so that signs of single allocations mean little."""
        return bool(np.isnan(self.scalar("loss_end", measured)).any())

    def stderr(self, measured: str) -> np.ndarray | None:
        """Standard errors of the layer totals, (T, layers); ``None`` from an estimator that has none."""
        values = np.asarray(self.record["layer_stderr"].sel(measured=measured).values)
        return None if np.isnan(values).all() else values

    def has(self, name: str) -> bool:
        """Whether the record kept this variable."""
        return name in self.record.variables

    @property
    def about(self) -> dict[str, Any]:
        """The attributes of the record."""
        return dict(self.record.attrs)


def columns(steps: int, most: int) -> np.ndarray:
    """Where stretches of equal length begin, at most ``most`` of them; only the last one may be shorter.

    If they were of nearly equal length, 1 and 2 steps in turn, a map of sums would have stripes.

    >>> columns(5, 2), columns(3, 10)
    (array([0, 3]), array([0, 1, 2]))
    """
    return np.arange(0, steps, -(-steps // most))


def number(value: float, sign: str = "") -> str:
    """A number for people: 4 digits, a true minus sign, and a word where there is none.

    >>> number(-0.25), number(0.5, "+"), number(float("nan"))
    ('−0.25', '+0.5', 'not measured')
    """
    return "not measured" if math.isnan(value) else f"{value:{sign}.4g}".replace("-", "−")


def percent(value: float) -> str:
    """A percentage for people.

    >>> percent(54.21), percent(float("nan"))
    ('54.2 %', 'none')
    """
    return "none" if math.isnan(value) else f"{value:.1f} %".replace("-", "−")
