"""The sections of a report: each a pure function of the run, in words, tables and charts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lca.analysis import class_rows, histogram
from lca.analysis.reading import CLASS, is_class
from lca.record.citation import citation
from lca.report import charts
from lca.report.balance import Balance, Tone, balance
from lca.report.charts import Figure
from lca.report.run import Run, number, percent
from lca.views.signs import NOISY

Array = np.ndarray


@dataclass(frozen=True)
class Table:
    """Numbers for those who do not see a chart, or want to copy them; all cells are text.

    ``folded``: shown when asked for.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = True


@dataclass(frozen=True)
class Chart:
    """A Bokeh figure, and what it shows in a sentence."""

    figure: Figure
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page; everything in it is plain text, to be escaped."""

    id: str
    title: str
    paragraphs: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    verdicts: Sequence[tuple[Tone, str]] = ()
    code: str = ""
    explorer: bool = False


def summary(run: Run) -> Section:
    """Conservation first, then what happened."""
    books = [balance(run, loss) for loss in run.losses]
    verdicts = [(tone, f"{book.loss}: {text}") for book in books for tone, text in [book.verdict()]]
    if not run.about.get("complete", True):
        verdicts.append(("warn", "The run was still going on, or was cut off, when this page was made."))
    if not run.gapless:
        verdicts.append(("warn", "Not every step was measured; sums are over the measured steps."))
    verdicts += [("warn", f"{book.loss}: {_jumped(book)}") for book in books if book.discontinuities]
    return Section(
        "summary",
        "Does it add up?",
        paragraphs=[_story(run, books[0])],
        verdicts=verdicts,
        tables=[Table("The books, in units of the loss", ("", *run.losses), _books(books), folded=False)],
    )


def losses(run: Run) -> Section | None:
    """Loss and residual over time; ``None`` if no loss was measured."""
    residuals = {loss: run.scalar("residual", loss) for loss in run.losses}
    residuals = {loss: residual for loss, residual in residuals.items() if not np.isnan(residual).all()}
    shown = {loss: _path(run, loss) for loss in residuals}
    if not shown:
        return None
    steps = _ends(run)
    rebuilt = _rebuilt(run, run.losses[0]) if run.gapless and run.losses[0] in shown else None
    return Section(
        "loss",
        "The loss",
        charts=[
            Chart(
                charts.loss_chart(steps, shown, rebuilt),
                "The measured loss over the steps, and the same loss rebuilt from its allocations: the two "
                "lie on each other if it adds up.",
            ),
            Chart(charts.residual_chart(run.steps, residuals), "What the allocation of each step misses."),
        ],
    )


def layers(run: Run) -> Section:
    """Which layers did it."""
    first, totals = run.losses[0], {loss: run.rows(loss).sum(axis=0) for loss in run.losses}
    errors = {loss: bound for loss in run.losses if (bound := _stderr_bound(run, loss)) is not None}
    bars = "The sum of each layer over the run: to the left of 0 it helped, to the right it hurt."
    if errors:
        bars += (
            " Lines are one standard error of sampling, at most: samples are shared by neighbouring steps, "
            "and an upper bound for that is drawn."
        )
    return Section(
        "layers",
        "Which layers made the loss change",
        charts=[
            Chart(charts.totals_chart(run.layers, totals, errors), bars),
            Chart(
                charts.cumulative_chart(_ends(run), run.rows(first), run.layers),
                f"The sum so far of each layer, for the {first} loss. A name in the legend hides its line.",
            ),
        ],
        tables=[_layer_table(run, loss, errors.get(loss)) for loss in run.losses],
    )


def explorer(run: Run) -> Section:
    """Layers × time with the slider; its numbers are in `lca.report.moments`."""
    text = [
        "Blue helped, orange hurt; colours are linear up to a hundredth of the largest value and logarithmic "
        "beyond. Move the slider, or choose a cell of the map, to see that moment in one layer."
    ]
    return Section("explorer", "When, and where", paragraphs=text, explorer=True)


def classes(run: Run) -> Section | None:
    """Layers by class; ``None`` without losses by class."""
    if not any(is_class(name) for name in run.measured):
        return None
    names, rows = class_rows(run.record)
    one = len({name.rpartition("/")[0] for name in names}) == 1
    totals = rows.sum(axis=0)
    table = Table(
        "Sum over the run, of each layer (row) for the loss of each class (column)",
        ("", *(name.rpartition(CLASS)[2] if one else name for name in names)),
        [(layer, *map(charts.signed, row)) for layer, row in zip(run.layers, totals, strict=True)],
        folded=False,
    )
    return Section("classes", "Which classes", tables=[table])


def noise(run: Run) -> Section:
    """Helping %, and how large single allocations are."""
    first = run.losses[0]
    signs, shown = run.signs(first), []
    sampled = run.sampled(first)
    negative, positive, zero = (c.sum(axis=1) for c in (signs.helping, signs.hurting, signs.zero))
    overall = type(signs)(negative, positive, zero)
    if not sampled:
        helping = charts.helping_chart(run.steps, overall.helping_percent(), overall.zero_percent())
        shown.append(
            Chart(helping, f"How many parameters lowered the {first} loss at each step, of those with A ≠ 0.")
        )
    if run.has("histogram_helping"):
        edges, helped, hurt = histogram(run.record, first)
        chart = charts.histogram_chart(edges, helped.sum(axis=0), hurt.sum(axis=0))
        shown.append(Chart(chart, "How large single allocations are, over all parameters and steps."))
    if overall.steps_without_percent() == len(run.steps):
        text = "Every allocation is 0 exactly: nothing moved, or had a gradient."
    elif sampled:
        text = f"{NOISY[0].upper()}{NOISY[1:]}."
    else:
        text = (
            f"On average over the steps {percent(float(overall.mean_helping_percent()))} of the parameters "
            f"with A\u00a0≠\u00a00 helped; {percent(float(overall.mean_zero_percent()))} of all had "
            "A\u00a0=\u00a00 exactly."
        )
    return Section("noise", "How noisy learning is", paragraphs=[text], charts=shown)


def method(run: Run) -> Section:
    """How it was measured, in the words of the record."""
    about = run.about
    spent = [(name, float(run.scalar(name, run.losses[0]).mean())) for name in _COSTS if run.has(name)]
    rows = [
        ("estimator", str(about.get("estimator") or "not recorded")),
        ("steps", f"{len(run.steps):,}, from {run.steps[0]:,} to {run.steps[-1]:,}"),
        ("parameters", f"{run.layout.size:,} in {len(run.layout.names):,} tensors"),
        ("measured losses", ", ".join(run.measured)),
        *((f"{_COSTS[name]} a step", f"{value:.3g}") for name, value in spent if value),
        ("recorded", f"{about.get('created', '?')} by lca {about.get('lca_version', '?')}"),
        *((str(key), _text(value)) for key, value in dict(about.get("settings", {})).items()),
    ]
    return Section(
        "method",
        "How it was measured",
        paragraphs=[_DEFINITION, str(about.get("conventions", ""))],
        tables=[Table("Settings of the run", ("", ""), rows, folded=False)],
    )


def cite(run: Run) -> Section:
    """BibTeX."""
    return Section("cite", "How to cite", code=citation(run.about))


SECTIONS = (summary, losses, layers, explorer, classes, noise, method, cite)
_COSTS = {
    "full_gradients": "full gradients",
    "full_losses": "full losses",
    "batch_gradients": "batch gradients",
    "examples": "gradients of single examples",
}
_DEFINITION = (
    "Loss Change Allocation integrates the gradient of the measured loss along every step of training, and "
    "splits the change of the loss over the parameters that moved: A = Δ ∘ ∫ ∇L(θ + s Δ) ds for s from 0 to "
    "1. The parts add up to the change, up to the residual of the quadrature."
)


def _story(run: Run, book: Balance) -> str:
    totals = run.rows(book.loss).sum(axis=0)
    best = int(np.argmin(totals))
    change = (
        f"the {book.loss} loss went from {number(book.start)} to {number(book.end)}"
        if book.measured
        else f"the {book.loss} loss was allocated {number(book.allocated, '+')}"
    )
    hurt = int(np.count_nonzero(totals > 0))
    n, first, last = len(run.steps), run.steps[0], run.steps[-1]
    when = (
        f"In {n:,} steps"
        if run.gapless
        else f"From step {first:,} to {last:,}, of which {n:,} were measured,"
    )
    return (
        f"{when} {change}. The layer that helped most is {run.layers[best]} "
        f"({number(float(totals[best]), '+')}); {hurt} of {len(totals)} layers hurt in sum."
    )


def _books(books: Sequence[Balance]) -> list[tuple[str, ...]]:
    parts = (
        ("loss at the start", "start", ""),
        ("loss at the end", "end", ""),
        ("change over the measured steps", "change", "+"),
        ("sum of the allocations", "allocated", "+"),
        ("made by buffers (state)", "state_change", "+"),
        ("residual", "residual", "+"),
        ("change between measured steps, not allocated", "between", "+"),
        ("largest residual of a step", "worst_residual", ""),
    )
    rows = [(label, *(number(getattr(b, name), sign) for b in books)) for label, name, sign in parts]
    missed = (f"{b.unconverged} of {b.steps}" if b.promised or b.unconverged else "none asked" for b in books)
    return [*rows, ("steps that missed their tolerance", *missed)]


def _jumped(book: Balance) -> str:
    times = "once" if book.discontinuities == 1 else f"{book.discontinuities} times"
    return (
        f"between two neighbouring steps the loss jumped {times}, {number(book.jumped, '+')} in sum, which "
        "belongs to no step: something else than these updates moved the parameters, or the run went on from "
        "another state than it had ended with."
    )


def _layer_table(run: Run, loss: str, errors: Array | None) -> Table:
    totals, signs = run.rows(loss).sum(axis=0), run.signs(loss)
    whole = totals.sum()
    share = 100 * totals / whole if whole else np.full(len(totals), np.nan)
    bound = [] if errors is None else [("± at most", [number(e) for e in errors])]
    helped = [percent(p) for p in signs.mean_helping_percent()]
    helping = [] if run.sampled(loss) else [("helping", helped)]
    parts: list[tuple[str, Sequence[str]]] = [
        ("", run.layers),
        ("LCA", [number(t, "+") for t in totals]),
        *bound,
        ("share", [percent(s) for s in share]),
        *helping,
        ("exactly 0", [percent(p) for p in signs.mean_zero_percent()]),
    ]
    caption = f"Every layer, for the {loss} loss"
    return Table(caption, [head for head, _ in parts], list(zip(*(cells for _, cells in parts), strict=True)))


def _stderr_bound(run: Run, loss: str) -> Array | None:
    """An upper bound of the standard error of the layers' sums over the run, (layers,).

    Neighbouring steps share a sample, so their errors may not be added up as if they were independent. Those
    of every other step may: with E the even and O the odd steps,
    Var(E + O) ≤ 2 (Var E + Var O) = 2 Σ_t stderr_t². ``None`` if a step has none: the bar would be too short.
    """
    errors = run.stderr(loss)
    return None if errors is None or np.isnan(errors).any() else np.sqrt(2 * (errors**2).sum(axis=0))


def _ends(run: Run) -> Array:
    """The number of updates before each loss of `_path`, (T + 1,)."""
    return np.append(run.steps, run.steps[-1] + 1)


def _path(run: Run, loss: str) -> Array:
    """L at the start of every measured step, and at the end of the last one, (T + 1,)."""
    return np.append(run.scalar("loss_start", loss), run.scalar("loss_end", loss)[-1])


def _rebuilt(run: Run, loss: str) -> Array:
    made = run.scalar("total", loss) + run.scalar("state_change", loss)
    return np.asarray(run.scalar("loss_start", loss)[0] + np.append(0.0, np.cumsum(made)))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
