"""Laws about the fields of an allocation: shapes, losses, residual, mass and exact zeros."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lca import tolerances
from lca.allocation import Estimator
from lca.testing._estimator_checks.law import any_problem, law_into, run
from lca.testing._instruments import WithUnusedTensor
from lca.testing._laws import require, require_close, rounding
from lca.testing._report import Check
from lca.testing.problems import Problem

Array = np.ndarray
CHECKS: list[Check] = []
law = law_into(CHECKS)


@law(lambda estimator: st.tuples(any_problem(estimator), st.sampled_from([np.float32, np.float64])))
def returns_one_value_per_parameter(estimator: Estimator, case: tuple[Problem, type]) -> None:
    """``values`` is a finite vector with the shape and dtype of θ."""
    problem, dtype = case
    for a in run(estimator, problem.objective, problem.points.astype(dtype)):
        expected = (problem.objective.layout.size,)
        require(a.values.shape == expected, f"values have shape {a.values.shape}, expected {expected}.")
        require(a.values.dtype == dtype, f"values are {a.values.dtype}, θ is {np.dtype(dtype)}.")
        require(bool(np.isfinite(a.values).all()), "values are not finite.")


@law(any_problem)
def reports_the_true_losses(estimator: Estimator, problem: Problem) -> None:
    """``loss_start`` and ``loss_end`` are the losses at the two ends of the step."""
    losses = [problem.objective.loss(point) for point in problem.points]
    allocations = run(estimator, problem.objective, problem.points)
    for a, start, end in zip(allocations, losses[:-1], losses[1:], strict=True):
        for name, actual, expected in (("loss_start", a.loss_start, start), ("loss_end", a.loss_end, end)):
            tolerance = tolerances.repeat(expected, tolerances.EPS64)
            require_close(actual, expected, tolerance, f"step {a.step}: {name}")


@law(any_problem)
def keeps_the_index_of_the_step(estimator: Estimator, problem: Problem) -> None:
    """``step`` is the index of the step that was passed, not a counter."""
    allocator = estimator.start(problem.objective)
    for step in problem.trajectory:
        index = 3 * step.index + 5
        found = allocator(replace(step, index=index)).step
        require(found == index, f"the allocation of step {index} has step={found}.")


@law(lambda estimator: st.tuples(any_problem(estimator), st.sampled_from([np.float32, np.float64])))
def residual_is_what_is_left(estimator: Estimator, case: tuple[Problem, type]) -> None:
    """``residual`` is ``loss_end - loss_start - state_change - Σ values``, with the sum in float64."""
    problem, dtype = case
    for a in run(estimator, problem.objective, problem.points.astype(dtype)):
        left = a.loss_end - a.loss_start - a.state_change - float(np.sum(a.values, dtype=np.float64))
        tolerance = tolerances.conservation(a.mass, a.loss_end, tolerances.EPS64)
        require_close(a.residual, left, tolerance, f"step {a.step}: residual")


@law(any_problem)
def state_change_is_zero_without_state(estimator: Estimator, problem: Problem) -> None:
    """``state_change`` is 0 if the loss depends on θ alone; it must not contain the residual."""
    for a in run(estimator, problem.objective, problem.points):
        require(a.state_change == 0, f"step {a.step}: state_change is {a.state_change!r} without any state.")


@law(any_problem)
def mass_bounds_the_values(estimator: Estimator, problem: Problem) -> None:
    """``mass`` is at least ``Σ|values|``."""
    for a in run(estimator, problem.objective, problem.points):
        moved = float(np.abs(a.values).sum())
        require(moved <= a.mass + rounding(a), f"Σ|values| = {moved!r} exceeds mass = {a.mass!r}.")


@law(any_problem)
def mass_is_no_larger_than_the_step(estimator: Estimator, problem: Problem) -> None:
    """``mass`` is of the size of ``Σ_i |g_i Δ_i|``: a larger one would loosen every tolerance."""
    for a, step in zip(run(estimator, problem.objective, problem.points), problem.trajectory, strict=True):
        delta = step.end - step.start
        grads = [problem.objective.loss_and_grad(step.start + s * delta)[1] for s in np.linspace(0, 1, 17)]
        largest = max(float(np.abs(grad * delta).sum()) for grad in grads)
        # 16 allows for Σ|w_k| > 1 of rules with negative weights, and for a peak between the 17 points.
        require(a.mass <= 16 * largest, f"mass = {a.mass:.3g}, but Σ|g Δ| is at most {largest:.3g}.")


@law(lambda estimator: st.tuples(any_problem(estimator), st.randoms(use_true_random=False)))
def unmoved_parameters_get_exactly_zero(estimator: Estimator, case: tuple[Problem, Any]) -> None:
    """A parameter that does not move has the value 0; in a step without movement, all values are 0."""
    problem, random = case
    start, end = problem.points[0], problem.points[1].copy()
    still = np.array([random.random() < 0.5 for _ in end])
    end[still] = start[still]
    first, second = run(estimator, problem.objective, np.array([start, end, end]))
    require(not np.any(first.values[still]), "a parameter that did not move has a value other than 0.")
    require(not np.any(second.values), "a step from a point to itself has values other than 0.")


@law(any_problem)
def unused_parameters_get_exactly_zero(estimator: Estimator, problem: Problem) -> None:
    """A parameter on which the loss does not depend has the value 0, however far it moves."""
    extra = np.linspace(1.0, 2.0, len(problem.points))[:, None] * np.ones(3)
    points = np.concatenate([problem.points, extra], axis=1)
    for a in run(estimator, WithUnusedTensor(problem.objective, 3), points):
        require(not np.any(a.values[-3:]), "a parameter that is not in the loss has a value other than 0.")
