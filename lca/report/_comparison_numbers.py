"""The pooled numbers of a comparison, and the table that shows them."""

import numpy as np

from lca.report._conditions import Comparison, Condition
from lca.report._overview import RESIDUAL, STATE, UNMEASURED
from lca.report._parts import Table, tints_of
from lca.report._pooling import CONFIDENCE, Difference, Pooled, difference, pool
from lca.report._run import format_number

OTHERS = (STATE, UNMEASURED, RESIDUAL)
"""What is no allocation, in the order of `pooled_others`; the change of the loss follows."""


def totals_table(data: Comparison, loss: str, limit: int, *, folded: bool = False) -> Table:
    """Layers in rows, conditions in columns; below them what is no allocation, and the change."""
    pooled = [pooled_totals(data, condition, loss) for condition in data.conditions]
    means = np.array([each.mean for each in pooled]).T
    size = np.abs(np.nan_to_num(means)).max(axis=1)
    shown = np.sort(np.argsort(-size, kind="stable")[:limit])
    rows = [(data.layers[i], *(interval(each, i, "+") for each in pooled)) for i in shown]
    tints = tints_of(means[shown])
    others = [pooled_others(data, condition, loss) for condition in data.conditions]
    for k, name in enumerate((*OTHERS, "change of the loss")):
        values = [each.mean[k] for each in others]
        if np.isnan(values).all() or (name != "change of the loss" and not np.any(values)):
            continue
        rows.append((name, *(interval(each, k, "+") for each in others)))
        tints.append([0.0] * len(others))
    rest = f"; the {limit} layers with the largest sums" if limit < len(data.layers) else ""
    caption = (
        f"LCA of each layer for the {loss} loss, summed over the measured steps{rest}. {interval_text(data)}"
    )
    head = ("", *(c.name for c in data.conditions))
    return Table(caption, head, rows, folded=folded, tints=tints)


def interval_text(data: Comparison) -> str:
    if all(len(condition.members) == 1 for condition in data.conditions):
        return "Each is one run, so there are no intervals."
    return f"± and lines: {100 * CONFIDENCE:.0f} % interval of the mean over the runs."


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
    checks = [member.check(loss) for member in condition.members]
    values = [[c.state_change, c.unmeasured_change, c.residual, c.end - c.start] for c in checks]
    return pool(np.array(values), intervals=not condition.has_copies)


def layer_difference(data: Comparison, first: Condition, second: Condition, loss: str) -> Difference:
    pairs = [sorted(condition.members, key=lambda member: member.seed) for condition in (first, second)]
    seeds = [[member.seed for member in members] for members in pairs]
    paired = seeds[0] == seeds[1] and all(seeds[0]) and len(set(seeds[0])) == len(seeds[0])
    totals = [np.array([data.layer_totals(member, loss) for member in members]) for members in pairs]
    if first.has_copies or second.has_copies:
        totals = [each.mean(axis=0, keepdims=True) for each in totals]
    return difference(*totals, paired=paired)
