"""The laws of the allocation by example: what each value is, and that both margins add up.

The oracle is the allocation of a data set that holds one example, by its own gradients.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lca
from lca import tolerances
from lca.by_example import ByExample, allocate_by_example
from lca.reference import CrossEntropy, DatasetLoss, Dense, Network, SquaredError
from tests.by_example.cases import EPS, NUMPY, PLAIN, TENSORFLOW, TORCH, Case
from tests.laws.subjects import SUBJECTS

SEEDS = st.integers(0, 2**20)
FEW = {TENSORFLOW: 3, TORCH: 12}
"""Cases of the frameworks that are slow to make a model or to trace it."""


def in_every_framework(law):
    """Run a law of a framework and a case on random cases."""

    @pytest.mark.parametrize("subject", [NUMPY, PLAIN, TORCH, TENSORFLOW])
    def test(subject):
        context = next((each.context for each in SUBJECTS if each.name == subject), SUBJECTS[0].context)
        examples = FEW.get(subject)
        options = {} if examples is None else {"max_examples": examples}

        @settings(**options)
        @given(SEEDS, st.sampled_from(["tanh", "relu"]))
        def run(seed, activation):
            # The Keras model of a network has a variable for each use of a tensor.
            law(subject, Case(seed, activation, ties=subject != TENSORFLOW))

        with context():
            run()

    return test


@in_every_framework
def test_each_value_is_the_allocation_of_the_example_by_itself(subject, case):
    groups = "tensor" if subject == TENSORFLOW else case.groups
    found, sums = case.allocation(subject, groups=groups), case.network.layout.groups(groups)
    for n in range(found.values.shape[1]):
        own, scale = case.alone(n, case.rule)
        weight = 1 / found.values.shape[1]
        gap = np.abs(found.values[:, n] - weight * sums.total(own.values)).max()
        assert gap <= tolerances.allocation(weight * scale, EPS, found.nodes)
        gap = abs(found.loss_change[n] - weight * own.loss_change)
        assert gap <= tolerances.summed(weight * (abs(own.loss_start) + abs(own.loss_end)), EPS)


@in_every_framework
def test_the_sum_over_examples_is_the_allocation_of_the_group(subject, case):
    groups = "tensor" if subject == TENSORFLOW else case.groups
    found, sums = case.allocation(subject, groups=groups), case.network.layout.groups(groups)
    [whole] = lca.allocate(case.loss, [lca.Step(*case.ends)], lca.PathIntegral(case.rule), check=False)
    examples = range(found.values.shape[1])
    scale = sum(case.alone(n, case.rule)[1] for n in examples) / len(examples)
    rounding = tolerances.allocation(scale, EPS, found.nodes)
    assert np.abs(found.values.sum(axis=1) - sums.total(whole.values)).max() <= rounding
    assert np.abs(found.group_residual).max() <= rounding
    assert abs(found.mass - whole.mass) <= rounding


@in_every_framework
def test_the_sum_over_groups_is_the_loss_change_of_the_example(subject, case):
    """To rounding, by a rule that resolves a smooth loss."""
    case = Case(case.seed, "tanh")
    found = case.allocation(subject, lca.PathIntegral(lca.gauss_legendre(12)), groups="layer")
    for n in range(found.values.shape[1]):
        own, scale = case.alone(n, lca.gauss_legendre(12))
        weight = 1 / found.values.shape[1]
        rounding = tolerances.conservation(weight * scale, weight * own.loss_start, EPS)
        # What is left of the quadrature error is that of the oracle, whose residual is no rounding either.
        assert abs(found.residual[n]) <= rounding + weight * abs(own.residual)


@in_every_framework
def test_the_adaptive_rule_controls_every_example(subject, case):
    case = Case(case.seed, "tanh")
    adaptive = lca.Adaptive(1e-5, max_gradients=257)
    found = case.allocation(subject, adaptive, groups="layer")
    assert found.converged, found.reason
    assert np.abs(found.residual).sum() <= found.tolerance == adaptive.tol
    coarse = case.allocation(subject, lca.Adaptive(1e-9, max_gradients=1), groups="layer")
    if not coarse.converged:
        assert "residual" in coarse.reason or "nested" in coarse.reason
    assert coarse.converged <= (np.abs(coarse.residual).sum() <= coarse.tolerance)


@in_every_framework
def test_some_examples_are_the_same_as_among_all(subject, case):
    whole = case.allocation(subject, groups="tensor")
    some = np.random.default_rng(case.seed).permutation(whole.values.shape[1])[:2]
    found = case.allocation(subject, groups="tensor", examples=some, chunk=1)
    scale = sum(case.alone(n, case.rule)[1] for n in range(whole.values.shape[1]))
    rounding = tolerances.allocation(scale, EPS, found.nodes)
    assert found.examples.tolist() == some.tolist()
    assert np.abs(found.values - whole.values[:, some]).max() <= rounding
    assert np.abs(found.group_residual).max() <= rounding
    assert np.array_equal(found.weight, whole.weight[some])


@in_every_framework
def test_what_does_not_move_has_exactly_nothing(subject, case):
    objective, step = case.measured(subject)
    how = ByExample("tensor", estimator=lca.PathIntegral(case.rule))
    [still] = allocate_by_example(objective, [lca.Step(step.start, step.start)], how)
    assert not still.values.any()
    assert not still.residual.any()
    moving = case.allocation(subject, groups="tensor")
    for name, values in zip(case.network.layout.names, moving.values, strict=True):
        assert not (name in case.network.frozen and values.any())


@given(SEEDS)
def test_the_sums_over_classes_are_the_class_wise_allocation(seed):
    case = Case(seed)
    found = case.allocation(NUMPY).over("class")
    [whole] = lca.allocate(
        case.loss.by_class(), [lca.Step(*case.ends)], lca.PathIntegral(case.rule), check=False
    )
    sums = case.network.layout.groups(case.groups)
    for label, values in zip(found.examples, found.values.T, strict=True):
        term = whole.terms[f"class {label}"]
        scale = tolerances.allocation(whole.mass + 1, EPS, found.nodes)
        assert np.abs(values - sums.total(term.values)).max() <= scale


@given(SEEDS)
def test_both_margins_are_exact_on_polynomials(seed):
    """Two linear layers under squared error are a polynomial of degree 4: Simpson's rule is exact."""
    rng = np.random.default_rng(seed)
    network = Network((Dense(3, 2), Dense(2, 2)), SquaredError(), (3,))
    n, weight = 5, rng.uniform(0.5, 2, size=5)
    loss = DatasetLoss(network, rng.normal(size=(n, 3)), rng.normal(size=(n, 2)), weight=weight)
    start, end = rng.normal(size=(2, network.layout.size))
    for rule in (lca.SIMPSON, lca.gauss_legendre(2)):
        [a] = allocate_by_example(loss, [lca.Step(start, end)], ByExample(estimator=lca.PathIntegral(rule)))
        masses = []
        for i in range(n):
            alone = DatasetLoss(network, loss.x[i : i + 1], loss.y[i : i + 1])
            [own] = lca.allocate(alone, [lca.Step(start, end)], lca.PathIntegral(rule), check=False)
            masses.append(own.mass + own.loss_start + own.loss_end)
        rounding = [tolerances.polynomial(w * mass, 3, EPS) for w, mass in zip(a.weight, masses, strict=True)]
        assert (np.abs(a.residual) <= rounding).all()
        assert abs(a.values.sum() - (loss.loss(end) - loss.loss(start))) <= sum(rounding)
        assert np.allclose(a.weight, weight / weight.sum(), rtol=EPS, atol=0)


@given(SEEDS)
def test_some_examples_keep_their_weights(seed):
    case = Case(seed)
    n = len(case.data[1])
    weight = np.random.default_rng(seed).uniform(0.5, 2, size=n)
    loss, some = DatasetLoss(case.network, *case.data, weight=weight), [n - 1, 0]
    how = ByExample("layer", some, estimator=lca.PathIntegral(case.rule))
    [found] = allocate_by_example(loss, [lca.Step(*case.ends)], how)
    whole = case.allocation(NUMPY, groups="layer")  # of equal weights
    relative = weight[some] * n / weight.sum()
    scale = sum(case.alone(i, case.rule)[1] for i in range(n))
    rounding = tolerances.allocation(scale, EPS, found.nodes)
    assert np.abs(found.values - relative * whole.values[:, some]).max() <= rounding
    assert np.abs(found.group_residual).max() <= rounding


@given(SEEDS, st.booleans())
def test_a_rescaled_loss_rescales_every_value(seed, subset):
    case, some = Case(seed), [1, 0] if seed % 2 else None
    step, how = lca.Step(*case.ends), ByExample("tensor", some, estimator=lca.PathIntegral(case.rule))
    [found] = allocate_by_example(lca.Scaled(case.loss, 0.5), [step], how)
    [whole] = allocate_by_example(case.loss, [step], how)
    for name in ("values", "loss_start", "loss_end", "weight", "by_gradient"):
        assert np.array_equal(getattr(found, name), getattr(whole, name) / 2)


def test_the_loss_is_a_mean_over_labels_of_one_class():
    """A term of ``by_class`` counts the examples of its class only."""
    network = Network((Dense(3, 4),), CrossEntropy(), (3,))
    rng = np.random.default_rng(0)
    loss = DatasetLoss(network, rng.normal(size=(6, 3)), np.array([0, 1, 1, 2, 0, 1]))
    start, end = rng.normal(size=(2, network.layout.size))
    term = loss.by_class().terms["class 1"]
    [a] = allocate_by_example(term, [lca.Step(start, end)], ByExample("tensor"))
    assert a.values.any(axis=0).tolist() == [False, True, True, False, False, True]
    assert a.converged
