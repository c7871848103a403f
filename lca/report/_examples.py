"""The section of a report about single examples: which ones each group learned and when, and exceptions."""

import numpy as np

from lca.by_example import ExampleHistory
from lca.report import _charts as charts
from lca.report._parts import Chart, Section, Table, tints_of
from lca.runs._format import format_number, format_to
from lca.runs._run import Run, count_of

MOST_ROWS, MOST_LABELS = 10, 30
"""The most examples in a table, and the most labels of a labelling."""


def examples(run: Run) -> Section | None:
    """Which examples were learned, by which group, and when; ``None`` if the record has no examples."""
    if not run.has("example_value"):
        return None
    history = ExampleHistory.from_record(run.record)
    total = history.total()
    learned = {name: history.learned(name) for name in total.groups}
    text = (
        f"The loss of {count_of(len(total.examples), 'example')} was split over "
        f"{count_of(len(total.groups), 'group')} of parameters. A group has learned an example at the first "
        "step at the end of which its cumulative LCA of this example has reached half of its sum over "
        f"{run.scope}. It may lower the loss of an example that was not in the training batch."
    )
    if total.population:
        errors = ", ".join(
            f"{name} {format_number(float(error))}"
            for name, error in zip(total.groups, total.stderr(), strict=True)
        )
        text += (
            f" The examples are a random sample of {total.population:,}, scaled to all of them: sums are "
            f"estimates. Standard errors of the sums over all examples: {errors}."
        )
    shares = {name: _share_by_step(found, history.steps) for name, found in learned.items()}
    tables = [_by_label(history, name, run.scope) for name in total.labels]
    tables += [_last(history), _raised(history)]
    return Section(
        "examples",
        "Which examples were learned, and when",
        paragraphs=[text, _check(history)],
        charts=[
            Chart(
                charts.learned_chart(np.append(run.steps[:1], run.ends), shares),
                "The percentage of examples that each group has learned. It ends below 100 % if the group "
                f"did not lower the loss of the others over {run.scope}.",
            )
        ],
        tables=[table for table in tables if table is not None],
    )


def _share_by_step(learned: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The percentage of examples learned before the first step, and by the end of each step, (T + 1,)."""
    counts = np.searchsorted(np.sort(learned[np.isfinite(learned)]), steps, side="right")
    return 100 * np.append(0, counts) / len(learned)


def _check(history: ExampleHistory) -> str:
    """How well both sums hold."""
    total = history.total()
    change, missed = np.abs(total.loss_change).sum(), np.abs(total.residual).sum()
    part = f"{missed / change:.1%}" if change else "no part"
    apart = np.abs(total.group_residual).sum()
    return (
        f"Over all examples, the residuals are {part} of the loss changes; the sums over the examples differ "
        f"from those computed from gradients by {format_number(float(apart))}."
        + ("" if total.converged else f" Not all steps are within their tolerances: {total.reason}.")
    )


def _by_label(history: ExampleHistory, labelling: str, scope: str) -> Table | None:
    """The sums over the examples of each label."""
    found = history.total().over(labelling)
    labels = [str(label) for label in found.examples]
    if not 1 < len(labels) <= MOST_LABELS:
        return None
    largest = float(np.abs(found.values).max(initial=0.0)) or 1.0
    rows = [
        (label, *(format_to(value, largest) for value in column))
        for label, column in zip(labels, found.values.T, strict=True)
    ]
    caption = f"LCA of each group by {labelling} of the examples, summed over {scope}"
    return Table(caption, (labelling, *found.groups), rows, folded=False, tints=tints_of(found.values.T))


def _last(history: ExampleHistory) -> Table:
    """The examples that all groups together learned last, and what each group did to them."""
    learned = history.learned()
    known = np.flatnonzero(np.isfinite(learned))
    chosen = known[np.argsort(-learned[known], kind="stable")][:MOST_ROWS]
    steps = [f"{int(learned[n]):,}" for n in chosen]
    return _of_examples(history, chosen, ("learned at step", steps), "The examples that were learned last")


def _raised(history: ExampleHistory) -> Table | None:
    """The examples whose loss rose most in all groups together."""
    change = history.of().sum(axis=0)
    chosen = np.argsort(-change, kind="stable")[:MOST_ROWS]
    chosen = chosen[change[chosen] > 0]
    if not len(chosen):
        return None
    values = [format_number(float(change[n]), "+") for n in chosen]
    return _of_examples(history, chosen, ("LCA", values), "The examples whose loss was raised most")


def _of_examples(
    history: ExampleHistory, chosen: np.ndarray, column: tuple[str, list[str]], caption: str
) -> Table:
    """One row for each of these examples: its number, its labels, a column, and the sum of each group."""
    total = history.total()
    head = ("example", *total.labels, column[0], *total.groups)
    columns = [
        [str(total.examples[n]) for n in chosen],
        *([str(found[n]) for n in chosen] for found in total.labels.values()),
        column[1],
        *([format_number(float(values[n]), "+") for n in chosen] for values in total.values),
    ]
    return Table(caption, head, list(zip(*columns, strict=True)), folded=False)
