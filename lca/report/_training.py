"""The sections of a report about learning rates and metrics."""

from collections.abc import Mapping
from typing import Any

from lca.report import _charts as charts
from lca.report._parts import Chart, Section, Table
from lca.runs._format import format_number
from lca.runs._run import Run


def training(run: Run) -> Section | None:
    """Learning rates and metrics; ``None`` if the record has neither."""
    paragraphs, shown, tables = [], [], []
    if run.has("learning_rate"):
        rates = run.record["learning_rate"].transpose("step", "param_group")
        names = rates["param_group"].values.astype(str).tolist()
        texts = ", ".join(dict.fromkeys(run.learning_rates.values()))
        if (rates.values == rates.values[:1]).all():
            paragraphs.append(f"The learning rate was {texts} in all measured steps.")
        else:
            paragraphs.append(_rates_said(run))
            lines = {
                "learning rate" if len(names) == 1 else f"group {name}": rates.values[:, i]
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


def _rates_said(run: Run) -> str:
    """Learning rates that change, in a sentence."""
    if run.learning_rate:
        return f"Learning rate of the measured steps: {run.learning_rate}."
    groups = "; ".join(f"group {name} {said}" for name, said in run.learning_rates.items() if said)
    return f"Learning rates of the measured steps: {groups or 'not known'}."


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
