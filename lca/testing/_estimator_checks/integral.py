"""Laws about the values: each is the path integral of its parameter, with the properties that follow."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from lca import tolerances
from lca.allocation import Estimator, StepAllocation
from lca.arrays import array_ops
from lca.objective import Scaled, Sum
from lca.testing._estimator_checks.law import any_problem, exact_problem, law_into, run
from lca.testing._instruments import Reparametrized, WithQuadraticTensor
from lca.testing._laws import require, require_close, rounding
from lca.testing._reference import distance_to_polynomials, path_integral
from lca.testing._report import Check
from lca.testing.problems import Problem
from lca.testing.strategies import smooth_problems

Array = np.ndarray
CHECKS: list[Check] = []
law = law_into(CHECKS)


@law(exact_problem)
def exact_up_to_declared_degree(estimator: Estimator, problem: Problem) -> None:
    """For polynomials up to degree + 1, each value equals the closed form."""
    assert problem.exact is not None
    for a, step in zip(run(estimator, problem.objective, problem.points), problem.trajectory, strict=True):
        expected = problem.exact(step.start, step.end)
        require_close(a.values, expected, _rounding(problem, a), f"step {a.step}: values")
        scale = a.mass + max(abs(a.loss_start), abs(a.loss_end))
        tolerance = tolerances.polynomial(scale, _degree(problem), tolerances.EPS64)
        require(abs(a.residual) <= tolerance, f"the residual {a.residual:.3g} exceeds {tolerance:.3g}.")


@law(lambda estimator: smooth_problems(steps=1))
def error_falls_at_declared_order(estimator: Estimator, problem: Problem) -> None:
    """On a smooth loss, the errors of the values are O(h^(degree + 2)) in the length h of the step."""
    start, delta = problem.points[0], problem.points[1] - problem.points[0]
    errors, floors = [], []
    for h in 0.5 ** np.arange(7):
        points = np.array([start, start + h * delta])
        [a] = run(estimator, problem.objective, points)
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


@law(lambda estimator: smooth_problems(steps=1))
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
    [a] = run(estimator, objective, points)
    reference = path_integral(objective, start, end)
    # 4 = 1 + 3: Σ|w| is 1 without negative weights, and rules with negative weights must keep it below 3.
    allowed = 4 * np.abs(end - start) * distance_to_polynomials(objective, start, end, estimator.degree)
    excess = np.abs(a.values - reference) - allowed - rounding(a)
    at = int(np.argmax(np.where(np.isnan(excess), np.inf, excess)))
    found, expected, limit = (float(numbers[at]) for numbers in (a.values, reference, allowed + rounding(a)))
    require(
        bool(excess[at] <= 0),
        f"value {at} is {found!r}, the integral is {expected!r}: the error {abs(found - expected):.3g} "
        f"exceeds {limit:.3g}, the limit for degree {estimator.degree}.",
    )


@law(exact_problem)
def additive_along_the_path(estimator: Estimator, problem: Problem) -> None:
    """The allocations of the two parts of a split step add up to that of the step (exact problems)."""
    start, end = problem.points[:2]
    [whole] = run(estimator, problem.objective, np.array([start, end]))
    first, second = run(estimator, problem.objective, np.array([start, start + 0.375 * (end - start), end]))
    tolerance = sum(_rounding(problem, a) for a in (whole, first, second))
    require_close(first.values + second.values, whole.values, tolerance, "the two parts")


@law(exact_problem)
def reversal_changes_the_sign(estimator: Estimator, problem: Problem) -> None:
    """The reversed path has the opposite allocations: ``A(b→a) = -A(a→b)`` (exact problems)."""
    forward = run(estimator, problem.objective, problem.points)
    backward = run(estimator, problem.objective, problem.points[::-1].copy())
    for a, b in zip(forward, reversed(backward), strict=True):
        tolerance = _rounding(problem, a) + _rounding(problem, b)
        require_close(b.values, -a.values, tolerance, "values of the reversed step")


def _rounding(problem: Problem, a: StepAllocation) -> float:
    """By how much two correct computations on an exact problem may differ."""
    return tolerances.polynomial(a.mass, _degree(problem), array_ops(a.values).eps(a.values))


def _degree(problem: Problem) -> int:
    assert problem.degree is not None
    return problem.degree


@law(lambda estimator: st.tuples(any_problem(estimator), st.randoms(use_true_random=False)))
def follows_a_change_of_order_and_units(estimator: Estimator, case: tuple[Problem, Any]) -> None:
    """Permuting the parameters permutes the values; rescaling them (θ_i → c_i θ_i) changes no value."""
    problem, random = case
    k = problem.points.shape[1]
    order = np.array(random.sample(range(k), k))
    units = 2.0 ** np.array([random.randint(-3, 3) for _ in range(k)])  # powers of 2: exact in floats
    changed = Reparametrized(problem.objective, order, units)
    plain = run(estimator, problem.objective, problem.points)
    other = run(estimator, changed, changed.forward(problem.points))
    for a, b in zip(plain, other, strict=True):
        require_close(b.values, a.values[order], rounding(a), f"step {a.step}: values in other coordinates")


@law(exact_problem)
def linear_in_the_loss(estimator: Estimator, problem: Problem) -> None:
    """Doubling the loss doubles the values (exact problems)."""
    plain = run(estimator, problem.objective, problem.points)
    twice = run(estimator, Scaled(problem.objective, 2.0), problem.points)
    for a, b in zip(plain, twice, strict=True):
        require_close(b.values, 2 * a.values, rounding(b), f"step {a.step}: values of twice the loss")


@law(any_problem)
def terms_add_up(estimator: Estimator, problem: Problem) -> None:
    """The values, losses and residuals of the terms of a `lca.Sum` add up to those of the sum."""
    both = Sum({"most": Scaled(problem.objective, 0.75), "rest": Scaled(problem.objective, 0.25)})
    for a in run(estimator, both, problem.points):
        require(set(a.terms) == {"most", "rest"}, f"terms are {sorted(a.terms)}, expected most and rest.")
        rows = list(a.terms.values())
        require_close(sum(row.values for row in rows), a.values, rounding(a), "the sum of the terms")
        most = a.terms["most"]
        require_close(most.values, 0.75 * a.values, rounding(a), "the term that is 3/4 of the loss")
        tolerance = tolerances.repeat(a.loss_end, tolerances.EPS64)
        require_close(most.loss_end, 0.75 * a.loss_end, tolerance, "its loss at the end")
        tolerance = tolerances.conservation(a.mass, a.loss_end, tolerances.EPS64)
        left = sum(row.residual for row in rows)
        require_close(left, a.residual, tolerance, "the residuals of the terms")
