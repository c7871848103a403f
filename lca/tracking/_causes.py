"""Likely causes where allocations do not sum to the loss change, each with advice not yet followed."""

from collections.abc import Collection, Sequence

from lca.allocation import Estimator
from lca.estimators import (
    AdaptiveSampleSize,
    ControlVariate,
    CrossFit,
    LaggedCrossFit,
    NextBatch,
    SameBatch,
    SampledPathIntegral,
)
from lca.estimators._stochastic import required_fields_of
from lca.quadrature import TRAPEZOID, QuadratureRule
from lca.tracking._epochs import is_near

NEAR = 0.1
"""How far a ratio may be from a whole number, as a part of it, and still be taken for it."""
FAR_TOO_LARGE = 1.15
"""A sum this many times the loss change is not due to shuffled epochs, which make sums too small."""
MANY_TIMES = 5.0
"""A sum this many times the loss change is most likely noise, as the loss has hardly changed."""
USUAL = {CrossFit: 9, LaggedCrossFit: 12}
"""By how many percent of the loss change sums were off in shuffled epochs, with ``epoch=``, at most."""
ADAPTIVE = "lca.Adaptive, with span= or every= for less cost"
SAMPLED = "use SampledPathIntegral(refine=0.03) or lca.Adaptive"
OTHER_DATA = (
    "the measured data are not those of training (a held-out set, a part of them, some drawn more often than "
    "others): measure those of training, or use SampledPathIntegral"
)
OTHER_LOSS = (
    "the trained loss is not the measured loss (dropout, label smoothing, mixup, augmentation, penalties, "
    "batch statistics): use SampledPathIntegral"
)
OTHER_GRADIENT = (
    "the gradient of the measured loss is not its derivative (gradient reversal, straight-through "
    "estimators, detached parts as in DoRA), so no estimator sums to the change: the residual of "
    "lca.Adaptive shows how much is missing"
)
OTHER_GRADIENTS = (
    "the loop changes gradients in a way that the estimator does not know (divides them by a loss scale of "
    "its own, or by a number of ranks): do that with the loss"
)
ONE_BATCH = (
    "several updates are made from one batch, so that a step is judged by the batch that caused it: make "
    "one update from each batch, or use SampledPathIntegral"
)

IN_ORDER = (
    "batches are not in random order (domains or tasks in turn, a loader that does not shuffle), and each "
    "update is judged by the next batch as by a random one: shuffle all data together, or use "
    "SampledPathIntegral"
)
NOISE = (
    "gradients of batches are noisy, most of all with small batches, and the loss has changed little in "
    "comparison: SampledPathIntegral(micro_batches=4) has error bars, and so has CrossFit(independent=True)"
)
OTHER_PIECES = (
    "micro-batches are not samples of one loss (a domain or task in each): mix all data in each, or use "
    "LaggedCrossFit or SampledPathIntegral"
)
OTHER_OPTIMIZERS = (
    "optimizers take turns and lower losses of their own (GAN, actor and critic): make a tracker for each "
    "model with its optimizer"
)
MOVED = (
    "something that the loss reads besides θ has moved (variables, buffers, attributes), and the loss may "
    "no longer be a mean over examples: a new objective, made in the present state, tests that"
)


def other_size(measured: int, trained: int) -> str:
    """The cause that a loss which depends on the size of its batches is measured with another one."""
    return (
        f"the loss depends on the size of its batches, which is {measured} where it is measured and "
        f"{trained} in training: make the objective with batch_size={trained}"
    )


def likely_causes(
    estimator: Estimator | None,
    total: float,
    change: float,
    *,
    supplied: Collection[str] | None = None,
    seen: Sequence[str] = (),
    updates: int | None = None,
    moved: bool = False,
) -> list[str]:
    """The likely causes, the most telling one first, each with what to do about it.

    That gradients of training are a whole multiple of the measured ones comes first only if the estimator
    tells that this is the number of micro-batches: most ratios are near a whole number.

    Parameters
    ----------
    estimator
        With its settings, which leave out the advice that they have taken.
    total, change
        The sum of the allocations, and the loss change that was measured.
    supplied
        The fields of `lca.Step` that the training loop can supply, which leave out estimators that require
        others; ``None``: all.
    seen
        The causes that the tracker has seen in the loop.
    updates
        The number of updates in an epoch of the loop, if the tracker has seen one.
    moved
        Whether the state that the loss reads has moved.

    Examples
    --------
    >>> from lca.estimators import CrossFit
    >>> likely_causes(CrossFit(2), -1.9, -1.0)[0]
    'the sum is as if gradients of training were 2 times too large: if an update has 2 batches or \
micro-batches, multiply the loss of each by its weight, or divide it by their number'
    """
    if isinstance(estimator, AdaptiveSampleSize | ControlVariate):
        return likely_causes(estimator.probe, total, change, moved=moved)
    state = [MOVED] if moved else []
    if isinstance(estimator, SampledPathIntegral):
        return [*_of_samples(estimator), *state]
    training = estimator is not None and estimator.target == "batch"
    weighs = training and _is_supplied(CrossFit(), supplied)
    whole, factor = _of_a_factor(estimator, total, change) if weighs else (0, [])
    splits = isinstance(estimator, CrossFit) and not estimator.own_pass and estimator.micro_batches == whole
    first = factor if splits else []
    fields = required_fields_of(estimator) if estimator is not None and training else ()
    order = [OTHER_PIECES] if "micro_batches" in fields else []
    order += [IN_ORDER] if any(field.startswith("next_") for field in fields) else []
    common = [OTHER_DATA, OTHER_LOSS, OTHER_GRADIENT, OTHER_GRADIENTS] if training else []
    if isinstance(estimator, CrossFit | LaggedCrossFit):
        epochs = _of_epochs(estimator, abs(total - change), abs(change), updates)
    else:
        epochs = _of_next_batch(supplied) if isinstance(estimator, NextBatch) else []
    noise = [NOISE] if training and not getattr(estimator, "independent", False) else []
    batches = [*_of_batches(estimator, supplied), *noise]
    if training and change and total / change > FAR_TOO_LARGE:
        plateau = noise if total / change > MANY_TIMES else []
        found = [*seen, *first, *plateau, OTHER_LOSS, *factor, *batches, *order, *common, *epochs, *state]
    else:
        found = [*seen, *first, *epochs, *batches, *order, *common, *factor, *state]
    return list(dict.fromkeys(found))


def _is_supplied(estimator: Estimator, supplied: Collection[str] | None) -> bool:
    """Whether the loop can supply all fields that an estimator requires."""
    fields = {name.removeprefix("next_") for name in required_fields_of(estimator)}
    return supplied is None or fields <= set(supplied)


def _of_a_factor(estimator: Estimator | None, total: float, change: float) -> tuple[int, list[str]]:
    """A forgotten weight, or a division too many, if gradients are a whole multiple or part of those wanted.

    Returns the whole number (0 if it is none) and the cause.
    """
    factor = _factor_of_training(estimator, total / change) if total * change > 0 else 0.0
    times = max(factor, 1 / factor) if factor > 0 else 0.0
    whole = round(times)
    if whole < 2 or abs(times / whole - 1) > NEAR:
        return 0, []
    seems = f"the sum is as if gradients of training were {whole} times too"
    if factor > 1:
        return whole, [
            f"{seems} large: if an update has {whole} batches or micro-batches, multiply the loss of each by "
            "its weight, or divide it by their number"
        ]
    return whole, [
        f"{seems} small: multiply the loss of each micro-batch by its weight, or divide it by the number of "
        "batches, not both, and by no more batches than an update has"
    ]


def _factor_of_training(estimator: Estimator | None, ratio: float) -> float:
    """What the gradients of training are multiplied by, where their sum is off by this ratio.

    With `NextBatch`, only the gradient at the end of a step is a gradient of training; 0 if the rule has none
    there.
    """
    rule = estimator.rule if isinstance(estimator, NextBatch) else None
    if rule is None:
        return ratio
    return 1 + (ratio - 1) / rule.weights[-1] if rule.nodes[-1] == 1 else 0.0


def _of_samples(probe: SampledPathIntegral) -> list[str]:
    """The causes for samples: these are drawn from the measured loss, so the loop does not matter."""
    if probe.micro_batches == 1:
        noise = "the sample is small: use a larger size, and micro_batches=4 for error bars"
    else:
        noise = "a few examples have far larger gradients than the others, which makes intervals too narrow: "
        noise += "use a larger size"
    cure = f"use {ADAPTIVE}" if probe.refine is not None else "use refine=0.03 or the rule lca.SIMPSON"
    large = _large_steps(probe.rule, cure)
    if probe.refine is None:
        return [large, noise, OTHER_GRADIENT]
    # Audits have looked at large steps, and intervals have the noise in them.
    return [noise, OTHER_GRADIENT, large] if probe.micro_batches == 1 else [OTHER_GRADIENT, noise, large]


def _crossed(supplied: Collection[str] | None) -> list[str]:
    """The names of those estimators which correct for epochs that the loop can supply."""
    return [kind.__name__ for kind in (CrossFit, LaggedCrossFit) if _is_supplied(kind(), supplied)]


def _of_next_batch(supplied: Collection[str] | None) -> list[str]:
    """The order of shuffled epochs, for an estimator that cannot correct for it."""
    crossed = _crossed(supplied)
    cure = f"{crossed[0]}(epoch=...), the updates in an epoch" if crossed else "SampledPathIntegral"
    return [f"batches come from shuffled epochs: use {cure}"]


def _of_batches(estimator: Estimator | None, supplied: Collection[str] | None) -> list[str]:
    """The causes for an estimator on the batches of training, or for one that is not known here."""
    crossed = _crossed(supplied)
    match estimator:
        case SameBatch():
            cure = " or ".join(crossed) or "SampledPathIntegral"
            return [f"SameBatch judges a step by the batch that caused it: use {cure}"]
        case NextBatch():
            two_ends = "use lca.TRAPEZOID" if _is_supplied(NextBatch(TRAPEZOID), supplied) else SAMPLED
            return [_large_steps(estimator.rule, "use NextBatch(lca.SIMPSON)", two_ends)]
        case CrossFit():
            return [_large_steps(estimator.rule, SAMPLED)]
        case LaggedCrossFit():
            cure = "CrossFit" if "CrossFit" in crossed else "SampledPathIntegral"
            uneven = f"gradients change too unevenly to be extrapolated, as with SGD: use {cure}"
            return [uneven, _large_steps(TRAPEZOID, SAMPLED)]
    return ["the sample is small", "steps are too large for the rule of the estimator"]


def _large_steps(rule: QuadratureRule, cure: str, two_ends: str = "use lca.TRAPEZOID") -> str:
    if rule.degree == 0:
        return f"the rule {rule.name!r} sees one end of a step alone: {two_ends}"
    if rule.degree > 1:
        cure = f"use {ADAPTIVE}"
    return f"steps are too large for the rule {rule.name!r}: {cure}"


def _of_epochs(
    estimator: CrossFit | LaggedCrossFit, miss: float, change: float, updates: int | None
) -> list[str]:
    """The order of shuffled epochs; first what has the size of this miss, without what is known not to be."""
    told = estimator.epoch
    if getattr(estimator, "independent", False):
        afresh = "batches come from epochs: omit independent=True, and pass the updates in an epoch as epoch="
        within = (
            "a batch is drawn without replacement: pass epoch= as well, the number of all examples divided "
            "by that of an update"
        )
        return [afresh, within] if told is None else [afresh] * (told > 1)  # 1: full batches
    if told is None:
        number = f"epoch={updates}" if updates else "epoch="
        return [f"batches come from shuffled epochs: pass {number}, the updates in an epoch"]
    if updates is not None and not is_near(updates, told):
        return [f"an epoch has {updates} updates, and not epoch={told}: pass epoch={updates}"]
    kind, percent = type(estimator).__name__, USUAL[type(estimator)]
    usual = miss <= percent / 100 * change
    if usual:
        bias = f"{kind} is off by 1 to {percent} % in shuffled epochs as a rule, also with the right epoch="
    else:
        bias = f"shuffled epochs have more bias than epoch={told} removes"
    wrong = [] if updates else [f"an epoch has another number of updates than epoch={told}"]
    found = [f"{bias}: use SampledPathIntegral"]
    return [*found, *wrong] if usual else [*wrong, *found]
