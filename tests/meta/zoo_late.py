"""Estimators that are wrong late in a run, in large models, on hard steps or in large data sets only."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import nan
from typing import Any, ClassVar

import numpy as np

from lca import SIMPSON, TRAPEZOID, Adaptive, Cost, PathIntegral, Step
from lca.estimators import CrossFit, Integral, NextBatch, Path, SameBatch, SampledPathIntegral, integrate
from lca.objective import Evaluation, Sum
from tests.meta.animals import Altered, Disguised, Passing, Through, Wrong, left, with_values
from tests.meta.zoo_stochastic import Changed

CORNERS = "fields_are_right_in_large_models_and_long_runs"
UNTOUCHED = "inputs_are_left_alone"
INDEX = "keeps_the_index_of_the_step"
ANY_SIZE = "exact_for_models_of_any_size"
TERMS = "terms_add_up"
RECUR = "samples_do_not_recur"
MANY = "large_data_sets_are_sampled"
LATE = 12


@dataclass(frozen=True)
class WithMemory(Disguised):
    """A correct estimator with ``change(allocation, step, objective, n)`` after the n-th step."""

    change: Callable[..., Any] = lambda a, step, objective, n: a
    inner: Any = PathIntegral(SIMPSON)

    def start(self, objective):
        allocate_step, steps = self.inner.start(objective), []

        def changed(step):
            steps.append(step.index)
            return self.change(allocate_step(step), step, objective, len(steps))

        return changed


def late(**fields: Any) -> Callable[[], WithMemory]:
    """Fields that are wrong after step 12."""
    return lambda: WithMemory(lambda a, step, objective, n: replace(a, **fields) if n > LATE else a)


def _forgets(a, step, objective, n):
    return with_values(a, 0 * a.values) if n == LATE + 1 else a


def _late_start(a, step, objective, n):
    return replace(a, loss_start=a.loss_end) if n > LATE else a


def _audits_uncounted(a, step, objective, n):
    if n % 10 == 0:
        objective.loss(step.end)
    return a


def _always_converged(a, step, objective, n):
    return replace(a, converged=True) if n > LATE else a


# --- inputs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Writes(Disguised):
    """``write(step)`` after each step."""

    write: Callable[[Step], Any] = lambda step: None
    inner: Any = PathIntegral(SIMPSON)

    def start(self, objective):
        allocate_step = self.inner.start(objective)

        def writing(step):
            a = allocate_step(step)
            self.write(step)
            return a

        return writing


def _write(a, step, memory, name):
    getattr(step, name)[...] *= 0.5
    return a


def _write_micro_batch(a, step, memory):
    step.micro_batches[0].update[...] = 0
    return a


def _normalise_scores(a, step, memory):
    step.scores.values[...] /= 2 * step.scores.values.sum()
    return a


# --- large models ---------------------------------------------------------------------------------------


def _first_thousand(a, step, objective):
    return with_values(a, np.append(a.values[:1_000], 0 * a.values[1_000:]))


def _mass_of_the_first(a, step, objective):
    k = len(a.values)
    return a if k <= 1_000 else replace(a, mass=float(np.abs(a.values[:1_000]).sum(dtype=np.float64)))


def _residual_of_the_first(a, step, objective):
    return replace(a, residual=left(a, a.values[:1_024]) - a.state_change)


def _noise_beyond(a, step, objective):
    values = a.values.copy()
    values[1_000:] += 1e-18
    return replace(a, values=values)


def _double_if_large(a, step, objective):
    return replace(a, values=a.values.astype(np.float64)) if len(a.values) > 1_000 else a


def _terms_of_the_first(a, step, objective):
    terms = {
        n: replace(t, values=np.append(t.values[:1_000], 0 * t.values[1_000:])) for n, t in a.terms.items()
    }
    return replace(a, terms=terms)


def _first_tensors(most: int) -> Callable[..., Any]:
    def change(a, step, objective):
        layout = objective.layout
        if len(layout.names) <= most:
            return a
        at = layout.offsets[most]
        return with_values(a, np.append(a.values[:at], 0 * a.values[at:]))

    return change


@dataclass(eq=False)
class Sparse(Passing):
    """Gradients whose entries below a part of the largest one are dropped."""

    part: float = 0.0

    def loss_and_grad(self, theta, batch=None):
        loss, grad = self.objective.loss_and_grad(theta)
        return loss, np.where(np.abs(grad) < self.part * np.abs(grad).max(initial=0), 0, grad)


def sparse(part: float) -> Callable[[], Through]:
    def wrap(objective):
        plain = not isinstance(objective, Sum) and not hasattr(objective, "state")
        return Sparse(objective, part) if plain and not hasattr(objective, "differentiating") else objective

    return lambda: Through(wrap)


# --- cost, terms, index ---------------------------------------------------------------------------------


def _terms_with(**fields: Any) -> Callable[[], Altered]:
    def change(a, step, objective):
        return replace(a, terms={name: replace(term, **fields) for name, term in a.terms.items()})

    return lambda: Altered(change)


def _numbered(convert: Callable[[int], Any]) -> Callable[[], Altered]:
    return lambda: Altered(lambda a, step, objective: replace(a, step=convert(a.step)))


@dataclass(frozen=True)
class Endless(Disguised):
    """Halves the intervals of the trapezoid until the residual is within ``tol``, however long that takes."""

    tol: float = 1e-3
    inner: Any = PathIntegral(TRAPEZOID)

    def start(self, objective):
        path = Path(objective)

        def allocate_step(step):
            segment, n = path.segment(step), 1
            nodes = {0.0: segment.start, 1.0: segment.end}
            while True:
                integral = Integral(segment)
                for s, node in sorted(nodes.items()):
                    integral.add((1 if 0 < s < 1 else 0.5) / n, node)
                a = integral.allocation()
                if abs(a.residual) <= self.tol:
                    return replace(a, tolerance=self.tol)
                n *= 2
                nodes |= {s: segment.at(s) for s in (np.arange(1, n, 2) / n).tolist()}

        return allocate_step


WRONG_LATE: dict[str, Wrong] = {
    "writes the training gradient": Wrong(
        "Step.gradient scaled in place, which it does not require",
        UNTOUCHED,
        lambda: Writes(lambda step: step.gradient is not None and step.gradient.__imul__(0.5)),
    ),
    "writes the next gradient": Wrong(
        "Step.next_gradient clipped in place",
        UNTOUCHED,
        lambda: Writes(
            lambda step: step.next_gradient is not None and step.next_gradient.clip(-1, 1, step.next_gradient)
        ),
    ),
    "writes updates": Wrong(
        "the updates of micro-batches negated in place",
        UNTOUCHED,
        lambda: Writes(lambda step: [part.update.__imul__(-1) for part in step.micro_batches]),
    ),
    "writes the batch": Wrong(
        "weights of the training batch normalised in place",
        UNTOUCHED,
        lambda: Writes(lambda step: step.batch is not None and step.batch[1].__itruediv__(3)),
    ),
    "writes the state": Wrong(
        "Step.state set back in place",
        UNTOUCHED,
        lambda: Writes(lambda step: step.state is not None and step.state[1]["factor"].fill(1.0)),
    ),
    "first thousand": Wrong(
        "values of the first 1,000 parameters only", ANY_SIZE, lambda: Altered(_first_thousand)
    ),
    "first 1,000 tensors": Wrong(
        "values of the first 1,000 tensors only", ANY_SIZE, lambda: Altered(_first_tensors(1_000))
    ),
    "first 64 tensors": Wrong(
        "values of the first 64 tensors only", ANY_SIZE, lambda: Altered(_first_tensors(64))
    ),
    "mass of the first thousand": Wrong(
        "the mass of the first 1,000 parameters", CORNERS, lambda: Altered(_mass_of_the_first)
    ),
    "residual of the first 1,024": Wrong(
        "a residual without the values beyond 1,024", CORNERS, lambda: Altered(_residual_of_the_first)
    ),
    "noise beyond a thousand": Wrong(
        "1e-18 for parameters beyond 1,000 that do not move", CORNERS, lambda: Altered(_noise_beyond)
    ),
    "double if large": Wrong(
        "float64 values in float32 runs of more than 1,000 parameters",
        "terms_add_up_in_float32",
        lambda: Altered(_double_if_large),
    ),
    "terms of the first thousand": Wrong(
        "terms without the parameters beyond 1,000", TERMS, lambda: Altered(_terms_of_the_first)
    ),
    "sparse at 1e-3": Wrong("gradient entries below 1e-3 of the largest dropped", ANY_SIZE, sparse(1e-3)),
    "sparse at 1e-6": Wrong("gradient entries below 1e-6 of the largest dropped", ANY_SIZE, sparse(1e-6)),
    "sparse at 1e-9": Wrong("gradient entries below 1e-9 of the largest dropped", ANY_SIZE, sparse(1e-9)),
    "start never reported": Wrong(
        "start_cost left at its default",
        "no_field_is_made_up",
        lambda: Altered(lambda a, step, objective: replace(a, start_cost=Cost())),
    ),
    "audits uncounted": Wrong(
        "an uncounted loss every ten steps", CORNERS, lambda: WithMemory(_audits_uncounted)
    ),
    "forgets at step 12": Wrong(
        "the values of one late step lost, as at the end of an epoch",
        "exact_in_long_runs",
        lambda: WithMemory(_forgets),
    ),
    "late residual": Wrong("a residual of 0 after step 12", CORNERS, late(residual=0.0)),
    "late mass": Wrong("a mass of 0 after step 12", CORNERS, late(mass=0.0)),
    "late start": Wrong(
        "the loss at the end for that at the start, after step 12", CORNERS, lambda: WithMemory(_late_start)
    ),
    "late terms": Wrong("no terms after step 12", TERMS, late(terms={})),
    "late convergence": Wrong(
        "converged=True for all steps after step 12",
        "hard_steps_end",
        lambda: WithMemory(_always_converged, Adaptive(max_gradients=3)),
    ),
    "terms that cost": Wrong(
        "terms with a cost of their own, so that sums count it twice",
        TERMS,
        _terms_with(cost=Cost(full_gradients=1)),
    ),
    "terms that are sampled": Wrong("terms marked as sampled", TERMS, _terms_with(sampled=True)),
    "terms without reason": Wrong(
        "terms that have not converged, without a reason", TERMS, _terms_with(converged=False)
    ),
    "terms within 0": Wrong("terms with a tolerance of 0 that they miss", TERMS, _terms_with(tolerance=0.0)),
    "index in float32": Wrong(
        "the index of the step kept in float32", INDEX, _numbered(lambda t: int(np.float32(t)))
    ),
    "index in 16 bits": Wrong(
        "the index of the step kept in 16 bits", INDEX, _numbered(lambda t: int(np.array(t).astype(np.int16)))
    ),
    "index as float": Wrong("the index of the step as a float", INDEX, _numbered(float)),
    "endless": Wrong("refines until the residual is small, without a limit", "hard_steps_end", Endless),
    "endless below rounding": Wrong(
        "refines until the residual is below rounding, without a limit",
        "hard_steps_end",
        lambda: Endless(1e-16),
    ),
}


# --- on samples -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnSamples:
    """A trapezoid on samples of its own; ``examples(index, n_examples, kept, step)`` changes their indices.

    The generator begins anew every ``period`` steps, if there is one.
    """

    examples: Callable[..., Any] = lambda index, n, kept, number: index
    period: int = 0
    change: Callable[..., Any] = lambda a, step: a
    size: int = 8
    seed: int = 0
    target: ClassVar[str] = "probe"
    degree: ClassVar[int] = 1
    unbiased: ClassVar[bool] = True
    bias: ClassVar[str] = "the error of the trapezoid"
    required_fields: ClassVar[tuple[str, ...]] = ()

    @property
    def cost(self):
        return Cost(examples=self.size)

    def reseeded(self, seed):
        return replace(self, seed=seed)

    def start(self, objective):
        n, weight = objective.n_examples, objective.weight
        share = None if weight is None else weight / weight.sum()
        kept, steps, rng = {}, [], [np.random.default_rng([self.seed, 5])]

        def gradient_at(objective, point):
            index = (
                rng[0].integers(n, size=self.size) if share is None else rng[0].choice(n, self.size, p=share)
            )
            batch = objective.batch(self.examples(index, n, kept, len(steps)))
            return Evaluation(nan, objective.loss_and_grad(point.theta, batch)[1]), self.cost

        path = Path(objective, gradient_at, sampled=True)

        def allocate_step(step):
            steps.append(step.index)
            if self.period and len(steps) % self.period == 0:
                rng[0] = np.random.default_rng([self.seed, 5])
            return self.change(integrate(path.segment(step), TRAPEZOID).allocation(), step)

        return allocate_step


def _in_bits(dtype: str) -> Callable[[], OwnSamples]:
    return lambda: OwnSamples(lambda index, n, kept, number: index.astype(dtype).astype(np.int64))


@dataclass(frozen=True)
class FirstTerm(Changed):
    """Of a `Sum`, the first term only."""

    inner: Any = field(default_factory=lambda: NextBatch(SIMPSON))

    def start(self, objective):
        if isinstance(objective, Sum):
            objective = next(iter(objective.terms.values()))
        return self.inner.start(objective)


@dataclass(frozen=True)
class TermByTerm(Changed):
    """Of a `Sum`, one run for each term; the last ``skipped`` ones are left out of the sum."""

    inner: Any = field(default_factory=lambda: SampledPathIntegral(size=6))
    skipped: int = 0

    def start(self, objective):
        if not isinstance(objective, Sum):
            return self.inner.start(objective)
        runs = {name: self.inner.start(term) for name, term in objective.terms.items()}

        def allocate_step(step):
            terms = {name: one(step) for name, one in runs.items()}
            summed = list(terms.values())[: len(terms) - self.skipped]
            cost = sum((a.cost for a in summed), Cost())
            terms = {name: replace(a, cost=Cost(), start_cost=Cost()) for name, a in terms.items()}
            values, mass = sum(a.values for a in summed), sum(a.mass for a in summed)
            return replace(summed[0], values=values, mass=mass, cost=cost, terms=terms)

        return allocate_step


def _narrow_late(a, step, memory):
    memory["n"] = memory.get("n", 0) + 1
    if memory["n"] <= LATE:
        return a
    means = {time: np.mean(list(parts), axis=0) for time, parts in a.replicates.items()}
    narrow = {t: [means[t] + (part - means[t]) / 2 for part in parts] for t, parts in a.replicates.items()}
    return replace(a, replicates=narrow)


LEFT_OUT = "no_term_of_a_sampled_sum_is_left_out"
LATE_MEAN = "mean_and_spread_last_in_long_runs"
RIGHT_LATE = {"own samples": OwnSamples(), "term by term": TermByTerm()}
WRONG_LATE_SAMPLES: dict[str, Wrong] = {
    "begins anew at step 12": Wrong(
        "the generator made anew every 12 steps", RECUR, lambda: OwnSamples(period=12)
    ),
    "begins anew at step 20": Wrong(
        "the generator made anew every 20 steps", RECUR, lambda: OwnSamples(period=20)
    ),
    "four samples in turn": Wrong(
        "a pool of four samples, as if they were new ones",
        RECUR,
        lambda: OwnSamples(lambda index, n, kept, number: kept.setdefault(number % 4, index)),
    ),
    "one sample from step 12 on": Wrong(
        "the sample of step 12 for all later steps",
        RECUR,
        lambda: OwnSamples(
            lambda index, n, kept, number: kept.setdefault("index", index) if number > LATE else index
        ),
    ),
    "examples in int16": Wrong("indices of examples kept in int16", MANY, _in_bits("int16")),
    "examples in uint16": Wrong("indices of examples kept in uint16", MANY, _in_bits("uint16")),
    "at most 65,536 examples": Wrong(
        "indices beyond 65,535 moved there",
        MANY,
        lambda: OwnSamples(lambda index, n, kept, number: np.minimum(index, 2**16 - 1)),
    ),
    "first half, late": Wrong(
        "the first half of the data only, after step 12",
        LATE_MEAN,
        lambda: OwnSamples(lambda index, n, kept, number: index % (n // 2) if number > LATE else index),
    ),
    "narrow error bars, late": Wrong(
        "replicates half as wide after step 12",
        LATE_MEAN,
        lambda: Changed(_narrow_late, SampledPathIntegral(TRAPEZOID, 24, micro_batches=4)),
    ),
    "first term of a sum": Wrong("the first term of a Sum only", LEFT_OUT, FirstTerm),
    "last term left out": Wrong(
        "a sum over terms without the last one", LEFT_OUT, lambda: TermByTerm(skipped=1)
    ),
    "start of samples never reported": Wrong(
        "start_cost of samples left at its default",
        "no_field_is_made_up",
        lambda: OwnSamples(change=lambda a, step: replace(a, start_cost=Cost())),
    ),
    "start of samples is all": Wrong(
        "the whole cost as start_cost",
        "no_field_is_made_up",
        lambda: OwnSamples(change=lambda a, step: replace(a, start_cost=a.cost)),
    ),
    "writes the gradient it requires": Wrong(
        "the training gradient scaled in place after its use",
        UNTOUCHED,
        lambda: Changed(lambda a, step, memory: _write(a, step, memory, "gradient"), SameBatch()),
    ),
    "writes the micro-batches": Wrong(
        "the update of a micro-batch cleared after its use",
        UNTOUCHED,
        lambda: Changed(_write_micro_batch, CrossFit()),
    ),
    "normalises scores": Wrong(
        "scores normalised in place",
        UNTOUCHED,
        lambda: Changed(_normalise_scores, SampledPathIntegral(size=6, sampling="stratified")),
    ),
}
