"""The pooled numbers of a comparison, and the table that shows them."""

import numpy as np

from lca.analysis import RunDifference, RunMeans
from lca.analysis._over_runs import CONFIDENCE
from lca.divisions import _noun
from lca.report._overview import RESIDUAL, STATE, UNMEASURED
from lca.report._parts import Table, largest_drawn, tints_of
from lca.runs import Condition, Member, Runs
from lca.tables import Column

Array = np.ndarray
OTHERS = (STATE, UNMEASURED, RESIDUAL)
"""What is not an allocation, in the order of `pooled_others`; the change of the loss follows."""


def totals_table(data: Runs, loss: str, limit: int, *, by: str = "layer", folded: bool = False) -> Table:
    """Layers or groups in rows, conditions in columns; below them what is not an allocation, and the change.

    Two conditions have a column with their difference.
    """
    names, pooled = (
        data.names(by),
        [pooled_totals(data, condition, loss, by) for condition in data.conditions],
    )
    means = np.array([each.mean for each in pooled]).T
    size = np.abs(np.nan_to_num(means)).max(axis=1)
    shown = np.sort(np.argsort(-size, kind="stable")[:limit])
    others = [pooled_others(data, condition, loss) for condition in data.conditions]
    head = [c.name for c in data.conditions]
    tints = tints_of(means[shown], largest_drawn(means, names, by))
    if len(data.conditions) == 2:
        first, second = data.conditions
        head.append(difference_name(first, second))
        found = total_difference(data, (first, second), loss, by)
        pooled.append(RunMeans(found.mean, found.half))
        others.append(_others_difference(data, first, second, loss))
        tints = [[*row, 0.0] for row in tints]
    rows = [(names[i], *(interval(each, i, "+") for each in pooled)) for i in shown]
    for k, name in enumerate((*OTHERS, "change of the loss")):
        values = [each.mean[k] for each in others]
        if np.isnan(values).all() or (name != "change of the loss" and not np.any(values)):
            continue
        rows.append((name, *(interval(each, k, "+") for each in others)))
        tints.append([0.0] * len(others))
    rest = f"; the {limit} {plural(by)} with the largest sums" if limit < len(names) else ""
    caption = (
        f"LCA of each {_noun(by)} for the {loss} loss, summed over the measured steps{rest}. "
        f"{interval_text(data, '±')}"
    )
    if len(data.conditions) == 2:
        caption += (
            f" {head[-1]} is the difference from the first condition, {head[0]}: negative means that the "
            f"{plural(by).removesuffix('s')} helped more, or hurt less, in {head[1]}."
        )
        if np.isfinite(pooled[-1].half).any():
            caption += f" Its intervals hold for all {plural(by)} together."
    return Table(caption, ("", *head), rows, folded=folded, tints=tints)


def plural(by: str) -> str:
    """What the rows of a table by layer or by another division are.

    >>> plural("layer"), plural("kind")
    ('layers', 'groups')
    """
    return "layers" if by == "layer" else "groups"


def difference_name(first: Condition, second: Condition) -> str:
    """The difference of two conditions as it is computed."""
    return f"{second.name} − {first.name}"


def interval_text(data: Runs, shown_as: str) -> str:
    """What the intervals are, which are shown as a sign or as lines."""
    if all(len(condition.members) == 1 for condition in data.conditions):
        return "Each is one run, so there are no intervals."
    return f"{shown_as}: {100 * CONFIDENCE:.0f} % interval of the mean over the runs."


def interval(pooled: RunMeans, i: int, sign: str) -> str:
    """A mean with half its interval, or without."""
    return Column("", [float(pooled.mean[i])], half=[float(pooled.half[i])], sign=sign == "+").text(0)


def pooled_totals(data: Runs, condition: Condition, loss: str, by: str = "layer") -> RunMeans:
    return data.pool(condition, data.values(condition, by, loss))


def pooled_others(data: Runs, condition: Condition, loss: str) -> RunMeans:
    """State change, change without allocation, residual, and the change from start to end."""
    return data.pool(condition, _others(condition, loss))


def total_difference(
    data: Runs, pair: tuple[Condition, Condition], loss: str, by: str = "layer"
) -> RunDifference:
    """The second condition minus the first in each layer or group, with intervals that hold together."""
    first, second = pair
    values = data.values(first, by, loss), data.values(second, by, loss)
    return data.compare_values(first, second, values)


def _others(condition: Condition, loss: str) -> Array:
    return np.array([_of_run(member, loss) for member in condition.members])


def _of_run(member: Member, loss: str) -> list[float]:
    check = member.check(loss)
    return [check.state_change, check.unmeasured_change, check.residual, check.end - check.start]


def _others_difference(data: Runs, first: Condition, second: Condition, loss: str) -> RunMeans:
    """The second condition minus the first in each number of `pooled_others`, each with its own interval."""
    a, b = _others(first, loss), _others(second, loss)
    columns = [slice(k, k + 1) for k in range(len(OTHERS) + 1)]
    found = [data.compare_values(first, second, (a[:, k], b[:, k])) for k in columns]
    return RunMeans(np.concatenate([f.mean for f in found]), np.concatenate([f.half for f in found]))
