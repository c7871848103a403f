"""The contents of a record: its variables, their dimensions and dtypes, and the version of this schema.

A record is a Zarr v3 group with one array per variable, with the dimension names and attributes that xarray
reads. Values are in units of the loss; negative: helping.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lca.errors import LCAError
from lca.layout import GroupBy, Layout
from lca.record._examples import RecordedExamples
from lca.row import BIN_EDGES

SCHEMA_VERSION = 5
"""Increased when a reader of the previous version would misread a record.

1: lca 0.1.0. 2: ``_helped`` and ``_hurt`` became ``_helping`` and ``_hurting``; ``sampled`` and the manifest
were added. 3: the variables of self-checks (``checked_``) and ``path_difference`` were added. 4: the
``memory`` of estimators that have one, ``restarted`` and the place at the end of a step (``theta_``) were
added. 5: ``checked_examples`` and ``state_moved`` were added.
"""
FIRST_WITH_MANIFEST = 2
RENAMED_SINCE = {
    1: {
        f"{group}_{new}": f"{group}_{old}"
        for group in ("tensor", "layer")
        for new, old in (("helping", "helped"), ("hurting", "hurt"))
    }
}
"""For each older schema: the present name of a variable, and its name there."""
_CHECKS = (
    ("checked_change", "loss change measured over a window that ended since the last row", "loss"),
    ("checked_total", "Σ_t total over that window", "loss"),
    ("checked_margin", "half the 95 % interval of checked_total - checked_change", "loss"),
    ("checked_first_step", "index of the first step of that window", "1"),
    ("checked_last_step", "index of its last step", "1"),
    ("checked_examples", "examples on which checked_change was measured; NaN: all data", "1"),
    ("path_difference", "layers of a straight line against those of its updates, relative", "1"),
)
OF_CHECKS = tuple(name for name, *_ in _CHECKS)
_SINCE_5 = ("checked_examples", "state_moved")
MISSING_IN: Mapping[int, tuple[str, ...]] = {
    1: ("sampled", *OF_CHECKS, "restarted"),
    2: (*OF_CHECKS, "restarted"),
    3: (*_SINCE_5, "restarted"),
    4: _SINCE_5,
}
"""For each older schema: the variables it lacks; `lca.open_record` derives them from others, sets NaN, or
leaves out what it does not know."""

FILE_BYTES = 2**17
"""Rows of a variable that share a file, in bytes; a block of a large variable is a file of its own."""
LARGEST_BLOCK = 65_536
"""The most rows that are collected in memory."""
FORMAT = "loss-change-allocation record"
COMMITTED = "committed"
"""The array, without dimensions, that holds the number of complete rows for other tools; written last."""
UNFINISHED: Mapping[str, Any] = {"complete": False, "final_losses": {}, "final_checks": {}, "metrics": {}}
"""The attributes that say how a run ended, until it has: see `lca.Record.close`."""

CONVENTIONS = (
    "Allocations, residuals and masses are in units of the loss. Negative: helping (lowered the loss); "
    "positive: hurting; exactly zero: did not move, or had no gradient. For every step and measured loss, "
    "loss_end - loss_start = total + state_change + residual. NaN: not measured."
)


class RecordError(LCAError):
    """A record cannot be written, continued or read."""


@dataclass(frozen=True)
class Column:
    """A variable with one row per step: its dimensions after ``step``, its dtype, and a description."""

    name: str
    dims: tuple[str, ...]
    dtype: str
    long_name: str
    units: str = "loss"

    @property
    def empty(self) -> float:
        """What is in cells that were not written: NaN, or 0 in a dtype without NaN."""
        return np.nan if self.dtype.startswith("f") else 0

    def rows(self, count: int, sizes: Mapping[str, int]) -> np.ndarray:
        """Empty rows."""
        return np.full((count, *(sizes[dim] for dim in self.dims)), self.empty, self.dtype)


@dataclass(frozen=True)
class Content:
    """The optional contents of a record, beyond scalars, tensors and layers.

    ``checkpoints`` says whether steps are between checkpoints of these numbers; ``places`` whether θ and the
    state of the steps are known, by which a place is recognised; ``learning_rates`` are the names of the
    groups of the optimizer; ``groups`` are pairs of a division and one of its groups.
    ``values`` and ``theta`` are the dtypes of the full arrays, or ``None``; ``traced`` holds positions in θ;
    ``memory`` holds the names in `lca.StepAllocation.memory`; ``examples`` the groups and examples of the
    allocation by example.
    """

    checkpoints: bool = False
    places: bool = False
    learning_rates: tuple[str, ...] = ()
    groups: tuple[tuple[str, str], ...] = ()
    neurons: bool = True
    histogram: bool = True
    values: str | None = None
    theta: str | None = None
    traced: tuple[int, ...] = ()
    memory: tuple[str, ...] = ()
    examples: RecordedExamples | None = None

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Content":
        """The content that a record has in its attributes, where tuples are lists."""
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
        }
        known["groups"] = tuple((str(a), str(b)) for a, b in known.get("groups", ()))
        if known.get("examples") is not None:
            known["examples"] = RecordedExamples.from_json(known["examples"])
        return cls(**known)


_SCALARS = (
    ("loss_start", "L(θ_t)"),
    ("loss_end", "L(θ_{t+1})"),
    ("total", "Σ_i A_i"),
    ("state_change", "loss change by buffers that are not parameters"),
    ("residual", "loss_end - loss_start - state_change - total"),
    ("mass", "Σ_k |w_k| Σ_i |g_{k,i} Δ_i|, the scale of rounding"),
    ("tolerance", "the largest |residual| that the estimator promised"),
)
_COSTS = (
    ("full_gradients", "gradients over the measured data", "passes"),
    ("full_losses", "losses over the measured data", "passes"),
    ("batch_gradients", "gradients on a training batch", "passes"),
    ("examples", "gradients of single examples, in samples", "examples"),
)
_FLAGS = (
    ("converged", "the estimator met its tolerances"),
    ("sampled", "the values are estimated from batches or samples"),
)
_NOISY = "where sampled, of noisy A"
_COUNTS = (("helping", f"A < 0; {_NOISY}"), ("hurting", f"A > 0; {_NOISY}"), ("zero", "A = 0 exactly"))


_PLACES = (
    Column("theta_mass", (), "float64", "Σ_i |θ_i| at the end of the step", "parameter"),
    Column("state_moved", (), "bool", "the state of the loss moved in the step, or since the last one", "1"),
    Column("displaced", (), "bool", "the record was continued, from another θ than that of its end", "1"),
)
_BY_EXAMPLE = (
    Column("example_value", ("example_group", "example"), "float64", "A by group and example"),
    Column("example_loss_start", ("example",), "float64", "ω_n ℓ_n(θ_t)"),
    Column("example_loss_end", ("example",), "float64", "ω_n ℓ_n(θ_{t+1})"),
    Column("example_state_change", ("example",), "float64", "change of ω_n ℓ_n by buffers"),
    Column("example_by_gradient", ("example_group",), "float64", "Σ A_i over the group, by gradients"),
    Column("example_mass", (), "float64", "the scale of rounding of example_value"),
    Column("example_nodes", (), "int64", "points at which slopes were evaluated", "1"),
    Column("example_converged", (), "bool", "both sums of example_value are within their tolerances", "1"),
)


def group_names(content: Content) -> tuple[GroupBy, ...]:
    """The groups whose totals a record with this content holds."""
    return ("tensor", "layer", "neuron") if content.neurons else ("tensor", "layer")


def columns(content: Content) -> list[Column]:
    """The variables of a record with this content, in the order in which they are written."""
    both = ("measured",)
    found = [Column("step", (), "int64", "index of the step", "1")]
    found.append(
        Column("restarted", (), "bool", "the record was continued, and the estimator began anew", "1")
    )
    found += [Column(name, both, "float64", text) for name, text in _SCALARS]
    found += [Column(name, both, "float64", text, units) for name, text, units in _COSTS]
    found += [Column(name, both, "bool", text, "1") for name, text in _FLAGS]
    found += [Column(name, both, "float64", text, units) for name, text, units in _CHECKS]
    if content.memory:
        found.append(Column("memory", (*both, "remembered"), "float64", "what the next step depends on", "1"))
    for group in group_names(content):
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
    found += [*_per_parameter(content), *_of_training(content)]
    return found if content.examples is None else [*found, *_BY_EXAMPLE]


def _of_training(content: Content) -> list[Column]:
    """The columns that a tracker or a replay adds."""
    found: list[Column] = []
    if content.places:
        found += _PLACES
    if content.checkpoints:
        found.append(Column("step_end", (), "int64", "number of the checkpoint at its end", "1"))
    if content.learning_rates:
        found.append(Column("learning_rate", ("param_group",), "float64", "learning rate of the update", "1"))
    if content.groups:
        dims = ("measured", "group")
        found.append(Column("group_total", dims, "float64", "Σ A_i over the group of a division"))
        found.append(Column("group_stderr", dims, "float64", "standard error of group_total"))
    return found


def _histogram() -> list[Column]:
    dims = ("measured", "bin")
    return [
        Column("histogram_helping", dims, "uint32", f"parameters with A < 0, by |A|; {_NOISY}", "1"),
        Column("histogram_hurting", dims, "uint32", f"parameters with A > 0, by |A|; {_NOISY}", "1"),
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
    """Everything that determines the arrays of a record; ``block`` rows are written at once."""

    layout: Layout
    measured: tuple[str, ...]
    content: Content
    block: int

    @cached_property
    def columns(self) -> list[Column]:
        """The variables that grow with every step."""
        return columns(self.content)

    @cached_property
    def coordinates(self) -> dict[str, tuple[str, Any]]:
        """Name: (dimension, labels) of the coordinates that do not depend on the step."""
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
        if self.content.learning_rates:
            found["param_group"] = ("param_group", list(self.content.learning_rates))
        if self.content.groups:
            found["division"] = ("group", [division for division, _ in self.content.groups])
            found["group"] = ("group", [name for _, name in self.content.groups])
        if self.content.histogram:
            found["bin_edge_low"] = ("bin", BIN_EDGES[:-1])
            found["bin_edge_high"] = ("bin", BIN_EDGES[1:])
        if self.content.memory:
            found["remembered"] = ("remembered", list(self.content.memory))
        if self.content.traced:
            found["traced"] = ("traced", np.array(self.content.traced))
            found["traced_name"] = ("traced", [layout.label(i) for i in self.content.traced])
        return found if self.content.examples is None else found | self.content.examples.coordinates

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The length of every dimension other than ``step``."""
        known = {dim: len(labels) for dim, labels in self.coordinates.values()}
        return {"parameter": self.layout.size, **known}

    def rows_per_file(self, column: Column) -> int:
        """How many rows of a variable share a file: the blocks that fit into `FILE_BYTES`, at least one.

        The file of a small variable is written anew with every block, so that short runs need few files.
        """
        block_bytes = column.rows(self.block, self.sizes).nbytes
        return self.block * max(1, FILE_BYTES // max(1, block_bytes))
