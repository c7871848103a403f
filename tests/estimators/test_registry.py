"""The registry of named estimators: each row makes what it says, and keeps every law of the kit."""

from dataclasses import replace

import pytest

from lca import BOOLE, LEFT, MIDPOINT, RIGHT, SIMPSON, TRAPEZOID, Adaptive, LCAError, PathIntegral, Step
from lca.errors import IncompleteStepError, UnknownNameError
from lca.estimators import REGISTRY, StochasticEstimator, make_estimator, named_estimator
from lca.quadrature import RULES
from lca.reference import SGD, DatasetLoss, load_digits, logistic_regression, minibatches, train, with_next
from lca.testing import parametrize_with_checks
from tests.nightly import NIGHTLY

PLAIN = {
    "left": LEFT,
    "right": RIGHT,
    "midpoint": MIDPOINT,
    "trapezoid": TRAPEZOID,
    "simpson": SIMPSON,
    "rk4": SIMPSON,
    "boole": BOOLE,
}
FULL = [name for name, row in REGISTRY.items() if not row.sampled]
SAMPLED = [name for name, row in REGISTRY.items() if row.sampled]


@parametrize_with_checks([row.make(1e-3) for row in REGISTRY.values()], samples=10 if NIGHTLY else 1)
def test_every_named_estimator_keeps_the_laws(check):
    check()


@pytest.mark.parametrize(("name", "rule"), PLAIN.items())
def test_a_rule_by_its_name(name, rule):
    assert make_estimator(name, tol=0.5) == PathIntegral(rule, tol=0.5)


@pytest.mark.parametrize("name", RULES)
def test_every_named_rule_is_an_estimator(name):
    assert make_estimator(name).rule is RULES[name]


@pytest.mark.parametrize(("family", "sizes"), [("gauss", (2, 3, 4, 5)), ("lobatto", (4, 5, 6))])
def test_families_end_in_their_number_of_nodes(family, sizes):
    for n in sizes:
        assert len(make_estimator(f"{family}{n}").rule.nodes) == n


def test_adaptive_takes_the_tolerance():
    assert make_estimator("adaptive", tol=0.5) == Adaptive(tol=0.5)


@pytest.mark.parametrize("name", FULL)
def test_a_full_estimator_checks_its_tolerance(name):
    with pytest.raises(LCAError, match="tol must be positive"):
        make_estimator(name, tol=-1.0)


@pytest.mark.parametrize("name", REGISTRY)
def test_every_row_describes_itself_in_one_short_line(name):
    row = named_estimator(name)
    assert row.name == name
    assert 0 < len(row.description) <= 60
    assert not row.description.endswith(".")
    estimator = row.make(1e-3)
    assert (row.target, row.sampled) == (estimator.target, isinstance(estimator, StochasticEstimator))


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UnknownNameError, match=r"unknown estimator 'rk5'; known: .*adaptive.*rk4.*trapezoid"):
        make_estimator("rk5")


@pytest.fixture(scope="module")
def digits():
    """A loss and a step of it that has every field an estimator may require."""
    data = load_digits().reshaped((64,))
    network = logistic_regression(64, 10)
    loss = DatasetLoss(network, data.x_train, data.y_train)
    batches = minibatches(data.x_train, data.y_train, 50, 2, seed=0)
    steps = train(loss, network.init(0), SGD(0.1), batches, micro_batches=2, scores=True, slopes=True)
    [step] = with_next(steps)
    return loss, step


@pytest.mark.parametrize("name", REGISTRY)
def test_an_allocation_says_whether_it_is_sampled(name, digits):
    loss, step = digits
    a = make_estimator(name).start(loss)(step)
    assert a.sampled == REGISTRY[name].sampled
    assert (a.residual != a.residual) == a.sampled  # NaN where no loss is measured


@pytest.mark.parametrize("name", SAMPLED)
def test_exactly_the_required_fields_are_required(name, digits):
    loss, step = digits
    required = REGISTRY[name].required_fields
    bare = Step(step.start, step.end, step.index)
    supplied = replace(bare, **{field: getattr(step, field) for field in required})
    make_estimator(name).start(loss)(supplied)
    for field in required:
        lacking = replace(supplied, **{field: getattr(bare, field)})
        with pytest.raises(IncompleteStepError, match=f"step 0: .* requires Step.{field}, which") as caught:
            make_estimator(name).start(loss)(lacking)
        assert caught.value.field == field
