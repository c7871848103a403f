"""Several runs, put together for a comparison: conditions, their runs, and the layers that they share."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from lca.errors import LCAError
from lca.record._reading import open_record
from lca.runs._balance import Conservation, check_conservation
from lca.runs._run import Run
from lca.runs._settings import to_text

if TYPE_CHECKING:
    from xarray import Dataset

Array = np.ndarray
RecordLike: TypeAlias = "str | PathLike[str] | Dataset"
SEED = "seed"
_NUMBERED = re.compile(r"_\d+(?=$|[./])")


@dataclass(frozen=True, eq=False)
class Member:
    """One run of a condition.

    Attributes
    ----------
    label
        Its name on the page.
    run
        Its record.
    layers
        The names of its layers on the page, which those of another run may replace (`Comparison`).
    """

    label: str
    run: Run
    layers: tuple[str, ...] = ()

    @property
    def seed(self) -> str:
        """The setting ``seed`` as text; empty if there is none."""
        return to_text(self.run.attributes.get("settings", {}).get(SEED))

    def check(self, loss: str) -> Conservation:
        """The conservation check of one loss."""
        return self._check(loss)

    @cached_property
    def _check(self) -> Callable[[str], Conservation]:
        return cache(lambda loss: check_conservation(self.run, loss))


@dataclass(frozen=True, eq=False)
class Condition:
    """Runs that differ only by chance, such as the seeds of one set-up."""

    name: str
    members: tuple[Member, ...]

    @cached_property
    def has_copies(self) -> bool:
        """Whether two runs have the same numbers in every layer, so that one is no further observation."""
        totals = [
            np.concatenate([m.run.layer_totals(loss).sum(axis=0) for loss in m.run.losses])
            for m in self.members
        ]
        return any(
            len(a) == len(b) and a.any() and np.array_equal(a, b)
            for i, a in enumerate(totals)
            for b in totals[:i]
        )


@dataclass(frozen=True, eq=False)
class Comparison:
    """Conditions with a common loss.

    Attributes
    ----------
    conditions
        In the order of the page.
    losses
        The losses that every run measured; the page is mainly about the first one.
    layers
        The names of all layers, in the order in which they first appear.
    notes
        What was done to make the runs comparable.
    """

    conditions: tuple[Condition, ...]
    losses: tuple[str, ...]
    layers: tuple[str, ...]
    notes: tuple[str, ...] = ()
    _places: Mapping[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {name: i for i, name in enumerate(self.layers)})

    @property
    def members(self) -> list[Member]:
        """The runs of all conditions."""
        return [member for condition in self.conditions for member in condition.members]

    def layer_totals(self, member: Member, loss: str) -> Array:
        """The sum over the measured steps of each layer, (layers,); NaN for a layer that the run lacks."""
        return self.place(member, member.run.layer_totals(loss).sum(axis=0))

    def place(self, member: Member, values: Array) -> Array:
        """Values of the run's layers, along the last axis, in the order of `layers`; NaN where none."""
        placed = np.full((*values.shape[:-1], len(self.layers)), np.nan)
        placed[..., [self._places[name] for name in member.layers]] = values
        return placed


def compare(groups: "Mapping[str, Sequence[RecordLike]] | Sequence[RecordLike]") -> Comparison:
    """Open the records and find what they share.

    Raises
    ------
    LCAError
        If there are fewer than two runs, one of them is given twice, or no loss is common to all.
    """
    given = groups if isinstance(groups, Mapping) else {"": tuple(groups)}
    _check_given(given)
    opened = {
        str(name): [
            Member(label, Run(_opened(r))) for label, r in zip(_labels(records), records, strict=True)
        ]
        for name, records in given.items()
    }
    if not isinstance(groups, Mapping):
        opened = _pooled_seeds(opened[""])
    members = [member for found in opened.values() for member in found]
    if len({member.label for member in members}) < len(members):  # such as seed-0 of both
        opened = {
            name: [Member(f"{name}, {m.label}", m.run) for m in found] for name, found in opened.items()
        }
        members = [member for found in opened.values() for member in found]
    losses = tuple(loss for loss in members[0].run.losses if all(loss in m.run.measured for m in members))
    if not losses:
        found = "; ".join(f"{m.label}: {', '.join(m.run.losses)}" for m in members[:5])
        raise LCAError(f"the runs have no measured loss in common, so they cannot be compared ({found}).")
    layers, conditions = dict.fromkeys(members[0].run.layers), []
    notes: list[str] = []
    for name, group in opened.items():
        named = [_with_layers(member, members[0], notes) for member in group]
        layers |= dict.fromkeys(layer for member in named for layer in member.layers)
        conditions.append(Condition(name, tuple(named)))
    return Comparison(tuple(conditions), losses, tuple(layers), tuple(dict.fromkeys(notes)))


def _check_given(given: "Mapping[str, Sequence[RecordLike]]") -> None:
    for name, records in given.items():
        if isinstance(records, str | PathLike) or not records:
            raise LCAError(f"the condition {name!r} has no runs; pass a list of records for each condition.")
    paths = [
        Path(r).resolve() for records in given.values() for r in records if isinstance(r, str | PathLike)
    ]
    twice = [str(path) for i, path in enumerate(paths) if path in paths[:i]]
    if twice:
        raise LCAError(f"the record {twice[0]!r} is given twice; pass each run once.")
    if sum(map(len, given.values())) < 2:
        raise LCAError("a comparison needs at least two runs; for one run, use lca.report.write_report.")


def _opened(record: RecordLike) -> "Dataset":
    return open_record(record) if isinstance(record, str | PathLike) else record


def _labels(records: "Sequence[RecordLike]") -> list[str]:
    """The names of the folders; with their parents where these alone are not enough."""
    paths = [
        Path(r) if isinstance(r, str | PathLike) else Path(f"run {i + 1}") for i, r in enumerate(records)
    ]
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _pooled_seeds(members: list[Member]) -> dict[str, list[Member]]:
    """Runs that state different seeds and agree in all other settings become one condition.

    A run without a seed is a condition of its own: nothing says that it differs by chance only.
    """
    groups: dict[str, list[Member]] = {}
    for member in members:
        about = member.run.attributes
        others = {k: v for k, v in about.get("settings", {}).items() if k != SEED}
        key = repr((about.get("estimator"), about.get("layout"), sorted(others.items(), key=repr)))
        same = groups.setdefault(key if member.seed else member.label, [])
        if any(member.seed == other.seed for other in same):
            groups[member.label] = [member]
        else:
            same.append(member)
    names = _condition_names(list(groups.values()))
    return dict(zip(names, groups.values(), strict=True))


def _condition_names(groups: list[list[Member]]) -> list[str]:
    """Each condition is named by a setting in which all differ, or by several; without such, by its runs."""
    settings = [
        {
            str(key): to_text(value)
            for key, value in group[0].run.attributes.get("settings", {}).items()
            if key != SEED
        }
        for group in groups
    ]
    keys = [key for key in settings[0] if len({found.get(key, "") for found in settings}) > 1]
    keys = next(([k] for k in keys if len({found.get(k, "") for found in settings}) == len(groups)), keys)
    names = [
        ", ".join(f"{key} {found[key]}".replace("_", " ") for key in keys if found.get(key))
        for found in settings
    ]
    if all(names) and len(set(names)) == len(names):
        return names
    return [f"{group[0].label}{f' and {len(group) - 1} more' if group[1:] else ''}" for group in groups]


def _with_layers(member: Member, first: Member, notes: list[str]) -> Member:
    """The run with the names of its layers on the page.

    Keras numbers the layers of every further model in a process (dense_2, dense_3). Where only such numbers
    differ and all shapes agree, layers are matched by position.
    """
    own, others = member.run, first.run
    names = own.layers
    if (
        names != others.layers
        and own.layout.shapes == others.layout.shapes
        and [_NUMBERED.sub("", name) for name in names] == [_NUMBERED.sub("", name) for name in others.layers]
    ):
        notes.append(
            f"The layers of {member.label} are matched by position with those of {first.label}, as their "
            "names differ only in a number."
        )
        names = others.layers
    return Member(member.label, own, names)
