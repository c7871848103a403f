"""What a record holds: its variables, their dimensions and dtypes, and the version of all that.

A record is a Zarr v3 group, one array a variable, with the dimension names and attributes that xarray reads.
Values are in units of the loss; negative = helped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lca.errors import LCAError
from lca.layout import Layout

SCHEMA_VERSION = 1
"""Raised when a reader of the version before would misread a record."""

FORMAT = "loss-change-allocation record"
COMMITTED = "committed"
"""The array, without dimensions, that says how many rows are complete; written last."""

CONVENTIONS = (
    "Allocations, residuals and masses are in units of the loss. Negative: helped (lowered the loss); "
    "positive: hurt; exactly zero: did not move, or had no gradient. For every step and measured loss, "
    "loss_end - loss_start = total + state_change + residual. NaN: not measured."
)
BINS_PER_DECADE = 8
BIN_EDGES = np.logspace(-24, 2, 26 * BINS_PER_DECADE + 1)
"""Edges of the bins of |A|; the last one is the upper end of the last bin."""


class RecordError(LCAError):
    """A record cannot be written, continued or read."""


@dataclass(frozen=True)
class Column:
    """A variable with a row a step: its dimensions after ``step``, its dtype, and what it is in words."""

    name: str
    dims: tuple[str, ...]
    dtype: str
    long_name: str
    units: str = "loss"

    def rows(self, count: int, sizes: Mapping[str, int]) -> np.ndarray:
        """An empty block of ``count`` rows: NaN, or 0 where the dtype has none."""
        shape = (count, *(sizes[dim] for dim in self.dims))
        return np.full(shape, np.nan if self.dtype.startswith("f") else 0, self.dtype)


@dataclass(frozen=True)
class Content:
    """What a record is asked to keep beyond the scalars, the tensors and the layers.

    ``values`` and ``theta`` are the dtypes of the full arrays, or ``None``; ``traced`` are flat indices.
    """

    neurons: bool = True
    histogram: bool = True
    values: str | None = None
    theta: str | None = None
    traced: tuple[int, ...] = ()


_SCALARS = (
    ("loss_start", "L(θ_t)"),
    ("loss_end", "L(θ_{t+1})"),
    ("total", "Σ_i A_i"),
    ("state_change", "loss change by buffers that are not parameters"),
    ("residual", "loss_end - loss_start - state_change - total"),
    ("mass", "Σ_k |w_k| Σ_i |g_{k,i} Δ_i|, the scale of rounding"),
    ("tolerance", "the largest |residual| that was promised"),
)
_COSTS = (
    ("full_gradients", "gradients over the measured data", "passes"),
    ("full_losses", "losses over the measured data", "passes"),
    ("batch_gradients", "gradients on a training batch", "passes"),
    ("examples", "gradients of single examples, in samples", "examples"),
)
_COUNTS = (("helped", "A < 0"), ("hurt", "A > 0"), ("zero", "A = 0 exactly"))


def columns(content: Content) -> list[Column]:
    """The variables of a record with this content, in the order they are written."""
    both = ("measured",)
    found = [Column("step", (), "int64", "index of the step", "1")]
    found += [Column(name, both, "float64", text) for name, text in _SCALARS]
    found += [Column(name, both, "float64", text, units) for name, text, units in _COSTS]
    found.append(Column("converged", both, "bool", "the estimator met its tolerances", "1"))
    for group in ("tensor", "layer", "neuron") if content.neurons else ("tensor", "layer"):
        dims = (*both, group)
        found.append(Column(f"{group}_total", dims, "float64", f"Σ A_i over the {group}"))
        found.append(Column(f"{group}_stderr", dims, "float64", f"standard error of {group}_total"))
        if group != "neuron":
            found += [
                Column(f"{group}_{name}", dims, "int64", f"parameters with {text}", "1")
                for name, text in _COUNTS
            ]
    if content.histogram:
        found += _histogram()
    return [*found, *_per_parameter(content)]


def _histogram() -> list[Column]:
    dims = ("measured", "bin")
    return [
        Column("histogram_helping", dims, "uint32", "parameters with A < 0, by |A|", "1"),
        Column("histogram_hurting", dims, "uint32", "parameters with A > 0, by |A|", "1"),
        Column("histogram_below", dims[:1], "uint32", "parameters with 0 < |A| below the bins", "1"),
        Column("histogram_above", dims[:1], "uint32", "parameters with |A| above the bins", "1"),
    ]


def _per_parameter(content: Content) -> list[Column]:
    found = []
    if content.values:
        found.append(Column("values", ("measured", "parameter"), content.values, "A_i"))
    if content.theta:
        found.append(Column("theta", ("parameter",), content.theta, "θ_t", "parameter"))
    if content.traced:
        found += [
            Column("trace_theta", ("traced",), "float64", "θ_{t,i}", "parameter"),
            Column("trace_movement", ("traced",), "float64", "θ_{t+1,i} - θ_{t,i}", "parameter"),
            Column("trace_values", ("measured", "traced"), "float64", "A_i"),
        ]
    return found


@dataclass(frozen=True)
class Plan:
    """Everything that fixes the arrays of a record.

    ``block`` is the number of rows that are written at once.
    """

    layout: Layout
    measured: tuple[str, ...]
    content: Content
    block: int

    @cached_property
    def columns(self) -> list[Column]:
        """What grows."""
        return columns(self.content)

    @cached_property
    def coordinates(self) -> dict[str, tuple[str, Any]]:
        """Name: (dimension, labels) of everything that is the same in every step."""
        layout, layers = self.layout, self.layout.groups("layer")
        found: dict[str, tuple[str, Any]] = {
            "measured": ("measured", list(self.measured)),
            "tensor": ("tensor", list(layout.names)),
            "tensor_layer": ("tensor", [layers.names[layers.index[at]] for at in layout.offsets]),
            "tensor_size": ("tensor", np.array(layout.sizes)),
            "layer": ("layer", list(layers.names)),
        }
        if self.content.neurons:
            found["neuron"] = ("neuron", list(layout.groups("neuron").names))
        if self.content.histogram:
            found["bin_edge_low"] = ("bin", BIN_EDGES[:-1])
            found["bin_edge_high"] = ("bin", BIN_EDGES[1:])
        if self.content.traced:
            found["traced"] = ("traced", np.array(self.content.traced))
            found["traced_name"] = ("traced", [layout.label(i) for i in self.content.traced])
        return found

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The length of every dimension but ``step``."""
        known = {dim: len(labels) for dim, labels in self.coordinates.values()}
        return {"parameter": self.layout.size, **known}

    def empty_block(self) -> dict[str, np.ndarray]:
        """Memory for one block of rows."""
        return {column.name: column.rows(self.block, self.sizes) for column in self.columns}
