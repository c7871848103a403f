"""`Scaled`, `Sum` and `evaluate`: constants come out, terms add up and are kept apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lca import Layout, Scaled, Sum
from lca.errors import LayoutError, LCAError
from lca.objective import Objective, evaluate
from lca.reference import Batch, L2Penalty, Quartic, bowl
from lca.testing import problems, tolerances
from lca.testing._instruments import CountingObjective
from lca.testing.strategies import dtypes, seeds, smooth_problems

Array = np.ndarray


def parts(problem: problems.Problem) -> dict[str, Objective]:
    layout = problem.objective.layout
    return {"data": problem.objective, "penalty": L2Penalty(layout, 0.3)}


def assert_rounding(actual: float | Array, expected: float | Array, mass: float, dtype: np.dtype) -> None:
    tolerance = tolerances.summed(mass, float(np.finfo(dtype).eps))
    assert np.abs(np.asarray(actual) - np.asarray(expected)).max() <= tolerance


@given(smooth_problems(steps=1), st.floats(-3, 3), dtypes())
def test_scaled_multiplies_loss_and_gradient(problem, factor, dtype):
    theta = problem.points[0].astype(dtype)
    loss, grad = problem.objective.loss_and_grad(theta)
    scaled = Scaled(problem.objective, factor)
    assert scaled.loss(theta) == factor * loss
    assert scaled.loss_and_grad(theta)[0] == factor * loss
    np.testing.assert_array_equal(scaled.loss_and_grad(theta)[1], factor * grad)
    assert scaled.loss_and_grad(theta)[1].dtype == dtype
    assert scaled.layout is problem.objective.layout


@pytest.mark.parametrize("make", [lambda c: Scaled(bowl(3), c), lambda c: L2Penalty(bowl(3).layout, c)])
def test_a_numpy_scalar_as_constant_leaves_single_precision_alone(make):
    loss, grad = make(np.float64(0.5)).loss_and_grad(np.ones(3, np.float32))
    assert type(loss) is float
    assert grad.dtype == np.float32


@given(smooth_problems(steps=1), dtypes())
def test_a_sum_adds_losses_and_gradients(problem, dtype):
    theta = problem.points[0].astype(dtype)
    terms = parts(problem)
    pairs = [term.loss_and_grad(theta) for term in terms.values()]
    loss, grad = Sum(terms).loss_and_grad(theta)
    assert_rounding(loss, sum(p[0] for p in pairs), sum(abs(p[0]) for p in pairs), np.float64)
    assert_rounding(grad, sum(p[1] for p in pairs), max(np.abs(p[1]).max() for p in pairs), dtype)
    assert (type(loss), grad.dtype, Sum(terms).loss(theta)) == (float, dtype, loss)


def test_a_sum_has_the_layout_of_its_terms_and_is_an_objective():
    problem = problems.network(1)
    both = Sum(parts(problem))
    assert both.layout == problem.objective.layout
    assert isinstance(both, Objective)
    assert isinstance(Scaled(problem.objective, 2.0), Objective)


@given(smooth_problems(steps=1))
def test_evaluate_keeps_the_terms_of_a_sum(problem):
    theta, terms = problem.points[0], parts(problem)
    node = evaluate(Sum(terms), theta)
    assert list(node.terms) == ["data", "penalty"]
    for name, term in terms.items():
        loss, grad = term.loss_and_grad(theta)
        assert node.terms[name].loss == loss
        np.testing.assert_array_equal(node.terms[name].grad, grad)


def test_evaluate_of_a_plain_objective_has_no_terms():
    problem = problems.network(1)
    node = evaluate(problem.objective, problem.points[0])
    loss, grad = problem.objective.loss_and_grad(problem.points[0])
    assert (node.loss, node.terms) == (loss, {})
    np.testing.assert_array_equal(node.grad, grad)


@pytest.mark.parametrize("summed", [False, True])
def test_without_gradient_only_losses_are_evaluated(summed):
    problem = problems.network(1)
    counting = CountingObjective(problem.objective)
    objective = Sum({"data": counting}) if summed else counting
    node = evaluate(objective, problem.points[0], gradient=False)
    assert (counting.cost.full_gradients, counting.cost.full_losses) == (0, 1)
    assert node.loss == problem.objective.loss(problem.points[0])
    assert [node.grad, *(term.grad for term in node.terms.values())] == [None] * (1 + summed)


@pytest.mark.parametrize("gradient", [False, True])
def test_a_sum_evaluates_each_term_once(gradient):
    problem = problems.network(1)
    counters = {name: CountingObjective(term) for name, term in parts(problem).items()}
    evaluate(Sum(counters), problem.points[0], gradient=gradient)
    assert [len(counter.points) for counter in counters.values()] == [1, 1]


@given(seeds)
def test_the_batch_reaches_every_term(seed):
    problem = problems.network(seed)
    rng = np.random.default_rng(seed)
    batch = Batch(rng.normal(size=(4, 3)), rng.integers(2, size=4))
    theta = problem.points[0]
    loss, grad = problem.objective.loss_and_grad(theta, batch)
    half = Scaled(problem.objective, 0.5)
    both = Sum({"one": half, "other": half})
    assert (both.loss(theta, batch), both.loss_and_grad(theta, batch)[0]) == (loss, loss)
    np.testing.assert_array_equal(both.loss_and_grad(theta, batch)[1], grad)
    assert loss != problem.objective.loss(theta)


def test_a_sum_inside_a_sum_is_refused():
    term = bowl(3)
    with pytest.raises(LCAError, match="term 'inner' is itself a Sum; list its terms directly"):
        Sum({"outer": term, "inner": Sum({"a": term})})


def test_a_scaled_sum_is_refused_because_its_terms_would_be_lost():
    with pytest.raises(LCAError, match="Scaled would hide the terms of a Sum; scale each term inside"):
        Scaled(Sum({"a": bowl(3)}), 2.0)


def test_terms_of_different_layouts_are_refused():
    with pytest.raises(LayoutError, match=r"the terms of a Sum must share one layout; got .*\(3,\).*\(4,\)"):
        Sum({"a": bowl(3), "b": Quartic(np.arange(1.0, 5.0))})
    renamed = L2Penalty(Layout(("other",), ((3,),)), 1.0)
    with pytest.raises(LayoutError, match="other"):
        Sum({"a": bowl(3), "b": renamed})


def test_a_sum_of_nothing_is_refused():
    with pytest.raises(LCAError, match="a Sum needs at least one term; pass"):
        Sum({})


def test_what_a_sum_is_a_part_of_does_not_distinguish_it():
    terms = {"all": bowl(2)}
    assert Sum(terms) == Sum(terms, whole=terms["all"])
