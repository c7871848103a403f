"""Laws about every field of an allocation, and about steps and objectives of every form."""

from collections.abc import Collection
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
from hypothesis import strategies as st

from lca import tolerances
from lca.allocation import Cost, Estimator, StepAllocation
from lca.estimators._stochastic import StochasticEstimator
from lca.layout import Layout
from lca.objective import Batch, Objective, Sum
from lca.step import Step
from lca.testing._domain import Losses, anything, corners, unrelated_losses
from lca.testing._estimator_checks import honesty, integral, values
from lca.testing._estimator_checks import run as runs
from lca.testing._estimator_checks.law import (
    any_problem,
    in_dtype,
    law_into,
    measures_full_loss,
    run,
)
from lca.testing._instruments import CountingObjective
from lca.testing._laws import require, require_close, rounding
from lca.testing._replicated import Replicated, batch_size, begin, micro_batches_of, with_fields
from lca.testing._report import Check, CheckFailure
from lca.testing.problems import Problem
from lca.testing.strategies import kinked_problems, seeds, smooth_problems

Array = np.ndarray
CHECKS: list[Check] = []
law = law_into(CHECKS)


@law(lambda estimator: st.tuples(any_problem(estimator), seeds), part=2)
def fields_are_right_in_float32(estimator: Estimator, case: tuple[Problem, int]) -> None:
    """Losses, residual, state change, mass and zeros are right in a run of float32 parameters as well."""
    problem, seed = case
    single = in_dtype(problem, np.float32)
    values.reports_the_true_losses(estimator, single)
    values.residual_is_what_is_left(estimator, single)
    values.state_change_is_zero_without_state(estimator, single)
    values.mass_bounds_the_values(estimator, single)
    values.unmoved_parameters_get_exactly_zero(estimator, (single, seed))


@law(lambda estimator: st.tuples(corners(estimator.degree + 3), seeds), part=2)
def fields_are_right_in_large_models_and_long_runs(
    estimator: Estimator, case: tuple[tuple[Problem, ...], int]
) -> None:
    """All fields and the cost are right for more than 1,000 parameters, and in a run of 16 steps, too."""
    problems, seed = case
    for problem in problems:
        values.returns_one_value_per_parameter(estimator, (problem, problem.points.dtype.type))
        values.reports_the_true_losses(estimator, problem)
        values.keeps_the_index_of_the_step(estimator, problem)
        values.residual_is_what_is_left(estimator, problem)
        values.state_change_is_zero_without_state(estimator, problem)
        values.mass_bounds_the_values(estimator, problem)
        values.unmoved_parameters_get_exactly_zero(estimator, (problem, seed))
        values.unused_parameters_get_exactly_zero(estimator, problem)
        values.replicates_add_up_to_the_values(estimator, problem)
        no_field_is_made_up(estimator, problem)
        honesty.reported_cost_is_true(estimator, problem)
        runs.inputs_are_left_alone(estimator, problem)


@law(lambda estimator: unrelated_losses(estimator.degree + 1), measures_full_loss, part=2)
def terms_add_up_in_float32(estimator: Estimator, case: Losses) -> None:
    """The terms of a `lca.Sum` add up, and have all their fields, in a run of float32 parameters as well."""
    integral.terms_add_up(estimator, {name: in_dtype(p, np.float32) for name, p in case.items()})


@law(lambda estimator: smooth_problems(steps=1) | anything(estimator.degree + 1))
def mass_is_at_least_that_of_one_node(estimator: Estimator, problem: Problem) -> None:
    """``mass`` is ``Σ_k |w_k| Σ_i |g_{k,i} Δ_i|``, so at least the smallest ``Σ_i |g_{k,i} Δ_i|`` of a node.

    The absolute values of the sum over the nodes are smaller where gradients turn along the step.
    """
    for step in problem.trajectory:  # each in a run of its own, in which nothing is known before
        recording = _Recording(problem.objective)
        a, delta = begin(estimator, recording)(step), step.end - step.start
        for end in (step.start, step.end):
            recording.loss_and_grad(end)
        least = min(float(np.abs(grad * delta).sum(dtype=np.float64)) for grad in recording.gradients)
        tolerance = rounding(a) + tolerances.EPS32 * least
        require(
            a.mass >= least - tolerance,
            f"step {a.step}: mass = {a.mass:.6g}, but Σ|g Δ| is at least {least:.6g} at every node; take the "
            "absolute values before the sum over the nodes.",
        )


@dataclass(eq=False)
class _Recording:
    """Keeps all gradients."""

    objective: Objective

    def __post_init__(self) -> None:
        self.gradients: list[Array] = []
        self.layout = self.objective.layout

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.objective.loss(theta)

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        loss, grad = self.objective.loss_and_grad(theta)
        self.gradients.append(np.array(grad))
        return loss, grad


@dataclass(frozen=True, eq=False)
class _WithoutBatches:
    """The same loss, whose methods take θ alone, as an objective without batches may."""

    objective: Objective

    @property
    def layout(self) -> Layout:
        return self.objective.layout

    def loss(self, theta: Array) -> float:
        return self.objective.loss(theta)

    def loss_and_grad(self, theta: Array) -> tuple[float, Array]:
        return self.objective.loss_and_grad(theta)


@law(any_problem, measures_full_loss, part=2)
def objectives_without_batches_are_measured(estimator: Estimator, problem: Problem) -> None:
    """An objective whose methods take θ alone, without a batch, has the same values."""
    try:
        alone = run(estimator, _WithoutBatches(problem.objective), problem.trajectory)  # type: ignore[arg-type]
    except TypeError as error:
        message = (
            f"an objective whose methods take θ alone raised TypeError: {error}; do not pass batch=None."
        )
        raise CheckFailure(message) from error
    _require_same(
        alone, run(estimator, problem.objective, problem.trajectory), "an objective without batches"
    )


@law(lambda estimator: smooth_problems() | anything(estimator.degree + 1), part=2)
def read_only_vectors_are_read(estimator: Estimator, problem: Problem) -> None:
    """Steps with read-only vectors, such as those of a memory-mapped file, have the same values."""
    steps = problem.trajectory
    for step in steps:
        step.start.flags.writeable = step.end.flags.writeable = False
    try:
        found = run(estimator, problem.objective, steps)
    except ValueError as error:
        message = f"a step of read-only vectors raised ValueError: {error}; copy what is changed."
        raise CheckFailure(message) from error
    _require_same(found, run(estimator, problem.objective, problem.trajectory), "steps of read-only vectors")


def _require_same(found: list[StepAllocation], expected: list[StepAllocation], of: str) -> None:
    for a, b in zip(found, expected, strict=True):
        require_close(a.values, b.values, rounding(b), f"step {a.step}: values of {of}")
        require(a.cost == b.cost, f"step {a.step}: the cost for {of} is {a.cost}, not {b.cost}.")


@law(lambda estimator: unrelated_losses(estimator.degree + 1), measures_full_loss, part=2)
def cost_of_a_sum_is_that_of_one_loss(estimator: Estimator, case: Losses) -> None:
    """A `lca.Sum` costs a gradient where each of its terms is evaluated once; no term counts for itself."""
    terms = {name: CountingObjective(problem.objective) for name, problem in case.items()}
    allocations = run(estimator, Sum(dict(terms)), next(iter(case.values())).trajectory)
    reported = sum((a.cost for a in allocations), Cost())
    for name, term in terms.items():
        require(
            reported == term.cost, f"the steps report {reported}, but the term {name!r} took {term.cost}."
        )


@law(lambda estimator: kinked_problems() | any_problem(estimator))
def no_field_is_made_up(estimator: Estimator, problem: Problem) -> None:
    """``start_cost``, ``tolerance`` and ``stderr`` hold what they are defined to hold."""
    steps = problem.trajectory
    allocations = run(estimator, problem.objective, steps)
    for a in allocations:
        of = f"step {a.step}: "
        part, whole = (vars(cost).values() for cost in (a.start_cost, a.cost))
        fits = all(0 <= some <= every for some, every in zip(part, whole, strict=True))
        require(fits, f"{of}start_cost is {a.start_cost}, which is not part of {a.cost}.")
        known = a.tolerance is None or (isfinite(a.tolerance) and a.tolerance >= 0)
        require(known, f"{of}tolerance is {a.tolerance!r}; it must be finite and ≥ 0, or None.")
        if measures_full_loss(estimator):
            plain = a.stderr is None and not a.replicates
            require(plain, f"{of}standard errors, although nothing is sampled; leave stderr and replicates.")
    _require_own_tolerances(allocations)
    _require_true_start_cost(estimator, problem.objective, steps)


def _require_own_tolerances(allocations: Collection[StepAllocation]) -> None:
    """A tolerance that is the residual, to the last digit, was set after it."""
    found = [a for a in allocations if a.tolerance and a.tolerance == abs(a.residual)]
    require(not found, f"tolerance is exactly |residual| in the steps {[a.step for a in found]}.")


def _require_true_start_cost(estimator: Estimator, objective: Objective, steps: Collection[Step]) -> None:
    """``start_cost`` is what was evaluated at θ_t in this step, in gradients of examples and in losses.

    A sampled estimator may evaluate more there, as for an audit, and elsewhere for its start, as a control
    variate does. In its first step some cost is that of the start, and none that of the end.
    """
    noting, sampled = _Noting(objective), isinstance(estimator, StochasticEstimator)
    size, allocate_step = batch_size(micro_batches_of(estimator)), estimator.start(noting)

    def examples_of(cost: Cost) -> float:
        full = noting.n_examples * (cost.full_gradients + cost.full_losses)
        return full + size * cost.batch_gradients + cost.examples

    for number, step in enumerate(steps):
        noting.spent.clear()
        a = allocate_step(with_fields(step, objective, estimator) if sampled else step)  # type: ignore[arg-type]
        if np.array_equal(step.start, step.end):
            continue  # its end is the same point
        there, at_end = (noting.spent.get(point.tobytes(), 0) for point in (step.start, step.end))
        told, least, most = examples_of(a.start_cost), float(there), float(there)
        if sampled:
            least, most = (min(there, 1), examples_of(a.cost) - at_end) if number == 0 else (0.0, told)
        rounded = tolerances.summed(most, tolerances.EPS64)
        require(
            least - rounded <= told <= most + rounded,
            f"step {a.step}: start_cost is {a.start_cost}, or {told:g} evaluations of an example, but "
            f"{there} of {noting.n_examples} were made at θ_t in this step, and {at_end} at θ_t+1.",
        )


@dataclass(eq=False)
class _Noting(Replicated):
    """Counts the examples that are evaluated at each point (θ as bytes)."""

    spent: dict[bytes, int] = field(default_factory=dict)

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        self._note(theta, batch)
        return super().loss(theta, batch)

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        self._note(theta, batch)
        return super().loss_and_grad(theta, batch)

    def _note(self, theta: Array, batch: Batch | None) -> None:
        point = theta.tobytes()
        self.spent[point] = self.spent.get(point, 0) + self._size(batch)
