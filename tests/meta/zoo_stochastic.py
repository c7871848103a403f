"""Correct and incorrect stochastic estimators; the table names the check that must detect each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import nan
from typing import Any

import numpy as np

from lca import RIGHT, TRAPEZOID
from lca.allocation import Cost
from lca.estimators import (
    Integral,
    NextBatch,
    Path,
    SameBatch,
    SampledPathIntegral,
    Sampler,
    gradient_on,
)
from lca.objective import Evaluation
from tests.meta.animals import Wrong
from tests.meta.zoo_cheap import MEAN, OF_STEPS, PAIR, RIGHT_CHEAP, WRONG_CHEAP, Sampling

FOUR = SampledPathIntegral(TRAPEZOID, 24, micro_batches=4)
REFINED = SampledPathIntegral(TRAPEZOID, 6, micro_batches=2, refine=0.1)


class Declared:
    """Declares what the right estimator ``inner`` declares, except for ``declared``."""

    inner: Any
    declared: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.declared[name] if name in self.declared else getattr(self.inner, name)

    def reseeded(self, seed: int) -> Any:
        return replace(self, inner=self.inner.reseeded(seed))


@dataclass(frozen=True)
class Changed(Declared):
    """A correct stochastic estimator with ``change(allocation, step, memory)``."""

    change: Callable[..., Any] = lambda a, step, memory: a
    inner: Any = PAIR
    declared: Mapping[str, Any] = field(default_factory=dict)

    def start(self, objective):
        allocate_step, memory = self.inner.start(objective), {}
        return lambda step: self.change(allocate_step(step), step, memory)


@dataclass(frozen=True)
class Measuring(Declared):
    """A correct stochastic estimator whose objective is wrapped by ``wrap(objective)``."""

    wrap: Callable[..., Any]
    inner: Any = PAIR
    declared: Mapping[str, Any] = field(default_factory=dict)

    def start(self, objective):
        return self.inner.start(self.wrap(objective))


def standard_errors(factor: float = 1.0) -> Callable[..., Any]:
    """Standard errors instead of replicates, as both nodes are independent; ``factor`` makes them wrong."""

    def change(a, step, memory):
        parts = [np.array(list(replicates)) for replicates in a.replicates.values()]
        variance = sum(part.var(axis=0, ddof=1) / len(part) for part in parts)
        stderr = (factor * np.sqrt(variance)).astype(a.values.dtype)
        return replace(a, replicates={}, stderr=stderr)

    return change


# --- right ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MonteCarloNodes:
    """Gradients of the full loss at random points of the step, whose mean has no quadrature error.

    ``points(rng, n)`` draws the n points; the losses are measured at both ends.
    """

    points: Callable[[np.random.Generator, int], np.ndarray]
    n: int = 4
    seed: int = 0
    target = "full"
    degree = 3
    unbiased = True
    bias = "none"
    required_fields = ()

    @property
    def cost(self):
        return Cost(full_gradients=self.n, full_losses=1)

    def reseeded(self, seed):
        return replace(self, seed=seed)

    def start(self, objective):
        path, rng = Path(objective), np.random.default_rng(self.seed)

        def allocate_step(step):
            segment = path.segment(step, gradients=False)
            integral = Integral(segment)
            for s in self.points(rng, self.n):
                integral.add(1 / self.n, segment.at(float(s)))
            return integral.allocation()

        return allocate_step


def independent(rng, n):
    return rng.random(n)


def antithetic(rng, n):
    half = rng.random(n // 2)
    return np.concatenate([half, 1 - half])


def stratified(rng, n):
    return (np.arange(n) + rng.random(n)) / n


@dataclass(frozen=True)
class RandomPoints:
    """Each of two samples at a random point of its own; error bars from their spread."""

    size: int = 6
    samples: int = 2
    seed: int = 0
    points: Callable[[np.random.Generator, int], np.ndarray] = independent
    spread: float = 1.0
    degree: int = 3
    target = "probe"
    unbiased = True
    bias = "none"
    required_fields = ()

    @property
    def cost(self):
        return Cost(examples=self.size * self.samples)

    def reseeded(self, seed):
        return replace(self, seed=seed)

    def start(self, objective):
        rng, share = np.random.default_rng(self.seed), None
        if objective.weight is not None:
            share = objective.weight / objective.weight.sum()

        def gradient_at(objective, point):
            index = rng.choice(objective.n_examples, size=self.size, p=share)
            _, gradient = objective.loss_and_grad(point.theta, objective.batch(index))
            return Evaluation(nan, gradient), Cost(examples=self.size)

        path = Path(objective, gradient_at, sampled=True, reuse_ends=False)

        def allocate_step(step):
            segment = path.segment(step)
            nodes = [segment.at(float(s)) for s in self.points(rng, self.samples)]
            integral = Integral(segment)
            for node in nodes:
                integral.add(1 / self.samples, node)
            copies = self.replicates([node.grad * (step.end - step.start) for node in nodes])
            mean = np.mean(copies, axis=0)
            copies = [mean + (copy - mean) * self.spread for copy in copies]
            return integral.allocation({step.index + 0.5: copies})

        return allocate_step

    def replicates(self, values):
        return values


class PairsOfPoints(RandomPoints):
    """Pairs of points s and 1 - s, each pair a replicate: exact where the gradient is linear in s."""

    def replicates(self, values):
        half = len(values) // 2
        return [(a + b) / 2 for a, b in zip(values[:half], values[half:], strict=True)]


class AllData(RandomPoints):
    """The mean of all data at the middle of each step, which is exact up to degree 1."""

    @property
    def cost(self):
        return Cost(full_gradients=1)

    def start(self, objective):
        sampler = Sampler(objective, "uniform", floor=1.0, seed=self.seed)

        def gradient_at(objective, point):
            gradients = [gradient_on(objective, point.theta, part) for part in sampler.split(2)]
            return Evaluation(nan, sum(gradients) / 2), Cost(full_gradients=1)

        path = Path(objective, gradient_at, sampled=True, reuse_ends=False)

        def allocate_step(step):
            segment = path.segment(step)
            integral, node = Integral(segment), segment.at(0.5)
            integral.add(1.0, node)
            value = node.grad * (step.end - step.start)
            return integral.allocation({step.index + 0.5: [value, value]})

        return allocate_step


class AllDataAtTimes(RandomPoints):
    """Random points in every third step, all data at the middle of the others."""

    @property
    def cost(self):
        return Cost(full_gradients=2 / 3, examples=self.size * self.samples / 3)

    @property
    def largest_cost(self):
        return Cost(full_gradients=1, examples=self.size * self.samples)

    def start(self, objective):
        exact, random = AllData(seed=self.seed).start(objective), super().start(objective)
        return lambda step: exact(step) if step.index % 3 else random(step)


RIGHT_STOCHASTIC = {
    "four micro-batches": Changed(standard_errors(), FOUR),
    "two micro-batches": Changed(standard_errors(), PAIR),
    "random nodes": MonteCarloNodes(independent),
    "antithetic nodes": MonteCarloNodes(antithetic),
    "stratified nodes": MonteCarloNodes(stratified),
    "random points": RandomPoints(),
    **{f"random points, degree {degree}": RandomPoints(degree=degree) for degree in (0, 2, 6)},
    "pairs of points": PairsOfPoints(samples=4, points=antithetic, degree=1),
    "all data": AllData(degree=1),
    "all data at times": AllDataAtTimes(degree=0),
    **RIGHT_CHEAP,
}


# --- wrong ----------------------------------------------------------------------------------------------


class UnweightedData(Sampling):
    """Drops the weights of the data."""

    weight = None


class FirstTwenty(Sampling):
    """Only the first 20 examples are ever drawn."""

    def batch(self, index, weight=None):
        return self.objective.batch(index % min(20, self.n_examples), weight)


class WeighedTwice(Sampling):
    """Examples drawn by weight, and weighed by it once more."""

    def batch(self, index, weight=None):
        weights = np.ones(self.n_examples) if self.weight is None else self.weight
        return self.objective.batch(index, weights[index])


class AlsoLoss(Sampling):
    """Evaluates the full loss beside each gradient."""

    def loss_and_grad(self, theta, batch=None):
        self.objective.loss(theta)
        return self.objective.loss_and_grad(theta, batch)


class AlsoScores(Sampling):
    """Evaluates the scores of all examples beside each gradient."""

    def loss_and_grad(self, theta, batch=None):
        self.objective.scores(theta)
        return self.objective.loss_and_grad(theta, batch)


class AlsoGradient(Sampling):
    """Evaluates the full gradient beside each sampled one."""

    def loss_and_grad(self, theta, batch=None):
        self.objective.loss_and_grad(theta)
        return self.objective.loss_and_grad(theta, batch)


class StateIgnored(Sampling):
    """Passes everything on but the state."""


class SampledNanToZero(Sampling):
    """A gradient that is not finite counts as 0."""

    def loss_and_grad(self, theta, batch=None):
        loss, grad = self.objective.loss_and_grad(theta, batch)
        return loss, np.nan_to_num(grad, posinf=0.0, neginf=0.0)


class StaleNode(Sampling):
    """The gradient of the last node, if θ is close to it."""

    last: Any = None

    def loss_and_grad(self, theta, batch=None):
        if self.last is None or not np.allclose(self.last[0], theta, rtol=1e-6, atol=0):
            self.last = theta.copy(), self.objective.loss_and_grad(theta, batch)
        loss, grad = self.last[1]
        return loss, grad.copy()


def _numbered_zero(a, step, memory):
    return replace(a, step=0)


def _mass_of_nan(a, step, memory):
    return replace(a, mass=nan)


def _mass_of_the_total(a, step, memory):
    return replace(a, mass=abs(float(a.values.sum())))


def _mass_padded(a, step, memory):
    return replace(a, mass=1e12 * (1 + a.mass))


def _float16(a, step, memory):
    return replace(a, values=a.values.astype(np.float16), replicates={})


def _start_zeroed(a, step, memory):
    a = replace(a, replicates={time: list(rs) for time, rs in a.replicates.items()})
    step.start[...] = 0
    return a


def _noise_everywhere(a, step, memory):
    rng = memory.setdefault("rng", np.random.default_rng([7, 7]))
    return replace(a, values=a.values + 1e-6 * rng.normal(size=a.values.shape).astype(a.values.dtype))


def _free(a, step, memory):
    return replace(a, cost=Cost())


def _losses_of_zero(a, step, memory):
    return replace(a, loss_start=0.0, loss_end=0.0)


def _residual_of_zero(a, step, memory):
    return replace(a, residual=0.0)


def _sampled_denied(a, step, memory):
    return replace(a, sampled=False)


def _shifted(a, step, memory):
    return replace(a, replicates={t: [np.asarray(r) + 5 for r in rs] for t, rs in a.replicates.items()})


def _one_replicate(a, step, memory):
    return replace(a, replicates={t: list(rs)[:1] for t, rs in a.replicates.items()})


def _two_percent_low(a, step, memory):
    replicates = {t: [0.98 * np.asarray(r) for r in rs] for t, rs in a.replicates.items()}
    return replace(a, values=(0.98 * a.values).astype(a.values.dtype), replicates=replicates)


def _smoothed(a, step, memory):
    values = 0.9 * a.values + 0.1 * memory.get("values", a.values)
    memory["values"] = a.values
    return replace(a, values=values.astype(a.values.dtype), replicates={})


def _buffer(a, step, memory):
    buffer = memory.setdefault("values", np.empty_like(a.values))
    buffer[...] = a.values
    return replace(a, values=buffer, replicates={})


def _numpy_seeded(a, step, memory):
    np.random.seed(step.index)  # noqa: NPY002 - the defect
    return a


@dataclass(frozen=True)
class Leaking(Changed):
    """A part of the value is that of the training batch, which caused the step."""

    part: float = 0.2

    @property
    def required_fields(self):
        return ("gradient",)

    def start(self, objective):
        allocate_step = self.inner.start(objective)

        def leaking(step):
            a = allocate_step(step)
            own = step.gradient * (step.end - step.start)
            values = ((1 - self.part) * a.values + self.part * own).astype(a.values.dtype)
            mass = (1 - self.part) * a.mass + self.part * float(np.abs(own).sum())
            return replace(a, values=values, mass=mass, replicates={})

        return leaking


@dataclass(frozen=True)
class ZerosIfMissing(SameBatch):
    """A training gradient that is missing counts as 0; ``names`` are the fields that it declares."""

    names: tuple[str, ...] = ("gradient",)

    @property
    def required_fields(self):
        return self.names

    def start(self, objective):
        allocate_step = SameBatch().start(objective)

        def forgiving(step):
            missing = step.gradient is None
            return allocate_step(replace(step, gradient=0 * step.start) if missing else step)

        return forgiving


@dataclass(frozen=True)
class OneGenerator(RandomPoints):
    """The generator is made once, and goes on from run to run."""

    rng: Any = field(default_factory=lambda: np.random.default_rng(3), compare=False)

    def start(self, objective):
        return replace(RandomPoints(), seed=int(self.rng.integers(2**31))).start(objective)


@dataclass(frozen=True)
class SeedIgnored(RandomPoints):
    """``reseeded`` is accepted, and ignored."""

    def start(self, objective):
        return RandomPoints().start(objective)


@dataclass(frozen=True)
class ReseededAnew(RandomPoints):
    """``reseeded`` forgets the settings."""

    def reseeded(self, seed):
        return RandomPoints(seed=seed)


class ReseededInPlace(RandomPoints):
    """``reseeded`` changes the estimator and returns it."""

    def reseeded(self, seed):
        object.__setattr__(self, "seed", seed)
        return self


def _nine_tenths(rng, n):
    return 0.9 * rng.random(n)


def _declares(**declared: Any) -> Callable[[], Any]:
    return lambda: Changed(inner=PAIR, declared=declared)


def _changed(change: Callable[..., Any], inner: Any = PAIR) -> Callable[[], Any]:
    return lambda: Changed(change, inner)


def _measuring(wrap: Callable[..., Any], inner: Any = PAIR) -> Callable[[], Any]:
    return lambda: Measuring(wrap, inner)


DECLARED, EXACT, COST, LEFT_ALONE, LOSSES, REPLICATES, RANDOM_MEAN, SEEDS = (
    "declarations_are_complete",
    "exact_up_to_declared_degree",
    "reported_cost_is_true",
    "inputs_are_left_alone",
    "reports_the_true_losses",
    "replicates_add_up_to_the_values",
    "mean_is_exact_up_to_declared_degree",
    "same_seed_same_values",
)
WRONG_STOCHASTIC: dict[str, Wrong] = {
    # declarations
    "misspelt field": Wrong(
        "'next_grad' for 'next_gradient'", DECLARED, _declares(required_fields=("next_grad",))
    ),
    "field as text": Wrong("a text for a tuple of names", DECLARED, _declares(required_fields="gradient")),
    "bias left empty": Wrong("an empty text for the remaining bias", DECLARED, _declares(bias=" ")),
    "unbiased in words": Wrong("'yes' for True", DECLARED, _declares(unbiased="yes")),
    "reseeded anew": Wrong("reseeded forgets the settings", DECLARED, lambda: ReseededAnew(size=60)),
    "degree three": Wrong(
        "a trapezoid declared with the degree of Simpson's rule", EXACT, _declares(degree=3)
    ),
    "degree 99": Wrong("a degree for 'any'", EXACT, _declares(degree=99)),
    "field not declared": Wrong(
        "uses Step.gradient without declaring it", EXACT, lambda: ZerosIfMissing(names=())
    ),
    "missing field accepted": Wrong(
        "a missing training gradient counted as 0", "incomplete_steps_are_refused", ZerosIfMissing
    ),
    # the mean
    "same batch": Wrong(
        "synaptic intelligence used as the full-data allocation, although the batch caused the step",
        MEAN,
        lambda: Changed(inner=SameBatch(), declared={"unbiased": True}),
    ),
    "a part of the same batch": Wrong(
        "a fifth of each value from the batch that caused the step", MEAN, lambda: Leaking(inner=FOUR)
    ),
    "weights of the data ignored": Wrong(
        "examples drawn uniformly, although the loss is a weighted mean", MEAN, _measuring(UnweightedData)
    ),
    "weighed twice": Wrong(
        "examples drawn by weight, and weighed by it once more", MEAN, _measuring(WeighedTwice)
    ),
    "first twenty": Wrong("a subset for debugging left in", MEAN, _measuring(FirstTwenty)),
    "two percent low": Wrong("every value two percent too small", EXACT, _changed(_two_percent_low, FOUR)),
    "nodes of nine tenths": Wrong(
        "random points that never reach the last tenth of the step",
        RANDOM_MEAN,
        lambda: MonteCarloNodes(_nine_tenths),
    ),
    "one end": Wrong(
        "the next batch at the end of a step only, but degree 1 declared",
        EXACT,
        lambda: Changed(inner=NextBatch(RIGHT), declared={"degree": 1}),
    ),
    # spread
    "half standard errors": Wrong(
        "the variance of the mean divided by m twice: standard errors too small by two",
        OF_STEPS,
        lambda: Changed(standard_errors(0.5), FOUR),
    ),
    "spread for error": Wrong(
        "the standard deviation of the micro-batches reported as the standard error of their mean",
        OF_STEPS,
        lambda: Changed(standard_errors(2.0), FOUR),
    ),
    "standard errors of random points": Wrong(
        "the spread of four points taken for that of their mean",
        "spread_of_all_values_is_calibrated",
        lambda: RandomPoints(samples=4, spread=2.0),
    ),
    "replicates shifted": Wrong("replicates with 5 added", REPLICATES, _changed(_shifted)),
    "one replicate": Wrong("a single replicate", REPLICATES, _changed(_one_replicate)),
    # cost
    "free of charge": Wrong(
        "the declared cost counts one of four micro-batches",
        "spends_no_more_than_it_declares",
        lambda: Changed(inner=FOUR, declared=dict.fromkeys(("cost", "largest_cost"), Cost(examples=6))),
    ),
    "largest below some steps": Wrong(
        "a declared largest cost that refined steps exceed",
        "spends_no_more_than_it_declares",
        lambda: Changed(inner=REFINED, declared={"largest_cost": Cost(examples=7)}),
    ),
    "no evaluations reported": Wrong("a cost of 0 for each step", COST, _changed(_free)),
    "loss not counted": Wrong("a full pass over the loss beside each gradient", COST, _measuring(AlsoLoss)),
    "scores not counted": Wrong(
        "a full pass over the scores beside each gradient", COST, _measuring(AlsoScores)
    ),
    "gradient not counted": Wrong("a full gradient beside each sample", COST, _measuring(AlsoGradient)),
    # seeds
    "unseeded": Wrong("one generator for all runs, so that no run can be repeated", SEEDS, OneGenerator),
    "seed ignored": Wrong("the same sample for every seed", SEEDS, SeedIgnored),
    "reseeded in place": Wrong("reseeded changes the estimator itself", SEEDS, ReseededInPlace),
    "numpy seeded": Wrong("np.random.seed called while measuring", LEFT_ALONE, _changed(_numpy_seeded)),
    # fields and runs
    "numbered zero": Wrong("index 0 for every step", "keeps_the_index_of_the_step", _changed(_numbered_zero)),
    "mass of NaN": Wrong(
        "a mass of NaN, because no loss is measured", "mass_bounds_the_values", _changed(_mass_of_nan)
    ),
    "mass of the total": Wrong(
        "the absolute total reported as the mass", "mass_bounds_the_values", _changed(_mass_of_the_total)
    ),
    "mass padded": Wrong(
        "a mass so large that every tolerance is met",
        "mass_is_no_larger_than_the_step",
        _changed(_mass_padded),
    ),
    "float16 values": Wrong(
        "values in half precision", "returns_one_value_per_parameter", _changed(_float16)
    ),
    "start set to zero": Wrong("the start used as a work vector", LEFT_ALONE, _changed(_start_zeroed)),
    "noise everywhere": Wrong(
        "noise for privacy, also for parameters that did not move",
        "unmoved_parameters_get_exactly_zero",
        _changed(_noise_everywhere),
    ),
    "losses forged": Wrong("losses of 0, which were not measured", LOSSES, _changed(_losses_of_zero)),
    "sampled denied": Wrong("sampled=False on estimates from samples", LOSSES, _changed(_sampled_denied)),
    "residual forged": Wrong("a residual of 0", "residual_is_what_is_left", _changed(_residual_of_zero)),
    "smoothed": Wrong("a moving average meant for plots", "exact_in_long_runs", _changed(_smoothed)),
    "one buffer": Wrong("values overwritten by the next step", "exact_in_long_runs", _changed(_buffer)),
    "stale node": Wrong(
        "the gradient of the last node used for a point close to it",
        "exact_in_long_runs",
        _measuring(StaleNode),
    ),
    "state ignored": Wrong(
        "samples evaluated in the model's present state",
        "samples_are_in_the_state_of_the_step",
        _measuring(StateIgnored),
    ),
    "NaN to zero": Wrong(
        "a gradient of NaN counted as 0", "non_finite_numbers_are_refused", _measuring(SampledNanToZero)
    ),
    **WRONG_CHEAP,
}
