"""Laws about runs: no value depends on what an estimator kept from earlier steps or from other runs."""

import random as python_random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from lca.allocation import Allocator, Estimator, Resumable, StepAllocation
from lca.estimators._stochastic import StochasticEstimator
from lca.objective import Objective
from lca.step import ExampleScores, MicroBatch, Step
from lca.testing._domain import anything, eventful_networks, sixty_steps
from lca.testing._estimator_checks.law import (
    any_problem,
    between,
    has_fixed_nodes,
    law_into,
    measures_full_loss,
    run,
)
from lca.testing._instruments import CountingObjective, Scheduled
from lca.testing._laws import require, require_close, rounding
from lca.testing._process_state import arrays_in
from lca.testing._replicated import begin
from lca.testing._report import Check
from lca.testing.problems import Problem
from lca.testing.strategies import smooth_problems

Array = np.ndarray
CHECKS: list[Check] = []
law = law_into(CHECKS)


@law(lambda estimator: eventful_networks() | anything(3), has_fixed_nodes)
def reused_end_points_change_nothing(estimator: Estimator, problem: Problem) -> None:
    """A step has the same values in a run as alone, also if it starts near the last end, but not there."""
    counting = CountingObjective(problem.objective)
    in_run, compared = begin(estimator, counting), 0
    for step in problem.trajectory:
        a, nodes_in_run = _evaluated(in_run, counting, step)
        alone = CountingObjective(problem.objective)
        b, nodes_alone = _evaluated(begin(estimator, alone), alone, step)
        # An adaptive estimator may refine the step in only one of the runs, which this law does not test.
        if nodes_in_run == nodes_alone:
            compared += 1
            tolerance = rounding(b)
            if isinstance(estimator, StochasticEstimator):  # gradients of earlier steps may cancel
                tolerance = max(tolerance, _rounding_of_the_run(problem, b, step))
            require_close(a.values, b.values, tolerance, f"step {step.index}: values in a run")
    assume(compared > 0)


def _rounding_of_the_run(problem: Problem, a: StepAllocation, step: Step) -> float:
    """By how much values may differ that are sums of gradients at any points of the run."""
    delta = step.end - step.start
    largest = max(
        float(np.abs(problem.objective.loss_and_grad(point)[1] * delta).sum()) for point in problem.points
    )
    return rounding(replace(a, mass=largest))


def _evaluated(
    allocate_step: Allocator, counting: CountingObjective, step: Step
) -> tuple[StepAllocation, set[bytes]]:
    """The allocation, and the points inside the step at which it was evaluated."""
    counting.points.clear()
    result = allocate_step(step)
    return result, set(counting.points) - {step.start.tobytes(), step.end.tobytes()}


@law(lambda estimator: eventful_networks())
def in_place_updates_are_seen(estimator: Estimator, problem: Problem) -> None:
    """A training loop that updates its buffers in place gets the same values as one with new vectors."""
    fresh = run(estimator, problem.objective, problem.trajectory)
    start, end = np.empty_like(problem.points[0]), np.empty_like(problem.points[0])
    allocate_step = begin(estimator, problem.objective)
    for a, step in zip(fresh, problem.trajectory, strict=True):
        start[:], end[:] = step.start, step.end  # overwritten at every step
        b = allocate_step(Step(start, end, step.index))
        require_close(b.values, a.values, rounding(a), f"step {step.index}: values from reused buffers")


@law(lambda estimator: smooth_problems(steps=3), has_fixed_nodes)
def end_points_written_over_are_seen(estimator: Estimator, problem: Problem) -> None:
    """If the array at which the last step ended is overwritten, its old gradient is not reused."""
    a, b, c, elsewhere = problem.points
    apart = run(estimator, problem.objective, [Step(a, elsewhere, 0), Step(b, c, 1)])[1]
    allocate_step, buffer = begin(estimator, problem.objective), elsewhere.copy()
    allocate_step(Step(a, buffer, 0))
    buffer[:] = b  # as in a training loop in which not every step is measured
    again = allocate_step(Step(buffer, c, 1))
    require_close(again.values, apart.values, rounding(apart), "values after the last end was overwritten")


@law(lambda estimator: smooth_problems(steps=3))
def runs_are_independent(estimator: Estimator, problem: Problem) -> None:
    """Two interleaved runs do not affect each other; a repeated run is bitwise equal."""
    steps = problem.trajectory
    alone = run(estimator, problem.objective, steps)
    one, other = begin(estimator, problem.objective), begin(estimator, problem.objective)
    for a, step, disturbance in zip(alone, steps, between(problem.points + 0.1), strict=True):
        b = one(step)
        other(disturbance)
        require(np.array_equal(a.values, b.values), f"step {a.step}: another run changed the values.")
        require(a.cost == b.cost, f"step {a.step}: another run changed the cost, {a.cost} to {b.cost}.")


def _can_be_resumed(estimator: Estimator) -> bool:
    """Whether the full loss is measured, and the estimator has a method ``resume``."""
    return measures_full_loss(estimator) and isinstance(estimator, Resumable)


@law(
    lambda estimator: st.booleans().flatmap(lambda long: sixty_steps() if long else any_problem(estimator)),
    _can_be_resumed,
)
def a_resumed_run_goes_on(estimator: Estimator, problem: Problem) -> None:
    """A run resumed with the ``memory`` of its last step goes on as if there had been no interruption."""
    assert isinstance(estimator, Resumable)
    steps = problem.trajectory
    if len(steps) < 2:
        steps = between(np.concatenate([problem.points, problem.points[::-1][1:]]))
    whole, cut = run(estimator, problem.objective, steps), 1 + len(steps) // 3
    assume(cut < len(steps))
    assert isinstance(estimator, Resumable)
    allocate_step = estimator.resume(problem.objective, whole[cut - 1].memory)
    for step, a in zip(steps[cut:], whole[cut:], strict=True):
        b, of = allocate_step(step), f"step {a.step} of a run that was resumed at step {steps[cut].index}: "
        require_close(b.values, a.values, rounding(a), f"{of}values")
        for name in ("memory", "tolerance", "converged"):
            found, expected = getattr(b, name), getattr(a, name)
            require(found == expected, f"{of}{name} is {found!r}, without the interruption {expected!r}.")


@law(any_problem)
def inputs_are_left_alone(estimator: Estimator, problem: Problem) -> None:
    """No array of a step, random generator or handling of errors by NumPy is modified."""
    with _restored():
        outside = _global_state()
        _require_untouched_steps(estimator, problem.objective, problem.trajectory)
        before, after = (
            {"factor": np.full(1, c), "shift": np.full(1, b)} for c, b in ((1.5, 0.5), (0.75, -0.5))
        )
        moved = [replace(step, state=(before, after)) for step in problem.trajectory]
        _require_untouched_steps(estimator, Scheduled(problem.objective, after), moved)
        require(
            _global_state() == outside, "NumPy's or Python's random generator, or np.seterr, was modified."
        )


def _require_untouched_steps(estimator: Estimator, objective: Objective, steps: Sequence[Step]) -> None:
    """Every array of the steps, also of fields that are not required, is the same after the step."""
    given: list[Step] = []
    before: list[dict[str, Array]] = []

    def seen(step: Step) -> None:
        given.append(step)
        before.append(arrays_in(step))

    allocate_step = begin(estimator, objective, more=_misleading, seen=seen)
    for step in steps:
        allocate_step(step)
    for step, arrays in zip(given, before, strict=True):  # at the end of the run, so that they must last
        for name, array in arrays_in(step).items():
            same = np.array_equal(array, arrays[name], equal_nan=True)
            require(same, f"step {step.index}: Step{name} was modified; copy it first.")


@contextmanager
def _restored() -> Iterator[None]:
    numpy_random, python = np.random.get_state(), python_random.getstate()  # noqa: NPY002 - not to be touched
    with np.errstate():
        try:
            # Hypothesis seeds both with 0, as an estimator might.
            np.random.seed(python_random.randrange(2**31) + 1)  # noqa: NPY002
            yield
        finally:
            np.random.set_state(numpy_random)  # noqa: NPY002
            python_random.setstate(python)


@law(lambda estimator: smooth_problems() | anything(3))
def other_fields_change_nothing(estimator: Estimator, problem: Problem) -> None:
    """Fields of a step that the estimator does not require, such as the training gradient, are not used."""
    plain, more = begin(estimator, problem.objective), begin(estimator, problem.objective, more=_misleading)
    for step in problem.trajectory:
        a, b = plain(step), more(step)
        same = np.array_equal(a.values, b.values) and a.cost == b.cost
        require(same, f"step {step.index}: fields that are not in required_fields changed the values.")


def _misleading(step: Step) -> Step:
    """The step with fields that fit no loss."""
    wrong = np.full_like(step.start, 3.0)
    parts = (MicroBatch(wrong, wrong), MicroBatch(wrong, -wrong))
    index = np.arange(3)
    return replace(
        step,
        batch=(index, np.ones(3)),
        gradient=wrong,
        micro_batches=parts,
        next_batch=(index, np.ones(3)),
        next_gradient=wrong,
        next_micro_batches=parts,
        scores=ExampleScores(index, np.array([1.0, 2.0, 3.0])),
    )


def _global_state() -> tuple[object, ...]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the generator that must not be touched
    return name, np.asarray(keys).tobytes(), *rest, python_random.getstate(), tuple(np.geterr().items())
