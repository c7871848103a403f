"""Laws about what an estimator reports: cost, convergence, errors on invalid input, and precision."""

from dataclasses import replace

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from lca.allocation import Cost, Estimator, allocate
from lca.errors import NonFiniteError
from lca.testing._estimator_checks.law import any_problem, exact_problem, law_into, run
from lca.testing._instruments import CountingObjective, NonFiniteObjective
from lca.testing._laws import require, require_close, rounding
from lca.testing._report import Check, CheckFailure
from lca.testing.problems import Problem
from lca.testing.strategies import kinked_problems, smooth_problems

Array = np.ndarray
CHECKS: list[Check] = []
law = law_into(CHECKS)


@law(any_problem)
def reported_cost_is_true(estimator: Estimator, problem: Problem) -> None:
    """The ``cost`` of each step equals the evaluations counted in the objective."""
    counting = CountingObjective(problem.objective)
    allocator = estimator.start(counting)
    for step in problem.trajectory:
        before = counting.cost
        reported = allocator(step).cost
        require(
            before + reported == counting.cost,
            f"step {step.index}: reported {reported}, but counted {_minus(counting.cost, before)}.",
        )


@law(lambda estimator: st.builds(_long, exact_problem(estimator)))
def declared_cost_is_met(estimator: Estimator, problem: Problem) -> None:
    """After the first step, the cheapest step of a run has the cost that the estimator declares."""
    counting = CountingObjective(problem.objective)
    costs = []
    for _ in allocate(counting, problem.trajectory, estimator, check=False):
        costs.append(counting.cost)
    steps = [_minus(b, a) for a, b in zip(costs, costs[1:], strict=False)]
    cheapest = min(steps, key=lambda cost: (cost.full_gradients, cost.full_losses))
    require(cheapest == estimator.cost, f"declares {estimator.cost}, but the cheapest step took {cheapest}.")


def _long(problem: Problem) -> Problem:
    return replace(problem, points=np.concatenate([problem.points, problem.points[::-1][1:]] * 2))


def _minus(a: Cost, b: Cost) -> Cost:
    return Cost(
        a.full_gradients - b.full_gradients,
        a.full_losses - b.full_losses,
        a.batch_gradients - b.batch_gradients,
        a.examples - b.examples,
    )


@law(lambda estimator: kinked_problems() | smooth_problems())
def converged_steps_are_within_tolerance(estimator: Estimator, problem: Problem) -> None:
    """The residual of a step with ``converged=True`` is within the tolerance that the step reports."""
    wide = problem.points[0] + 4 * (problem.points - problem.points[0])  # long steps across kinks
    for a in run(estimator, problem.objective, wide):
        left = a.loss_end - a.loss_start - a.state_change - float(np.sum(a.values, dtype=np.float64))
        within = a.tolerance is None or abs(left) <= a.tolerance
        require(
            within or not a.converged,
            f"step {a.step} has converged=True, but its residual is {left:.3g}, tolerance {a.tolerance}.",
        )
        require(a.converged or bool(a.reason), f"step {a.step} is not converged and gives no reason.")


@law(
    lambda estimator: st.tuples(
        smooth_problems(), st.sampled_from(["gradient", "loss", "parameters"]), st.integers(0, 3)
    )
)
def non_finite_numbers_are_refused(estimator: Estimator, case: tuple[Problem, str, int]) -> None:
    """NaN or infinity in parameters, loss or gradient raises `NonFiniteError`, which names the step."""
    problem, what, after = case
    points, objective = problem.points, problem.objective
    tensor = objective.layout.tensor_at(1)
    if what == "parameters":
        points = points.copy()
        points[after, 1] = np.nan
    else:
        objective = NonFiniteObjective(objective, what, entry=1, after=after)
    try:
        run(estimator, objective, points)
    except NonFiniteError as error:
        require("step " in str(error), f"the error does not name the step: {error}")
        if what != "loss":
            require(tensor in str(error), f"the error does not name the tensor {tensor!r}: {error}")
        return
    # A rule with few nodes may evaluate fewer gradients on the whole path than `after`.
    assume(what != "gradient" or estimator.cost.full_gradients * 3 > after)
    raise CheckFailure(f"NaN or infinity in the {what} was accepted without an error.")


@law(lambda estimator: smooth_problems(steps=1))
def float32_agrees_with_float64(estimator: Estimator, problem: Problem) -> None:
    """Values in float32 equal those in float64, to a few float32 eps·mass."""
    single = problem.points.astype(np.float32)
    [a] = run(estimator, problem.objective, single)
    [b] = run(estimator, problem.objective, single.astype(np.float64))
    assume(a.cost == b.cost)  # an adaptive estimator may refine only one of them, near its threshold
    require_close(a.values, b.values, rounding(a), "values in float32")
