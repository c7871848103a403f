"""The pooled numbers of a comparison, and the table that shows them."""

from collections.abc import Callable

import numpy as np

from lca.analysis._over_runs import CONFIDENCE, Difference, Pooled, difference, pool
from lca.report._overview import RESIDUAL, STATE, UNMEASURED
from lca.report._parts import Table, tints_of
from lca.runs._conditions import Comparison, Condition, Member
from lca.runs._format import format_number

Array = np.ndarray
OTHERS = (STATE, UNMEASURED, RESIDUAL)
"""What is no allocation, in the order of `pooled_others`; the change of the loss follows."""


def totals_table(data: Comparison, loss: str, limit: int, *, folded: bool = False) -> Table:
    """Layers in rows, conditions in columns; below them what is no allocation, and the change.

    Two conditions have a column with their difference.
    """
    pooled = [pooled_totals(data, condition, loss) for condition in data.conditions]
    means = np.array([each.mean for each in pooled]).T
    size = np.abs(np.nan_to_num(means)).max(axis=1)
    shown = np.sort(np.argsort(-size, kind="stable")[:limit])
    others = [pooled_others(data, condition, loss) for condition in data.conditions]
    head, tints = [c.name for c in data.conditions], tints_of(means[shown])
    if len(data.conditions) == 2:
        first, second = data.conditions
        head.append(difference_name(first, second))
        found = layer_difference(data, first, second, loss)
        pooled.append(Pooled(found.mean, found.half))
        others.append(_others_difference(first, second, loss))
        tints = [[*row, 0.0] for row in tints]
    rows = [(data.layers[i], *(interval(each, i, "+") for each in pooled)) for i in shown]
    for k, name in enumerate((*OTHERS, "change of the loss")):
        values = [each.mean[k] for each in others]
        if np.isnan(values).all() or (name != "change of the loss" and not np.any(values)):
            continue
        rows.append((name, *(interval(each, k, "+") for each in others)))
        tints.append([0.0] * len(others))
    rest = f"; the {limit} layers with the largest sums" if limit < len(data.layers) else ""
    caption = (
        f"LCA of each layer for the {loss} loss, summed over the measured steps{rest}. "
        f"{interval_text(data, '±')}"
    )
    if len(data.conditions) == 2:
        caption += (
            f" {head[-1]} is the difference from the first condition, {head[0]}: negative means that the "
            f"layer helped more, or hurt less, in {head[1]}."
        )
        if np.isfinite(pooled[-1].half).any():
            caption += " Its intervals hold for all layers together."
    return Table(caption, ("", *head), rows, folded=folded, tints=tints)


def difference_name(first: Condition, second: Condition) -> str:
    """The difference of two conditions as it is computed."""
    return f"{second.name} − {first.name}"


def interval_text(data: Comparison, shown_as: str) -> str:
    """What the intervals are, which are shown as a sign or as lines."""
    if all(len(condition.members) == 1 for condition in data.conditions):
        return "Each is one run, so there are no intervals."
    return f"{shown_as}: {100 * CONFIDENCE:.0f} % interval of the mean over the runs."


def interval(pooled: Pooled, i: int, sign: str) -> str:
    """A mean with half its interval, or without."""
    mean, half = float(pooled.mean[i]), float(pooled.half[i])
    if np.isnan(mean):
        return "—"
    if np.isnan(half) or not 0 < half < 1e6:
        return format_number(mean, sign)
    digits = max(0, 1 - int(np.floor(np.log10(half))))
    return f"{mean:{sign}.{digits}f} ± {half:.{digits}f}".replace("-", "−")


def pooled_totals(data: Comparison, condition: Condition, loss: str) -> Pooled:
    totals = np.array([data.layer_totals(member, loss) for member in condition.members])
    return pool(totals, intervals=not condition.has_copies)


def pooled_others(data: Comparison, condition: Condition, loss: str) -> Pooled:
    """State change, change without allocation, residual, and the change from start to end."""
    values = np.array([_others(member, loss) for member in condition.members])
    return pool(values, intervals=not condition.has_copies)


def _others(member: Member, loss: str) -> Array:
    check = member.check(loss)
    return np.array([check.state_change, check.unmeasured_change, check.residual, check.end - check.start])


def layer_difference(data: Comparison, first: Condition, second: Condition, loss: str) -> Difference:
    """The second condition minus the first in each layer, with intervals for all layers together."""
    return _difference(first, second, lambda member: data.layer_totals(member, loss))


def _others_difference(first: Condition, second: Condition, loss: str) -> Pooled:
    """The second condition minus the first in each number of `pooled_others`, each with its own interval."""

    def of_number(k: int) -> Difference:
        return _difference(first, second, lambda member: _others(member, loss)[k : k + 1])

    found = [of_number(k) for k in range(len(OTHERS) + 1)]
    return Pooled(np.concatenate([f.mean for f in found]), np.concatenate([f.half for f in found]))


def _difference(first: Condition, second: Condition, values: Callable[[Member], Array]) -> Difference:
    pairs = [sorted(condition.members, key=lambda member: member.seed) for condition in (first, second)]
    seeds = [[member.seed for member in members] for members in pairs]
    paired = seeds[0] == seeds[1] and all(seeds[0]) and len(set(seeds[0])) == len(seeds[0])
    totals = [np.array([values(member) for member in members]) for members in pairs]
    if first.has_copies or second.has_copies:
        totals = [each.mean(axis=0, keepdims=True) for each in totals]
    return difference(*totals, paired=paired)
