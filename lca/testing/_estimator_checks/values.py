"""Laws about the fields of an allocation: shapes, losses, residual, mass and exact zeros."""

from dataclasses import replace
from math import isnan
from numbers import Integral

import numpy as np
from hypothesis import strategies as st

from lca import tolerances
from lca.allocation import Estimator, StepAllocation
from lca.testing._domain import anything
from lca.testing._estimator_checks.law import (
    any_problem,
    between,
    in_dtype,
    is_sampled,
    law_into,
    measures_full_loss,
    run,
    weight_mass,
)
from lca.testing._instruments import WithUnusedTensor
from lca.testing._laws import require, require_close, rounding
from lca.testing._report import Check
from lca.testing.problems import Problem
from lca.testing.strategies import seeds

Array = np.ndarray
CHECKS: list[Check] = []
law = law_into(CHECKS)


@law(lambda estimator: st.tuples(any_problem(estimator), st.sampled_from([np.float32, np.float64])))
def returns_one_value_per_parameter(estimator: Estimator, case: tuple[Problem, type]) -> None:
    """``values``, and ``stderr`` if there is one, is a finite vector with the shape and dtype of θ."""
    problem, dtype = case
    problem = in_dtype(problem, dtype)
    for a in run(estimator, problem.objective, problem.trajectory):
        expected = (problem.objective.layout.size,)
        for what, vector in {
            "values": a.values,
            **({} if a.stderr is None else {"stderr": a.stderr}),
        }.items():
            require(isinstance(vector, Array), f"{what}: a {type(vector).__name__}, θ is a NumPy array.")
            require(vector.shape == expected, f"{what}: shape {vector.shape}, expected {expected}.")
            require(vector.dtype == dtype, f"{what}: {vector.dtype}, θ is {np.dtype(dtype)}.")
            require(bool(np.isfinite(vector).all()), f"{what}: not finite.")


@law(any_problem)
def reports_the_true_losses(estimator: Estimator, problem: Problem) -> None:
    """``loss_start`` and ``loss_end`` are the losses at the ends; NaN if no loss is measured."""
    steps = problem.trajectory
    for a, step in zip(run(estimator, problem.objective, steps), problem.trajectory, strict=True):
        if measures_full_loss(estimator):
            require(not a.sampled, f"step {a.step}: sampled=True, although the target is the full loss.")
        if estimator.target != "full":
            require(a.sampled, f"step {a.step}: sampled=False, although the target is {estimator.target!r}.")
        numbers = {"loss_start": (a.loss_start, step.start), "loss_end": (a.loss_end, step.end)}
        for name, (actual, point) in numbers.items():
            if a.sampled:
                require(isnan(actual), f"step {a.step}: {name} is {actual!r}, but no loss was measured.")
                continue
            expected = problem.objective.loss(point)
            tolerance = tolerances.repeat(expected, tolerances.EPS64)
            require_close(actual, expected, tolerance, f"step {a.step}: {name}")


@law(lambda estimator: anything(estimator.degree + 1))
def keeps_the_index_of_the_step(estimator: Estimator, problem: Problem) -> None:
    """``step`` is the index of the `lca.Step`, also after skipped steps; ``source``, if any, is the step."""
    allocations = run(estimator, problem.objective, problem.trajectory)
    found = [a.step for a in allocations]
    expected = [step.index for step in problem.trajectory]
    whole = all(isinstance(index, Integral) for index in found)
    require(found == expected and whole, f"the steps are numbered {found}, expected {expected}.")
    for a, step in zip(allocations, problem.trajectory, strict=True):
        if a.source is not None:
            same = np.array_equal(a.source.start, step.start) and np.array_equal(a.source.end, step.end)
            require(same and a.source.index == step.index, f"step {a.step}: source is another step.")


@law(any_problem)
def residual_is_what_is_left(estimator: Estimator, problem: Problem) -> None:
    """``residual = loss_end - loss_start - state_change - Σ values``; NaN where no loss was measured."""
    for a in run(estimator, problem.objective, problem.trajectory):
        if a.sampled:
            require(isnan(a.residual), f"step {a.step}: the residual is {a.residual!r}, not NaN.")
            continue
        left = a.loss_end - a.loss_start - a.state_change - float(np.sum(a.values, dtype=np.float64))
        scale = max(abs(a.loss_start), abs(a.loss_end))
        tolerance = tolerances.conservation(a.mass, scale, tolerances.EPS64)
        require_close(a.residual, left, tolerance, f"step {a.step}: residual")


@law(any_problem)
def state_change_is_zero_without_state(estimator: Estimator, problem: Problem) -> None:
    """``state_change`` is 0 if the loss depends on θ alone; it must not contain the residual."""
    for a in run(estimator, problem.objective, problem.trajectory):
        require(a.state_change == 0, f"step {a.step}: state_change is {a.state_change!r} without any state.")


@law(any_problem)
def mass_bounds_the_values(estimator: Estimator, problem: Problem) -> None:
    """``mass`` is finite and at least ``Σ|values|``."""
    for a in run(estimator, problem.objective, problem.trajectory):
        moved = float(np.abs(a.values).sum(dtype=np.float64))
        require(
            moved <= a.mass + rounding(a) < np.inf,
            f"step {a.step}: Σ|values| = {moved!r} exceeds mass = {a.mass!r}.",
        )


@law(any_problem)
def mass_is_no_larger_than_the_step(estimator: Estimator, problem: Problem) -> None:
    """``mass`` is of the size of ``Σ_i |g_i Δ_i|``: a larger one would loosen every tolerance."""
    steps, weights = problem.trajectory, weight_mass(estimator)
    for a, step in zip(run(estimator, problem.objective, steps), problem.trajectory, strict=True):
        delta = step.end - step.start
        grads = [problem.objective.loss_and_grad(step.start + s * delta)[1] for s in np.linspace(0, 1, 17)]
        largest = max(float(np.abs(grad * delta).sum()) for grad in grads)
        # 16 allows for a peak between the 17 points.
        require(
            a.mass <= 16 * weights * largest,
            f"step {a.step}: mass = {a.mass:.3g}, but Σ|g Δ| is at most {largest:.3g}.",
        )


@law(lambda estimator: st.tuples(any_problem(estimator), seeds))
def unmoved_parameters_get_exactly_zero(estimator: Estimator, case: tuple[Problem, int]) -> None:
    """A parameter that does not move has the value 0; in a step without movement, all values are 0."""
    problem, rng = case[0], np.random.default_rng(case[1])
    points = problem.points[:2].copy()
    still = rng.random(len(points[0])) < 0.5
    points[1, still] = points[0, still]
    for a in run(estimator, problem.objective, between(np.array([points[0], *points[[1, 1]]]))):
        unmoved = still if a.step == 0 else np.full(len(still), True)
        for what, vector in {"value": a.values, **_vectors(a)}.items():
            require(
                not np.any(vector[unmoved]), f"step {a.step}: a parameter that did not move has a {what} ≠ 0."
            )


@law(any_problem)
def unused_parameters_get_exactly_zero(estimator: Estimator, problem: Problem) -> None:
    """A parameter on which the loss does not depend has the value 0, however far it moves."""
    extra = np.linspace(1.0, 2.0, len(problem.points))[:, None] * np.ones(3)
    wider = replace(problem, points=np.concatenate([problem.points, extra], axis=1))
    for a in run(estimator, WithUnusedTensor(problem.objective, 3), wider.trajectory):
        for what, vector in {"value": a.values, **_vectors(a)}.items():
            require(not np.any(vector[-3:]), f"step {a.step}: a parameter not in the loss has a {what} ≠ 0.")


def _vectors(a: StepAllocation) -> dict[str, Array]:
    """The vectors that show the spread of the values."""
    found = {} if a.stderr is None else {"standard error": a.stderr}
    for time, replicates in a.replicates.items():
        found |= {f"replicate {j} at {time}": np.asarray(r) for j, r in enumerate(replicates)}
    return found


@law(any_problem, is_sampled)
def replicates_add_up_to_the_values(estimator: Estimator, problem: Problem) -> None:
    """Where all examples agree, the means of the replicates of all nodes add up to ``values``."""
    for a in run(estimator, problem.objective, problem.trajectory):
        if a.stderr is not None:
            require_close(a.stderr * 0, a.values * 0, 0.0, f"step {a.step}: standard errors, times 0")
            require(bool((a.stderr >= 0).all()), f"step {a.step}: a standard error is negative.")
        if not a.replicates:
            continue
        for time, replicates in a.replicates.items():
            require(len(replicates) > 1, f"step {a.step}: one replicate at {time} shows no spread.")
        total = sum(np.mean([np.asarray(r) for r in rs], axis=0) for rs in a.replicates.values())
        require_close(total, a.values, rounding(a), f"step {a.step}: the sum of the mean replicates")
