"""The sections of a report about groups of tensors, and about what training gave: learning rates, metrics."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lca.analysis import division_names, group_names, group_stderr, group_totals
from lca.divisions import OTHER
from lca.report import _charts as charts
from lca.report._parts import Chart, Section, Table
from lca.runs._drawn import drawn_places, largest
from lca.runs._format import format_number
from lca.runs._run import Run

MAX_GROUPS = 200
"""The most groups of a division that are drawn."""


def groups(run: Run) -> Section | None:
    """The allocation of each group of each division; ``None`` if the record has no groups."""
    first, shown = run.losses[0], []
    for division in division_names(run.record):
        names = group_names(run.record, division)
        totals = group_totals(run.record, division, first).values.sum(axis=0)
        drawn = drawn_places(names, division)
        at = drawn[largest(totals[None, drawn], MAX_GROUPS)]
        bounds = _bound(run, division, first)
        errors = {} if bounds is None else {first: bounds[at]}
        chart = charts.totals_chart([names[i] for i in at], {first: totals[at]}, errors)
        rest = f" The {len(at)} largest of {len(drawn)} are shown." if len(at) < len(drawn) else ""
        if len(drawn) < len(names):
            other = format_number(float(totals[names.index(OTHER)]), "+")
            rest += f" What is in no {division}, {OTHER!r}, has {other} and is not drawn."
        lines = " The lines show an upper bound of one standard error from sampling." if errors else ""
        text = f"LCA of each {division} for the {first} loss, summed over {run.scope}.{rest}{lines}"
        shown.append(Chart(chart, text))
    return Section("groups", "Groups of tensors", charts=shown) if shown else None


def training(run: Run) -> Section | None:
    """Learning rates and metrics; ``None`` if the record has neither."""
    paragraphs, shown, tables = [], [], []
    if run.has("learning_rate"):
        rates = np.asarray(run.record["learning_rate"].transpose("step", "param_group").values)
        constant = bool((rates == rates[:1]).all())
        if constant:
            values = ", ".join(format_number(rate) for rate in dict.fromkeys(rates[0].tolist()))
            paragraphs.append(f"The learning rate was {values} in all measured steps.")
        else:
            names = run.record["param_group"].values.astype(str).tolist()
            lines = {
                "learning rate" if len(names) == 1 else f"group {name}": rates[:, i]
                for i, name in enumerate(names)
            }
            shown.append(
                Chart(charts.rates_chart(run.steps, lines), "The learning rate of each measured step.")
            )
    if metrics := _metrics(run.attributes.get("metrics", {})):
        head = ("", "first", "last", "lowest", "highest", "values")
        tables.append(Table("What training logged", head, metrics, folded=False))
    if not (paragraphs or shown or tables):
        return None
    return Section("training", "The training", paragraphs=paragraphs, charts=shown, tables=tables)


def _metrics(given: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row for each metric: its first and last value, the extremes with their steps, how many."""
    rows = []
    for name, own in given.items():
        known = [(v, s) for s, v in zip(own["step"], own["value"], strict=True) if v is not None]
        if known:
            low, high = min(known), max(known)
            extremes = (f"{format_number(value)} (step {step:,})" for value, step in (low, high))
            first, last = format_number(known[0][0]), format_number(known[-1][0])
            rows.append((str(name), first, last, *extremes, f"{len(known):,}"))
    return rows


def _bound(run: Run, division: str, measured: str) -> np.ndarray | None:
    """An upper bound of the standard errors of the totals, as of layers (`lca.report._sections`)."""
    if not run.has("group_stderr"):
        return None
    errors = group_stderr(run.record, division, measured).values
    return None if np.isnan(errors).any() else np.sqrt(2 * (errors**2).sum(axis=0))
