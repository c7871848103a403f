"""Short training runs on small batches of examples that differ, with known full-data allocations."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeAlias
from zlib import crc32

import numpy as np

from lca import tolerances
from lca.allocation import Allocator
from lca.estimators._stochastic import StochasticEstimator
from lca.layout import Layout
from lca.reference._optimizers import SGD, leave_one_out, update_slope
from lca.reference._training import with_next
from lca.step import ExampleScores, MicroBatch, Step, Trajectory
from lca.testing._replicated import batch_size, micro_batches_of
from lca.views._error_bars import ErrorBars

Array = np.ndarray
Batch = tuple[Array, Array]
STEPS = 5
TOP_POWER = 4
"""The highest power of θ in the loss of an example; full-data laws cover higher ones."""
_KIT = 0x717  # so that no generator of an estimator repeats a stream of the kit


def kit_rng(*seed: int) -> np.random.Generator:
    """A generator whose stream differs from ``default_rng(seed)``, of which estimators make use."""
    return np.random.default_rng([_KIT, *seed])


@dataclass(frozen=True, eq=False)
class SampledRidges:
    """``ℓ_n(θ) = b_n·θ + Σ_j γ_{n,j} (a_j·θ)^p / p``, and L, their mean with weights w.

    A batch is a pair (indices, weights). The closed form is that of `lca.testing.problems.RidgePolynomial`.

    Parameters
    ----------
    slopes
        b (N, K).
    heights
        γ (N, J).
    directions
        a (J, K).
    power
        p ≥ 1.
    weight
        w (N,), or ``None`` if all are 1.
    misleading
        Whether scores are low where gradients are large, and others at every point.
    """

    slopes: Array
    heights: Array
    directions: Array
    power: int
    weight: Array | None
    layout: Layout
    misleading: bool = False
    counts: dict[str, int] = field(default_factory=lambda: {"gradients": 0, "losses": 0})

    @classmethod
    def random(cls, degree: int, rng: np.random.Generator, *, weighted: bool = True) -> Self:
        """30 to 50 examples and 3 to 8 parameters in three tensors; a polynomial of at most degree + 1.

        Examples with a large slope weigh more, so that a mean without weights is another one. The power is 1
        or even: an odd one has no minimum, and training on it ends in infinite numbers.
        """
        n, shapes = int(rng.integers(30, 51)), ((), (1, int(rng.integers(1, 4))), (int(rng.integers(1, 5)),))
        layout = Layout(("b.scale", "a.weight", "10"), shapes)
        slopes = rng.normal(0.3, 1.0, size=(n, layout.size))
        heights = rng.gamma(2.0, size=(n, 3)) / 3
        directions = rng.normal(size=(3, layout.size)) / np.sqrt(layout.size)
        weight = np.exp(0.7 * slopes[:, 0]) if weighted else None
        power = min(degree + 1, TOP_POWER)
        return cls(slopes, heights, directions, power - power % 2 or 1, weight, layout)

    @classmethod
    def skewed(cls, degree: int, rng: np.random.Generator) -> Self:
        """The same without weights, where few examples have most of the gradient."""
        plain = cls.random(degree, rng, weighted=False)
        return replace(plain, slopes=rng.exponential(size=plain.slopes.shape))

    @classmethod
    def misled(cls, degree: int, rng: np.random.Generator) -> Self:
        """The same without weights, with the lowest scores where the gradients are the largest."""
        plain = cls.random(degree, rng, weighted=False)
        return replace(plain, slopes=rng.exponential(size=plain.slopes.shape), misleading=True)

    @property
    def n_examples(self) -> int:
        return len(self.slopes)

    @property
    def labels(self) -> Array:
        return np.arange(self.n_examples) % 2

    @property
    def share(self) -> Array:
        """The part of each example in the mean (N,)."""
        weight = np.ones(self.n_examples) if self.weight is None else self.weight
        share: Array = weight / weight.sum()
        return share

    def batch(self, index: Array, weight: Array | None = None) -> Batch:
        return index, np.ones(len(index)) if weight is None else weight

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        self.counts["losses"] += self.n_examples if batch is None else len(batch[0])
        return self._loss_and_grad(theta, batch)[0]

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        self.counts["gradients"] += self.n_examples if batch is None else len(batch[0])
        return self._loss_and_grad(theta, batch)

    def scores(self, theta: Array, batch: Batch | None = None) -> Array:
        index = np.arange(self.n_examples) if batch is None else batch[0]
        self.counts["losses"] += len(index)
        if self.misleading:
            return self._misleading_scores(theta)[index]
        curved = (self.heights[index] * (self.directions @ theta) ** (self.power - 1)) @ self.directions
        scores: Array = np.abs(self.slopes[index] + curved).sum(axis=1)
        return scores

    def _misleading_scores(self, theta: Array) -> Array:
        """0 for the fifth of the examples with the largest slopes; others differ from point to point."""
        size = self.slopes.sum(axis=1)
        noise = kit_rng(crc32(theta.tobytes())).normal(size=self.n_examples)
        scores: Array = np.exp(0.5 * noise) / size**3
        scores[size > np.quantile(size, 0.8)] = 0
        return scores

    def exact_allocation(self, start: Array, end: Array) -> Array:
        """The full-data allocation (K,) of a step."""
        u, v, p = self.directions @ start, self.directions @ end, self.power
        mean_slope = sum(v**k * u ** (p - 1 - k) for k in range(p)) / p
        share = self.share
        gradient = share @ self.slopes + (share @ self.heights * mean_slope) @ self.directions
        allocation: Array = (end - start) * gradient
        return allocation

    def rounding(self, start: Array, end: Array) -> float:
        """By how much values of a step, or their standard errors, may differ from those without rounding."""
        largest = np.maximum(abs(self.directions @ start), abs(self.directions @ end)) ** (self.power - 1)
        share = self.share
        gradient = share @ np.abs(self.slopes) + (share @ self.heights * largest) @ np.abs(self.directions)
        mass = float(np.abs(end - start) @ gradient)
        return tolerances.polynomial(mass, self.power, tolerances.EPS64, self.n_examples)

    def _loss_and_grad(self, theta: Array, batch: Batch | None) -> tuple[float, Array]:
        self.layout.check(theta, "theta")
        if batch is None:
            slope, height = self.share @ self.slopes, self.share @ self.heights
        else:
            index, weight = batch
            share = weight / weight.sum()
            slope, height = share @ self.slopes[index], share @ self.heights[index]
        u = self.directions @ theta
        loss = float(slope @ theta + height @ u**self.power / self.power)
        return loss, slope + (height * u ** (self.power - 1)) @ self.directions


def training_run(
    objective: SampledRidges, estimator: StochasticEstimator, rng: np.random.Generator, *, steps: int = STEPS
) -> Iterator[Step]:
    """SGD with momentum on small batches, drawn independently; steps have the fields that are required.

    The examples of a batch are drawn with replacement, unless the estimator states that they are not.
    """
    wanted, replacement = set(estimator.required_fields), _batches_in_data(estimator) is None
    every = _every_field(objective, micro_batches_of(estimator), rng, steps + 1, replacement=replacement)
    for step in with_next(every):
        names = ("batch", "gradient", "micro_batches", "scores", "update_slope")
        fields = {name: getattr(step, name) for name in names if name in wanted}
        fields |= {f"next_{n}": getattr(step, f"next_{n}") for n in names[:3] if f"next_{n}" in wanted}
        yield Step(step.start, step.end, step.index, **fields)


def _every_field(
    objective: SampledRidges, parts: int, rng: np.random.Generator, steps: int, *, replacement: bool
) -> Iterator[Step]:
    theta, sgd = rng.normal(1.0, 0.3, size=objective.layout.size), SGD(0.05, momentum=0.5)
    state = sgd.init(theta)
    for index in range(steps):
        # Drawn by weight, as the loss of a batch is the plain mean of its examples.
        share = objective.share if replacement else None
        examples = rng.choice(objective.n_examples, batch_size(parts), replacement, share)
        batch, counts = objective.batch(examples), dict(objective.counts)
        fields: dict[str, Any] = {"scores": ExampleScores(examples, objective.scores(theta, batch))}
        pieces = [objective.batch(piece) for piece in np.split(examples, _uneven_cuts(parts))]
        grads = [objective.loss_and_grad(theta, piece)[1] for piece in pieces]
        objective.counts.update(counts)  # training costs nothing
        sizes = [len(index) for index, _ in pieces]
        grad = np.average(grads, axis=0, weights=sizes)
        updates = leave_one_out(sgd, state, grads, theta, sizes=sizes)
        fields["micro_batches"] = tuple(map(MicroBatch, grads, updates, sizes))
        fields["update_slope"] = update_slope(sgd, state, grad, theta)
        state, delta = sgd.update(state, grad, theta)
        yield Step(theta, theta + delta, index, batch, gradient=grad, **fields)
        theta = theta + delta


def _batches_in_data(estimator: StochasticEstimator) -> float | None:
    """How many batches the data make, for an estimator on independent batches without replacement."""
    return getattr(estimator, "epoch", None) if getattr(estimator, "independent", False) else None


def _of_size(objective: SampledRidges, n: int) -> SampledRidges:
    """The same without weights, on n examples; some of them are equal if there were fewer."""
    rows = np.resize(np.arange(objective.n_examples), n)
    return replace(objective, slopes=objective.slopes[rows], heights=objective.heights[rows], weight=None)


def _uneven_cuts(parts: int) -> list[int]:
    """Where a batch is cut into micro-batches of 1, n, ..., n and 2n - 1 examples."""
    n = batch_size(parts) // parts
    return [n * m - n + 1 for m in range(1, parts)]


@dataclass(frozen=True, eq=False)
class Errors:
    """The errors of many runs; errors and standard errors that may be rounding are 0.

    Attributes
    ----------
    errors
        Estimate minus true allocation, (runs, steps, K).
    size
        The mean over the runs of the true ``|total|`` of a parameter, (K,), in units of the loss.
    stderrs
        Stated standard errors of these values, (runs, steps, K), or ``None`` if the estimator states none.
    run_stderrs
        Stated standard errors of the sums over the steps of a run, (runs, K), or ``None``.
    beside
        The field ``stderr`` of all values beside replicates, (runs, steps, K), or ``None``.
    """

    errors: Array
    size: Array
    stderrs: Array | None
    run_stderrs: Array | None
    beside: Array | None = None


def errors_of_runs(
    estimator: StochasticEstimator,
    runs: int,
    seed: int,
    *,
    make: Callable[[int, np.random.Generator], SampledRidges] = SampledRidges.random,
    steps: int = STEPS,
) -> Errors:
    """The errors of ``runs`` independent runs of ``steps`` steps, all on one problem that ``make`` draws."""
    objective, batches = make(estimator.degree, kit_rng(seed, 0)), _batches_in_data(estimator)
    if batches is not None:
        objective = _of_size(objective, round(batches * batch_size(micro_batches_of(estimator))))

    def one_run(run: int) -> "_OneRun":
        trained = training_run(objective, estimator, kit_rng(seed, 1, run), steps=steps)
        allocate_step = estimator.reseeded(seed * 1_000_003 + run).start(objective)
        return _one_run(allocate_step, trained, objective)

    return _together([one_run(run) for run in range(runs)])


def errors_on_long_steps(estimator: StochasticEstimator, runs: int, seed: int, *, alike: bool) -> Errors:
    """The same of runs over one series of long steps, for an estimator that requires no fields.

    All examples are ``alike``, or in the order of their curvature. Where they are alike, the loss has a
    higher degree than the declared one, up to which random nodes may be exact, and errors are those against
    the mean over the runs: their spread is right whatever the mean is.
    """
    rng = kit_rng(seed, 2)
    objective = SampledRidges.random(estimator.degree, rng, weighted=False)
    heights = np.sort(objective.heights, axis=0) ** 2
    power = min(estimator.degree + 1, TOP_POWER)
    if alike:
        heights, power = np.broadcast_to(heights.mean(axis=0), heights.shape), TOP_POWER
        objective = replace(objective, slopes=np.zeros_like(objective.slopes))
    objective = replace(objective, heights=heights, power=power)
    steps = list(Trajectory(rng.normal(size=(STEPS + 1, objective.layout.size))))
    starts = (estimator.reseeded(seed * 1_000_003 + run).start for run in range(runs))
    return _together([_one_run(start(objective), steps, objective) for start in starts], centred=alike)


_OneRun: TypeAlias = tuple[Array, Array, Array, Array | None, Array | None, Array | None]
"""The errors of a run (steps, K), their rounding (steps, 1), the true totals (K,), and the standard errors:
values, sums, field."""


def _together(found: Sequence[_OneRun], *, centred: bool = False) -> Errors:
    errors, rounding, totals, *spreads = (
        None if each[0] is None else np.array(each) for each in zip(*found, strict=True)
    )
    assert errors is not None
    assert rounding is not None
    assert totals is not None
    if centred:
        errors = (errors - errors.mean(axis=0)) * np.sqrt(len(errors) / (len(errors) - 1))
    stderrs, run_stderrs, beside = spreads
    return Errors(
        _without(rounding, errors),
        np.abs(totals).mean(axis=0),
        None if stderrs is None else _without(rounding, stderrs),
        None if run_stderrs is None else _without(rounding.sum(axis=1), run_stderrs),
        None if beside is None else _without(rounding, beside),
    )


def _without(rounding: Array, values: Array) -> Array:
    """The values, with 0 in place of those that may be due to rounding."""
    return np.where(np.abs(values) <= rounding, 0.0, values)


def _one_run(allocate_step: Allocator, steps: Iterable[Step], objective: SampledRidges) -> _OneRun:
    values, truth, rounding, stderrs = [], [], [], []
    bars: ErrorBars | None = None
    for step in steps:
        a = allocate_step(step)
        truth.append(objective.exact_allocation(step.start, step.end))
        rounding.append([objective.rounding(step.start, step.end)])
        values.append(a.values)
        stderrs.append(a.stderr)
        if a.replicates:
            k = len(a.values)
            bars = bars or ErrorBars(Layout(tuple(map(str, range(k))), ((),) * k).groups("tensor"))
            bars.update(a)
    errors, total = np.array(values) - np.array(truth), np.sum(truth, axis=0)
    field = None if any(stderr is None for stderr in stderrs) else np.array(stderrs)
    if bars is not None:
        return errors, np.array(rounding), total, bars.per_step(), bars.stderr(), field
    return errors, np.array(rounding), total, field, None, None
