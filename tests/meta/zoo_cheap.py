"""The built-in stochastic estimators, and variants of them with one defect each."""

from dataclasses import dataclass, replace

import numpy as np

from lca import LEFT, MIDPOINT, RIGHT, SIMPSON, TRAPEZOID
from lca.estimators import ControlVariate, CrossFit, NextBatch, NodeReplicates, SameBatch, SampledPathIntegral
from tests.meta.animals import Passing, Wrong

PAIR = SampledPathIntegral(TRAPEZOID, 6, micro_batches=2)
RIGHT_CHEAP = {
    "same batch, biased": SameBatch(),
    **{f"next batch, {rule.name}": NextBatch(rule) for rule in (LEFT, RIGHT, TRAPEZOID, SIMPSON)},
    "probe": PAIR,
    "probe, midpoint": SampledPathIntegral(MIDPOINT, 6, micro_batches=3),
    "probe, simpson": SampledPathIntegral(SIMPSON, 6, micro_batches=2),
    "probe, one sample": SampledPathIntegral(TRAPEZOID, 6),
    "probe, refined": SampledPathIntegral(TRAPEZOID, 6, micro_batches=2, refine=0.1),
    "importance probe": SampledPathIntegral(TRAPEZOID, 8, sampling="importance", micro_batches=2),
    "stratified probe": SampledPathIntegral(TRAPEZOID, 8, sampling="stratified", micro_batches=2),
    "stratified probe, own scores": SampledPathIntegral(
        TRAPEZOID, 8, sampling="stratified", micro_batches=2, refresh=2
    ),
    "anchored": ControlVariate(PAIR, every=2),
    "anchored, simpson": ControlVariate(SampledPathIntegral(SIMPSON, 6, micro_batches=2), every=4),
    "anchored, stratified": ControlVariate(
        SampledPathIntegral(TRAPEZOID, 6, sampling="stratified", micro_batches=2), every=7
    ),
    "cross-fit": CrossFit(),
    "cross-fit, left": CrossFit(2, LEFT),
    "cross-fit, epoch": CrossFit(epoch=5),
    "cross-fit, error bars": CrossFit(independent=True),
    "cross-fit, without replacement": CrossFit(independent=True, epoch=2.5),
    "cross-fit, full batches": CrossFit(independent=True, epoch=1),
}


class NeighboursApart(SampledPathIntegral):
    """Every step uses new keys for its nodes, so that samples shared by two steps count as independent."""

    def start(self, objective):
        allocate_step = super().start(objective)

        def apart(step):
            a = allocate_step(step)
            return replace(a, replicates={(step.index, key): r for key, r in a.replicates.items()})

        return apart


@dataclass(eq=False)
class Sampling(Passing):
    """Delegates the methods that a sampled objective has in addition to the loss."""

    @property
    def weight(self):
        return self.objective.weight

    @property
    def n_examples(self):
        return self.objective.n_examples

    @property
    def labels(self):
        return self.objective.labels

    def scores(self, theta, batch=None):
        return self.objective.scores(theta, batch)

    def batch(self, index, weight=None):
        return self.objective.batch(index, weight)


class Unweighted(Sampling):
    def batch(self, index, weight=None):
        return self.objective.batch(index)


class WithoutWeights(SampledPathIntegral):
    """Examples drawn with unequal probabilities, but averaged without importance weights."""

    def start(self, objective):
        return super().start(Unweighted(objective))


@dataclass(eq=False)
class Remembering(Sampling):
    """Returns the full gradient of the first point for all later points."""

    first: np.ndarray | None = None

    def loss_and_grad(self, theta, batch=None):
        if batch is not None:
            return super().loss_and_grad(theta, batch)
        if self.first is None:
            self.first = super().loss_and_grad(theta)[1]
        return 0.0, self.first


class StaleAnchor(ControlVariate):
    """The anchor is updated, but its full gradient is not."""

    def start(self, objective):
        return super().start(Remembering(objective))


class ForgetsMomentum(CrossFit):
    """Leave-one-out updates without momentum, although training uses momentum."""

    def start(self, objective):
        allocate_step = super().start(objective)

        def forgetful(step):
            a, b = step.micro_batches
            parts = replace(a, update=-0.05 * b.gradient), replace(b, update=-0.05 * a.gradient)
            return allocate_step(replace(step, micro_batches=parts))

        return forgetful


class SpreadOfProducts(CrossFit):
    """``g_1 ∘ Δ^{(-1)}`` and ``g_2 ∘ Δ^{(-2)}`` as replicates: for plain SGD the very same numbers."""

    def _replicates(self, step, left, right):
        products = [left * part.gradient * part.update for part in step.micro_batches]
        shares = NodeReplicates(step, [(right, [part.gradient for part in step.next_micro_batches])])
        return {step.index: products, step.index + 1: shares}


class SpreadWithoutSizes(CrossFit):
    """Error bars from micro-batches that differ in size, as if they did not."""

    def start(self, objective):
        allocate_step = super().start(objective)

        def alike(parts):
            return tuple(replace(part, weight=1.0) for part in parts)

        def without_sizes(step):
            now, after = alike(step.micro_batches), alike(step.next_micro_batches)
            equal = replace(step, micro_batches=now, next_micro_batches=after)
            return replace(allocate_step(step), replicates=allocate_step(equal).replicates)

        return without_sizes


class CorrectsBothEnds(CrossFit):
    """As in shuffled epochs, although the next batch may hold the same examples."""

    def start(self, objective):
        return CrossFit(self.micro_batches, independent=True, epoch=self.epoch / 2).start(objective)


class TwiceTheSample(SampledPathIntegral):
    """One sample reported as two replicates, which never differ."""

    def start(self, objective):
        allocate_step = super().start(objective)

        def twice(step):
            a = allocate_step(step)
            return replace(a, replicates={key: [r[0], r[0]] for key, r in a.replicates.items()})

        return twice


MEAN, OF_STEPS, OF_SUMS = (
    "mean_is_the_full_data_allocation",
    "standard_errors_are_calibrated",
    "standard_errors_of_sums_are_calibrated",
)
WRONG_CHEAP = {
    "neighbours apart": Wrong(
        "the sample that two neighbouring steps share counted as two independent ones",
        OF_SUMS,
        lambda: NeighboursApart(TRAPEZOID, 12, micro_batches=6),
    ),
    "without weights": Wrong(
        "examples drawn with unequal probabilities and averaged without importance weights",
        MEAN,
        lambda: WithoutWeights(TRAPEZOID, 12, sampling="importance", refresh=1),
    ),
    "stale anchor": Wrong(
        "the anchor is updated, but its full gradient is not", MEAN, lambda: StaleAnchor(PAIR, every=1)
    ),
    "forgets momentum": Wrong(
        "leave-one-out updates without momentum, although training uses momentum", MEAN, ForgetsMomentum
    ),
    "spread of products": Wrong(
        "cross-fit error bars from the products themselves, which are equal for two halves and SGD",
        OF_STEPS,
        lambda: SpreadOfProducts(independent=True),
    ),
    "spread without sizes": Wrong(
        "cross-fit error bars that do not weigh the micro-batches",
        "spread_of_all_values_is_calibrated",
        lambda: SpreadWithoutSizes(independent=True),
    ),
    "corrects both ends": Wrong(
        "independent batches without replacement corrected as those of shuffled epochs",
        MEAN,
        lambda: CorrectsBothEnds(independent=True, epoch=2),
    ),
    "twice the sample": Wrong(
        "one sample reported as two replicates",
        OF_STEPS,
        lambda: TwiceTheSample(TRAPEZOID, 6, micro_batches=2),
    ),
}
