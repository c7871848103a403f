"""`open_runs`: find records, and put them into conditions."""

import glob
import re
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from lca.errors import LCAError, UnknownNameError
from lca.record import RecordError, open_record
from lca.runs._matching import form_of, with_common_names
from lca.runs._members import SEED, Condition, Member, differing
from lca.runs._run import Run
from lca.runs._runs import Runs
from lca.runs._settings import GROUPS, is_divisions, listed, to_text

if TYPE_CHECKING:
    from xarray import Dataset

RecordLike: TypeAlias = "str | PathLike[str] | Dataset"
AnyRecords: TypeAlias = "RecordLike | Sequence[RecordLike]"
CONDITION = "condition"


def open_runs(records: "AnyRecords | Mapping[str, AnyRecords]", *, by: Sequence[str] | None = None) -> Runs:
    """Open the records of several runs, and put the runs that differ by chance only into one condition.

    The records are opened lazily, and all their settings are kept (`Runs.settings`). Layers are matched by
    name, or by position where Keras numbered the layers of equal models (dense_3). Runs of different
    length are not cut: a sum is over the measured steps of each run, and a series has NaN after its end.

    Parameters
    ----------
    records
        A pattern (``"rec/*.zarr"``), a path, a dataset from `lca.open_record`, a list of these, or a mapping
        from the names of the conditions to these.
    by
        Names of settings, which become coordinates of the runs. All of them but ``"seed"`` tell the
        conditions apart; runs of a condition are paired across conditions by their setting ``seed``. Of a
        mapping, ``"condition"`` is the name of the condition. Default: the names of a mapping; else, runs
        that state different seeds and agree in all other settings are one condition.

    Returns
    -------
    Runs
        At least one run.

    Raises
    ------
    RecordError
        If a pattern matches nothing, or a record does not exist or cannot be read.
    UnknownNameError
        If a record does not have a setting named in ``by``.
    LCAError
        If a run is given twice, has no complete step, or two runs of a condition have the same seed or
        different tensors; if the runs have no measured loss or no layer in common.

    Notes
    -----
    Needs the extra ``report``.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from lca import Layout, Record, StepAllocation
    >>> folder = tempfile.mkdtemp()
    >>> for name, size in (("adam", -1.0), ("sgd", -0.5)):
    ...     for seed in range(2):
    ...         settings, path = {"optimizer": name, "seed": seed}, f"{folder}/{name}-{seed}.zarr"
    ...         with Record(path, Layout(("fc.weight",), ((1, 2),)), settings=settings) as record:
    ...             values = np.array([size, size * seed])
    ...             record.update(StepAllocation(values, 4.0, 4.0 + values.sum(), residual=0.0, mass=2.0))
    >>> runs = open_runs(f"{folder}/*.zarr", by=["optimizer", "seed"])
    >>> runs
    <lca.Runs: adam (2 runs), sgd (2 runs); losses: train>
    >>> runs.totals()["mean"].sel(condition="adam", layer="fc").item()
    -1.5
    """
    opened = {name: _members(given) for name, given in _groups(records).items()}
    members = [member for group in opened.values() for member in group]
    if not _is_mapping(records):
        conditions = _same_settings(members) if by is None else _by_settings(members, by)
    else:
        if len({member.label for member in members}) < len(members):  # such as seed-0 of both
            opened = {n: [Member(f"{n}, {m.label}", m.run) for m in group] for n, group in opened.items()}
        names = [name for name in by or () if name not in (CONDITION, SEED)]
        conditions = [
            Condition(name, tuple(group), ((CONDITION, name), *_values_of(group[0], names).items()))
            for name, group in opened.items()
        ]
        _check_settings([m for group in opened.values() for m in group], [*(by or ())], mapping=True)
    conditions, notes = with_common_names(conditions)
    return Runs(tuple(conditions), _common_losses(members), tuple(notes))


def _groups(records: "AnyRecords | Mapping[str, AnyRecords]") -> "dict[str, list[RecordLike]]":
    """The records of each condition, patterns replaced by what they match."""
    given: Any = records if _is_mapping(records) else {"": records}
    found = {str(name): _expanded(each) for name, each in given.items()}
    for name, each in found.items():
        if not each:
            where = f"the condition {name!r}" if name else "this list"
            raise LCAError(f"{where} has no runs; pass a list of records, or a pattern of their paths.")
    if not found:
        raise LCAError("there are no conditions, and so no runs; pass records for at least one.")
    paths = [Path(r).resolve() for each in found.values() for r in each if isinstance(r, str | PathLike)]
    twice = [str(path) for i, path in enumerate(paths) if path in paths[:i]]
    if twice:
        raise LCAError(f"the record {twice[0]!r} is given twice; pass each run once.")
    return found


def _is_mapping(records: object) -> bool:
    """Whether these are records by condition; a dataset is a mapping, too."""
    return isinstance(records, Mapping) and not hasattr(records, "data_vars")


def _expanded(records: "AnyRecords") -> "list[RecordLike]":
    if isinstance(records, str | PathLike):
        text = fspath(records)
        if Path(text).exists() or not glob.has_magic(text):
            return [records]
        matched = sorted(glob.glob(text, recursive=True), key=_natural)
        if not matched:
            raise RecordError(f"no record matches {text!r} in {str(Path.cwd())!r}.")
        return list(matched)
    if hasattr(records, "data_vars"):
        return [cast("RecordLike", records)]
    return [each for record in records for each in _expanded(record)]


def _natural(path: str) -> list[tuple[int, str]]:
    """A key by which seed-10 comes after seed-9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]


def _members(records: "list[RecordLike]") -> list[Member]:
    return [
        Member(label, Run(open_record(r) if isinstance(r, str | PathLike) else r))
        for label, r in zip(_labels(records), records, strict=True)
    ]


def _labels(records: "Sequence[RecordLike]") -> list[str]:
    """The names of the folders; with their parents where these alone are not enough."""
    paths = [
        Path(r) if isinstance(r, str | PathLike) else Path(f"run {i + 1}") for i, r in enumerate(records)
    ]
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _common_losses(members: list[Member]) -> tuple[str, ...]:
    losses = tuple(loss for loss in members[0].run.losses if all(loss in m.run.measured for m in members))
    if not losses:
        found = "; ".join(f"{m.label}: {', '.join(m.run.losses)}" for m in members[:5])
        raise LCAError(f"the runs have no measured loss in common, so they cannot be compared ({found}).")
    return losses


def _check_settings(members: list[Member], by: Sequence[str], *, mapping: bool = False) -> None:
    if isinstance(by, str):
        raise LCAError(f"by must be a list of names of settings, got the string {by!r}; pass by=[{by!r}].")
    for member in members:
        known = {*member.settings, *((CONDITION,) if mapping else ())}
        for name in by:
            if name not in known:
                raise UnknownNameError(f"setting of {member.label}", name, known)


def _values_of(member: Member, by: Sequence[str]) -> dict[str, Any]:
    return {name: member.settings.get(name) for name in by}


def _by_settings(members: list[Member], by: Sequence[str]) -> list[Condition]:
    """One condition for each combination of the settings other than the seed."""
    _check_settings(members, by)
    names = [name for name in by if name != SEED]
    groups: dict[str, list[Member]] = {}
    for member in members:
        values = _values_of(member, names)
        groups.setdefault(_named(values) or "all runs", []).append(member)
    for name, group in groups.items():
        _check_seeds(name, group)
    return [
        Condition(name, tuple(group), tuple(_values_of(group[0], names).items()))
        for name, group in groups.items()
    ]


def _named(values: Mapping[str, Any]) -> str:
    """The name of a condition; a text that is the only value says enough by itself.

    >>> _named({"optimizer": "adam"}), _named({"dropout": True}), _named({"optimizer": "adam", "lr": 0.1})
    ('adam', 'dropout=True', 'optimizer=adam, lr=0.1')
    """
    alone = next(iter(values.values())) if len(values) == 1 else None
    if isinstance(alone, str):
        return to_text(alone)
    return ", ".join(_stated(key, value) for key, value in values.items())


def _stated(key: str, value: Any) -> str:
    """A setting with its name, as in Python."""
    return f"{key}={value if value is None or isinstance(value, bool) else to_text(value)}"


def _check_seeds(name: str, group: list[Member]) -> None:
    """Raise `LCAError` if two runs of a condition have the same seed."""
    seen: dict[str, Member] = {}
    for member in group:
        other = seen.setdefault(member.seed, member) if member.seed else member
        if other is not member:
            known = [key for key in differing([other, member]) if key != "estimator"]
            fix = f"name what tells them apart in by= ({listed(known)})" if known else "pass each run once"
            raise LCAError(
                f"{other.label} and {member.label} are both the condition {name!r} with seed {member.seed}; "
                f"{fix}."
            )


def _same_settings(members: list[Member]) -> list[Condition]:
    """Runs that state different seeds and agree in all other settings become one condition.

    A run without a seed is a condition of its own: nothing says that it differs by chance only.
    """
    groups: dict[str, list[Member]] = {}
    for member in members:
        others = {key: value for key, value in member.settings.items() if key != SEED}
        if is_divisions(others.get(GROUPS)):  # by position: Keras numbers the tensors of every model
            names = member.run.layout.names
            others[GROUPS] = {d: [of.get(name) for name in names] for d, of in others[GROUPS].items()}
        key = repr((member.estimator, form_of(member.run.layout), sorted(others.items(), key=repr)))
        same = groups.setdefault(key if member.seed else member.label, [])
        if any(member.seed == other.seed for other in same):
            groups[member.label] = [member]
        else:
            same.append(member)
    found = list(groups.values())
    return [
        Condition(name, tuple(group), tuple(values.items()))
        for (name, values), group in zip(_distinguished(found), found, strict=True)
    ]


def _distinguished(groups: list[list[Member]]) -> list[tuple[str, dict[str, Any]]]:
    """Each condition is named by a setting in which all differ, or by several; without such, by its runs."""
    unnamed = (SEED, GROUPS)  # the latter are of the measuring
    settings = [{k: v for k, v in group[0].settings.items() if k not in unnamed} for group in groups]
    texts = [{key: to_text(value) for key, value in found.items()} for found in settings]
    keys = [key for key in texts[0] if len({found.get(key, "") for found in texts}) > 1]
    keys = next(([k] for k in keys if len({found.get(k, "") for found in texts}) == len(groups)), keys)
    names = [
        ", ".join(_stated(key, given[key]) for key in keys if found.get(key))
        for found, given in zip(texts, settings, strict=True)
    ]
    if not (all(names) and len(set(names)) == len(names)):
        names = [f"{g[0].label}{f' and {len(g) - 1} more' if g[1:] else ''}" for g in groups]
    return [(name, {k: found.get(k) for k in keys}) for name, found in zip(names, settings, strict=True)]
