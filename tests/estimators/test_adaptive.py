"""`Adaptive`: both controls, audits, the run's allowance, honest flags, and no gradient wasted."""

from dataclasses import dataclass, field
from itertools import accumulate, takewhile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lca import SIMPSON, Adaptive, PathIntegral, Scaled, Step, Trajectory, allocate, composite
from lca.errors import LCAError, LCAWarning, UnknownNameError
from lca.layout import Layout
from lca.reference import Quadratic, Quartic, ReluKink, bowl
from lca.testing import problems
from lca.testing._instruments import CountingObjective
from lca.testing.strategies import kinked_problems, seeds, smooth_problems
from lca.tolerances import EPS64, conservation

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Opposed:
    """``L(a, b) = f(a) - f(b)`` with ``f(x) = x⁴/4``: moved alike, both errors cancel in the residual."""

    layout: Layout = field(default=Layout(("a", "b"), ((1,), (1,))))

    def loss(self, theta: Array, batch: object = None) -> float:
        return float(theta[0] ** 4 - theta[1] ** 4) / 4

    def loss_and_grad(self, theta: Array, batch: object = None) -> tuple[float, Array]:
        return self.loss(theta), theta**3 * np.array([1.0, -1.0])

    def exact_allocation(self, start: Array, end: Array) -> Array:
        return (end**4 - start**4) / 4 * np.array([1.0, -1.0])


def run(objective, points: Array, estimator) -> list:
    return list(allocate(objective, Trajectory(points), estimator, check=False))


def gradients(allocations: list) -> list[int]:
    """New gradients of each step, that of the very first point left out."""
    first, *others = [int(a.cost.full_gradients) for a in allocations]
    return [first - 1, *others]


def together(positions: list[float]) -> Array:
    """A path of `Opposed` on which both parameters move alike."""
    return np.repeat(np.array(positions)[:, None], 2, axis=1)


def nested_error(a, start: Array, end: Array) -> float:
    """Share of the allocation that is wrong."""
    exact = Opposed().exact_allocation(start, end)
    return float(np.abs(a.values - exact).sum() / np.abs(exact).sum())


MEANINGLESS = pytest.mark.filterwarnings("ignore:the tolerance of Adaptive, 1e-30")


# --- the tolerance of a step -----------------------------------------------------------------------------


@given(smooth_problems() | kinked_problems(), st.sampled_from([1e-2, 1e-4, 1e-6]))
def test_every_converged_step_meets_its_tolerance(problem, tol):
    allocations = run(problem.objective, problem.points, Adaptive(tol=tol))
    for a in allocations:
        assert a.tolerance == tol
        assert a.converged == (abs(a.residual) <= tol and "≤" in a.reason)


@given(smooth_problems(steps=1))
def test_smooth_steps_converge(problem):
    patient = Adaptive(tol=1e-6, max_gradients=1_001)
    assert all(a.converged for a in run(problem.objective, problem.points, patient))


def test_a_smaller_tolerance_is_bought_with_gradients():
    problem = problems.network(4)
    spent = [
        sum(gradients(run(problem.objective, problem.points, Adaptive(tol=tol)))) for tol in (1e-2, 1e-8)
    ]
    assert spent[0] < spent[1]


# --- the tolerance of a run ------------------------------------------------------------------------------


@given(smooth_problems(steps=8), st.sampled_from([1e-1, 1e-2, 1e-4]))
def test_the_run_stays_within_its_share_of_the_largest_change_at_every_moment(problem, tol):
    allocations = run(problem.objective, problem.points, Adaptive(tol=tol, per="run", max_gradients=1_001))
    # What is promised ends with the first step that is flagged.
    allocations = list(takewhile(lambda a: a.converged, allocations))
    spent = accumulate(abs(a.residual) for a in allocations)
    changes = accumulate((abs(a.loss_end - allocations[0].loss_start) for a in allocations), max)
    for residual, change in zip(spent, changes, strict=True):
        assert residual <= tol * change


@given(smooth_problems(steps=5))
def test_a_step_of_a_run_may_use_half_of_what_is_left(problem):
    tol, largest, spent = 0.05, 0.0, 0.0
    allocations = run(problem.objective, problem.points, Adaptive(tol=tol, per="run"))
    for a in allocations:
        largest = max(largest, abs(a.loss_end - allocations[0].loss_start))
        assert a.tolerance == (tol * largest - spent) / 2
        spent += abs(a.residual)


def test_a_run_tolerance_scales_with_the_loss_and_a_step_tolerance_does_not():
    points = np.array([[1.0], [0.5], [0.1]])
    plain, large = Quartic([1.0]), Quartic([32.0])  # ¼ c² θ⁴: 1024 times the loss, exactly
    for per, same in (("run", True), ("step", False)):
        estimator = Adaptive(tol=1e-2, per=per, audit=None)
        spent = [gradients(run(objective, points, estimator)) for objective in (plain, large)]
        assert (spent[0] == spent[1]) == same


# --- the limit, and rounding -----------------------------------------------------------------------------


@given(seeds, st.integers(1, 20))
def test_the_limit_on_gradients_is_kept_and_the_miss_flagged(seed, limit):
    problem = problems.make_problem("relu kink", seed)
    estimator = Adaptive(tol=1e-12, max_gradients=limit)
    for a, spent in zip(
        (allocations := run(problem.objective, problem.points, estimator)),
        gradients(allocations),
        strict=True,
    ):
        assert spent - 1 <= limit  # one at the end of the step, the others inside
        if not a.converged:
            assert spent - 1 >= limit - 1  # a cut takes two: an even limit leaves one unused
            assert a.reason == f"|residual| too large at the limit of {limit} gradients inside"


def test_a_kink_is_flagged_at_the_limit():
    kink = ReluKink([1.0], -0.1)
    [a] = run(kink, np.array([[0.0], [1.0]]), Adaptive(tol=1e-12, max_gradients=9))
    assert not a.converged
    assert abs(a.residual) > 1e-12 == a.tolerance
    assert gradients([a]) == [1 + 9]


def test_a_nested_difference_at_the_limit_is_named():
    [a] = run(Opposed(), together([1.0, -0.9]), Adaptive(nested_tol=1e-12, max_gradients=1))
    assert (a.residual, a.converged) == (0.0, False)
    assert a.reason == "nested difference too large at the limit of 1 gradients inside"


@MEANINGLESS
@given(smooth_problems())
def test_a_tolerance_below_rounding_is_flagged_as_such_and_does_not_burn_the_limit(problem):
    points = problem.points.astype(np.float32)
    allocations = run(problem.objective, points, Adaptive(tol=1e-30, max_gradients=10_001))
    for a, spent in zip(allocations, gradients(allocations), strict=True):
        assert a.converged == (a.residual == 0)
        assert a.converged or "which is below rounding" in a.reason
        assert spent < 100


@MEANINGLESS
def test_rounding_of_a_quadratic_costs_one_midpoint_not_the_limit():
    points = np.random.default_rng(5).normal(size=(12, 4))
    allocations = run(bowl(4), points, Adaptive(tol=1e-30))
    missed = [a for a in allocations if not a.converged]
    assert missed
    assert all("below rounding" in a.reason for a in missed)
    assert max(gradients(allocations)) == 2


# --- losses of any scale -----------------------------------------------------------------------------------

SMOOTH = Quartic([2.0, 1.0])
CURVE = np.array([[1.0, -1.0], [0.8, -0.7], [0.5, -0.6], [0.45, -0.6]])


@pytest.mark.parametrize(
    ("scale", "problem"),
    [
        (1e-30, "is larger than the loss and its changes .* so every step passes"),
        (1e30, "is below the rounding"),
    ],
)
def test_a_tolerance_that_means_nothing_says_so_once(scale, problem):
    steps = Trajectory(CURVE)
    allocations = allocate(Scaled(SMOOTH, scale), steps, Adaptive(max_gradients=3))
    with pytest.warns(LCAWarning, match=rf"of Adaptive, 0\.001 .*{problem}.*Adaptive\(per=\"change\"\)"):
        next(allocations)
    assert len(list(allocations)) == len(CURVE) - 2  # a second warning would be an error


def test_a_tolerance_as_large_as_the_loss_means_nothing():
    """``½ θ²`` from 2 to 0: the larger loss and the mass of the trapezoid are 2."""
    steps, loss = Trajectory(np.array([[2.0], [0.0]])), Quadratic(np.eye(1))
    with pytest.warns(LCAWarning, match="so every step passes"):
        next(allocate(loss, steps, Adaptive(tol=2.0)))
    next(allocate(loss, steps, Adaptive(tol=1.75)))  # a warning would be an error


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_relative_tolerance_is_met_at_any_scale(scale):
    loss = Scaled(SMOOTH, scale)
    allocations = run(loss, CURVE, Adaptive(tol=1e-4, per="change", audit=None))
    for a in allocations:
        assert abs(a.residual) <= a.tolerance
        assert a.tolerance == 1e-4 * abs(a.loss_change)  # far above rounding
    plain = run(SMOOTH, CURVE, Adaptive(tol=1e-4, per="change", audit=None))
    assert gradients(allocations) == gradients(plain)
    assert max(gradients(plain)) > 1


def test_a_relative_tolerance_of_a_step_without_a_change_of_loss_is_rounding():
    [a] = run(SMOOTH, np.array([[1.0, 0.5], [-1.0, 0.5]]), Adaptive(tol=0.01, per="change"))
    assert a.loss_change == 0
    assert a.converged
    assert 0 < a.tolerance <= conservation(8 * a.mass, a.loss_end, EPS64)  # that of the trapezoid's mass


# --- the nested difference and its audits ----------------------------------------------------------------

FAR = [1.0, -0.9, 1.1, -1.2, 0.8, -1.0]


def test_an_audit_of_every_step_catches_errors_that_cancel():
    points = together(FAR)
    allocations = run(Opposed(), points, Adaptive(tol=1e-3, audit=1, nested_tol=0.01, max_gradients=65))
    for a, start, end in zip(allocations, points[:-1], points[1:], strict=True):
        assert a.converged
        assert nested_error(a, start, end) <= 0.01
    assert min(gradients(allocations)) > 1


def test_without_audits_errors_that_cancel_are_missed():
    points = together(FAR)
    allocations = run(Opposed(), points, Adaptive(tol=1e-3, audit=None, nested_tol=0.01))
    for a, start, end in zip(allocations, points[:-1], points[1:], strict=True):
        assert a.converged
        assert a.residual == 0
        assert nested_error(a, start, end) > 0.01
    assert gradients(allocations) == [1] * 5


NEAR = 1 + 0.01 * np.arange(200)
AUDITED = [0, 2, 6, 14, 30, 62, 126, 190]


def test_audits_come_after_1_2_4_up_to_64_steps_that_pass():
    allocations = run(Opposed(), together(NEAR), Adaptive(tol=1e-3))
    assert [t for t, spent in enumerate(gradients(allocations)) if spent > 1] == AUDITED
    assert sum(gradients(allocations)) == len(allocations) + len(AUDITED)


def test_audits_are_never_further_apart_than_asked_for():
    allocations = run(Opposed(), together(NEAR[:30]), Adaptive(tol=1e-3, audit=4))
    assert [t for t, spent in enumerate(gradients(allocations)) if spent > 1] == [0, 2, 6, 10, 14, 18, 22, 26]


def leap_at(t: int) -> Array:
    """Small steps, but for step t, which crosses zero."""
    positions = 1 + 0.01 * np.arange(30)
    positions[t + 1 :] *= -1
    return together(positions)


def test_a_failed_audit_is_refined_and_the_very_next_step_is_audited():
    points = leap_at(14)
    allocations = run(Opposed(), points, Adaptive(tol=1e-3, max_gradients=65))
    spent = gradients(allocations)
    assert [t for t, n in enumerate(spent) if n > 1] == [0, 2, 6, 14, 15, 17, 21]
    assert spent[14] > 2
    assert allocations[14].converged


def test_an_audit_that_ends_at_the_limit_has_failed():
    allocations = run(Opposed(), together(FAR), Adaptive(max_gradients=1))
    assert not allocations[0].converged
    assert gradients(allocations) == [2] * 5


def test_a_leap_between_audits_is_missed():
    allocations = run(Opposed(), leap_at(13), Adaptive(tol=1e-3))
    assert gradients(allocations)[13] == 1
    assert allocations[13].converged


def test_an_audit_that_falls_on_a_refined_step_waits_for_the_next():
    positions = 1 + 0.01 * np.arange(12)
    points = together(positions)
    points[3:, 0] *= 2  # in step 2 only a moves: the residual sees it, no audit is needed
    spent = gradients(run(Opposed(), points, Adaptive(tol=1e-3)))
    assert spent[0] == 2
    assert spent[1] == 1
    assert spent[2] > 1
    assert spent[3] == 2


# --- local bisection -------------------------------------------------------------------------------------


def test_nodes_gather_at_a_kink():
    kink = CountingObjective(ReluKink([1.0], -0.1))  # from 0 to 1: the kink is at s = 0.1
    [a] = run(kink, np.array([[0.0], [1.0]]), Adaptive(tol=1e-4))
    inside = sorted(float(np.frombuffer(p)[0]) for p in kink.points)[1:-1]
    near = [s for s in inside if abs(s - 0.1) < 0.05]
    far = [s for s in inside if s > 0.5]
    assert a.converged
    assert len(far) <= 3
    assert len(near) > len(inside) / 2
    assert min(abs(s - 0.1) for s in near) < 1e-3


def test_equal_panels_miss_what_bisection_meets_with_a_quarter_of_the_gradients():
    kink, points = ReluKink([1.0], -0.1), np.array([[0.0], [1.0]])
    [a] = run(kink, points, Adaptive(tol=1e-4))
    [even] = run(kink, points, PathIntegral(composite(SIMPSON, 2 * gradients([a])[0])))
    assert gradients([even])[0] == 4 * gradients([a])[0]
    assert abs(even.residual) > 1e-4 >= abs(a.residual)


# --- what it costs ---------------------------------------------------------------------------------------


def test_a_quadratic_costs_one_gradient_a_step_apart_from_audits():
    points = np.random.default_rng(2).normal(size=(41, 4))
    assert gradients(run(bowl(4), points, Adaptive(audit=None))) == [1] * 40
    audited = [2 if t in AUDITED else 1 for t in range(40)]
    assert gradients(run(bowl(4), points, Adaptive())) == audited


@given(smooth_problems(steps=2) | kinked_problems(steps=2), st.sampled_from([1e-3, 1e-5]))
def test_no_point_is_evaluated_twice_in_a_run(problem, tol):
    counting = CountingObjective(problem.objective)
    allocations = run(counting, problem.points, Adaptive(tol=tol, audit=1))
    assert len(set(counting.points)) == len(counting.points) == 1 + sum(gradients(allocations))
    assert counting.cost.full_losses == 0


def test_a_step_is_refined_by_itself_whatever_came_before_it():
    problem = problems.network(3)
    estimator = Adaptive(tol=1e-6, audit=1)
    joined = run(problem.objective, problem.points, estimator)[-1]
    [alone] = list(allocate(problem.objective, [Step(*problem.points[-2:], index=2)], estimator))
    np.testing.assert_array_equal(joined.values, alone.values)
    assert (joined.residual, joined.mass, joined.reason) == (alone.residual, alone.mass, alone.reason)


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tol": 0.0}, "tol must be positive, got 0.0"),
        ({"tol": float("nan")}, "tol must be positive, got nan"),
        ({"nested_tol": -0.1}, "nested_tol must be positive, got -0.1"),
        ({"audit": 0}, r"audit must be at least 1 \(every step\) or None \(never\), got 0"),
        ({"max_gradients": 0}, "max_gradients must be at least 1, got 0"),
    ],
)
def test_bad_parameters_are_refused(options, message):
    with pytest.raises(LCAError, match=message):
        Adaptive(**options)


def test_an_unknown_scope_lists_the_known():
    with pytest.raises(
        UnknownNameError, match=r"unknown tolerance scope \(per\) 'epoch'; known: change, run, step"
    ):
        Adaptive(per="epoch")


def test_halves_that_cancel_within_a_parameter_are_no_difference():
    # Simpson is exact on the whole step; cutting it moves from one half to the other, in each parameter.
    points = together([1.1, -1.2])
    [a] = run(Opposed(), points, Adaptive(audit=1, nested_tol=0.05, max_gradients=65))
    assert a.converged
    assert gradients([a]) == [4]  # the end, the midpoint, and one cut, which confirms it


def test_what_a_flagged_step_leaves_is_not_charged_to_later_ones():
    steep = problems.RidgePolynomial(np.eye(2), 6)  # beyond Simpson, so the first step leaves a residual
    points = together([0.5, 3.0, 3.001, 3.002, 3.003])
    first, *others = run(steep, points, Adaptive(1e-4, per="run", audit=None, max_gradients=1))
    assert abs(first.residual) > 1e-4 * abs(first.loss_change)  # more than the whole run was allowed
    assert not first.converged
    assert all(a.converged and a.tolerance > 0 for a in others)


class HalfTheGradient:
    """A loss whose gradient misses a part, as where half of a model is detached."""

    layout = Layout(("theta",), ((1,),))

    def loss(self, theta):
        return float(np.cos(theta[0]) + 0.1 * np.sin(theta[0]))

    def loss_and_grad(self, theta):
        return self.loss(theta), -np.sin(theta)


def test_a_gradient_that_is_not_that_of_the_loss_is_told_from_a_quadrature_error():
    points = np.array([[0.0], [0.5], [0.8]])
    with pytest.warns(LCAWarning, match="step 0: .* the gradient is not that of the loss") as caught:
        found = run(HalfTheGradient(), points, Adaptive(tol=1e-6))
    assert len(caught) == 1  # once a run
    assert not any(a.converged for a in found)
