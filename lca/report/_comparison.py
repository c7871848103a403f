"""The sections of a page that compares several runs."""

from collections.abc import Iterator, Sequence

import numpy as np

from lca.analysis._reading import is_class
from lca.report import _charts as charts
from lca.report._balance import Tone
from lca.report._conditions import Comparison, Condition, Member
from lca.report._overview import RESIDUAL, STATE, UNMEASURED
from lca.report._parts import Chart, Section, Table, tints_of
from lca.report._pooling import CONFIDENCE, Difference, Pooled, difference, pool
from lca.report._run import count_of, format_number, format_percent
from lca.report._settings import setting_rows

Array = np.ndarray
MAX_ROWS = 12
"""The most layers in the table of the first screen: those with the largest sums."""
MAX_NAMED = 6
MARKS = {"good": "✓", "warn": "!", "bad": "✗"}
OTHERS = (STATE, UNMEASURED, RESIDUAL)


def overview(data: Comparison) -> Section:
    """What differs, and whether the numbers can be trusted."""
    loss = data.losses[0]
    return Section(
        "summary",
        "These runs in short",
        verdicts=_verdicts(data),
        paragraphs=[
            *(_story(data, condition) for condition in data.conditions[:MAX_NAMED]),
            *_most_different(data),
        ],
        tables=[_totals_table(data, loss, MAX_ROWS)],
    )


def layers(data: Comparison) -> Section:
    """One bar per layer and condition, and the tables of all losses."""
    loss = data.losses[0]
    pooled = {c.name: _pooled(data, c, loss) for c in data.conditions}
    caption = (
        f"LCA of each layer for the {loss} loss, summed over the measured steps: bars to the left are "
        f"helping, to the right hurting. {_interval_text(data)}"
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
        tables=[_totals_table(data, name, len(data.layers), folded=True) for name in data.losses],
    )


def differences(data: Comparison) -> Section | None:
    """Each condition against the first; ``None`` with one condition."""
    first, *others = data.conditions
    if not others:
        return None
    loss, rows = data.losses[0], []
    for other in others:
        found = _difference(data, first, other, loss)
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
        f"The sum of a layer in another condition minus that in {first.name}, for the {loss} loss: negative "
        f"means that the layer helped more there. The {100 * CONFIDENCE:.0f} % intervals hold for all layers "
        "of a condition together (Bonferroni), and p-values are corrected for the number of layers (Holm). A "
        "run is one observation; without two runs in both conditions there is no test."
    )
    head = ("", "condition", "difference", "interval", "p (Holm)", "test")
    return Section(
        "differences",
        f"Differences from {first.name}",
        paragraphs=[text],
        tables=[Table("Differences of the layers' sums", head, rows, folded=len(rows) > 2 * MAX_ROWS)],
    )


def loss(data: Comparison) -> Section | None:
    """The loss of every condition over time; ``None`` if no run measured it."""
    name, curves = data.losses[0], {}
    for condition in data.conditions:
        for label, steps, values in _curves(condition, name):
            curves[label] = (steps, values)
    if not curves:
        return None
    caption = f"The {name} loss over the steps. Lines are means over the runs of a condition"
    caption += ", bands reach from the lowest to the highest run."
    return Section("loss", "The loss", charts=[Chart(charts.bands_chart(curves), caption)])


def maps(data: Comparison) -> Section:
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


def classes(data: Comparison) -> Section | None:
    """Layers by class for each condition, with one colour scale; ``None`` without common classes."""
    names = [
        name
        for name in data.members[0].run.measured
        if is_class(name) and all(name in member.run.measured for member in data.members)
    ]
    if not names:
        return None
    means = [
        np.stack([_pooled(data, condition, name).mean for name in names], axis=1)
        for condition in data.conditions
    ]
    largest = float(np.nanmax(np.abs(means), initial=0.0))
    labels = [data.members[0].run.class_label(name) for name in names]
    labels = labels if len(set(labels)) == len(labels) else names
    tables = [
        Table(
            f"{condition.name}: LCA of each layer (row) for each class (column), mean over the runs",
            ("", *labels),
            [(layer, *map(_cell, row)) for layer, row in zip(data.layers, mean, strict=True)],
            folded=False,
            tints=tints_of(mean, largest),
        )
        for condition, mean in zip(data.conditions, means, strict=True)
    ]
    return Section(
        "classes", "Layers by class", paragraphs=["All tables have one colour scale."], tables=tables
    )


def runs(data: Comparison) -> Section:
    """Every run: what was measured, and whether it adds up."""
    tables = [_runs_table(data, loss, folded=i > 0) for i, loss in enumerate(data.losses)]
    return Section("runs", "The runs", tables=tables)


def _runs_table(data: Comparison, loss: str, *, folded: bool) -> Table:
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


def method(data: Comparison) -> Section:
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


def _verdicts(data: Comparison) -> list[tuple[Tone, str]]:
    """What is wrong first, then the check of all runs in one line."""
    found: list[tuple[Tone, str]] = []
    checks = [(member, member.check(name)) for name in data.losses for member in data.members]
    wrong = [(m, c) for m, c in checks if c.diverged or c.verdict()[0] == "bad"]
    for member, check in wrong[:MAX_NAMED]:
        said = "the run diverged." if check.diverged else check.verdict()[1]
        found.append(("bad", f"{member.label}, {check.loss}: {said}"))
    if len(wrong) > MAX_NAMED:
        found.append(("bad", f"{len(wrong) - MAX_NAMED} more such checks: see the table of runs."))
    others = [c for m, c in checks if (m, c) not in wrong]
    good = [c for c in others if c.verdict()[0] == "good"]
    if others and not np.isnan([c.missed_part for c in others]).any():
        largest = f"{100 * max(c.missed_part for c in others):.2g} % of its loss change"
        which = f"All {len(data.members)} runs" if not wrong else "The other runs"
        text = f"{which} add up: the largest residual of a run or of one of its steps is {largest}"
        if len(good) == len(others):
            found.append(("good", f"{text}, and every step met its tolerance."))
        else:
            count = len(others) - len(good)
            text = f"{text}. In {count} of {len(checks)} checks (one for each run and loss), "
            found.append(("warn", f"{text}there was no tolerance or a step exceeded it: see the runs."))
    elif others:
        found.append(
            ("warn", "Some allocations are estimates; the table of the runs says how they were checked.")
        )
    parts = [m.label for m in data.members if not m.run.is_whole]
    if parts:
        text = "the sums of these runs are over their measured steps, and not over the whole run"
        found.append(("warn", f"{text[0].upper()}{text[1:]}: {_list(parts)}."))
    if len({tuple(m.run.steps.tolist()) for m in data.members}) > 1:
        found.append(
            ("warn", "The runs have different steps, so their sums are over different numbers of them.")
        )
    if len({m.run.attributes.get("estimator") for m in data.members}) > 1:
        found.append(("warn", "The runs were measured with different estimators: see the settings."))
    found += [("warn", text) for text in (*data.notes, *_condition_warnings(data))]
    return found


def _condition_warnings(data: Comparison) -> Iterator[str]:
    for condition in data.conditions:
        if condition.has_copies:
            yield (
                f"{condition.name}: two runs have exactly the same sums, as copies of one run would, so "
                "there is no interval."
            )
        stated = [dict(setting_rows(m.run.attributes, len(m.run.steps))) for m in condition.members]
        keys = {key for found in stated for key in found} - {"seed"}
        differ = sorted(key for key in keys if len({found.get(key) for found in stated}) > 1)
        if differ:
            yield f"{condition.name}: its runs differ in {_list(differ)}, and not by chance only."
    single = [condition.name for condition in data.conditions if len(condition.members) == 1]
    if single:
        yield f"One run only, so that chance cannot be told from effect: {_list(single)}."
    missing = sorted({name for m in data.members for name in data.layers if name not in m.layers})
    if missing:
        yield f"Only some of the runs have the layers {_list(missing)}."


def _list(names: Sequence[str]) -> str:
    """Up to six names.

    >>> _list(["a", "b"])
    'a, b'
    """
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _story(data: Comparison, condition: Condition) -> str:
    loss = data.losses[0]
    checks = [member.check(loss) for member in condition.members]
    count = count_of(len(checks), "run")
    ends = pool(
        np.array([[c.start, c.end, c.end - c.start] for c in checks]), intervals=not condition.has_copies
    )
    start, end, change = (_interval(ends, i, "") for i in range(3))
    pooled = _pooled(data, condition, loss)
    rows = _rows(data, condition, loss)
    means = np.concatenate([pooled.mean, rows.mean[:-1]])
    names = [
        *(f"the layer {name}" for name in data.layers),
        "the state (buffers)",
        "the steps that were not measured",
        "the residual",
    ]
    largest = int(np.argmax(np.abs(np.nan_to_num(means))))
    halves = np.concatenate([pooled.half, rows.half[:-1]])
    part = f"the largest part is {names[largest]} ({_interval(Pooled(means, halves), largest, '+')})"
    if np.isnan(ends.mean).any():
        return f"{condition.name} ({count}): the {loss} loss was not measured in every run; {part}."
    return f"{condition.name} ({count}): the {loss} loss went from {start} to {end}, by {change}; {part}."


def _most_different(data: Comparison) -> list[str]:
    """The layer in which two conditions differ most."""
    if len(data.conditions) != 2:
        return []
    first, second = data.conditions
    found = _difference(data, first, second, data.losses[0])
    if not np.isfinite(found.mean).any():
        return []
    at = int(np.nanargmax(np.abs(found.mean)))
    mean, half = found.mean[at], found.half[at]
    if np.isnan(half):
        doubt = "there is no test of it"
    else:
        low, high = format_number(mean - half, "+"), format_number(mean + half, "+")
        p = found.p_adjusted[at]
        chance = "may be chance" if p > 1 - CONFIDENCE else "is more than chance explains"
        doubt = (
            f"this {chance} ({100 * CONFIDENCE:.0f} % interval {low} to {high}, p = {p:.2g} after correction)"
        )
    return [
        f"They differ most in the layer {data.layers[at]}: in {second.name} its sum is "
        f"{format_number(abs(mean))} {'lower (more helping)' if mean < 0 else 'higher (less helping)'} than "
        f"in {first.name}; {doubt}."
    ]


def _totals_table(data: Comparison, loss: str, limit: int, *, folded: bool = False) -> Table:
    """Layers in rows, conditions in columns; below them what is no allocation, and the change."""
    pooled = [_pooled(data, condition, loss) for condition in data.conditions]
    means = np.array([each.mean for each in pooled]).T
    size = np.abs(np.nan_to_num(means)).max(axis=1)
    shown = np.sort(np.argsort(-size, kind="stable")[:limit])
    rows = [(data.layers[i], *(_interval(each, i, "+") for each in pooled)) for i in shown]
    tints = tints_of(means[shown])
    others = [_rows(data, condition, loss) for condition in data.conditions]
    for k, name in enumerate((*OTHERS, "change of the loss")):
        values = [each.mean[k] for each in others]
        if np.isnan(values).all() or (name != "change of the loss" and not np.any(values)):
            continue
        rows.append((name, *(_interval(each, k, "+") for each in others)))
        tints.append([0.0] * len(others))
    rest = f"; the {limit} layers with the largest sums" if limit < len(data.layers) else ""
    caption = (
        f"LCA of each layer for the {loss} loss, summed over the measured steps{rest}. {_interval_text(data)}"
    )
    head = ("", *(c.name for c in data.conditions))
    return Table(caption, head, rows, folded=folded, tints=tints)


def _interval_text(data: Comparison) -> str:
    if all(len(condition.members) == 1 for condition in data.conditions):
        return "Each is one run, so there are no intervals."
    return f"± and lines: {100 * CONFIDENCE:.0f} % interval of the mean over the runs."


def _pooled(data: Comparison, condition: Condition, loss: str) -> Pooled:
    totals = np.array([data.layer_totals(member, loss) for member in condition.members])
    return pool(totals, intervals=not condition.has_copies)


def _rows(data: Comparison, condition: Condition, loss: str) -> Pooled:
    """State change, change without allocation, residual, and the change from start to end."""
    checks = [member.check(loss) for member in condition.members]
    values = [[c.state_change, c.unmeasured_change, c.residual, c.end - c.start] for c in checks]
    return pool(np.array(values), intervals=not condition.has_copies)


def _difference(data: Comparison, first: Condition, second: Condition, loss: str) -> Difference:
    pairs = [sorted(condition.members, key=lambda member: member.seed) for condition in (first, second)]
    seeds = [[member.seed for member in members] for members in pairs]
    paired = seeds[0] == seeds[1] and all(seeds[0]) and len(set(seeds[0])) == len(seeds[0])
    totals = [np.array([data.layer_totals(member, loss) for member in members]) for members in pairs]
    if first.has_copies or second.has_copies:
        totals = [each.mean(axis=0, keepdims=True) for each in totals]
    return difference(*totals, paired=paired)


def _curves(condition: Condition, loss: str) -> Iterator[tuple[str, Array, Array]]:
    """The losses of a condition: of its runs together if they have the same steps, (runs, T + 1)."""
    curves = {}
    for member in condition.members:
        run = member.run
        path = np.append(run.per_step("loss_start", loss), run.per_step("loss_end", loss)[-1])
        if not np.isnan(path).all():
            curves[member.label] = np.append(run.steps, run.steps[-1] + 1), path
    steps = [tuple(each[0].tolist()) for each in curves.values()]
    if len(set(steps)) == 1:
        yield condition.name, np.array(steps[0]), np.array([path for _, path in curves.values()])
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


def _interval(pooled: Pooled, i: int, sign: str) -> str:
    """A mean with half its interval, or without."""
    mean, half = float(pooled.mean[i]), float(pooled.half[i])
    if np.isnan(mean):
        return "—"
    if np.isnan(half) or not 0 < half < 1e6:
        return format_number(mean, sign)
    digits = max(0, 1 - int(np.floor(np.log10(half))))
    return f"{mean:{sign}.{digits}f} ± {half:.{digits}f}".replace("-", "−")


def _cell(value: float) -> str:
    return "—" if np.isnan(value) else f"{value:+.3g}".replace("-", "−")
