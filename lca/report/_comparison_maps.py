"""Maps of layers or groups over time, one for each condition, all with one colour scale."""

from dataclasses import replace

import numpy as np

from lca.report import _charts as charts
from lca.report._comparison_numbers import pooled_totals
from lca.report._html import to_base64
from lca.report._moments import MAX_INTERVALS, encode
from lca.report._parts import Chart
from lca.runs import Condition, Runs
from lca.runs._drawn import drawn_places, largest
from lca.runs._format import shorten_words

Array = np.ndarray
MAX_GROUPS = 100
"""The most groups of a division that are drawn as bars, or as rows of a map."""


def maps(data: Runs, by: str) -> list[Chart]:
    """One map of steps and layers, or groups, for each condition; the last one has the colour scale."""
    edges, last = _intervals(data)
    means = [_interval_means(data, condition, by, edges) for condition in data.conditions]
    shown = shown_groups(data, by)
    means, names = [mean[:, shown] for mean in means], [data.names(by)[i] for i in shown]
    limit = max(float(np.nanmax(np.abs(mean), initial=0.0)) for mean in means)
    cells = {
        "rows": [*map(shorten_words, names)],
        "first": edges.tolist(),
        "last": last.tolist(),
        "limit": limit,
        "height": len(names),
        "width": len(edges),
    }
    possible = len(drawn_places(data.names(by), by))
    more = f", the {len(shown)} largest of {possible}" if len(shown) < possible else ""
    which = "" if by == "layer" else f" ({by}{more})"
    drawn = [
        Chart(
            charts.compared_map(f"map-{('layer', *data.divisions).index(by)}-{k}", names),
            f"{condition.name}, mean over its runs{which}",
            cells={**cells, "codes": to_base64(encode(mean.T, limit))},
        )
        for k, (condition, mean) in enumerate(zip(data.conditions, means, strict=True))
    ]
    return [*drawn[:-1], replace(drawn[-1], key=limit)]


def shown_groups(data: Runs, by: str) -> Array:
    """The places of the groups that are drawn: all layers; of many groups those with the largest sums."""
    places = drawn_places(data.names(by), by)
    if by == "layer" or len(places) <= MAX_GROUPS:
        return places
    means = [pooled_totals(data, condition, data.losses[0], by).mean for condition in data.conditions]
    shown: Array = places[largest(np.array(means)[:, places], MAX_GROUPS)]
    return shown


def _intervals(data: Runs) -> tuple[Array, Array]:
    """The first and the last step of each interval; of replays, the checkpoints between which it is.

    Where no run measured every step, an interval is as long as the largest step that fits all of them.
    """
    steps = np.unique(np.concatenate([member.run.steps for member in data.members]))
    gap = int(np.gcd.reduce(np.diff(steps))) or 1
    width = gap * -(-((steps[-1] - steps[0]) // gap + 1) // MAX_INTERVALS)
    edges = np.arange(steps[0], steps[-1] + 1, width)
    if all(member.run.is_replay for member in data.members):
        return edges, np.append(edges[1:], max(int(member.run.ends[-1]) for member in data.members))
    return edges, np.append(edges[1:] - 1, steps[-1])


def _interval_means(data: Runs, condition: Condition, by: str, edges: Array) -> Array:
    """Sums over the measured steps of each interval, averaged over the runs, (intervals, groups).

    NaN where no run has a measured step.
    """
    sums = np.full((len(condition.members), len(edges), len(data.names(by))), np.nan)
    for member, found in zip(condition.members, sums, strict=True):
        place = np.searchsorted(edges, member.run.steps, side="right") - 1
        measured = np.unique(place)
        found[measured] = 0.0
        np.add.at(found, place, data.place(member, member.rows(by, data.losses[0]), by))
    known = ~np.isnan(sums)
    count = known.sum(axis=0)
    total = np.where(known, sums, 0.0).sum(axis=0)
    means: Array = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return means
