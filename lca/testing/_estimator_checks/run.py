"""Laws about runs: no value depends on what an estimator kept from earlier steps or from other runs."""

from collections.abc import Sequence

import numpy as np
from hypothesis import assume

from lca.allocation import Estimator, StepAllocation
from lca.objective import Objective
from lca.step import Step, Trajectory
from lca.testing._estimator_checks.law import any_problem, law_into, run
from lca.testing._instruments import CountingObjective
from lca.testing._laws import require, require_close, rounding
from lca.testing._report import Check
from lca.testing.problems import Problem
from lca.testing.strategies import smooth_problems

Array = np.ndarray
CHECKS: list[Check] = []
law = law_into(CHECKS)


@law(lambda estimator: smooth_problems(steps=3))
def reused_end_points_change_nothing(estimator: Estimator, problem: Problem) -> None:
    """The values of a step are the same whether or not the previous step ended where it starts."""
    a, b, c, elsewhere = problem.points
    joined, nodes_joined = _second(estimator, problem.objective, [Step(a, b, 0), Step(b, c, 1)])
    apart, nodes_apart = _second(estimator, problem.objective, [Step(a, elsewhere, 0), Step(b, c, 1)])
    # An adaptive estimator may refine the step in only one of the runs, which this law does not test.
    assume(nodes_joined == nodes_apart)
    require_close(joined.values, apart.values, rounding(joined), "values after a step that ended elsewhere")


def _second(
    estimator: Estimator, objective: Objective, steps: Sequence[Step]
) -> tuple[StepAllocation, set[bytes]]:
    """The second allocation, and the points inside the second step at which it was evaluated."""
    counting = CountingObjective(objective)
    allocator = estimator.start(counting)
    allocator(steps[0])
    counting.points.clear()
    result = allocator(steps[1])
    return result, set(counting.points) - {steps[1].start.tobytes(), steps[1].end.tobytes()}


@law(lambda estimator: smooth_problems(steps=3))
def in_place_updates_are_seen(estimator: Estimator, problem: Problem) -> None:
    """A training loop that updates its buffers in place gets the same values as one with new vectors."""
    fresh = run(estimator, problem.objective, problem.points)
    start, end = np.empty_like(problem.points[0]), np.empty_like(problem.points[0])
    allocator = estimator.start(problem.objective)
    for t, a in enumerate(fresh):
        start[:], end[:] = problem.points[t], problem.points[t + 1]  # overwritten at every step
        b = allocator(Step(start, end, t))
        require_close(b.values, a.values, rounding(a), f"step {t}: values from reused buffers")


@law(lambda estimator: smooth_problems(steps=3))
def end_points_written_over_are_seen(estimator: Estimator, problem: Problem) -> None:
    """If the array at which the last step ended is overwritten, its old gradient is not reused."""
    a, b, c, elsewhere = problem.points
    apart = _run_steps(estimator, problem.objective, [Step(a, elsewhere, 0), Step(b, c, 1)])[1]
    allocator, buffer = estimator.start(problem.objective), elsewhere.copy()
    allocator(Step(a, buffer, 0))
    buffer[:] = b  # as in a training loop in which not every step is measured
    again = allocator(Step(buffer, c, 1))
    require_close(again.values, apart.values, rounding(apart), "values after the last end was overwritten")


def _run_steps(estimator: Estimator, objective: Objective, steps: Sequence[Step]) -> list[StepAllocation]:
    allocator = estimator.start(objective)
    return [allocator(step) for step in steps]


@law(lambda estimator: smooth_problems(steps=3))
def runs_are_independent(estimator: Estimator, problem: Problem) -> None:
    """Two interleaved runs do not affect each other; a repeated run is bitwise equal."""
    alone = run(estimator, problem.objective, problem.points)
    one, other = estimator.start(problem.objective), estimator.start(problem.objective)
    shifted = Trajectory(problem.points + 0.1)
    for a, step, disturbance in zip(alone, problem.trajectory, shifted, strict=True):
        b = one(step)
        other(disturbance)
        require(np.array_equal(a.values, b.values), f"step {a.step}: another run changed the values.")


@law(any_problem)
def inputs_are_left_alone(estimator: Estimator, problem: Problem) -> None:
    """The vectors of a step are not modified."""
    points = problem.points.copy()
    run(estimator, problem.objective, points)
    require(np.array_equal(points, problem.points), "the points of the path were modified.")
