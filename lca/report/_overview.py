"""The first screen: what happened in the run, in two sentences and one bar chart."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lca._listing import listed
from lca._verdict import LARGE_MISS
from lca.analysis import group_names, group_totals
from lca.analysis._variables import divisions_of
from lca.divisions import _noun
from lca.report._parts import Bar, Bars, Section
from lca.runs._balance import Conservation, Tone, check_conservation
from lca.runs._format import format_digits, format_number, format_percent, layer_named, short_labels
from lca.runs._run import Run, count_of

MAX_LAYERS = 8
"""The most layers that have a bar of their own on the first screen."""
MAX_NAMED = 3
MAX_GROUPS = 8
"""The most hurting layers that are named in the text."""
STATE = "state (buffers)"
UNMEASURED = "steps that were not measured"
BETWEEN = "between the steps"
RESIDUAL = "not allocated (residual)"
NO_JUDGEMENT = "This says nothing about how good the training is."
ROOM = 0.2
"""The least part of the bars' width on either side of 0, where the words helping and hurting are."""


@dataclass(frozen=True)
class Item:
    """A part of the loss change.

    Attributes
    ----------
    name, value
        The label of its bar, and its length in units of the loss.
    kind
        "layer", or "other" for what is not an allocation.
    subject
        Its name in a sentence.
    size
        The number of parameters.
    """

    name: str
    value: float
    kind: str
    subject: str = ""
    size: int = 0


def summary(run: Run) -> Section:
    """What happened in the run, with all warnings."""
    checks = [check_conservation(run, loss) for loss in run.losses]
    return Section(
        "summary",
        "This run in short",
        verdicts=_verdicts(run, checks),
        paragraphs=[
            " ".join(_story(run, checks[0])),
            *_by_group(run, checks[0]),
            *_other_losses(run, checks[1:]),
        ],
        bars=_bars(run, checks[0]),
    )


def _verdicts(run: Run, checks: Sequence[Conservation]) -> list[tuple[Tone, str]]:
    """The worst first: a run that diverged, then the conservation check, then what is missing."""
    found: list[tuple[Tone, str]] = [
        ("bad", f"{check.loss}: {_divergence(check)}") for check in checks if check.diverged
    ]
    part = "" if run.consecutive else ", measured steps"
    found += [(tone, f"{c.loss}{part}: {text}") for c in checks for tone, text in [c.verdict()]]
    if not run.complete:
        text = "The record is not complete: the run was in progress or interrupted when this page was made."
        found.append(("warn", text))
    if not run.consecutive:
        found.append(("warn", _missing_steps(run, checks[0])))
    elif run.steps[0]:
        text = (
            f"The record begins at {run.unit} {run.steps[0]:,}; the "
            f"{'updates' if run.is_replay else 'steps'} before it are not part of this page."
        )
        found.append(("warn", text))
    if run.restarts:
        found.append(("warn", _restarts(run.restarts)))
    if run.displacements:
        found.append(("warn", _displacements(run.displacements)))
    if run.state_moved_steps:
        found.append(("warn", _state_moved(run.state_moved_steps, len(run.steps))))
    if run.span > 1:
        found.append(("warn", _straight_lines(run)))
    if run.is_replay:
        found.append(("warn", _BETWEEN_CHECKPOINTS))
    found += [("warn", f"{c.loss}: {_discontinuities(c)}") for c in checks if c.discontinuities]
    found.sort(key=lambda verdict: ("bad", "warn", "good").index(verdict[0]))
    good = next((i for i, (tone, _) in enumerate(found) if tone == "good"), None)
    if good is not None:
        found[good] = "good", f"{found[good][1]} {NO_JUDGEMENT}"
    return found


def _missing_steps(run: Run, check: Conservation) -> str:
    text = (
        f"Not every step was measured. The layers' sums below are over {run.scope}, and say nothing about "
        "the steps in between"
    )
    if not _is_measured(check):
        return f"{text}."
    return (
        f"{text}: the {check.loss} loss changed by {format_number(check.change, '+')} in the measured steps "
        f"and by {format_number(check.unmeasured_change, '+')} in the others."
    )


_BETWEEN_CHECKPOINTS = (
    "A step of this page is the straight line from a checkpoint to the next one. The sums over all "
    "parameters are exact, but if there were several updates between the two, the line is not the path of "
    "the training, and the parts of layers and parameters can differ from those along the path."
)


def _straight_lines(run: Run) -> str:
    text = (
        f"A step of this page is a straight line over {run.span:,} updates (span={run.span}). The sums over "
        "all parameters are exact, but the line is not the path of the training, and the parts of layers and "
        "parameters can differ from those along the path"
    )
    each = (
        run.per_step("path_difference", run.losses[0]) if run.has("path_difference") else np.full(1, np.nan)
    )
    known = each[np.isfinite(each)]
    if not len(known):
        return f"{text}."
    half, most = (format_percent(100 * float(value)) for value in (np.median(known), known.max()))
    measured = f"in the {count_of(len(known), 'step')} whose updates were measured as well"
    return f"{text}: {measured}, those of layers by {half} (median) and at most {most}."


def _restarts(steps: Sequence[int]) -> str:
    return (
        f"The record was continued at {_named(steps)}, and the estimator "
        "began anew there: samples, checks and costs are not those of a run without a stop."
    )


def _displacements(steps: Sequence[int]) -> str:
    return (
        f"The record was continued at {_named(steps)}, but training did not continue from where it had "
        "ended: the parameters are others. The sums are over parts that do not follow one another."
    )


def _state_moved(moved: int, steps: int) -> str:
    return (
        f"In {moved:,} of {count_of(steps, 'step')} the state moved that the loss depends on, such as the "
        "running statistics of BatchNorm; what that changed in the loss is in none of these numbers."
    )


def _named(steps: Sequence[int]) -> str:
    shown = listed([f"{step:,}" for step in steps], MAX_NAMED)
    return f"step{'' if len(steps) == 1 else 's'} {shown}"


def _divergence(check: Conservation) -> str:
    start, end = format_number(check.start), format_number(check.end)
    return (
        f"the run diverged: the loss went from {start} to {end}. The sums below are about a run that did not "
        "learn; lower the learning rate."
    )


def _discontinuities(check: Conservation) -> str:
    times = "once" if check.discontinuities == 1 else f"{check.discontinuities} times"
    total = format_number(check.discontinuity_change, "+")
    return (
        f"the loss changed between consecutive steps ({times}, {total} in total). This change belongs to no "
        "step: something other than the measured updates changed the parameters or the state, or training "
        "resumed from a different checkpoint."
    )


def _story(run: Run, check: Conservation) -> Iterator[str]:
    items = _items(run, check)
    yield _change(run, check)
    if not run.consecutive:
        yield _measured_share(run)
    if run.is_sampled(check.loss):
        yield f"The allocations are estimates from samples{check.sampling_text()}."
    largest = max(items, key=lambda item: abs(item.value))
    if not largest.value:
        yield "No layer changed the loss."
        return
    share = _share(largest.value, check)
    of_change = f" ({share} of {_whole(check)})" if share else ""
    amount = format_digits(largest.value, "+")
    yield f"{_capital(largest.subject)} accounts for the largest part: {amount}{of_change}."
    layers = [item for item in items if item.kind == "layer"]
    top = max(layers, key=lambda item: abs(item.value))
    if top is not largest and top.value:
        yield f"The layer with the largest part is {top.name} ({format_digits(top.value, '+')})."
    yield from _large_others(items, largest, check)
    yield _hurting(run, layers)


def _measured_share(run: Run) -> str:
    """How many of the updates so far were measured."""
    count, updates = len(run.steps), int(run.steps[-1]) + 1
    return (
        f"Only {count:,} of {updates:,} steps were measured ({format_percent(100 * count / updates)}); all "
        "that is said of layers is about these."
        if not run.is_replay
        else f"Only {count:,} steps between checkpoints are here; all that is said of layers is about these."
    )


def _large_others(items: Sequence[Item], largest: Item, check: Conservation) -> Iterator[str]:
    """What is not an allocation but a large part of the change, such as the state."""
    whole = sum(abs(item.value) for item in items)
    for item in items:
        if item.kind == "other" and item is not largest and abs(item.value) > LARGE_MISS * whole:
            share = _share(item.value, check)
            of_change = f" ({share} of {_whole(check)})" if share else ""
            subject = _capital(item.subject).rstrip(",")
            yield f"{subject}, accounts for {format_digits(item.value, '+')}{of_change}."


def _by_group(run: Run, check: Conservation) -> Iterator[str]:
    """The sums over the groups of each division that the tracker was given."""
    for division in divisions_of(run.record):
        totals = group_totals(run.record, division, check.loss).values.sum(axis=0)
        names = group_names(run.record, division)
        named = [(names[i], float(totals[i])) for i in np.sort(np.argsort(-np.abs(totals))[:MAX_GROUPS])]
        listed = (f"{name} {format_digits(value, '+')}{_in_brackets(value, check)}" for name, value in named)
        scope = "" if run.is_whole else f", over {run.scope}"
        which = f", the largest {len(named)} of {len(names)}" if len(names) > len(named) else ""
        yield f"By {_noun(division)}{which}{scope}: {', '.join(listed)}."


def _in_brackets(value: float, check: Conservation) -> str:
    share = _share(value, check)
    return f" ({share})" if share else ""


def _change(run: Run, check: Conservation) -> str:
    """From which loss to which, and in which steps."""
    if not _is_measured(check):
        total = format_digits(check.allocated, "+")
        return f"Over {run.scope}, the estimated allocations of {run.loss_text(check.loss)} sum to {total}."
    first, last = run.steps[0], run.steps[-1]
    if run.is_whole:
        when = f"In {run.length}"
    elif run.consecutive:
        when = f"In {run.scope}" if run.is_replay else f"In steps {first:,} to {last:,}"
    else:
        when = f"From step {first:,} to the end of the run" if run.complete else f"Since step {first:,}"
    return f"{when}, {run.loss_text(check.loss)} {_moved(check)}."


def _moved(check: Conservation) -> str:
    start, end = format_digits(check.start), format_digits(check.end)
    if check.end == check.start:
        return f"stayed at {start}"
    verb = "fell" if check.end < check.start else "rose"
    return f"{verb} from {start} to {end} ({format_digits(check.end - check.start, '+')})"


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _hurting(run: Run, layers: Sequence[Item]) -> str:
    """How many layers hurt: in the run, or only in the part of it that was measured."""
    where = "" if run.is_whole else f" over {run.scope}"
    hurting = sorted((item for item in layers if item.value > 0), key=lambda item: -item.value)
    if not hurting:
        single = ", though single steps of a layer may have" if len(run.steps) > 1 else ""
        whole = "the whole run" if run.is_whole and not run.is_replay else run.scope
        return f"No layer hurt over {whole}{single}."
    verb = "layer hurts" if len(layers) == 1 else "layers hurts" if len(hurting) == 1 else "layers hurt"
    named = ", ".join(
        f"{layer_named(item.name)} ({format_number(item.value, '+')})" for item in hurting[:MAX_NAMED]
    )
    more = ", and others" if len(hurting) > MAX_NAMED else ""
    return f"{len(hurting)} of {len(layers)} {verb}{where or ' overall'}: {named}{more}."


def _other_losses(run: Run, checks: Sequence[Conservation]) -> list[str]:
    texts = [f"{_capital(run.loss_text(c.loss))} {_moved(c)}." for c in checks if _is_measured(c)]
    return [" ".join(texts)] if texts else []


def _items(run: Run, check: Conservation) -> list[Item]:
    """The parts of the change from the start to the end of the run, which add up to it."""
    totals = run.layer_totals(check.loss).sum(axis=0)
    items = [
        Item(name, float(value), "layer", f"the movement of {layer_named(name)}", run.layer_sizes[name])
        for name, value in zip(run.layers, totals, strict=True)
    ]
    if _is_measured(check):
        gaps = BETWEEN if run.consecutive else UNMEASURED
        others = (
            (STATE, check.state_change, "no parameter but the state, such as the running statistics of "
             "BatchNorm,"),
            (gaps, check.unmeasured_change, "what happened between or after the measured steps, which is not "
             "allocated,"),
            (RESIDUAL, check.residual, "the residual, which is not allocated,"),
        )  # fmt: skip
        items += [
            Item(name, value, "other", text) for name, value, text in others if abs(value) > check.rounding
        ]
    return items


def _note(item: Item, ties: Mapping[str, str]) -> str:
    """The number of parameters of a layer, and its tied tensors."""
    return "; ".join(filter(None, (count_of(item.size, "parameter"), ties.get(item.name))))


def _is_measured(check: Conservation) -> bool:
    """Whether every loss is a number, so that the parts add up to a change."""
    return not check.unmeasured_steps


def _whole(check: Conservation) -> str:
    """What the percentages are parts of."""
    return "the change" if _is_measured(check) else "this sum"


def _share(value: float, check: Conservation) -> str:
    change = check.end - check.start if _is_measured(check) else check.allocated
    return format_percent(100 * value / change) if change else ""


def _bars(run: Run, check: Conservation) -> Bars:
    """The largest layers, the others in one bar, and what is not an allocation."""
    items = _items(run, check)
    layers = sorted((item for item in items if item.kind == "layer"), key=lambda item: -abs(item.value))
    shown, rest = layers[:MAX_LAYERS], layers[MAX_LAYERS:]
    if len(rest) == 1:
        shown, rest = layers, []
    order = {item.name: place for place, item in enumerate(items)}
    shown = sorted(shown, key=lambda item: order[item.name])
    if rest:
        value, size = sum(item.value for item in rest), sum(item.size for item in rest)
        shown.append(Item(f"{len(rest):,} other layers", value, "layer", size=size))
    shown += [item for item in items if item.kind != "layer"]
    values = np.nan_to_num([item.value for item in shown])
    room = ROOM * float(np.abs(values).max())
    low, high = min(-room, float(values.min())), max(room, float(values.max()))
    width, names = (high - low) or 1.0, [item.name for item in shown]
    ties = run.tied_notes("layer")
    rows = [
        Bar(
            name=label,
            note=_note(item, ties) if item.kind == "layer" else "",
            text=format_digits(item.value, "+"),
            value=item.value,
            share=_share(item.value, check),
            left=round(100 * (min(value, 0.0) - low) / width, 2),
            width=round(100 * abs(value) / width, 2),
            kind=("helping" if value < 0 else "hurting") if item.kind == "layer" else "other",
        )
        for item, label, value in zip(shown, short_labels(names, 36), values.tolist(), strict=True)
    ]
    if _is_measured(check):
        total = ("change of the loss", format_digits(check.end - check.start, "+"))
    else:
        total = ("sum of the allocations", format_digits(check.allocated, "+"))
    scope = "" if run.is_whole else f" Layers: sums over {run.scope}."
    estimates = " Estimates." if run.is_sampled(check.loss) else ""
    caption = f"Where the change of the {check.loss} loss came from: one bar per layer.{estimates}{scope}"
    share = "share of change" if _is_measured(check) else "share of sum"
    return Bars(caption, rows, round(-100 * low / width, 2), ("LCA", share), total)
