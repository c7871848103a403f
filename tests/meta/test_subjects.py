"""What an author declares about an objective: refused if it is of another form, and used."""

from contextlib import nullcontext

import numpy as np
import pytest

import lca
from lca.errors import LCAError
from lca.reference import bowl
from lca.testing import CheckFailure, ConformanceError, ObjectiveSubject, check_array_ops, check_objective
from lca.testing._member_checks import _checked_scores
from lca.testing._objective_subject import Draw
from tests.meta.animals import Passing
from tests.meta.right_objectives import Barrier, GaussianLikelihood, Large, Rosenbrock


def make():
    return bowl(3)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"batches": [np.zeros(3)]}, r"must be \(weight, batch\) pairs, got a ndarray as number 0"),
        ({"batches": [(0.0, None)]}, "weight of batch 0 must be a finite number > 0"),
        ({"dtypes": ("float16",)}, "dtypes must be float32, float64 or both"),
        ({"dtypes": ()}, "dtypes must be"),
        ({"scale": 0}, "scale must be a finite number > 0"),
        ({"points": np.zeros(3)}, "points must be a function"),
        ({"state": {}}, "state must be a function"),
    ],
)
def test_another_form_is_refused(declared, message):
    with pytest.raises(LCAError, match=message):
        check_objective(make, **declared)


def test_points_of_another_length_are_named():
    with pytest.raises(ConformanceError, match=r"points\(\) returned shape \(2,\), expected \(3,\)"):
        check_objective(make, points=lambda rng: rng.normal(size=2), samples=1, only="deterministic")


def test_a_restricted_domain_has_to_be_declared():
    with pytest.raises(ConformanceError, match="logarithm of a number that is not positive"):
        check_objective(Barrier, samples=2, only="deterministic")


def test_points_come_in_all_sizes_and_the_same_for_the_same_draw():
    subject, layout = ObjectiveSubject(make), bowl(3).layout
    sizes = [np.abs(subject.numbers(layout, Draw(5, size))).max() for size in ("small", "usual", "large")]
    assert sizes == sorted(sizes)
    one = subject.numbers(layout, Draw(5, "one large entry"))
    assert (one != subject.numbers(layout, Draw(5))).sum() == 1
    assert np.array_equal(one, subject.numbers(layout, Draw(5, "one large entry")))


def test_the_lines_of_a_case_evaluate_its_point():
    class Recorder(Passing):
        def loss(self, theta, batch=None):
            seen.append(theta)
            return super().loss(theta, batch)

    for draw in (Draw(3), Draw(4, "one large entry"), Draw(5, "large")):
        seen = []
        subject = ObjectiveSubject(lambda: Recorder(make()))
        exec("\n".join(subject.lines(draw)), {"make_objective": subject.make})
        assert np.array_equal(seen[0], subject.numbers(bowl(3).layout, draw))


def test_many_parameters_get_fewer_cases_by_default():
    report = check_objective(lambda: Large(400_000), only="layout_round_trip")
    assert report.samples == 5
    assert check_objective(make, only="layout_round_trip").samples == 20


@pytest.mark.parametrize("kind", [Rosenbrock, GaussianLikelihood])
def test_an_objective_without_batches_is_allocated(kind):
    objective = lca.Sum({"half": lca.Scaled(kind(), 0.5), "rest": lca.Scaled(kind(), 0.5)})
    path = lca.Trajectory(np.array([np.full(5, 0.5), np.full(5, 0.75)]))
    [a] = lca.allocate(objective, path, lca.PathIntegral(lca.gauss_legendre(12)))
    assert abs(a.residual) <= lca.tolerances.adaptive_residual(a.mass)


def test_array_operations_are_checked_alone():
    assert check_array_ops(np.array, samples=1).results[0].tally.cases == 1
    with pytest.raises(LCAError, match="a vector must be a NumPy array"):
        check_array_ops(list)


@pytest.mark.parametrize(
    ("scores", "right"), [([0.0, 0.5], True), ([0.5, -0.5], False), ([0.5, np.nan], False)]
)
def test_scores_may_be_zero_and_not_negative(scores, right):
    class Fixed:
        def scores(self, theta):
            return np.array(scores)

    with nullcontext() if right else pytest.raises(CheckFailure, match="negative or not finite"):
        _checked_scores(Fixed(), np.zeros(2), None, 2)
