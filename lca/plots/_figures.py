"""The figures that a record has data for, by name: what `figure_of` and `save_all` draw."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias, TypedDict

import numpy as np

from lca import analysis
from lca._extras import extra
from lca.analysis._reading import is_class
from lca.divisions import OTHER
from lca.plots._canvas import Intervals
from lca.plots._layers import plot_classes, plot_layer_time, plot_neurons
from lca.plots._loss import plot_conditions, plot_cumulative, plot_loss, plot_totals, plot_train_heldout
from lca.plots._noise import plot_helping, plot_histogram, plot_parameter
from lca.plots._synchrony import plot_peaks
from lca.runs import Condition, Member, Runs
from lca.runs._classes import class_losses
from lca.runs._drawn import drawn_places
from lca.runs._margins import margin_bound
from lca.runs._run import Run
from lca.views._signs import Signs

with extra("report"):
    from matplotlib.axes import Axes

Figures: TypeAlias = Iterator[tuple[str, Callable[[], Axes]]]
MAX_TRACED = 10
"""The most traced parameters that are drawn."""


def figures_of(runs: Runs, by: str) -> dict[str, Callable[[], Axes]]:
    """The figures by layer or by another division, with the function that draws each.

    Those that have no layers, such as that of the loss, are among the figures by layer.
    """
    return dict(_of_runs(runs, by) if len(runs.members) > 1 else _of_run(runs.members[0], by))


def _of_run(member: Member, by: str) -> Figures:
    yield from _of_groups(member, by)
    yield from _classes(member, by)
    if by == "layer":
        yield from _of_whole(member.run)


def _drawn(names: Sequence[str], by: str) -> tuple[np.ndarray, list[str], str]:
    """The places and names of the groups that are drawn, and words for them: heads without all the rest.

    >>> _drawn(["other", "attn[head 0]"], "head")
    (array([1]), ['attn[head 0]'], "head (without 'other')")
    """
    shown = drawn_places(names, by)
    less = "" if len(shown) == len(names) else f" (without {OTHER!r})"
    return shown, [names[int(i)] for i in shown], f"{by}{less}"


def _of_groups(member: Member, by: str) -> Figures:
    run, (shown, names, words) = member.run, _drawn(member.names(by), by)
    over = "" if by == "layer" else f" by {words}"
    rows = {name: member.rows(by, name)[:, shown] for name in run.losses[:2]}
    losses = dict(zip(("training loss", "held-out loss"), rows, strict=False))
    first, totals = rows[run.losses[0]], [each.sum(axis=0) for each in rows.values()]
    loss, along = f", {run.losses[0]} loss" if over else "", _along(run)
    ends = _intervals(run, by, shown, totals)
    bars = f"{_titled(run, 'total allocation')}{over}{loss if len(rows) == 1 else ''}"
    bars += (",\n" if over else " ") + f"over {run.scope}"
    bars += "" if ends is None else ",\nwith 95 % intervals"
    yield "totals", lambda: plot_totals(names, *totals, intervals=ends, labels=losses, title=bars)
    mapped = f"{_titled(run, 'allocation over time')}{over}{loss}"
    yield "layer_time", lambda: plot_layer_time(first, names, title=mapped, **along)
    summed = _titled(run, "cumulative allocation") + (f"{over}{loss}" if over else " of the loss change")
    yield "cumulative", lambda: plot_cumulative(first, names, title=summed, **along)
    if len(rows) == 2:
        named, (train, heldout) = {shown: f"{name} loss" for shown, name in losses.items()}, rows.values()
        both = f"{_titled(run, 'cumulative allocation')}{over} of the training and the held-out loss"
        yield (
            "train_heldout",
            lambda: plot_train_heldout(train, heldout, names, labels=named, title=both, **along),
        )
    if len(names) > 1 and len(run.steps) > 2:
        colors = {"one layer": "one group", "several layers": "several groups"} if over else {}
        yield (
            "peaks",
            lambda: plot_peaks(
                analysis.learning_peaks(first, top=20),
                names,
                labels=colors,
                title=f"Learning peaks{over}",
                **along,
            ),
        )


def _titled(run: Run, what: str) -> str:
    """The beginning of a title, which tells estimates."""
    return f"Estimated {what}" if run.is_sampled(run.losses[0]) else what.capitalize()


def _intervals(run: Run, by: str, shown: np.ndarray, totals: Sequence[np.ndarray]) -> Intervals | None:
    """The ends of 95 % intervals of the totals of each loss, if all have error bars."""
    margins = [margin_bound(run, by, name) for name in run.losses[: len(totals)]]
    known = [margin[shown] for margin in margins if margin is not None]
    if len(known) < len(totals):
        return None
    lower, upper = np.subtract(totals, known), np.add(totals, known)
    return (lower, upper) if len(totals) > 1 else (lower[0], upper[0])


def _of_whole(run: Run) -> Figures:
    """The figures that are not of groups."""
    first = run.losses[0]
    if not np.isnan(run.per_step("loss_end", first)).any() and run.consecutive:
        yield "loss", lambda: _loss(run, first)
    if not run.is_sampled(first):
        yield "helping", lambda: _helping(run, first)
        if run.has("histogram_helping"):
            edges, *counts = analysis.histogram_counts(run.record, first)
            yield "histogram", lambda: plot_histogram(edges, *(each.values.sum(axis=0) for each in counts))
    if run.has("neuron_total"):
        names = analysis.group_names(run.record, "neuron")
        rows = partial(analysis.group_totals, run.record, "neuron", first)
        yield "neurons", lambda: plot_neurons(rows().values, names, **_along(run))
    yield from _traced(run, first)


class _Along(TypedDict):
    """The axis of the steps, of `Style`."""

    steps: np.ndarray
    unit: str


def _along(run: Run) -> _Along:
    return {"steps": np.append(run.steps, run.ends[-1]), "unit": run.unit}


def _of_runs(runs: Runs, by: str) -> Figures:
    runs.names(by)  # an unknown one is an error now
    yield "conditions", lambda: _conditions(runs, by)
    series = runs.series(by=by)["total"]
    for condition in runs.conditions:
        of = series.sel(run=[member.label for member in condition.members]).dropna("step")
        if of.sizes["step"]:
            yield f"cumulative-{condition.name}", partial(_mean_curves, runs, condition.name, by, of.values)
    yield from _classes_of_runs(runs, by)


def _conditions(runs: Runs, by: str) -> Axes:
    found, (shown, names, words) = runs.totals(by=by), _drawn(runs.names(by), by)
    mean, *ends = (found[name].values[:, shown] for name in ("mean", "lower", "upper"))
    level = f"{100 * found.confidence:g} % intervals"
    title = f"Total allocation by condition and {words},\n{runs.losses[0]} loss, with {level}"
    conditions = [condition.name for condition in runs.conditions]
    return plot_conditions(names, conditions, mean, intervals=(ends[0], ends[1]), title=title)


def _mean_curves(runs: Runs, name: str, by: str, rows: np.ndarray) -> Axes:
    """The curves of the mean over the steps that all runs of a condition have, (runs, steps, groups)."""
    shown, names, words = _drawn(runs.names(by), by)
    rows = rows[..., shown]
    sums = np.concatenate([np.zeros_like(rows[:, :1]), np.cumsum(rows, axis=1)], axis=1)
    pooled = runs.pool(runs.condition(name), sums)
    line = " " if by == "layer" else "\n"
    title = f"{name}: cumulative allocation by {words},{line}mean over {len(rows)} runs"
    ends = None if np.isnan(pooled.half).all() else (pooled.lower, pooled.upper)
    return plot_cumulative(rows.mean(axis=0), names, intervals=ends, title=title)


def _loss(run: Run, name: str) -> Axes:
    start, end, total = (run.per_step(each, name) for each in ("loss_start", "loss_end", "total"))
    rebuilt = start[0] + np.append(0.0, np.cumsum(total))
    return plot_loss(np.append(start[0], end), rebuilt, name=f"{name} loss", **_along(run))


def _helping(run: Run, name: str) -> Axes:
    signs = run.layer_signs(name)
    overall = Signs(*(counts.sum(axis=1) for counts in (signs.helping, signs.hurting, signs.zero)))
    return plot_helping(overall.helping_percent(), overall.zero_percent(), **_along(run))


def _classes(member: Member, by: str) -> Figures:
    """One figure for each loss that has classes."""
    run = member.run
    parents = dict.fromkeys(name.rpartition("/")[0] for name in run.measured if is_class(name))
    for parent in parents:
        names = [n for n in run.measured if is_class(n) and n.rpartition("/")[0] == parent]
        yield f"classes-{parent}" if parent else "classes", partial(_class_map, member, by, names)


def _class_map(member: Member, by: str, classes: list[str]) -> Axes:
    shown, names, words = _drawn(member.names(by), by)
    totals = np.stack([member.totals(by, name)[shown] for name in classes], axis=1)
    labels = {name: member.run.class_label(name) for name in classes}
    ax = plot_classes(names, classes, totals, labels=labels)
    ax.set_title(ax.get_title().replace("by layer", f"by {words}", 1), fontsize="medium")
    return ax


def _classes_of_runs(runs: Runs, by: str) -> Figures:
    """One figure for each condition and loss that has classes in all runs; those of a loss have one scale."""
    for measured, classes in class_losses([member.run for member in runs.members]).items():
        means = {c.name: _class_means(runs, c, by, classes) for c in runs.conditions}
        limit = max(float(np.nanmax(np.abs(mean), initial=0.0)) for mean in means.values()) or 1.0
        for name, mean in means.items():
            yield (
                f"classes-{measured}-{name}",
                partial(_mean_class_map, runs, (name, by), mean, classes, limit),
            )


def _class_means(runs: Runs, condition: Condition, by: str, classes: list[str]) -> np.ndarray:
    """Means over the runs of a condition, (drawn groups, classes); NaN for a group that it lacks."""
    means = [runs.pool(condition, runs.values(condition, by, each)).mean for each in classes]
    drawn: np.ndarray = np.stack(means, axis=1)[drawn_places(runs.names(by), by)]
    return drawn


def _mean_class_map(
    runs: Runs, of: tuple[str, str], means: np.ndarray, classes: list[str], limit: float
) -> Axes:
    """The map of the groups that a condition has; ``of``: its name, and the division."""
    condition, by = of
    known = ~np.isnan(means).any(axis=1)
    _, names, words = _drawn(runs.names(by), by)
    names = [name for name, has in zip(names, known.tolist(), strict=True) if has]
    labels = {name: runs.members[0].run.class_label(name) for name in classes}
    ax = plot_classes(names, classes, means[known], labels=labels, limits=(-limit, limit))
    title, count = (
        ax.get_title().replace("by layer", f"by {words}", 1),
        len(runs.condition(condition).members),
    )
    over = f"mean over {count} runs" if count > 1 else "one run"
    ax.set_title(f"{condition}: {title[0].lower()}{title[1:]},\n{over}", fontsize="medium")
    return ax


def _traced(run: Run, measured: str) -> Figures:
    if not run.has("trace_theta"):
        return
    series = analysis.traced_parameters(run.record, measured)
    for at, label in enumerate(series["parameter"].values.tolist()[:MAX_TRACED]):
        columns = [series[name].values[:, at] for name in ("theta", "movement", "allocation")]
        yield f"parameter-{label}", partial(plot_parameter, *columns, name=label, **_along(run))
