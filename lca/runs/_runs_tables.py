"""The tables of `Runs`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lca.analysis import RunMeans
from lca.divisions import _noun
from lca.errors import LCAError, UnknownNameError
from lca.runs._classes import class_losses, class_text
from lca.runs._format import decimals_of
from lca.runs._labelled import test_name
from lca.runs._members import Condition, Measured, loss_in_words
from lca.runs._settings import GROUPS, groups_text, is_divisions, to_text
from lca.tables import Column, Table

if TYPE_CHECKING:
    from lca.runs._runs import Runs

CHANGE, NOT_ALLOCATED = "change of the loss", "not allocated"


def totals(runs: "Runs", conditions: Sequence[Condition], by: str, measured: Measured, ci: float) -> Table:
    """As `Runs.table`: a column for each condition."""
    names = runs.names(by)
    columns = [Column(by, [*names, NOT_ALLOCATED, CHANGE])]
    for condition in conditions:
        pooled = runs.pool(condition, _with_rest(runs, condition, by, measured), ci=ci)
        columns.append(_column(condition.name, pooled))
    return Table(columns, _caption(runs, conditions, by, measured, ci))


def comparison(
    runs: "Runs", pair: tuple[Condition, Condition], by: str, measured: Measured, ci: float
) -> Table:
    """As `Runs.compare`: two conditions, and the second minus the first."""
    first, second = pair
    both = totals(runs, pair, by, measured, ci)
    values = [_with_rest(runs, condition, by, measured) for condition in pair]
    groups = len(runs.names(by))
    found = runs.compare_values(first, second, (values[0][:, :groups], values[1][:, :groups]), ci=ci)
    rest = runs.compare_values(first, second, (values[0], values[1]), ci=ci).mean[groups:]
    none = [None] * len(rest)
    columns = [
        *both.columns,
        Column(
            f"{second.name} − {first.name}",
            [*found.mean.tolist(), *rest.tolist()],
            half=[*found.half.tolist(), *np.full(len(rest), np.nan)],
        ),
        Column("p (Holm)", [*_known(found.p_adjusted), *none], sign=False, digits=2),
    ]
    negative = f"the {by} helped more, or hurt less, in {second.name}"
    if not isinstance(measured, str):
        negative = f"it adds less to {' − '.join(measured)} in {second.name}"
    caption = (
        f"{both.caption} {second.name} − {first.name}: negative means that {negative}; {100 * ci:g} % "
        f"intervals that hold for all rows together; {test_name(found.paired)}."
    )
    return Table(columns, caption)


def classes(runs: "Runs", condition: Condition, by: str, measured: str, *, percent: bool) -> Table:
    """As `Runs.class_table`."""
    of = class_losses([member.run for member in runs.members])
    if not of:
        raise LCAError(
            "the runs have no losses of classes; measure objective.by_class(), or losses named 'class 0', "
            "'class 1', ..."
        )
    measured = measured or next(iter(of))
    if measured not in of:
        raise UnknownNameError("loss with classes", measured, of)
    run, losses = condition.members[0].run, of[measured]
    means = np.array([runs.values(condition, by, name).mean(axis=0) for name in losses])
    if percent:
        scale = np.abs(np.nan_to_num(means)).sum(axis=1, keepdims=True)
        means = 100 * np.divide(means, scale, out=np.zeros_like(means), where=scale > 0)
    labels = [run.class_label(name) for name in losses]
    heads = labels if len(set(labels)) == len(labels) else list(losses)
    columns = [Column(by, list(runs.names(by)))]
    decimals = decimals_of(float(np.abs(np.nan_to_num(means)).max(initial=0.0)))
    columns += [Column(head, row.tolist(), decimals=decimals) for head, row in zip(heads, means, strict=True)]
    what = f"LCA of each {_noun(by)} (row) for the {measured} loss of each class (column)"
    unit = ", in percent of all magnitudes of the class" if percent else ", in units of the loss"
    count = len(condition.members)
    pooled = f"mean over {count} runs" if count > 1 else "one run"
    return Table(
        columns,
        f"{condition.name}: {what}{unit}; {pooled}; negative: helping. {class_text(measured, losses)}",
    )


def settings(runs: "Runs") -> Table:
    """As `Runs.settings`."""
    found = [member.settings for member in runs.members]
    names = dict.fromkeys(name for each in found for name in each)
    columns = [
        Column("run", [member.label for member in runs.members]),
        Column("condition", [c.name for c in runs.conditions for _ in c.members]),
        Column("steps", [len(member.run.steps) for member in runs.members], sign=False),
    ]
    columns += [Column(name, [_plain(name, each.get(name)) for each in found], sign=False) for name in names]
    return Table(columns, "Settings of the runs")


def _with_rest(runs: "Runs", condition: Condition, by: str, measured: Measured) -> np.ndarray:
    """Sums of the groups, what is not allocated to them, and the change of the loss; (runs, groups + 2)."""
    sums = runs.values(condition, by, measured)
    change = np.array([member.change(measured) for member in condition.members])
    return np.column_stack([sums, change - np.nansum(sums, axis=1), change])


def _column(name: str, pooled: RunMeans) -> Column:
    half = None if np.isnan(pooled.half).all() else pooled.half.tolist()
    return Column(name, pooled.mean.tolist(), half=half)


def _known(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _plain(name: str, value: Any) -> Any:
    if name == GROUPS and is_divisions(value):
        return groups_text(value)
    return value if value is None or isinstance(value, int | float | str) else to_text(value)


def _caption(runs: "Runs", conditions: Sequence[Condition], by: str, measured: Measured, ci: float) -> str:
    most = max(len(condition.members) for condition in conditions)
    negative = "helping" if isinstance(measured, str) else f"{measured[0]} falls by more than {measured[1]}"
    text = (
        f"LCA of each {_noun(by)} for {loss_in_words(measured)}, summed over the measured steps; negative: "
        f"{negative}."
    )
    if most > 1 and not all(condition.has_copies for condition in conditions):
        text += f" ±: {100 * ci:g} % interval of the mean over the runs."
    return " ".join([text, *runs.cautions])
