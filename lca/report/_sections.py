"""The sections of a report of one run: each a pure function of the run, as text, tables and charts."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from lca.analysis import division_names, group_names, histogram_counts
from lca.analysis._reading import is_class
from lca.divisions import _noun
from lca.record._citation import citation
from lca.report import _charts as charts
from lca.report._examples import examples
from lca.report._grouped import charts_of, tables_of, totals_of
from lca.report._overview import summary
from lca.report._parts import Chart, Section, Table, class_table, class_title
from lca.report._training import training
from lca.runs._balance import Conservation, check_conservation
from lca.runs._classes import class_losses, class_text
from lca.runs._format import format_number, format_percent
from lca.runs._run import Run
from lca.runs._settings import setting_rows
from lca.views._signs import NOISY, Signs

Array = np.ndarray


def balance(run: Run) -> Section:
    """The table of the conservation check."""
    checks = [check_conservation(run, loss) for loss in run.losses]
    caption = "Loss change and allocations, in units of the loss"
    estimated = not any(check.has_losses for check in checks)
    rows = _self_check_rows(checks) if estimated else _conservation_rows(checks)
    return Section(
        "balance",
        "Do the allocations add up?",
        paragraphs=[_SELF_CHECK, *_not_in_the_sums(run)] if estimated else [_BALANCE],
        tables=[Table(caption, ("", *run.losses), rows, folded=False, notes=_NOTES)],
    )


def losses(run: Run) -> Section | None:
    """Loss and residual over time; ``None`` if no loss was measured."""
    residuals = {loss: run.per_step("residual", loss) for loss in run.losses}
    residuals = {loss: residual for loss, residual in residuals.items() if not np.isnan(residual).all()}
    shown = {loss: _loss_path(run, loss) for loss in residuals}
    if not shown:
        return None
    steps = _step_ends(run)
    rebuilt = _rebuilt(run, run.losses[0]) if run.consecutive and run.losses[0] in shown else None
    caption = "The measured loss over the steps."
    if rebuilt is not None:
        caption = (
            f"The measured loss over the steps. The circles are the {run.losses[0]} loss rebuilt from its "
            "allocations; they lie on its line if the allocations add up."
        )
    return Section(
        "loss",
        "The loss",
        charts=[
            Chart(charts.loss_chart(steps, shown, rebuilt), caption),
            Chart(
                charts.residual_chart(run.steps, residuals),
                "The residual of each step: loss change minus allocations and state change. It is the error "
                "of the sum.",
            ),
        ],
    )


def layers(run: Run) -> Section:
    """The allocation of each layer."""
    title = "Which layers changed the loss"
    return Section("layers", title, charts=charts_of(run, "layer"), tables=tables_of(run, "layer"))


def groups(run: Run) -> Section | None:
    """The allocation of each group of each division; ``None`` if the record has no groups."""
    found = division_names(run.record)
    if not found:
        return None
    shown = [chart for division in found for chart in charts_of(run, division)]
    tables = [table for division in found for table in tables_of(run, division)]
    return Section("groups", "Groups of tensors", charts=shown, tables=tables)


def explorer(run: Run) -> Section:
    """Layers over time with a slider. Its data come from `lca.report`."""
    estimates = "The values are estimates. " if run.is_sampled(run.losses[0]) else ""
    text = [
        f"{estimates}Blue is helping, orange-red is hurting. Logarithmic colours: each tick of a scale is "
        "10×, so similar shades can differ much (below 1 % of the largest value, the scale is linear). Each "
        "map has a scale of its own. Move the slider, or click a cell of the map, to select steps."
    ]
    return Section("explorer", "Layers over time", paragraphs=text, explorer=True)


def classes(run: Run) -> Section | None:
    """Layers and groups by class; ``None`` if the record has no per-class losses."""
    if not any(is_class(name) for name in run.measured):
        return None
    tables, texts, divisions = [], [], division_names(run.record)
    for measured, names in class_losses([run]).items():
        labels = [run.class_label(name) for name in names]
        for by in ("layer", *divisions):
            totals = np.stack([totals_of(run, by, name).sum(axis=0) for name in names], axis=1)
            caption = (
                f"LCA of each {_noun(by)} for the {measured} loss of each class, summed over {run.scope}"
            )
            tables.append(class_table(caption, (by, group_names(run.record, by)), labels, totals))
        texts.append(class_text(measured, names))
    return Section("classes", class_title(divisions), paragraphs=[*dict.fromkeys(texts)], tables=tables)


_NOTHING = "Every allocation is exactly 0: no parameter moved, or every gradient was 0."


def noise(run: Run) -> Section:
    """Percentages of helping parameters, and the distribution of single allocations."""
    first = run.losses[0]
    if run.is_sampled(first):
        text = f"{NOISY[0].upper()}{NOISY[1:]}." if run.layer_totals(first).any() else _NOTHING
        return Section("noise", "How noisy learning is", paragraphs=[text])
    signs = run.layer_signs(first)
    overall = Signs(*(counts.sum(axis=1) for counts in (signs.helping, signs.hurting, signs.zero)))
    chart = charts.helping_chart(run.steps, overall.helping_percent(), overall.zero_percent())
    caption = (
        f"Helping parameters (A < 0) in each step for the {first} loss, in percent of those with A ≠ 0. "
        "At the dashed line as many help as hurt."
    )
    shown = [Chart(chart, caption)]
    if run.has("histogram_helping"):
        edges, *counts = histogram_counts(run.record, first)
        chart = charts.histogram_chart(edges, *(count.values.sum(axis=0) for count in counts))
        shown.append(Chart(chart, f"How often each size |A| occurs, over all parameters and {run.scope}."))
    if overall.steps_without_percent() == len(run.steps):
        text = _NOTHING
    else:
        helping_percent = format_percent(float(overall.mean_helping_percent()))
        zero_percent = format_percent(float(overall.mean_zero_percent()))
        text = (
            "A is the LCA of one parameter in one step: it helped if A\u00a0<\u00a00 and hurt if "
            f"A\u00a0>\u00a00. Averaged over {run.scope}, {helping_percent} of the parameters with "
            f"A\u00a0≠\u00a00 are helping, and {zero_percent} of all parameters have A\u00a0=\u00a00."
        )
    return Section("noise", "How noisy learning is", paragraphs=[text], charts=shown)


def method(run: Run) -> Section:
    """How the run was measured, from the attributes of the record."""
    about = run.attributes
    spent = [(name, float(run.per_step(name, run.losses[0]).mean())) for name in _COSTS if run.has(name)]
    estimator, *settings = setting_rows(about, len(run.steps))
    rows = [
        estimator,
        ("steps", run.length if run.is_replay else _from_to(run)),
        ("parameters", f"{run.layout.size:,} in {len(run.layout.names):,} tensors"),
        ("measured losses", ", ".join(run.measured)),
        *((f"{_COSTS[name]} per step", f"{value:.3g}") for name, value in spent if value),
        *settings,
        ("recorded", f"{_time(about.get('created'))} by lca {about.get('lca_version', '?')}"),
    ]
    return Section(
        "method",
        "How it was measured",
        paragraphs=[_DEFINITION, str(about.get("conventions", ""))],
        tables=[Table("Settings of the run", ("", ""), rows, folded=False)],
    )


def cite(run: Run) -> Section:
    """BibTeX entries."""
    return Section("cite", "How to cite", code=citation(run.attributes))


SECTIONS = (
    summary,
    balance,
    losses,
    layers,
    groups,
    explorer,
    classes,
    examples,
    noise,
    training,
    method,
    cite,
)
_BALANCE = (
    "The loss changed from its start to its end. Of this change, the allocations explain what the movement "
    "of the parameters did, and the rest is listed by cause. The rows from the allocations to the residual "
    "add up to the change over the measured steps."
)
_SELF_CHECK = (
    "The estimator measures no loss. Where the run measured the loss beside it, its change is compared with "
    "the sum of the allocations over the same steps. Nothing is corrected, and of layers this says nothing."
)
_NOTES = {
    "state change (buffers)": "by what moved and is not a parameter, such as running statistics of BatchNorm",
    "residual": "what is left: the error of the numerical integration",
    "change between measured steps, not allocated": "before, between or after the steps that were measured",
    "largest residual of one step": "residuals of opposite sign cancel in the sum, and show here",
    "95 % interval of that sum, ±": "from the spread of the samples; without the error of the rule",
    "steps that exceeded their tolerance": "the largest residual that the estimator allowed",
}
_COSTS = {
    "full_gradients": "full gradients",
    "full_losses": "full losses",
    "batch_gradients": "batch gradients",
    "examples": "gradients of single examples",
}
_DEFINITION = (
    "Loss Change Allocation integrates the gradient of the measured loss along every training step, and "
    "thereby splits the change of the loss over the parameters that moved: A = Δ ∘ ∫ ∇L(θ + s Δ) ds for s "
    "from 0 to 1. The allocations sum to the change of the loss, up to the residual of the quadrature."
)


def _conservation_rows(checks: Sequence[Conservation]) -> list[tuple[str, ...]]:
    fields = (
        ("loss at the start", "start", ""),
        ("loss at the end", "end", ""),
        ("change over the measured steps", "change", "+"),
        ("sum of the allocations", "allocated", "+"),
        ("state change (buffers)", "state_change", "+"),
        ("residual", "residual", "+"),
        ("change between measured steps, not allocated", "unmeasured_change", "+"),
        ("largest residual of one step", "max_step_residual", ""),
    )
    rows = [(label, *(format_number(getattr(c, name), sign) for c in checks)) for label, name, sign in fields]
    exceeded = (
        f"{c.unconverged_steps} of {c.steps}" if c.has_tolerance or c.unconverged_steps else "no tolerance"
        for c in checks
    )
    return [*rows, ("steps that exceeded their tolerance", *exceeded)]


def _self_check_rows(checks: Sequence[Conservation]) -> list[tuple[str, ...]]:
    """What the self-check of a sampled estimator found."""
    rows = [
        ("checked steps", *(f"{c.checked_steps} of {c.steps}" for c in checks)),
        (
            "change of the measured loss over the checked steps",
            *(_checked(c, "checked_change") for c in checks),
        ),
        ("sum of the allocations over the same steps", *(_checked(c, "checked_allocated") for c in checks)),
        ("95 % interval of that sum, ±", *(_interval(c) for c in checks)),
        ("sum of all allocations", *(format_number(c.allocated, "+") for c in checks)),
    ]
    if any(c.checked_on for c in checks):
        rows.append(("measured on", *(c.checked_on or "all data" for c in checks)))
    return rows


def _checked(check: Conservation, name: str) -> str:
    return format_number(getattr(check, name), "+") if check.checked_steps else "not checked"


def _interval(check: Conservation) -> str:
    if not check.checked_steps:
        return "not checked"
    return "no error bars" if np.isnan(check.checked_margin) else format_number(check.checked_margin)


def _not_in_the_sums(run: Run) -> list[str]:
    """The steps between the first and the last one that have no allocation."""
    if run.is_replay or run.consecutive:
        return []
    within = int(run.steps[-1] - run.steps[0]) + 1
    return [
        f"{within - len(run.steps):,} of the {within:,} steps from the first to the last measured one have "
        "no allocation: they were skipped, or not to be measured (every=). What they did is in no row."
    ]


def _from_to(run: Run) -> str:
    return f"{len(run.steps):,}, from {run.steps[0]:,} to {run.steps[-1]:,}"


def _time(created: Any) -> str:
    """The time of a record without seconds.

    >>> _time("2026-11-28T12:10:12+00:00"), _time("once")
    ('2026-11-28 12:10 UTC', 'once')
    """
    try:
        return datetime.fromisoformat(created).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (TypeError, ValueError, OverflowError):
        return str(created or "at an unknown time")


def _step_ends(run: Run) -> Array:
    """The number of updates before each loss of `_loss_path`, (T + 1,)."""
    return np.append(run.steps, run.ends[-1])


def _loss_path(run: Run, loss: str) -> Array:
    """L at the start of every measured step and at the end of the last one, (T + 1,)."""
    return np.append(run.per_step("loss_start", loss), run.per_step("loss_end", loss)[-1])


def _rebuilt(run: Run, loss: str) -> Array:
    change = run.per_step("total", loss) + run.per_step("state_change", loss)
    return np.asarray(run.per_step("loss_start", loss)[0] + np.append(0.0, np.cumsum(change)))
