"""Estimators with one wrong field, or that fail on steps, losses and samples of one kind only."""

import os
from dataclasses import dataclass, field, replace
from math import nan
from typing import Any, ClassVar

import numpy as np

from lca import SIMPSON, Adaptive, Cost, PathIntegral
from lca.estimators import Integral, Path
from lca.objective import Evaluation, Sum, evaluate
from tests.meta.animals import Altered, Disguised, Wrong, left, with_values

# --- estimators of the full loss ------------------------------------------------------------------------


def _start_cost_of_all(a, step, objective):
    return replace(a, start_cost=a.cost)


def _residual_as_error_bar(a, step, objective):
    return replace(a, stderr=np.where(a.values != 0, abs(a.residual), 0).astype(a.values.dtype))


def _tolerance_set_afterwards(a, step, objective):
    return replace(a, tolerance=max(abs(a.residual), a.tolerance or 0.0), converged=True)


def _no_limit(a, step, objective):
    return replace(a, tolerance=float("inf"), converged=True)


def _mass_of_the_values(a, step, objective):
    return a if a.terms else replace(a, mass=float(np.abs(a.values).sum(dtype=np.float64)))


def _float32_losses_of_float32(a, step, objective):
    if a.values.dtype != np.float32:
        return a
    rounded = replace(a, loss_start=float(np.float32(a.loss_start)), loss_end=float(np.float32(a.loss_end)))
    return replace(rounded, residual=left(rounded, a.values) - a.state_change)


def _terms_in_double(a, step, objective):
    terms = {name: replace(term, values=term.values.astype(np.float64)) for name, term in a.terms.items()}
    return replace(a, terms=terms)


def _state_change_in_every_term(a, step, objective):
    terms = {name: replace(term, state_change=a.state_change) for name, term in a.terms.items()}
    return replace(a, terms=terms)


def _sources_numbered_zero(a, step, objective):
    terms = {name: replace(term, source=replace(step, index=-1)) for name, term in a.terms.items()}
    return replace(a, terms=terms)


def _at_most_65535(a, step, objective):
    n = min(len(a.values), 2**16 - 1)
    return with_values(a, np.append(a.values[:n], 0 * a.values[n:])) if n < len(a.values) else a


def _environment(a, step, objective):
    os.environ["LCA_ZOO_ESTIMATOR"] = str(1 + int(os.environ.get("LCA_ZOO_ESTIMATOR", "0")))
    return a


@dataclass(frozen=True)
class WorksInTheStart(Disguised):
    """The start is a work vector and restored afterwards."""

    inner: Any = PathIntegral(SIMPSON)

    def start(self, objective):
        allocate_step = self.inner.start(objective)

        def restoring(step):
            kept = step.start.copy()
            step.start[...] += 0.5 * (step.end - step.start)
            step.start[...] = kept
            return allocate_step(step)

        return restoring


@dataclass(frozen=True)
class WarmsUp(Disguised):
    """A gradient at 0, for compilation, that is not counted."""

    inner: Any = PathIntegral(SIMPSON)

    def start(self, objective):
        objective.loss_and_grad(np.zeros(objective.layout.size))
        return self.inner.start(objective)


@dataclass(frozen=True)
class PassesNone(Disguised):
    """``loss_and_grad(theta, None)``, which an objective without batches does not take."""

    inner: Any = PathIntegral(SIMPSON)

    def start(self, objective):
        def gradient_at(objective, point):
            if isinstance(objective, Sum):
                return evaluate(objective, point.theta), Cost(full_gradients=1)
            return Evaluation(*objective.loss_and_grad(point.theta, None)), Cost(full_gradients=1)

        path = Path(objective, gradient_at)

        def allocate_step(step):
            segment = path.segment(step)
            integral = Integral(segment)
            for s, weight in zip(SIMPSON.nodes, SIMPSON.weights, strict=True):
                integral.add(weight, segment.at(s))
            return integral.allocation()

        return allocate_step


@dataclass(frozen=True)
class TermByTerm(Disguised):
    """Every term of a sum in a run of its own, whose costs are added."""

    inner: Any = PathIntegral(SIMPSON)

    def start(self, objective):
        whole = self.inner.start(objective)
        parts = len(objective.terms) if isinstance(objective, Sum) else 1

        def allocate_step(step):
            a = whole(step)
            return replace(a, cost=sum([a.cost] * parts, Cost()))

        return allocate_step


FIELDS, COST, TERMS32 = "no_field_is_made_up", "reported_cost_is_true", "terms_add_up_in_float32"
WRONG_FIELDS: dict[str, Wrong] = {
    "start cost of all": Wrong(
        "the whole cost booked at the start of the step", FIELDS, lambda: Altered(_start_cost_of_all)
    ),
    "residual as error bar": Wrong(
        "the residual shown as the standard error of every value",
        FIELDS,
        lambda: Altered(_residual_as_error_bar),
    ),
    "tolerance set afterwards": Wrong(
        "a tolerance that is raised to the residual",
        FIELDS,
        lambda: Altered(_tolerance_set_afterwards, Adaptive(tol=1e-9, max_gradients=3)),
    ),
    "infinite tolerance": Wrong(
        "a tolerance of infinity, which every step meets",
        FIELDS,
        lambda: Altered(_no_limit, Adaptive(tol=1e-4, max_gradients=3)),
    ),
    "mass of the values": Wrong(
        "Σ|values| reported as the mass, after gradients have cancelled along the step",
        "mass_is_at_least_that_of_one_node",
        lambda: Altered(_mass_of_the_values),
    ),
    "float32 losses of float32": Wrong(
        "losses in the dtype of the parameters",
        "fields_are_right_in_float32",
        lambda: Altered(_float32_losses_of_float32),
    ),
    "terms in double": Wrong("terms in float64 in a float32 run", TERMS32, lambda: Altered(_terms_in_double)),
    "state change in every term": Wrong(
        "the state change of the sum reported for each of its terms",
        "state_is_kept_apart",
        lambda: Altered(_state_change_in_every_term),
    ),
    "sources numbered zero": Wrong(
        "the terms refer to another step", "terms_add_up", lambda: Altered(_sources_numbered_zero)
    ),
    "at most 65,535": Wrong("positions in 16 bits", "exact_for_huge_models", lambda: Altered(_at_most_65535)),
    "environment": Wrong(
        "an environment variable set in each step", "the_process_is_left_alone", lambda: Altered(_environment)
    ),
    "works in the start": Wrong(
        "the start used as a work vector and restored, which a read-only one does not allow",
        "read_only_vectors_are_read",
        WorksInTheStart,
    ),
    "warms up": Wrong("a gradient in start() that no step reports", COST, WarmsUp),
    "passes None": Wrong(
        "batch=None passed to an objective that takes θ alone",
        "objectives_without_batches_are_measured",
        PassesNone,
    ),
    "term by term": Wrong(
        "the gradients of the terms of a sum counted one by one",
        "cost_of_a_sum_is_that_of_one_loss",
        TermByTerm,
    ),
}


# --- samples --------------------------------------------------------------------------------------------


def share_of(objective):
    """The part of each example in the mean."""
    weight = objective.weight
    weight = np.ones(objective.n_examples) if weight is None else np.asarray(weight)
    return weight / weight.sum()


def by_weight(rng, objective, size):
    """The right draw: examples by their weight, averaged plainly."""
    return objective.batch(rng.choice(objective.n_examples, size, p=share_of(objective)))


def without_the_last(rng, objective, size):
    p = share_of(objective)[:-1]
    return objective.batch(rng.choice(objective.n_examples - 1, size, p=p / p.sum()))


@dataclass(frozen=True)
class Trapezoid:
    """A trapezoid of ``parts`` independent samples at each end.

    ``draw(rng, objective, size)`` makes a batch, ``join`` the mean of the gradients of the parts, and
    ``bars`` changes the replicates of an end.
    """

    draw: Any = by_weight
    size: int = 6
    parts: int = 1
    join: Any = lambda gradients: np.mean(gradients, axis=0, dtype=gradients[0].dtype)
    bars: Any = None
    reseeds: bool = False
    seed: int = 0
    target: ClassVar[str] = "probe"
    degree: ClassVar[int] = 1
    unbiased: ClassVar[bool] = True
    bias: ClassVar[str] = "only the error of the rule"
    required_fields: ClassVar[tuple[str, ...]] = ()

    @property
    def cost(self):
        return Cost(examples=2 * self.size * self.parts)

    def reseeded(self, seed):
        return replace(self, seed=seed)

    def start(self, objective):
        run = _Run(self, objective, np.random.default_rng(self.seed))
        path = Path(objective, run.gradient_at, sampled=True, reuse_ends=False)
        return lambda step: run.allocate(path.segment(step), step)


@dataclass
class _Run:
    estimator: Trapezoid
    objective: Any
    rng: Any
    found: dict[float, list[np.ndarray]] = field(default_factory=dict)

    def gradient_at(self, objective, point):
        e = self.estimator
        batches = [e.draw(self.rng, self.objective, e.size) for _ in range(e.parts)]
        self.found[point.s] = [objective.loss_and_grad(point.theta, batch)[1] for batch in batches]
        return Evaluation(nan, e.join(self.found[point.s])), Cost(examples=e.size * e.parts)

    def allocate(self, segment, step):
        if self.estimator.reseeds:
            self.rng = np.random.default_rng(self.estimator.seed)
        integral = Integral(segment)
        for s in (0.0, 1.0):
            integral.add(0.5, segment.at(s))
        if self.estimator.bars is None:
            return integral.allocation()
        times = {0.0: step.index + 0.25, 1.0: step.index + 0.75}  # no sample is shared by two steps
        delta = step.end - step.start
        copies = {
            times[s]: self.estimator.bars(self.rng, [0.5 * gradient * delta for gradient in gradients])
            for s, gradients in self.found.items()
        }
        return integral.allocation(copies)


def as_they_are(rng, replicates):
    return replicates


def bootstrapped(rng, replicates):
    """Replicates drawn anew among themselves, moved to the right mean: a spread too small by 1/m."""
    rows = np.array(replicates)
    drawn = rows[rng.integers(len(rows), size=len(rows))]
    return list(drawn - drawn.mean(axis=0) + rows.mean(axis=0))


def population_variance(rng, replicates):
    """The spread of ``np.var`` with its default, divided by m and not by m - 1."""
    rows, m = np.array(replicates), len(replicates)
    return list(rows.mean(axis=0) + (rows - rows.mean(axis=0)) * ((m - 1) / m) ** 0.5)


def _median(gradients):
    return np.median(gradients, axis=0).astype(gradients[0].dtype)


SPREAD = "spread_of_all_values_is_calibrated"
WRONG_SAMPLES: dict[str, Wrong] = {
    "without the last example": Wrong(
        "an upper end of integers() that is one too small",
        "every_example_is_drawn",
        lambda: Trapezoid(without_the_last),
    ),
    "seeded in each step": Wrong(
        "default_rng(seed) in each step: the same examples for all of them",
        "steps_draw_samples_of_their_own",
        lambda: Trapezoid(reseeds=True),
    ),
    "median of the parts": Wrong(
        "the median of the micro-batches, which is robust and biased",
        "mean_is_right_for_skewed_examples",
        lambda: Trapezoid(size=3, parts=5, join=_median),
    ),
    "bootstrap copies": Wrong(
        "bootstrap copies of the replicates, whose spread is too small",
        SPREAD,
        lambda: Trapezoid(parts=4, bars=bootstrapped),
    ),
    "population variance": Wrong(
        "np.var with ddof=0 of five replicates", SPREAD, lambda: Trapezoid(parts=5, bars=population_variance)
    ),
}
RIGHT_SAMPLES = {
    "own trapezoid": Trapezoid(),
    "own trapezoid, error bars": Trapezoid(parts=4, bars=as_they_are),
}
