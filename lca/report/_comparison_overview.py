"""The first screen of a comparison: what differs, and whether the numbers can be trusted."""

from collections.abc import Iterator

import numpy as np

from lca._verdict import SMALL_MISS
from lca.analysis import RunMeans
from lca.analysis._over_runs import CONFIDENCE
from lca.divisions import OTHER, _noun
from lca.report._comparison_numbers import (
    difference_name,
    interval,
    plural,
    pooled_others,
    pooled_totals,
    total_difference,
    totals_table,
)
from lca.report._overview import NO_JUDGEMENT
from lca.report._parts import Section
from lca.runs import Condition, Runs
from lca.runs._balance import Tone
from lca.runs._format import format_digits, format_percent, layer_named
from lca.runs._run import count_of

MAX_ROWS = 12
"""The most layers in the table of the first screen: those with the largest sums."""
MAX_NAMED = 6
"""The most runs, conditions or layers that are named in a sentence."""


def overview(data: Runs) -> Section:
    """What differs, and whether the numbers can be trusted."""
    loss = data.losses[0]
    return Section(
        "summary",
        "These runs in short",
        verdicts=_verdicts(data),
        paragraphs=[
            *_stories(data),
            *(text for by in ("layer", *data.divisions) for text in _most_different(data, by)),
        ],
        tables=[totals_table(data, loss, MAX_ROWS)],
    )


def _verdicts(data: Runs) -> list[tuple[Tone, str]]:
    """What is wrong first, then the check of all runs in one line."""
    found: list[tuple[Tone, str]] = []
    checks = [member.check(name) for name in data.losses for member in data.members]
    wrong = data.failures()
    found += [("bad", text) for text in wrong[:MAX_NAMED]]
    if len(wrong) > MAX_NAMED:
        found.append(("bad", f"{len(wrong) - MAX_NAMED} more such checks: see the table of runs."))
    others = [check for check in checks if not check.failure]
    good = [c for c in others if c.verdict()[0] == "good"]
    if others and not np.isnan([c.missed_part for c in others]).any():
        missed = max(c.missed_part for c in others)
        which = f"all {len(data.members)} runs add up" if not wrong else "the others add up"
        which += " only roughly" if missed > SMALL_MISS else ""
        largest = f"{format_percent(100 * missed)} of its loss change"
        text = f"{which}: the largest residual of a run or of one of its steps is {largest}"
        if len(good) == len(others):
            text = f"{text[0].upper()}{text[1:]}, and every step met its tolerance. {NO_JUDGEMENT}"
            found.append(("good", text))
        else:
            count = len(others) - len(good)
            text = (
                f"{text[0].upper()}{text[1:]}. In {count} of {len(checks)} checks (one for each run and "
                "loss), there was no tolerance or a step exceeded it: see the runs."
            )
            found.append(("warn", text))
    elif others:
        found.append(
            ("warn", "Some allocations are estimates; the table of the runs says how they were checked.")
        )
    found += [("warn", text) for text in data.cautions if text not in wrong]
    return found


def _stories(data: Runs) -> Iterator[str]:
    """What happened in each condition; the loss and ± are explained where they are first used."""
    named = {member.run.loss_text(data.losses[0]) for member in data.members}
    loss = named.pop() if len(named) == 1 else f"the loss '{data.losses[0]}'"
    pooled = [c for c in data.conditions if len(c.members) > 1 and not c.has_copies]
    for condition in data.conditions[:MAX_NAMED]:
        yield _story(data, condition, loss, explain=condition in pooled[:1])
        loss = f"the {data.losses[0]} loss"


def _about(condition: Condition) -> str:
    """The number of runs of a condition, and the steps and the learning rate where all runs agree in them."""
    runs = [member.run for member in condition.members]
    lengths, rates = {len(run.steps) for run in runs}, {run.learning_rate for run in runs}
    text = count_of(len(runs), "run")
    if len(lengths) == 1:
        text += f", {count_of(lengths.pop(), 'step')}{' each' if len(runs) > 1 else ''}"
    if len(rates) == 1 and (rate := rates.pop()):
        text += f", learning rate {rate}"
    return text


def _story(data: Runs, condition: Condition, named: str, *, explain: bool) -> str:
    loss = data.losses[0]
    checks = [member.check(loss) for member in condition.members]
    about = _about(condition)
    ends = data.pool(condition, np.array([[c.start, c.end, c.end - c.start] for c in checks]))
    start, end = (interval(ends, i, "") for i in range(2))
    verb = "rose" if ends.mean[2] > 0 else "fell"
    change = interval(RunMeans(np.abs(ends.mean), ends.half), 2, "")
    if explain:
        change += f" (± is a {100 * CONFIDENCE:.0f} % interval over the {len(checks)} runs)"
    pooled = pooled_totals(data, condition, loss)
    rows = pooled_others(data, condition, loss)
    means = np.concatenate([pooled.mean, rows.mean[:-1]])
    names = [
        *(f"the movement of {layer_named(name)}" for name in data.layers),
        "the state (buffers)",
        "the steps that were not measured",
        "the residual",
    ]
    largest = int(np.argmax(np.abs(np.nan_to_num(means))))
    halves = np.concatenate([pooled.half, rows.half[:-1]])
    amount = interval(RunMeans(means, halves), largest, "+")
    part = f"{names[largest]} accounts for the largest part ({amount})"
    if np.isnan(ends.mean).any():
        return f"{condition.name} ({about}): {named} was not measured in every run; {part}."
    return f"{condition.name} ({about}): {named} {verb} by {change}, from {start} to {end}; {part}."


def _most_different(data: Runs, by: str) -> list[str]:
    """The layer or group in which two conditions differ most."""
    if len(data.conditions) != 2:
        return []
    first, second = data.conditions
    found = total_difference(data, (first, second), data.losses[0], by)
    named = np.array([name != OTHER or by == "layer" for name in data.names(by)])
    known = named & np.isfinite(found.mean)
    if not known.any():
        return []
    at = int(np.argmax(np.where(known, np.abs(found.mean), -1.0)))
    mean, half = found.mean[at], found.half[at]
    value, more = format_digits(mean, "+", 3), second if mean < 0 else first
    helps = pooled_totals(data, more, data.losses[0], by).mean[at] < 0
    effect = f"it {'helped more' if helps else 'hurt less'} in {more.name}"
    said = "They differ" if by == "layer" else f"By {_noun(by)}, they differ"
    name = layer_named(data.names(by)[at]) if by == "layer" else data.names(by)[at]
    said += f" most in {name}: {difference_name(first, second)} = {value}"
    if np.isnan(half):
        return [f"{said}; {effect}, but there is no test of the difference."]
    low, high = format_digits(mean - half, "+", 3), format_digits(mean + half, "+", 3)
    p, tested = found.p_adjusted[at], int(np.isfinite(found.p_adjusted).sum())
    test = "paired t-test" if found.paired else "Welch's t-test"
    corrected = f", both corrected for {tested} {plural(by)}" if tested > 1 else ""
    chance = "may be chance" if p > 1 - CONFIDENCE else "is more than chance explains"
    return [
        f"{said} ({100 * CONFIDENCE:.0f} % interval {low} to {high}; {test}, p = {p:.2g}{corrected}); "
        f"{effect}, which {chance}."
    ]
