"""Correct and incorrect stochastic estimators; the table names the check that must detect each."""

from dataclasses import dataclass, replace

import numpy as np

from lca.allocation import Cost, StepAllocation
from lca.testing._stochastic_checks import TRAINING_BATCH
from tests.meta.animals import Wrong
from tests.meta.zoo_cheap import RIGHT_CHEAP, WRONG_CHEAP


@dataclass(frozen=True)
class UniformProbe:
    """Correct: the trapezoid with independent examples at every node, shared by both neighbouring steps."""

    micro_batches: int = 4
    size: int = 6
    seed: int = 0
    target = "probe"
    degree = 1
    unbiased = True
    bias = "none"
    required_fields = ()

    @property
    def cost(self):
        return Cost(batch_gradients=self.micro_batches * self.size / TRAINING_BATCH)

    def reseeded(self, seed):
        return replace(self, seed=seed)

    def start(self, objective):
        rng = np.random.default_rng([self.seed, 1])
        node = None

        def draw(theta):
            batches = [
                objective.batch(rng.integers(objective.n_examples, size=self.size))
                for _ in range(self.micro_batches)
            ]
            return np.array([objective.loss_and_grad(theta, batch)[1] for batch in batches])

        def allocate_step(step):
            nonlocal node
            first, last = self.ends(step)
            start = draw(first) if node is None else node
            node = draw(last)
            parts = (start + node) / 2 * (step.end - step.start)
            return self.allocation(step, parts)

        return allocate_step

    def ends(self, step):
        return step.start, step.end

    def allocation(self, step, parts):
        values = parts.mean(axis=0)
        # Both ends are sampled independently, so their variances add up.
        stderr = parts.std(axis=0, ddof=1) / np.sqrt(len(parts))
        return StepAllocation(values, 0.0, 0.0, -float(values.sum()), 0.0, step.index, stderr=stderr)


class SameBatch(UniformProbe):
    """Synaptic intelligence used as the full-data allocation, although the batch caused the step."""

    degree = 0

    def start(self, objective):
        def allocate_step(step):
            grad = objective.loss_and_grad(step.start, step.batch)[1]
            return StepAllocation(grad * (step.end - step.start), 0.0, 0.0, 0.0, 0.0, step.index)

        return allocate_step


class TwoPercentLow(UniformProbe):
    """Every value is two percent too small."""

    micro_batches = 50

    def allocation(self, step, parts):
        a = super().allocation(step, parts)
        return replace(a, values=0.98 * a.values)


class OneEnd(UniformProbe):
    """Both samples of a step are taken at its start, but degree 1 is declared."""

    def ends(self, step):
        return step.start, step.start


class HalfStandardErrors(UniformProbe):
    """Standard errors too small by two: the variance of the mean divided by m twice, for m = 4."""

    def allocation(self, step, parts):
        a = super().allocation(step, parts)
        return replace(a, stderr=a.stderr / 2)


class SpreadForError(UniformProbe):
    """The standard deviation of four micro-batches reported as the standard error of their mean."""

    def allocation(self, step, parts):
        a = super().allocation(step, parts)
        return replace(a, stderr=a.stderr * 2)


class FreeOfCharge(UniformProbe):
    """The declared cost counts one of four micro-batches."""

    cost = Cost(batch_gradients=1)


class Unseeded(UniformProbe):
    """A new random generator in every run, so that no run can be repeated."""

    def start(self, objective):
        return replace(UniformProbe(), seed=int(np.random.default_rng().integers(2**31))).start(objective)


RIGHT_STOCHASTIC = {
    "four micro-batches": UniformProbe(),
    "two micro-batches": UniformProbe(micro_batches=2, size=3),
    **RIGHT_CHEAP,
}
WRONG_STOCHASTIC: dict[str, Wrong] = {
    "same batch": Wrong(
        "synaptic intelligence used as the full-data allocation, although the batch caused the step",
        "mean_is_the_full_data_allocation",
        SameBatch,
    ),
    "one end": Wrong(
        "both samples of a step taken at its start, but degree 1 declared",
        "mean_is_the_full_data_allocation",
        OneEnd,
    ),
    "half standard errors": Wrong(
        "the variance of the mean divided by m twice: standard errors too small by two",
        "standard_errors_are_calibrated",
        HalfStandardErrors,
    ),
    "spread for error": Wrong(
        "the standard deviation of the micro-batches reported as the standard error of their mean",
        "standard_errors_are_calibrated",
        SpreadForError,
    ),
    "free of charge": Wrong(
        "four micro-batches at each node counted as one gradient",
        "spends_no_more_than_it_declares",
        FreeOfCharge,
    ),
    "unseeded": Wrong(
        "a new random generator in every run, so that no run can be repeated",
        "same_seed_same_values",
        Unseeded,
    ),
    **WRONG_CHEAP,
}
