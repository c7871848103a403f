"""The sections of a report about what training gave: learning rates, metrics."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lca.report import _charts as charts
from lca.report._parts import Chart, Section, Table
from lca.runs._format import format_number
from lca.runs._run import Run


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
