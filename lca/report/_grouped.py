"""Charts and tables of one way to group the parameters: by layer, or by a division of a tracker."""

from collections.abc import Sequence

import numpy as np

from lca.analysis import group_names, group_totals
from lca.divisions import OTHER, _noun
from lca.report import _charts as charts
from lca.report._parts import Chart, Table
from lca.runs._drawn import drawn_places, largest
from lca.runs._format import format_number, format_percent
from lca.runs._margins import margin_bound
from lca.runs._run import Run

MAX_GROUPS = 200
"""The most groups of a division that are drawn."""

Array = np.ndarray


def charts_of(run: Run, by: str) -> list[Chart]:
    """Bars with the sums over the run for all losses, and cumulative curves for each loss."""
    names = group_names(run.record, by)
    allocations = {loss: totals_of(run, by, loss) for loss in run.losses}
    at = _drawn(by, names, np.stack([values.sum(axis=0) for values in allocations.values()]))
    shown = [names[i] for i in at]
    margins = {loss: own[at] for loss in run.losses if (own := margin_bound(run, by, loss)) is not None}
    sums = {loss: values.sum(axis=0)[at] for loss, values in allocations.items()}
    found = [
        Chart(charts.totals_chart(shown, sums, margins), _caption(run, by, len(at), margins=bool(margins)))
    ]
    steps = np.append(run.steps, run.ends[-1])
    for loss, values in allocations.items():
        cumulative = "Estimated cumulative" if run.is_sampled(loss) else "Cumulative"
        text = (
            f"{cumulative} LCA of each {_noun(by)} for the {loss} loss: a falling line is helping, a rising "
            "line is hurting. Click a name in the legend to hide its line."
        )
        found.append(Chart(charts.cumulative_chart(steps, values[:, at], shown), text))
    return found


def tables_of(run: Run, by: str) -> list[Table]:
    """For each loss one row per group, with its sum over the run and its share."""
    return [_table(run, by, loss) for loss in run.losses]


def totals_of(run: Run, by: str, measured: str) -> Array:
    """The allocation of each step to each group, (T, groups)."""
    if by == "layer":
        return run.layer_totals(measured)
    return np.asarray(group_totals(run.record, by, measured).values)


def _drawn(by: str, names: Sequence[str], sums: Array) -> Array:
    """The places of the groups that are drawn; sums (losses, groups)."""
    if by == "layer":
        return np.arange(len(names))
    places = drawn_places(names, by)
    return np.asarray(places[largest(sums[:, places], MAX_GROUPS)])


def _caption(run: Run, by: str, drawn: int, *, margins: bool) -> str:
    """What the bars show, and what is not drawn."""
    lca = "Estimated LCA" if run.is_sampled(run.losses[0]) else "LCA"
    text = (
        f"{lca} of each {_noun(by)}, summed over {run.scope}: blue is helping (negative), orange-red is "
        "hurting (positive)."
    )
    names = group_names(run.record, by)
    possible = len(names) if by == "layer" else len(drawn_places(names, by))
    if drawn < possible:
        text += f" The {drawn} largest of {possible} are shown."
    if possible < len(names):
        rest = totals_of(run, by, run.losses[0])[:, names.index(OTHER)].sum()
        text += (
            f" What is in no {_noun(by)}, {OTHER!r}, has {format_number(float(rest), '+')} for the "
            f"{run.losses[0]} loss and is not drawn."
        )
    if len(run.losses) > 1:
        text += " Solid bars are the first loss; the pattern of a bar tells the loss."
    if margins:
        text += (
            " The lines are 95 % intervals of the error of sampling. They may be too wide, as neighbouring "
            "steps share samples."
        )
    return text


def _table(run: Run, by: str, loss: str) -> Table:
    totals, margins = totals_of(run, by, loss).sum(axis=0), margin_bound(run, by, loss)
    whole = totals.sum()
    share = 100 * totals / whole if whole else np.full(len(totals), np.nan)
    bound = [] if margins is None else [("± at most", [format_number(e) for e in margins])]
    counts: list[tuple[str, Sequence[str]]] = []
    if by == "layer" and not run.is_sampled(loss):
        signs = run.layer_signs(loss)
        percents = {"helping": signs.mean_helping_percent(), "zero": signs.mean_zero_percent()}
        counts = [(name, [format_percent(p) for p in found]) for name, found in percents.items()]
    columns: list[tuple[str, Sequence[str]]] = [
        ("", group_names(run.record, by)),
        ("LCA", [format_number(t, "+") for t in totals]),
        *bound,
        ("share", [format_percent(s) for s in share]),
        *counts,
    ]
    which = "all layers" if by == "layer" else f"each {_noun(by)}"
    estimates = "; estimates" if run.is_sampled(loss) else ""
    caption = f"Table of {which}, for the {loss} loss, summed over {run.scope}{estimates}"
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    return Table(caption, [head for head, _ in columns], rows, notes=run.tied_notes(by))
