"""Laws about the values: each is the path integral of its parameter, with the properties that follow."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from lca import tolerances
from lca.allocation import Cost, Estimator, StepAllocation
from lca.arrays import array_ops
from lca.estimators._stochastic import StochasticEstimator
from lca.objective import Scaled, State, Sum
from lca.reference._models import Quadratic
from lca.step import Step
from lca.testing._domain import (
    Losses,
    any_scale,
    anything,
    huge_models,
    large_models,
    long_runs,
    unrelated_losses,
)
from lca.testing._estimator_checks.honesty import require_known_residuals
from lca.testing._estimator_checks.law import (
    MOST_WEIGHT,
    any_problem,
    between,
    exact_problem,
    has_fixed_nodes,
    is_sampled,
    law_into,
    measures_full_loss,
    run,
    weight_mass,
)
from lca.testing._instruments import Partial, Reparametrized, Scheduled, WithQuadraticTensor
from lca.testing._laws import nodes_of, require, require_close, rounding
from lca.testing._reference import distance_to_polynomials, path_integral
from lca.testing._replicated import begin
from lca.testing._report import Check
from lca.testing.problems import Problem
from lca.testing.strategies import seeds, smooth_problems

Array = np.ndarray
CHECKS: list[Check] = []
law = law_into(CHECKS)
SLOPES = 21


@law(lambda estimator: exact_problem(estimator) | anything(estimator.degree + 1), has_fixed_nodes)
def exact_up_to_declared_degree(estimator: Estimator, problem: Problem) -> None:
    """For polynomials up to degree + 1, each value equals the closed form."""
    _require_exact(estimator, problem)


@law(lambda estimator: large_models(estimator.degree + 1), has_fixed_nodes)
def exact_for_models_of_any_size(estimator: Estimator, problems: tuple[Problem, ...]) -> None:
    """The same for 1 to 200,000 parameters in 1 to 1,100 tensors of any shape with any names."""
    for problem in problems:
        _require_exact(estimator, problem)


@law(lambda estimator: huge_models(estimator.degree + 1), has_fixed_nodes, part=10)
def exact_for_huge_models(estimator: Estimator, problem: Problem) -> None:
    """The same for more than 100,000 parameters, in one of ten cases; some points differ in the last ones."""
    _require_exact(estimator, problem)


@law(lambda estimator: long_runs(estimator.degree + 1), has_fixed_nodes)
def exact_in_long_runs(estimator: Estimator, problem: Problem) -> None:
    """The same in runs of up to 60 steps, some unmeasured, whose points repeat or nearly repeat."""
    _require_exact(estimator, problem)


@law(lambda estimator: any_scale(estimator.degree + 1), has_fixed_nodes)
def exact_for_losses_of_any_scale(estimator: Estimator, problems: tuple[Problem, ...]) -> None:
    """The same for losses of 1e-12 to 1e12, negative, exactly 0, or with an offset of 1e6."""
    for problem in problems:
        _require_exact(estimator, problem)


@law(lambda estimator: seeds, has_fixed_nodes)
def small_values_keep_their_digits(estimator: Estimator, seed: int) -> None:
    """Values of a linear loss with slopes from 1 to 1e-20 are right to the last digits, each for itself."""
    rng = np.random.default_rng([seed, 6])
    slopes = rng.permutation(rng.choice([-1.0, 1.0], SLOPES) * np.logspace(0, -20, SLOPES))
    steps = between(rng.uniform(1, 2, size=(1, SLOPES)) * np.arange(3)[:, None])
    loss = Quadratic(np.zeros((SLOPES, SLOPES)), linear=slopes)
    for a, step in zip(run(estimator, loss, steps), steps, strict=True):
        expected = slopes * (step.end - step.start)
        tolerance = tolerances.allocation(weight_mass(estimator), tolerances.EPS64, nodes_of(a))
        ones = np.ones(SLOPES)
        require_close(a.values / expected, ones, tolerance, f"step {a.step}: values over their own size")


def _require_exact(estimator: Estimator, problem: Problem) -> None:
    """Compare values and residuals with the closed form, after the run, so that they must last."""
    allocations = run(estimator, problem.objective, problem.trajectory)
    for a, step in zip(allocations, problem.trajectory, strict=True):
        _require_values(estimator, problem, a, step, f"step {a.step}: values")
        if not a.sampled:
            tolerance = _rounding(problem, a, step) + tolerances.polynomial(
                _loss_scale(problem, a, step), _degree(problem), tolerances.EPS64
            )
            require_close(a.residual, 0.0, tolerance, f"step {a.step}: residual")


def _require_values(
    estimator: Estimator, problem: Problem, a: StepAllocation, step: Step, what: str, *, factor: float = 1.0
) -> None:
    """Compare the values with ``factor`` times the closed form; the factor is at most 2."""
    assert problem.exact is not None
    expected = factor * problem.exact(step.start, step.end)
    tolerance = max(1.0, factor) * _rounding(problem, a, step)
    if isinstance(estimator, StochasticEstimator):
        what = f"{what} of fixed nodes (no seed changed any where all examples agree)"
        if not np.abs(a.values - expected).max() <= tolerance:
            tolerance = max(tolerance, max(1.0, factor) * _rounding_anywhere(problem, a, step))
    require_close(a.values, expected, tolerance, what)


@law(lambda estimator: smooth_problems(steps=1), has_fixed_nodes)
def error_falls_at_declared_order(estimator: Estimator, problem: Problem) -> None:
    """On a smooth loss, the errors of the values are O(h^(degree + 2)) in the length h of the step."""
    start, delta = problem.points[0], problem.points[1] - problem.points[0]
    errors, floors = [], []
    for h in 0.5 ** np.arange(7):
        points = np.array([start, start + h * delta])
        [a] = run(estimator, problem.objective, between(points))
        errors.append(float(np.abs(a.values - path_integral(problem.objective, *points)).sum()))
        floors.append(len(a.values) * rounding(a))
    pairs = zip(errors[:-1], errors[1:], floors[1:], strict=True)
    # 30: an error of a few times rounding is mostly rounding and shows no order.
    orders = [np.log2(coarse / fine) for coarse, fine, floor in pairs if fine > 30 * floor]
    declared = estimator.degree + 2
    # With fewer than three observed orders, the error reached rounding too fast to fit an order. Observed
    # orders scatter on steps this long (5.2 to 8.9 for 7), so three quarters of the declared order are
    # required; `exact_up_to_declared_degree` detects a rule that is one degree short.
    require(
        len(orders) < 3 or max(np.mean(orders), *orders[-2:]) >= 0.75 * declared,
        f"degree {estimator.degree} means order {declared}, but halving the step gave {np.round(orders, 2)}.",
    )


@law(lambda estimator: smooth_problems(steps=1), has_fixed_nodes)
def agrees_with_an_adaptive_reference(estimator: Estimator, problem: Problem) -> None:
    """Each value is as close to the integral (adaptive Gauss-Kronrod) as its declared degree implies.

    A rule with weights w that is exact for polynomials p up to its degree has an error of at most
    ``|Δ_i| (1 + Σ|w|) max_s |g_i(s) - p(s)|``, for every such p and every length of the step. Three
    parameters with a quadratic loss are added, for which a line is exact: an estimator must not improve the
    sum at their expense.
    """
    objective = WithQuadraticTensor(problem.objective, 3)
    extra = np.array([[1.0, -0.5, 0.25], [0.5, 0.5, -0.75]])
    start, end = points = np.concatenate([problem.points, extra], axis=1)
    [a] = run(estimator, objective, between(points))
    reference = path_integral(objective, start, end)
    # Σ|w| is 1 without negative weights.
    allowed = (
        (1 + max(3.0, weight_mass(estimator)))
        * np.abs(end - start)
        * distance_to_polynomials(objective, start, end, estimator.degree)
    )
    excess = np.abs(a.values - reference) - allowed - rounding(a)
    at = int(np.argmax(np.where(np.isnan(excess), np.inf, excess)))
    found, expected, limit = (float(numbers[at]) for numbers in (a.values, reference, allowed + rounding(a)))
    require(
        bool(excess[at] <= 0),
        f"value {at} is {found!r}, the integral is {expected!r}: the error {abs(found - expected):.3g} "
        f"exceeds {limit:.3g}, the limit for degree {estimator.degree}.",
    )


@law(exact_problem, has_fixed_nodes)
def additive_along_the_path(estimator: Estimator, problem: Problem) -> None:
    """The allocations of the two parts of a split step add up to that of the step (exact problems)."""
    start, end = problem.points[:2]
    [step] = between(np.array([start, end]))
    [whole] = run(estimator, problem.objective, [step])
    parts = between(np.array([start, start + 0.375 * (end - start), end]))
    first, second = run(estimator, problem.objective, parts)
    tolerance = sum(_rounding(problem, a, step) for a in (whole, first, second))
    require_close(first.values + second.values, whole.values, tolerance, "the sum of the two parts")


@law(exact_problem, has_fixed_nodes)
def reversal_changes_the_sign(estimator: Estimator, problem: Problem) -> None:
    """The reversed path has the opposite allocations: ``A(b→a) = -A(a→b)`` (exact problems)."""
    steps = between(problem.points)
    forward = run(estimator, problem.objective, steps)
    backward = run(estimator, problem.objective, between(problem.points[::-1].copy()))
    for a, b, step in zip(forward, reversed(backward), steps, strict=True):
        tolerance = _rounding(problem, a, step) + _rounding(problem, b, step)
        require_close(b.values, -a.values, tolerance, "values of the reversed step")


def _rounding(problem: Problem, a: StepAllocation, step: Step) -> float:
    """By how much two correct computations of a step may differ."""
    eps, degree = array_ops(step.start).eps(step.start), problem.degree or 1
    if problem.scale is None:
        return tolerances.polynomial(a.mass, degree, eps, nodes_of(a))
    scale = problem.scale(step.start, step.end)
    # The mass is larger only for weights of either sign; `mass_is_no_larger_than_the_step` bounds it.
    scale = max(scale, min(a.mass, MOST_WEIGHT * scale))
    underflow = float(np.finfo(step.start.dtype).tiny)  # a gradient of 1e-60 is 0 in float32
    return tolerances.polynomial(scale, degree, eps, nodes_of(a)) + underflow


def _rounding_anywhere(problem: Problem, a: StepAllocation, step: Step) -> float:
    """The same where gradients at other points of the run cancel, as in control variates."""
    if problem.scale is None:
        return _rounding(problem, a, step)
    delta = step.end - step.start
    scale = max(problem.scale(point, point + delta) for point in problem.points)
    eps = array_ops(step.start).eps(step.start)
    return tolerances.polynomial(scale, problem.degree or 1, eps, nodes_of(a))


def _degree(problem: Problem) -> int:
    assert problem.degree is not None
    return problem.degree


def _loss_scale(problem: Problem, a: StepAllocation, step: Step) -> float:
    """The size of the numbers that cancel in the difference of the losses."""
    if problem.loss_scale is None:
        return max(abs(a.loss_start), abs(a.loss_end))
    return max(problem.loss_scale(step.start), problem.loss_scale(step.end))


@law(lambda estimator: st.tuples(anything(estimator.degree + 1), seeds), measures_full_loss)
def frozen_tensors_that_move_are_measured(estimator: Estimator, case: tuple[Problem, int]) -> None:
    """A tensor that the objective does not differentiate unless asked to, but that moves, has its values."""
    problem, rng = case[0], np.random.default_rng(case[1])
    names = [name for name in problem.objective.layout.names if rng.random() < 0.5]
    _require_exact(estimator, replace(problem, objective=Partial(problem.objective, frozenset(names))))


@law(lambda estimator: st.tuples(any_problem(estimator), seeds))
def follows_a_change_of_order_and_units(estimator: Estimator, case: tuple[Problem, int]) -> None:
    """Permuting the parameters permutes the values; rescaling them (θ_i → c_i θ_i) changes no value."""
    problem, rng = case[0], np.random.default_rng(case[1])
    order = rng.permutation(problem.points.shape[1])
    units = 2.0 ** rng.integers(-3, 4, size=len(order))  # powers of 2: exact in floats
    changed = Reparametrized(problem.objective, order, units)
    other = replace(problem, points=changed.forward(problem.points)).trajectory
    for step, changed_step in zip(problem.trajectory, other, strict=True):  # each begins a run of its own
        [a], [b] = run(estimator, problem.objective, [step]), run(estimator, changed, [changed_step])
        tolerance = rounding(a) if problem.degree is None else _rounding(problem, a, step)
        require_close(b.values, a.values[order], tolerance, f"step {a.step}: values in other coordinates")


@law(lambda estimator: exact_problem(estimator) | anything(estimator.degree + 1))
def linear_in_the_loss(estimator: Estimator, problem: Problem) -> None:
    """Doubling the loss doubles the values (exact problems)."""
    plain = run(estimator, problem.objective, problem.trajectory)
    twice = run(estimator, Scaled(problem.objective, 2.0), problem.trajectory)
    for a, b, step in zip(plain, twice, problem.trajectory, strict=True):
        tolerance = 2 * _rounding(problem, a, step)
        require_close(b.values, 2 * a.values, tolerance, f"step {a.step}: values of twice the loss")


@law(lambda estimator: unrelated_losses(estimator.degree + 1), measures_full_loss)
def terms_add_up(estimator: Estimator, case: Losses) -> None:
    """Each term of a `lca.Sum` has the allocation that it would have alone, and together they add up."""
    found = run(estimator, Sum({name: p.objective for name, p in case.items()}), _steps(case))
    for a, step in zip(found, _steps(case), strict=True):
        require(set(a.terms) == set(case), f"terms are {sorted(a.terms)}, expected {sorted(case)}.")
        _require_terms(estimator, a, step, case)
        tolerance = sum(_rounding(problem, a, step) for problem in case.values())
        rows = a.terms.values()
        require_known_residuals(rows)
        require_close(sum(row.values for row in rows), a.values, tolerance, f"step {a.step}: sum of terms")


@law(
    lambda estimator: st.tuples(unrelated_losses(estimator.degree + 1), st.booleans(), seeds),
    measures_full_loss,
)
def state_is_kept_apart(estimator: Estimator, case: tuple[Losses, bool, int]) -> None:
    """If a state besides θ moves (`Step.state`), its effect is ``state_change`` and in no value.

    It also moves between two steps, as by a schedule, and by a millionth.
    """
    (losses, in_a_sum, _), rng = case, np.random.default_rng(case[2])
    moving, problem = next(iter(losses.items()))
    scheduled = Scheduled(problem.objective, _random_state(rng))
    others = {name: other.objective for name, other in losses.items() if name != moving}
    measured = Sum({**others, moving: scheduled}) if in_a_sum else scheduled
    allocate_step, state = begin(estimator, measured), _random_state(rng)
    for stateless in _steps(losses):
        before = _next_state(state, rng)
        state = _next_state(before, rng)
        step = replace(stateless, state=(before, state))
        a = allocate_step(step)
        row = a.terms[moving] if in_a_sum else a
        for name in others if in_a_sum else ():
            _require_unmoved(a.terms[name], step, losses[name], name)
        change = _require_state(row, step, problem, scheduled)
        size = _loss_scale(problem, row, step) * 8 + 8
        tolerance = tolerances.conservation(size, size, tolerances.EPS64)
        require_close(a.state_change, change, tolerance, f"step {a.step}: state_change of the sum")


def _next_state(state: State, rng: np.random.Generator) -> State:
    """The same object in half of the cases; otherwise another state, or one that differs by a millionth."""
    event = rng.random()
    if event < 0.5:
        return state
    if event < 0.7:
        return {name: array * (1 + 1e-6 * rng.uniform(0.5, 1.0)) for name, array in state.items()}
    return _random_state(rng)


def _require_unmoved(row: StepAllocation, step: Step, problem: Problem, name: str) -> None:
    """A term whose state does not move has no state change, and the losses and residual that it has alone."""
    of = f"step {row.step}, term {name!r}, which has no state"
    require(row.state_change == 0, f"{of}: state_change is {row.state_change!r}.")
    size = _loss_scale(problem, row, step)
    tolerance = tolerances.conservation(size, size, tolerances.EPS64)
    for what, point in (("loss_start", step.start), ("loss_end", step.end)):
        require_close(getattr(row, what), problem.objective.loss(point), tolerance, f"{of}: {what}")
    left = row.loss_end - row.loss_start - float(np.sum(row.values, dtype=np.float64))
    require_close(row.residual, left, 2 * tolerance + rounding(row), f"{of}: residual")


def _require_state(row: StepAllocation, step: Step, problem: Problem, scheduled: Scheduled) -> float:
    """Compare every field with the truth; returns the true change of the loss by the state."""
    assert step.state is not None
    assert problem.exact is not None
    before, after = (scheduled.at_state(state) for state in step.state)
    rounding_of_values = 2 * _rounding(problem, row, step)  # 2 is the largest factor
    expected = before.factor * problem.exact(step.start, step.end)
    require_close(
        row.values, expected, rounding_of_values, f"step {row.step}: values in the state at the start"
    )
    size = 4 * _loss_scale(problem, row, step) + 4
    tolerance = tolerances.conservation(size, size, tolerances.EPS64)
    truth = {
        "loss_start": before.loss(step.start),
        "loss_end": after.loss(step.end),
        "state_change": after.loss(step.end) - before.loss(step.end),
    }
    for what, value in truth.items():
        require_close(getattr(row, what), value, tolerance, f"step {row.step}: {what}")
    require_close(row.residual, 0.0, tolerance + rounding_of_values, f"step {row.step}: residual")
    return truth["state_change"]


def _samples_at_fixed_nodes(estimator: Estimator) -> bool:
    """Whether the estimator is sampled, and its nodes are not random."""
    return is_sampled(estimator) and has_fixed_nodes(estimator)


@law(lambda estimator: st.tuples(anything(estimator.degree + 1), seeds), _samples_at_fixed_nodes)
def samples_are_in_the_state_of_the_step(estimator: Estimator, case: tuple[Problem, int]) -> None:
    """Samples are evaluated in the state in which the step begins, not in that before or that of the model.

    The state moves in every step.
    """
    problem, rng = case[0], np.random.default_rng(case[1])
    states = [_random_state(rng) for _ in range(len(problem.trajectory) + 1)]
    scheduled = Scheduled(problem.objective, _random_state(rng))
    moves = zip(problem.trajectory, pairwise(states), strict=True)
    steps = [replace(step, state=state) for step, state in moves]
    for a, step, state in zip(run(estimator, scheduled, steps), steps, states[:-1], strict=True):
        what, factor = f"step {a.step}: values in the state of the step", scheduled.at_state(state).factor
        _require_values(estimator, problem, a, step, what, factor=factor)


def _samples_sums(estimator: Estimator) -> bool:
    """Whether the estimator is sampled, its nodes are not random, and it measures a `lca.Sum`.

    Most raise an error, as it is not `Sampled`.
    """
    if not _samples_at_fixed_nodes(estimator):
        return False
    terms = {name: Quadratic(np.eye(1)) for name in ("first", "second")}
    with suppress(Exception):
        run(estimator, Sum(dict(terms)), [Step(np.zeros(1), np.ones(1))])
        return True
    return False


@law(lambda estimator: unrelated_losses(estimator.degree + 1), _samples_sums)
def no_term_of_a_sampled_sum_is_left_out(estimator: Estimator, case: Losses) -> None:
    """The values of a `lca.Sum` of sampled losses are those of all its terms, which have their own."""
    losses = {name: p for name, p in case.items() if _degree(p) <= estimator.degree + 1}
    for a, step in zip(
        run(estimator, Sum({name: p.objective for name, p in losses.items()}), _steps(losses)),
        _steps(losses),
        strict=True,
    ):
        allowed = {name: _rounding(problem, a, step) for name, problem in losses.items()}
        expected = {name: p.exact(step.start, step.end) for name, p in losses.items()}  # type: ignore[misc]
        of = f"step {a.step}: values"
        require_close(a.values, sum(expected.values()), sum(allowed.values()), f"{of} of the sum")
        for name, row in a.terms.items():
            require(name in losses, f"step {a.step}: there is no term {name!r}.")
            require_close(row.values, expected[name], allowed[name], f"{of} of the term {name!r}")


def _random_state(rng: np.random.Generator) -> State:
    """A factor of 0.5 to 2 and a shift of -1 to 1 (`Scheduled`)."""
    return {"factor": rng.uniform(0.5, 2, size=1), "shift": rng.uniform(-1, 1, size=1)}


def _steps(losses: Losses) -> Sequence[Step]:
    """The steps of the path that the losses share."""
    return next(iter(losses.values())).trajectory


def _require_terms(estimator: Estimator, a: StepAllocation, step: Step, losses: Losses) -> None:
    """Compare every field of every term with that of the term alone."""
    for name, problem in losses.items():
        row, of = a.terms[name], f"step {a.step}, term {name!r}"
        tolerance = _rounding(problem, a, step)
        if _degree(problem) <= estimator.degree + 1:
            expected = problem.exact(step.start, step.end)  # type: ignore[misc]
            require_close(row.values, expected, tolerance, f"{of}: values")
        for what, point in (("loss_start", step.start), ("loss_end", step.end)):
            loss = problem.objective.loss(point)
            require_close(
                getattr(row, what), loss, tolerances.repeat(loss, tolerances.EPS64), f"{of}: {what}"
            )
        left = row.loss_end - row.loss_start - float(np.sum(row.values, dtype=np.float64))
        scale = max(abs(row.loss_start), abs(row.loss_end))
        limit = tolerances.conservation(row.mass, scale, tolerances.EPS64)
        require_close(row.residual, left, limit, f"{of}: residual")
        require(row.state_change == 0, f"{of}: state_change is {row.state_change!r} without any state.")
        require(row.step == step.index, f"{of} is numbered {row.step}.")
        require(row.source is None or row.source.index == step.index, f"{of}: source is another step.")
        spent = row.cost != Cost() or row.start_cost != Cost()
        require(not spent, f"{of} has a cost of its own, {row.cost}; that of the sum holds it.")
        plain = not row.sampled and row.stderr is None and not row.replicates
        require(plain, f"{of}: sampled={row.sampled} and standard errors, although nothing is sampled.")
        moved = float(np.abs(row.values).sum())
        scale = 16 * weight_mass(estimator) * problem.scale(step.start, step.end)  # type: ignore[misc]
        require(row.values.dtype == a.values.dtype, f"{of}: values are {row.values.dtype}.")
        require(
            moved - tolerance <= row.mass <= scale, f"{of}: mass {row.mass:.3g}, but Σ|values| {moved:.3g}."
        )
