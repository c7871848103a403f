"""`Run`: the arrays of the record of one run, read lazily, and the words for what it covers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lca.analysis import group_names, group_signs, group_totals
from lca.analysis._reading import class_of, is_class
from lca.analysis._variables import divisions_of
from lca.errors import LCAError
from lca.layout import Layout, _in_words, _layout_from
from lca.record._about import check_types
from lca.runs._settings import learning_rate, to_text
from lca.views._signs import Signs

if TYPE_CHECKING:
    from xarray import Dataset


@dataclass(frozen=True, eq=False)
class Run:
    """A record with at least one step, and accessors for its arrays.

    Arrays have the steps along their first axis. Allocations are in units of the loss, negative = helping.
    """

    record: "Dataset"

    def __post_init__(self) -> None:
        check_types(self.record.attrs)
        if not self.record.sizes.get("step"):
            raise LCAError(
                "the record has no complete step yet, so there is nothing to report; a run in progress "
                "writes its first block after 64 steps, or when Record.flush() is called."
            )

    @cached_property
    def measured(self) -> tuple[str, ...]:
        """The names of all measured losses. The report is mainly about the first one."""
        return tuple(map(str, self.record["measured"].values))

    @cached_property
    def losses(self) -> tuple[str, ...]:
        """The measured losses that are neither per-class losses nor terms of another loss."""
        whole = [name for name in self.measured if not is_class(name) and "/" not in name]
        return tuple(whole) or self.measured[:1]

    @cached_property
    def steps(self) -> np.ndarray:
        """The indices of the measured steps, (T,)."""
        return np.asarray(self.record["step"].values)

    @property
    def consecutive(self) -> bool:
        """Whether every step from the first to the last was measured."""
        return bool(np.array_equal(self.ends[:-1], self.steps[1:]))

    @cached_property
    def ends(self) -> np.ndarray:
        """The indices at the ends of the measured steps, (T,): of updates, or of checkpoints."""
        return np.asarray(self.record["step_end"].values) if self.is_replay else self.steps + 1

    @property
    def is_replay(self) -> bool:
        """Whether the steps are between checkpoints, and are counted in the numbers of these."""
        return self.has("step_end")

    @property
    def unit(self) -> str:
        """What the steps are counted in: "step" or "checkpoint"."""
        return "checkpoint" if self.is_replay else "step"

    @property
    def complete(self) -> bool:
        """Whether the run had ended when the record was read."""
        return bool(self.record.attrs.get("complete", True))

    @cached_property
    def is_whole(self) -> bool:
        """Whether the record has every step of the run, from step 0 to its end.

        Where the loss changed after the last step, steps are missing there.
        """
        after = [self.final_loss(name) - self.per_step("loss_end", name)[-1] for name in self.losses]
        begins = self.is_replay or int(self.steps[0]) == 0  # a replay is of the checkpoints that there are
        return self.consecutive and self.complete and begins and not np.nan_to_num(after).any()

    @cached_property
    def restarts(self) -> list[int]:
        """The steps at which the record was continued and the estimator began anew."""
        return self._flagged("restarted")

    @cached_property
    def displacements(self) -> list[int]:
        """The steps at which the record was continued, and not from where it had ended."""
        return self._flagged("displaced")

    @cached_property
    def state_moved_steps(self) -> int:
        """The number of steps in which the state moved, and the change of the loss was not measured."""
        moved = self.record.get("state_moved")
        if moved is None:
            return 0
        return int(np.count_nonzero(moved.values & np.isnan(self.per_step("loss_end", self.measured[0]))))

    def _flagged(self, name: str) -> list[int]:
        found = self.record.get(name)
        return [] if found is None else self.steps[found.values.astype(bool)].tolist()

    @cached_property
    def span(self) -> int:
        """The number of updates in a step: more than 1 if steps are straight lines over several updates."""
        span = self.attributes.get("settings", {}).get("span", 1)
        return span if isinstance(span, int) and span > 1 else 1

    @property
    def length(self) -> str:
        """The number of measured steps in words."""
        count = len(self.steps)
        if self.is_replay:
            first, last = int(self.steps[0]), int(self.ends[-1])
            return f"{count_of(count, 'step')} between the checkpoints {first:,} to {last:,}"
        if self.span > 1:
            return f"{count_of(count, 'step')} of {self.span:,} updates each"
        return f"{count_of(count, 'update')} (step{'' if count == 1 else 's'})"

    def loss_text(self, measured: str) -> str:
        """A loss with what it is measured on, if the settings have ``measured_on``: a text for each loss."""
        known = self.attributes.get("settings", {}).get("measured_on")
        text = known.get(measured) if isinstance(known, Mapping) else None
        if isinstance(text, str) and text:
            return f"the {measured} loss (measured on {text})"
        return f"the loss '{measured}'"

    def class_label(self, name: str) -> str:
        """The class of a per-class loss: its number, or its name if the settings have ``class_names``."""
        label = class_of(name)
        known = self.attributes.get("settings", {}).get("class_names")
        if isinstance(known, list) and label.isdecimal() and int(label) < len(known):
            return str(known[int(label)])
        return label

    @cached_property
    def scope(self) -> str:
        """The steps that every sum of the report is about: "the run", or words for a part of it."""
        count, first, last = len(self.steps), int(self.steps[0]), int(self.steps[-1])
        if self.is_whole:
            return "the checkpoints of the run" if self.is_replay else "the run"
        if self.is_replay and self.consecutive:
            return f"checkpoints {first:,} to {int(self.ends[-1]):,}"
        if count == 1:
            return f"step {first:,}, the only measured step"
        if self.consecutive:
            return f"steps {first:,} to {last:,}"
        gaps = set(np.diff(self.steps).tolist())
        every = f", every {_ordinal(gaps.pop())}" if len(gaps) == 1 else ""
        return f"the {count:,} measured steps{every} from {first:,} to {last:,}"

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers."""
        return group_names(self.record, "layer")

    @cached_property
    def layout(self) -> Layout:
        """The layout of the parameter vector."""
        return _layout_from(json.loads(self.record.attrs["layout"]))

    def tied_notes(self, by: str) -> dict[str, str]:
        """For layers or groups with tied tensors, the other names of these tensors, in words."""
        division = divisions_of(self.record).get(by, {})
        notes: dict[str, list[str]] = {}
        for name, layer in zip(self.layout.names, self.tensor_layers, strict=True):
            group = layer if by == "layer" else division.get(name)
            if group is not None and name in self.layout.tied:
                notes.setdefault(group, []).append(_in_words({name: self.layout.tied[name]}))
        return {group: f"tied, one tensor: {', '.join(own)}" for group, own in notes.items()}

    @cached_property
    def tensor_layers(self) -> tuple[str, ...]:
        """The name of the layer of each tensor of `layout`."""
        return tuple(map(str, self.record["tensor_layer"].values))

    @cached_property
    def layer_sizes(self) -> dict[str, int]:
        """The number of parameters of each layer."""
        sizes = dict.fromkeys(self.layers, 0)
        for layer, size in zip(self.tensor_layers, self.layout.sizes, strict=True):
            sizes[layer] += size
        return sizes

    @cached_property
    def learning_rate(self) -> str:
        """The learning rate as text: of the measured steps, else from the settings; empty if not known.

        Where it changes, the first, the largest and the last one; empty if groups of the optimizer differ.
        """
        texts = set(self.learning_rates.values())
        if not texts:
            return learning_rate(self.attributes)
        return texts.pop() if len(texts) == 1 else ""

    @cached_property
    def learning_rates(self) -> dict[str, str]:
        """The learning rates of the measured steps in words, by group of the optimizer; may be empty."""
        if not self.has("learning_rate"):
            return {}
        rates = self.record["learning_rate"].transpose("step", "param_group")
        names = rates["param_group"].values.astype(str).tolist()
        return {name: _rates_text(of) for name, of in zip(names, rates.values.T, strict=True)}

    def per_step(self, name: str, measured: str) -> np.ndarray:
        """A variable with one number per step, (T,)."""
        if name not in self._columns:
            self._columns[name] = np.asarray(self.record[name].transpose("step", "measured").values)
        return np.asarray(self._columns[name][:, self.measured.index(measured)])

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        """The variables that have been read, (T, losses): each is read once."""
        return {}

    def final_loss(self, measured: str) -> float:
        """The loss at the end of the run, which is not the last step's if something moved it afterwards."""
        known = self.attributes.get("final_losses", {})
        return float(known.get(measured, self.per_step("loss_end", measured)[-1]))

    def layer_totals(self, measured: str) -> np.ndarray:
        """The allocation of each step to each layer, (T, layers)."""
        return self._layer_totals(measured)

    @cached_property
    def _layer_totals(self) -> Callable[[str], np.ndarray]:
        return cache(lambda measured: group_totals(self.record, "layer", measured).values)

    def layer_signs(self, measured: str) -> Signs:
        """The numbers of helping, hurting and zero parameters of each layer, (T, layers)."""
        found = group_signs(self.record, "layer", measured)
        return Signs(*map(np.asarray, (found.helping, found.hurting, found.zero)))

    def is_sampled(self, measured: str) -> bool:
        """Whether the steps were estimated from samples, whose noise makes single signs unreliable."""
        if self.has("sampled") and bool(self.per_step("sampled", measured).any()):
            return True
        return bool(np.isnan(self.per_step("loss_end", measured)).any())

    def layer_stderr(self, measured: str) -> np.ndarray | None:
        """The standard errors of the layer totals, (T, layers); ``None`` if the estimator has none."""
        values = np.asarray(self.record["layer_stderr"].sel(measured=measured).values)
        return None if np.isnan(values).all() else values

    def has(self, name: str) -> bool:
        """Whether the record contains this variable."""
        return name in self.record.variables

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the record."""
        return dict(self.record.attrs)


def _rates_text(rates: np.ndarray) -> str:
    """The learning rates of steps: one number, or the first, the largest and the last; empty if one is NaN.

    >>> _rates_text(np.array([0.1, 0.1])), _rates_text(np.array([0.1, 0.05]))
    ('0.1', 'first 0.1, last 0.05')
    >>> _rates_text(np.array([1e-6, 1e-3, 1e-3])), _rates_text(np.array([1e-6, 1e-3, 1e-5]))
    ('first 1e−06, largest 0.001', 'first 1e−06, largest 0.001, last 1e−05')
    """
    if not np.isfinite(rates).all():
        return ""
    first, largest, last = float(rates[0]), float(rates.max()), float(rates[-1])
    if (rates == first).all():
        return to_text(first)
    said = [f"first {to_text(first)}"]
    said += [f"largest {to_text(largest)}"] if largest != first else []
    said += [f"last {to_text(last)}"] if last != largest else []
    return ", ".join(said)


def _ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, ...

    >>> [_ordinal(n) for n in (2, 3, 10, 11, 21, 112)]
    ['2nd', '3rd', '10th', '11th', '21st', '112th']
    """
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def count_of(number: int, noun: str) -> str:
    """A number with its noun.

    >>> count_of(1, "layer"), count_of(1200, "step")
    ('1 layer', '1,200 steps')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
