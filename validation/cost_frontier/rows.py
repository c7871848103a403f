"""The rows of the frontier: which estimators are tried on which training run."""

from typing import Any

from lca import LEFT, RIGHT, SIMPSON, TRAPEZOID
from lca.estimators import (
    AdaptiveSampleSize,
    ControlVariate,
    CrossFit,
    LaggedCrossFit,
    NextBatch,
    SameBatch,
    SampledPathIntegral,
    StochasticEstimator,
)
from validation.cost_frontier.case import Case

LARGE = 60
"""Steps with a large learning rate: the first ones, which go far."""
DEALT, STRATIFIED = "cross-fit, epoch", "stratified, 1 batch, one sample"
THREE = "stratified, 3 batches, one sample"
FIFTHS, EARLY = "cross-fit, 5 parts, epoch", f"{STRATIFIED}, doubling"
"""The more accurate forms of both: five micro-batches; errors measured after 8, 16, 32, ... steps."""
REFINED_SAMPLE, REFINED_THREE = f"{STRATIFIED}, refined", f"{THREE}, refined"
FEW = (
    "same batch",
    "next batch, trapezoid",
    "cross-fit",
    DEALT,
    FIFTHS,
    "lagged",
    "probe, 1 batch",
    "stratified, 1 batch",
    STRATIFIED,
    EARLY,
    THREE,
    "anchored, 1 batch",
)
"""The rows of a case that is run for its targets."""
REFINE = 0.03
REFINED = (
    "next batch, Simpson",
    "stratified, 1 batch, refined",
    REFINED_SAMPLE,
    REFINED_THREE,
)
"""Rows for the first steps of a run, where the trapezoid may be too coarse."""
LEAST = (
    "same batch",
    "cross-fit",
    DEALT,
    FIFTHS,
    "lagged",
    "stratified, 1 batch",
    STRATIFIED,
    EARLY,
    REFINED_SAMPLE,
    THREE,
)
"""The rows of a case whose gradients take long."""
SEEN = ("same batch", "cross-fit", DEALT, STRATIFIED, THREE)
"""The rows of `validation/visibility`."""
BEST = (
    "anchored, 1 batch",
    THREE,
    f"{THREE}, doubling",
)
"""Combinations at three further passes, of which the best one is judged."""


def estimators(case: Case, *, independent: bool) -> dict[str, StochasticEstimator]:
    """The rows of the frontier; sizes in training batches of this case."""
    b, epoch = case.batch_size, -(-case.examples // case.batch_size)

    def probe(batches: float, sampling: str, m: int = 2, **options: Any) -> SampledPathIntegral:
        size = m * round(batches * b / m)
        return SampledPathIntegral(TRAPEZOID, size, sampling=sampling, micro_batches=m, **options)  # type: ignore[arg-type]

    every = {
        "same batch": SameBatch(),
        "next batch, left": NextBatch(LEFT),
        "next batch, right": NextBatch(RIGHT),
        "next batch, trapezoid": NextBatch(TRAPEZOID),
        "next batch, Simpson": NextBatch(SIMPSON),
        "cross-fit, left": CrossFit(2, LEFT),
        "cross-fit": CrossFit(independent=independent),
        **({} if independent else {DEALT: CrossFit(epoch=epoch), FIFTHS: CrossFit(5, epoch=epoch)}),
        "cross-fit, own pass": CrossFit(
            independent=independent, epoch=None if independent else epoch, own_pass=True
        ),
        "lagged": LaggedCrossFit(epoch=None if independent else epoch),
        "probe, 1 batch": probe(1, "uniform"),
        "probe, 4 batches": probe(4, "uniform"),
        "importance, 1 batch": probe(1, "importance"),
        "stratified, 1 batch": probe(1, "stratified"),
        STRATIFIED: probe(1, "stratified", 1),
        "stratified, 1 batch, own scores": SampledPathIntegral(
            TRAPEZOID, 2 * (b // 2), sampling="stratified", micro_batches=2, refresh=epoch
        ),
        EARLY: probe(1, "stratified", 1, refresh="doubling"),
        "stratified, 3 batches": probe(3, "stratified"),
        THREE: probe(3, "stratified", 1),
        f"{THREE}, doubling": probe(3, "stratified", 1, refresh="doubling"),
        "anchored, 1 batch": ControlVariate(probe(1, "stratified"), every=epoch),
        "sized, 1 batch": AdaptiveSampleSize(probe(1, "stratified"), examples=b),
        "sized, error 2 %": AdaptiveSampleSize(
            probe(0.5, "stratified"), relative_error=0.02, groups=case.objective().layout.groups("layer")
        ),
        "stratified, 1 batch, refined": probe(1, "stratified", 2, refine=REFINE),
        REFINED_SAMPLE: probe(1, "stratified", 1, refine=REFINE),
        REFINED_THREE: probe(3, "stratified", 1, refine=REFINE),
    }
    skipped_steps = () if case.refined else REFINED[1:]
    return {
        name: every[name] for name in case.rows or every if name not in skipped_steps or name in case.rows
    }


def large_steps(case: Case) -> dict[str, StochasticEstimator]:
    """What is tried where the steps are large."""
    b = 2 * (case.batch_size // 2)
    rules = {"left": LEFT, "trapezoid": TRAPEZOID, "Simpson": SIMPSON}
    return {
        **{f"next batch, {name}": NextBatch(rule) for name, rule in rules.items()},
        "cross-fit": CrossFit(),
        **{
            f"stratified, 1 batch, {name}": SampledPathIntegral(
                rule, b, sampling="stratified", micro_batches=2
            )
            for name, rule in rules.items()
        },
        "stratified, 1 batch, refined": SampledPathIntegral(
            TRAPEZOID, b, sampling="stratified", micro_batches=2, refine=REFINE
        ),
    }


def blocks_of(case: Case) -> dict[tuple[str, str], dict[str, StochasticEstimator]]:
    """The rows of each block of the table: ``{(optimizer, how batches are drawn): estimators}``."""
    found = {
        (optimizer, kind): estimators(case, independent=kind == "independent")
        for kind in (("shuffled", "independent") if case.independent and not case.rows else ("shuffled",))
        for optimizer in case.optimizers
    }
    large = case.large and not case.rows
    return {**found, ("adam_large", "shuffled"): large_steps(case)} if large else found
