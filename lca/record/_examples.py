"""The allocation by example in a record: what is the same in all steps, and the cells of one step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lca.by_example._history import _PER_STEP, RECORDED, RECORDED_LABEL
from lca.errors import LCAError

if TYPE_CHECKING:
    from lca.by_example import ExampleAllocation
    from lca.row import Row

Labels = tuple[tuple[str, tuple[Any, ...]], ...]
_KINDS = {"b": int, "i": int, "u": int, "f": float, "U": str}
"""What labels of each kind of dtype are stored as."""
_ATTRIBUTES = {"value": "values"}


@dataclass(frozen=True)
class RecordedExamples:
    """The groups and examples of an allocation by example, which are the same in all steps.

    Parameters
    ----------
    measured
        The measured loss whose examples they are.
    groups, index, weight
        As in `lca.by_example.ExampleAllocation`.
    labels
        The name of each labelling, and the label of each example.
    population
        As in `lca.by_example.ExampleAllocation`.
    """

    measured: str
    groups: tuple[str, ...]
    index: tuple[int, ...]
    weight: tuple[float, ...]
    labels: Labels = ()
    population: int = 0

    @classmethod
    def of(cls, measured: str, found: "ExampleAllocation") -> "RecordedExamples":
        """The examples of one step.

        Raises
        ------
        LCAError
            If labels are neither numbers nor text.
        """
        labels = tuple((name, _plain(name, values)) for name, values in found.labels.items())
        index, weight = tuple(found.examples.tolist()), tuple(found.weight.tolist())
        return cls(measured, found.groups, index, weight, labels, found.population)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "RecordedExamples":
        """The examples in the attributes of a record, where tuples are lists."""
        labels = tuple((str(name), tuple(values)) for name, values in stored["labels"])
        lists = {name: tuple(stored[name]) for name in ("groups", "index", "weight")}
        return cls(str(stored["measured"]), labels=labels, population=int(stored["population"]), **lists)

    def fit(self, found: "ExampleAllocation") -> bool:
        """Whether a step has these groups and examples."""
        return self.groups == found.groups and np.array_equal(self.index, found.examples)

    @property
    def coordinates(self) -> dict[str, tuple[str, Any]]:
        """Name: (dimension, labels)."""
        group, example = RECORDED.format("group"), "example"
        return {
            group: (group, list(self.groups)),
            example: (example, np.array(self.index)),
            RECORDED.format("weight"): (example, np.array(self.weight)),
            **{RECORDED_LABEL.format(name): (example, _as_array(values)) for name, values in self.labels},
        }


def example_cells(rows: Mapping[str, "Row"], known: RecordedExamples | None) -> dict[str, Any]:
    """The cells of the allocation by example of one step.

    Parameters
    ----------
    rows
        The measured losses of the step.
    known
        The groups and examples of the record; ``None`` if it has none.

    Raises
    ------
    LCAError
        If the step lacks them, or has others.
    """
    found = examples_of(rows)
    if known is None and found is None:
        return {}
    if known is None or found is None or known.measured != found[0] or not known.fit(found[1]):
        step = next(iter(rows.values())).allocation.step
        raise LCAError(
            f"step {step} has {'no' if found is None else 'another'} allocation by example, but the record "
            f"has {'none' if known is None else f'that of {known.measured!r}'}; pass the same "
            "lca.by_example.ExampleHistory as a view for all steps of a record."
        )
    names = ("value", *_PER_STEP)
    return {RECORDED.format(name): getattr(found[1], _ATTRIBUTES.get(name, name)) for name in names}


def examples_of(rows: Mapping[str, "Row"]) -> "tuple[str, ExampleAllocation] | None":
    """The measured loss that has an allocation by example, and this; at most one loss can have one."""
    found = [(name, row.examples) for name, row in rows.items() if row.examples is not None]
    if len(found) > 1:
        raise LCAError(
            f"a record holds the allocation by example of one loss, and this step has those of "
            f"{', '.join(name for name, _ in found)}; pass only one lca.by_example.ExampleHistory."
        )
    return found[0] if found else None


def _plain(name: str, values: np.ndarray) -> tuple[Any, ...]:
    kind = values.dtype.kind
    if kind not in _KINDS or "/" in name:
        raise LCAError(
            f"the labels {name!r} cannot be stored in a record: they are {values.dtype}, or their name has a "
            "slash; use whole numbers or text, and another name."
        )
    return tuple(_KINDS[kind](value) for value in values.tolist())


def _as_array(values: tuple[Any, ...]) -> Any:
    """Numbers as an array, text as a list."""
    return list(values) if isinstance(values[0], str) else np.array(values)
