"""The sections of a page that compares several runs."""

from collections.abc import Iterator
from functools import reduce

import numpy as np

from lca.analysis._over_runs import CONFIDENCE
from lca.report import _charts as charts
from lca.report._comparison_numbers import interval_text, layer_difference, pooled_totals, totals_table
from lca.report._comparison_overview import MAX_ROWS, overview
from lca.report._parts import Chart, Section, Table, class_table
from lca.runs import Condition, Member, Runs
from lca.runs._classes import class_losses, class_text
from lca.runs._format import format_number, format_percent
from lca.runs._settings import setting_rows

Array = np.ndarray
MARKS = {"good": "✓", "warn": "!", "bad": "✗"}


def layers(data: Runs) -> Section:
    """One bar per layer and condition, and the tables of all losses."""
    loss = data.losses[0]
    pooled = {c.name: pooled_totals(data, c, loss) for c in data.conditions}
    caption = (
        f"LCA of each layer for the {loss} loss, summed over the measured steps: bars to the left are "
        f"helping, to the right hurting. "
        f"{interval_text(data, 'Lines')}"
    )
    chart = charts.conditions_chart(
        data.layers,
        {name: each.mean for name, each in pooled.items()},
        {name: each.half for name, each in pooled.items()},
    )
    return Section(
        "layers",
        "Layers side by side",
        charts=[Chart(chart, caption)],
        tables=[totals_table(data, name, len(data.layers), folded=True) for name in data.losses],
    )


def differences(data: Runs) -> Section | None:
    """Each condition against the first; ``None`` with one condition."""
    first, *others = data.conditions
    if not others:
        return None
    loss, rows = data.losses[0], []
    for other in others:
        found = layer_difference(data, first, other, loss)
        test = "paired by seed" if found.paired else "Welch's t-test"
        for i, name in enumerate(data.layers):
            mean, half = found.mean[i], found.half[i]
            known = not np.isnan(half)
            low, high = (
                (format_number(mean - half, "+"), format_number(mean + half, "+")) if known else ("", "")
            )
            interval = f"{low} to {high}" if known else "none"
            p = f"{found.p_adjusted[i]:.2g}" if known else "no test"
            value = "only in one" if np.isnan(mean) else format_number(mean, "+")
            rows.append((name, other.name, value, interval, p, test if known else ""))
    text = (
        f"The sum of a layer in another condition minus that in the first condition, {first.name}, for the "
        f"{loss} loss: negative means that the layer helped more, or hurt less, there. The "
        f"{100 * CONFIDENCE:.0f} % intervals hold for all layers of a condition together (Bonferroni), and "
        "p-values are corrected for the number of layers (Holm). A run is one observation; without two runs "
        "in both conditions there is no test."
    )
    head = ("", "condition", "difference", "interval", "p (Holm)", "test")
    return Section(
        "differences",
        f"Differences from {first.name}",
        paragraphs=[text],
        tables=[Table("Differences of the layers' sums", head, rows, folded=len(rows) > 2 * MAX_ROWS)],
    )


def loss(data: Runs) -> Section | None:
    """The loss of every condition over time; ``None`` if no run measured it."""
    name, curves = data.losses[0], {}
    for condition in data.conditions:
        for label, steps, values in _curves(condition, name):
            curves[label] = (steps, values)
    if not curves:
        return None
    caption = f"The {name} loss over the steps. Lines are means over the runs of a condition"
    caption += ", bands reach from the lowest to the highest run; both end where the shortest run does."
    return Section("loss", "The loss", charts=[Chart(charts.bands_chart(curves), caption)])


def maps(data: Runs) -> Section:
    """Layers over time, one map per condition. The numbers come from `lca.report._comparison_page`."""
    return Section(
        "maps",
        "Layers over time",
        paragraphs=[
            "All maps have one colour scale, so that equal colours are equal values: blue is helping, "
            "orange-red is hurting. It is linear up to 1 % of the largest value and logarithmic beyond. A "
            "cell is the sum over the measured steps of an interval, averaged over the runs of the condition."
        ],
        side_by_side=True,
    )


def classes(data: Runs) -> Section | None:
    """Layers by class for each condition, with one colour scale; ``None`` without common classes."""
    found = class_losses([member.run for member in data.members])
    means = {
        (measured, condition): np.stack([pooled_totals(data, condition, n).mean for n in names], axis=1)
        for measured, names in found.items()
        for condition in data.conditions
    }
    if not means:
        return None
    largest = max(float(np.nanmax(np.abs(mean), initial=0.0)) for mean in means.values())
    tables = []
    for (measured, condition), mean in means.items():
        labels = [data.members[0].run.class_label(name) for name in found[measured]]
        labels = labels if len(set(labels)) == len(labels) else found[measured]
        caption = f"{condition.name}: LCA of each layer for the {measured} loss of each class"
        caption += ", mean over the runs" if len(condition.members) > 1 else ""
        tables.append(class_table(caption, data.layers, labels, mean, largest=largest))
    texts = [class_text(measured, names) for measured, names in found.items()]
    return Section(
        "classes",
        "Layers by class",
        paragraphs=[*dict.fromkeys(texts), "All tables have one colour scale."],
        tables=tables,
    )


def runs(data: Runs) -> Section:
    """Every run: what was measured, and whether it adds up."""
    tables = [_runs_table(data, loss, folded=i > 0) for i, loss in enumerate(data.losses)]
    return Section("runs", "The runs", tables=tables)


def _runs_table(data: Runs, loss: str, *, folded: bool) -> Table:
    rows = []
    for member in data.members:
        check, run = member.check(loss), member.run
        tone, said = check.verdict()
        mark = MARKS["bad" if check.diverged else tone]
        cells = {
            "": member.label,
            "steps": f"{len(run.steps):,}" if run.is_whole else f"part: {run.scope}",
            "loss at the start": format_number(check.start),
            "at the end": format_number(check.end),
            "residual": format_number(check.residual, "+"),
            "helping": "not shown" if run.is_sampled(loss) else _helping_percent(member, loss),
            "do the allocations add up?": f"{mark} {'the run diverged; ' if check.diverged else ''}{said}",
        }
        rows.append(tuple(cells.values()))
    return Table(f"All runs, for the {loss} loss", tuple(cells), rows, folded=folded)


def method(data: Runs) -> Section:
    """The settings: those of all runs, and those in which they differ."""
    settings = [dict(setting_rows(m.run.attributes, len(m.run.steps))) for m in data.members]
    keys = list(dict.fromkeys(key for found in settings for key in found))
    same = [(k, settings[0][k]) for k in keys if len({found.get(k) for found in settings}) == 1]
    differ = [k for k in keys if len({found.get(k) for found in settings}) > 1]
    tables = [Table("Settings of all runs", ("", ""), same, folded=False)] if same else []
    if differ:
        rows = [
            (member.label, *(found.get(key, "not stated") for key in differ))
            for member, found in zip(data.members, settings, strict=True)
        ]
        tables.append(Table("Settings in which the runs differ", ("", *differ), rows, folded=False))
    return Section("method", "How they were measured", tables=tables)


SECTIONS = (overview, layers, differences, loss, maps, classes, runs, method)


def _curves(condition: Condition, loss: str) -> Iterator[tuple[str, Array, Array]]:
    """The losses of a condition over the steps that all its runs have, (runs, steps); else one by one."""
    curves = {}
    for member in condition.members:
        run = member.run
        path = np.append(run.per_step("loss_start", loss), run.per_step("loss_end", loss)[-1])
        if not np.isnan(path).all():
            curves[member.label] = np.append(run.steps, run.ends[-1]), path
    common = reduce(np.intersect1d, [at for at, _ in curves.values()]) if curves else np.array([])
    if len(common) > 1:
        paths = [path[np.searchsorted(at, common)] for at, path in curves.values()]
        yield condition.name, common, np.array(paths)
        return
    for label, (at, path) in curves.items():
        yield f"{condition.name}: {label}", at, path[None]


def _helping_percent(member: Member, loss: str) -> str:
    signs = member.run.layer_signs(loss)
    helping, hurting = (counts.sum(axis=1) for counts in (signs.helping, signs.hurting))
    moved = helping + hurting > 0
    if not moved.any():
        return "undefined"
    return format_percent(float(np.mean(100 * helping[moved] / (helping + hurting)[moved])))
