"""The sections of a page that compares several runs."""

from collections.abc import Iterator, Mapping

import numpy as np

from lca.analysis._over_runs import CONFIDENCE
from lca.divisions import _noun
from lca.report import _charts as charts
from lca.report._comparison_groups import bars, curves, groups, groups_over_time
from lca.report._comparison_maps import maps
from lca.report._comparison_numbers import plural, pooled_totals, total_difference, totals_table
from lca.report._comparison_overview import MAX_ROWS, overview
from lca.report._parts import Chart, Section, Table, class_table, class_title, largest_drawn
from lca.runs import Member, Runs
from lca.runs._classes import class_losses, class_text
from lca.runs._format import format_number, format_percent

Array = np.ndarray
MARKS = {"good": "✓", "warn": "!", "bad": "✗"}


def layers(data: Runs) -> Section:
    """One bar per layer and condition, and the tables of all losses."""
    return Section(
        "layers",
        "Layers side by side",
        charts=[bars(data, "layer")],
        tables=[totals_table(data, name, len(data.layers), folded=True) for name in data.losses],
    )


def differences(data: Runs) -> Section | None:
    """Each condition against the first, by layer and by group; ``None`` with one condition."""
    first, *others = data.conditions
    if not others:
        return None
    groups = " or group" if data.divisions else ""
    text = (
        f"The sum of a layer{groups} in another condition minus that in the first condition, {first.name}, "
        f"for the {data.losses[0]} loss: negative means that it helped more, or hurt less, there. The "
        f"{100 * CONFIDENCE:.0f} % intervals hold for all rows of a condition in a table together "
        "(Bonferroni), and p-values are corrected for their number (Holm). A run is one observation; without "
        "two runs in both conditions there is no test."
    )
    return Section(
        "differences",
        f"Differences from {first.name}",
        paragraphs=[text],
        tables=[_difference_table(data, by) for by in ("layer", *data.divisions)],
    )


def _difference_table(data: Runs, by: str) -> Table:
    (first, *others), rows = data.conditions, []
    for other in others:
        found = total_difference(data, (first, other), data.losses[0], by)
        test = "paired by seed" if found.paired else "Welch's t-test"
        for i, name in enumerate(data.names(by)):
            mean, half = found.mean[i], found.half[i]
            known = not np.isnan(half)
            low, high = (
                (format_number(mean - half, "+"), format_number(mean + half, "+")) if known else ("", "")
            )
            interval = f"{low} to {high}" if known else "none"
            p = f"{found.p_adjusted[i]:.2g}" if known else "no test"
            value = "only in one" if np.isnan(mean) else format_number(mean, "+")
            rows.append((name, other.name, value, interval, p, test if known else ""))
    head = ("", "condition", "difference", "interval", "p (Holm)", "test")
    which = "" if by == "layer" else f" ({_noun(by)})"
    caption = f"Differences of the {plural(by)}' sums{which}"
    return Table(caption, head, rows, folded=len(rows) > 2 * MAX_ROWS)


def loss(data: Runs) -> Section | None:
    """The loss of every condition over time; ``None`` if no run measured it."""
    name, found = data.losses[0], {}
    paths = {member.label: _loss_path(member, name) for member in data.members}
    for condition in data.conditions:
        for label, steps, values in curves(condition, paths):
            found[label] = (steps, values)
    if not found:
        return None
    caption = f"The {name} loss over the steps. Lines are means over the runs of a condition"
    caption += ", bands reach from the lowest to the highest run; both end where the shortest run does."
    return Section("loss", "The loss", charts=[Chart(charts.bands_chart(found), caption)])


def layers_over_time(data: Runs) -> Section:
    """Layers over time, one map per condition."""
    text = (
        f"LCA of each layer for the {data.losses[0]} loss. All maps have one colour scale, so that equal "
        "colours are equal values: blue is helping, orange-red is hurting. It is linear up to 1 % of the "
        "largest value and logarithmic beyond. A cell is the sum over the measured steps of an interval, "
        "averaged over the runs of the condition."
    )
    shown = maps(data, "layer")
    return Section("maps", "Layers over time", paragraphs=[text], charts=shown, side_by_side=True)


def classes(data: Runs) -> Section | None:
    """Layers and groups by class for each condition; ``None`` without common classes."""
    found = class_losses([member.run for member in data.members])
    if not found:
        return None
    texts = [class_text(measured, names) for measured, names in found.items()]
    scale = "All tables have one colour scale."
    if data.divisions:
        scale = "All tables of layers have one colour scale, and so have those of each division of groups."
    return Section(
        "classes",
        class_title(data.divisions),
        paragraphs=[*dict.fromkeys(texts), scale],
        tables=[table for by in ("layer", *data.divisions) for table in _class_tables(data, by, found)],
    )


def _class_tables(data: Runs, by: str, found: Mapping[str, list[str]]) -> Iterator[Table]:
    """One table for each condition and each loss that has classes, all with one colour scale."""
    means = {
        (measured, condition): np.stack([pooled_totals(data, condition, n, by).mean for n in names], axis=1)
        for measured, names in found.items()
        for condition in data.conditions
    }
    largest = max(largest_drawn(mean, data.names(by), by) for mean in means.values())
    for (measured, condition), mean in means.items():
        labels = [data.members[0].run.class_label(name) for name in found[measured]]
        labels = labels if len(set(labels)) == len(labels) else found[measured]
        caption = f"{condition.name}: LCA of each {_noun(by)} for the {measured} loss of each class"
        caption += ", mean over the runs" if len(condition.members) > 1 else ""
        yield class_table(caption, (by, data.names(by)), labels, mean, largest=largest)


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
    settings = [dict(member.setting_rows()) for member in data.members]
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


SECTIONS = (
    overview, layers, groups, differences, loss, layers_over_time, groups_over_time, classes, runs, method,
)  # fmt: skip


def _loss_path(member: Member, loss: str) -> Array:
    """The loss at the start of every measured step and at the end of the last one, (T + 1,)."""
    run = member.run
    return np.append(run.per_step("loss_start", loss), run.per_step("loss_end", loss)[-1])


def _helping_percent(member: Member, loss: str) -> str:
    signs = member.run.layer_signs(loss)
    helping, hurting = (counts.sum(axis=1) for counts in (signs.helping, signs.hurting))
    moved = helping + hurting > 0
    if not moved.any():
        return "undefined"
    return format_percent(float(np.mean(100 * helping[moved] / (helping + hurting)[moved])))
