"""The sections of a comparison about groups of tensors, and the charts that they share with the layers."""

from collections.abc import Iterator, Mapping
from functools import reduce

import numpy as np

from lca.divisions import OTHER, _noun
from lca.report import _charts as charts
from lca.report._comparison_maps import maps, shown_groups
from lca.report._comparison_numbers import interval_text, pooled_totals, totals_table
from lca.report._parts import Chart, Section, Table
from lca.runs import Condition, Member, Runs
from lca.runs._drawn import drawn_places, largest

Array = np.ndarray
MAX_CURVES = 6
"""The most groups of a division that are drawn over time."""
MAX_OPEN = 12
"""The most rows of a table of groups that is shown without being asked for."""


def groups(data: Runs) -> Section | None:
    """One bar per group and condition for each division, and the tables; ``None`` without groups."""
    if not data.divisions:
        return None
    return Section(
        "groups",
        "Groups side by side",
        charts=[bars(data, by) for by in data.divisions],
        tables=[table for by in data.divisions for table in _tables(data, by)],
    )


def groups_over_time(data: Runs) -> Section | None:
    """For each division one map per condition, and the cumulative LCA of the largest groups; or ``None``."""
    if not data.divisions:
        return None
    loss = data.losses[0]
    texts = [
        f"LCA of each group for the {loss} loss. The maps of a division have one colour scale, and are read "
        "like those of the layers.",
        "The curves are cumulative LCA: a falling line is helping, a rising line is hurting. Lines are means "
        "over the runs of a condition, and bands reach from the lowest to the highest run. The curves of one "
        "division have one scale.",
    ]
    shown = [chart for draw in (maps, _over_time) for by in data.divisions for chart in draw(data, by)]
    return Section("groups-time", "Groups over time", paragraphs=texts, charts=shown, side_by_side=True)


def bars(data: Runs, by: str) -> Chart:
    """One bar per layer or group and condition, with intervals."""
    loss, names = data.losses[0], data.names(by)
    pooled = {c.name: pooled_totals(data, c, loss, by) for c in data.conditions}
    at = shown_groups(data, by)
    possible = len(drawn_places(names, by))
    rest = f" The {len(at)} largest of {possible} are shown." if len(at) < possible else ""
    rest += "" if possible == len(names) else f" What is in no {_noun(by)}, {OTHER!r}, is in the table only."
    caption = (
        f"LCA of each {_noun(by)} for the {loss} loss, summed over the measured steps: bars to the left are "
        f"helping, to the right hurting.{rest} {interval_text(data, 'Lines')}"
    )
    chart = charts.conditions_chart(
        [names[i] for i in at],
        {name: each.mean[at] for name, each in pooled.items()},
        {name: each.half[at] for name, each in pooled.items()},
    )
    return Chart(chart, caption)


def curves(condition: Condition, paths: Mapping[str, Array]) -> Iterator[tuple[str, Array, Array]]:
    """Paths (T + 1,) over the steps that all runs of a condition have, (runs, steps); else one by one."""
    found = {}
    for member in condition.members:
        path = paths[member.label]
        if not np.isnan(path).all():
            found[member.label] = np.append(member.run.steps, member.run.ends[-1]), path
    common = reduce(np.intersect1d, [at for at, _ in found.values()]) if found else np.array([])
    if len(common) > 1:
        yield condition.name, common, np.array([p[np.searchsorted(at, common)] for at, p in found.values()])
        return
    for label, (at, path) in found.items():
        yield f"{condition.name}: {label}", at, path[None]


def _tables(data: Runs, by: str) -> Iterator[Table]:
    count = len(data.names(by))
    for i, loss in enumerate(data.losses):
        yield totals_table(data, loss, count, by=by, folded=i > 0 or count > MAX_OPEN)


def _over_time(data: Runs, by: str) -> Iterator[Chart]:
    """One chart for each of the largest groups, with a line and a band for each condition."""
    names, rows = data.names(by), {m.label: _cumulative(data, m, by) for m in data.members}
    means = np.array([pooled_totals(data, c, data.losses[0], by).mean for c in data.conditions])
    drawn = drawn_places(names, by)
    shown = drawn[largest(means[:, drawn], MAX_CURVES)]
    limits = charts.limits_of([path[:, shown] for path in rows.values()])
    for i in shown:
        paths = {label: path[:, i] for label, path in rows.items()}
        found = {
            label: (steps, values)
            for condition in data.conditions
            for label, steps, values in curves(condition, paths)
        }
        chart = charts.bands_chart(found, y="cumulative LCA", height=230, limits=limits)
        more = f", the {len(shown)} largest of {len(drawn)}" if len(shown) < len(drawn) else ""
        yield Chart(chart, f"{names[i]} ({by}{more})")


def _cumulative(data: Runs, member: Member, by: str) -> Array:
    """Cumulative sums over the measured steps of a run, (T + 1, groups); NaN for a group that it lacks."""
    rows = data.place(member, member.rows(by, data.losses[0]), by)
    return np.concatenate([0.0 * rows[:1], np.cumsum(rows, axis=0)])
