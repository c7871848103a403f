"""Probes, anchors, budgets: what is drawn, what it costs, what is shared, and their messages."""

import gc
from weakref import ref

import numpy as np
import pytest

from lca import (
    LEFT,
    SIMPSON,
    TRAPEZOID,
    Adaptive,
    Layout,
    LCAError,
    PathIntegral,
    Step,
    StepAllocation,
    Sum,
    allocate,
    gauss_legendre,
    tolerances,
)
from lca.by_example import ByExample
from lca.errors import LCAWarning, NonFiniteError, UnknownNameError
from lca.estimators import (
    AdaptiveSampleSize,
    ControlVariate,
    LaggedCrossFit,
    SampledPathIntegral,
    Sampler,
    gradient_on,
)
from lca.estimators._adaptive_sample_size import affordable
from lca.reference import Adam, DatasetLoss, minibatches, mlp, train, with_next
from lca.step import ExampleScores
from lca.testing import parametrize_with_checks
from lca.tracking._options import Settings
from lca.views import ErrorBars
from tests.nightly import NIGHTLY

NETWORK = mlp((3, 5, 3), activation="tanh")
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 3)), RNG.integers(0, 3, 40)
LOSS = DatasetLoss(NETWORK, X, Y)
GROUPS = LOSS.layout.groups("layer")
THETA = NETWORK.init(5)


def steps(count=8, seed=1):
    batches = minibatches(X, Y, 8, count + 1, seed)
    return list(with_next(train(LOSS, NETWORK.init(0), Adam(0.05), batches, scores=True)))


def weighted(weight):
    return DatasetLoss(NETWORK, X, Y, weight=weight)


SAMPLINGS = ["uniform", "importance", "stratified"]


@pytest.mark.parametrize("weight", [None, RNG.uniform(0, 2, 40)], ids=["plain", "weighted"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_samples_have_the_gradient_of_the_data_in_the_mean(sampling, weight):
    objective = weighted(weight)
    sampler = Sampler(objective, sampling, floor=0.1, seed=0)
    sampler.learn(ExampleScores(np.arange(30), objective.scores(THETA)[:30]))
    samples = sampler.draw([3] * 6000)  # small: a ratio of sums would be off by a third of its spread
    found = np.array([gradient_on(objective, THETA, sample) for sample in samples])
    spread = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    off = (found.mean(axis=0) - objective.loss_and_grad(THETA)[1]) / spread
    assert np.abs(off).max() < 4.5  # of 38 entries


def test_errors_and_strata_lower_the_spread():
    network = mlp((3, 5, 3), activation="tanh")
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1000, 3))
    objective = DatasetLoss(network, x, (x[:, 0] > 0).astype(int) + (x[:, 1] > 1))
    theta = network.init(0)
    batches = minibatches(objective.x, objective.y, 50, 300, 0)
    for step in train(objective, theta, Adam(0.02), batches):
        theta = step.end
    spread = {}
    for sampling in SAMPLINGS:
        sampler = Sampler(objective, sampling, floor=0.1, seed=0)
        sampler.learn(ExampleScores(np.arange(1000), objective.scores(theta)))
        found = [gradient_on(objective, theta, sample) for sample in sampler.draw([50] * 200)]
        spread[sampling] = np.var(found, axis=0).sum()
    assert spread["importance"] < 0.6 * spread["uniform"]
    assert spread["stratified"] < 0.6 * spread["importance"]


def test_a_systematic_sample_takes_each_example_as_often_as_it_should_to_one():
    sampler = Sampler(LOSS, "stratified", floor=0.1, seed=0)
    scores = LOSS.scores(THETA)
    sampler.learn(ExampleScores(np.arange(40), scores))
    p = 0.9 * scores / scores.sum() + 0.1 / 40
    for sample in sampler.draw([25] * 50):
        expected = 25 * p
        counts = np.array([np.sum((sample.batch.x == row).all(axis=1)) for row in X])
        assert (np.abs(counts - expected) < 1).all()
        of_class = [counts[label == Y].sum() - expected[label == Y].sum() for label in range(3)]
        assert np.abs(of_class).max() < 1


def test_a_probe_is_the_rule_on_its_samples():
    [step] = steps(1)
    for rule in (TRAPEZOID, SIMPSON, LEFT, gauss_legendre(2)):
        a = SampledPathIntegral(rule, 4000, micro_batches=4).start(LOSS)(step)
        truth = PathIntegral(rule).start(LOSS)(step)
        bars = ErrorBars(GROUPS)
        bars.update(a)
        off = GROUPS.total(a.values) - GROUPS.total(truth.values)
        assert (np.abs(off) < 12 * bars.stderr()).all()  # Student with 3 degrees of freedom a node
        assert np.isfinite(bars.stderr()).all()
        shares = sum(sum(r) / len(r) for r in a.replicates.values())
        assert np.abs(shares - a.values).max() <= tolerances.allocation(a.mass, tolerances.EPS64)
        assert list(a.replicates) == [step.index + c for c in rule.nodes]


def test_neighbouring_steps_share_the_node_between_them():
    first, second = steps(2)
    allocate_step = SampledPathIntegral(TRAPEZOID, 8, micro_batches=2).start(LOSS)
    a = allocate_step(first)
    right = a.replicates[1.0][0] / (first.end - first.start)
    b = allocate_step(second)
    left = b.replicates[1.0][0] / (second.end - second.start)
    assert np.abs(left - right).max() <= tolerances.gradient(float(np.abs(left).max()), tolerances.EPS64)
    assert (a.cost.examples, b.cost.examples) == (16, 8)


def test_a_step_from_elsewhere_has_a_node_of_its_own():
    first, second = steps(2)
    allocate_step = SampledPathIntegral(TRAPEZOID, 8, micro_batches=2).start(LOSS)
    allocate_step(first)
    b = allocate_step(Step(second.start + 0.1, second.end, 1))
    assert b.cost.examples == 16
    assert 1.0 not in b.replicates
    assert sorted(b.replicates)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_seed_decides_and_training_does_not(sampling):
    path = steps()

    def run(seed):
        probe = SampledPathIntegral(TRAPEZOID, 8, sampling=sampling, seed=seed)
        return [a.values for a in allocate(LOSS, path, probe)]

    np.testing.assert_array_equal(run(3), run(3))
    assert not np.array_equal(run(3), run(4))


def test_a_refreshed_probe_needs_no_scores_and_says_what_they_cost():
    path = [Step(step.start, step.end, step.index) for step in steps(6)]
    costs = [
        a.cost.full_losses
        for a in allocate(LOSS, path, SampledPathIntegral(TRAPEZOID, 8, sampling="stratified", refresh=4))
    ]
    assert costs == [1, 0, 0, 0, 1, 0]
    with pytest.raises(
        LCAError, match=r"step 0: SampledPathIntegral\(sampling='importance'\) requires Step.scores"
    ):
        SampledPathIntegral(TRAPEZOID, 8, sampling="importance").start(LOSS)(path[0])


def test_errors_are_measured_after_8_16_32_steps_beside_those_of_training():
    path = steps(40)
    probe = SampledPathIntegral(size=8, sampling="stratified", refresh="doubling")
    found = [a.cost.full_losses for a in allocate(LOSS, path, probe)]
    assert [t for t, cost in enumerate(found) if cost] == [8, 16, 32]
    with pytest.raises(LCAError, match=r"requires Step.scores"):
        probe.start(LOSS)(Step(path[0].start, path[0].end))


def test_the_score_of_an_example_is_the_mean_of_its_newest_error_and_what_was_known():
    sampler = Sampler(LOSS, "importance", floor=0.25, seed=0)
    sampler.learn(ExampleScores(np.array([0, 1]), np.array([0.8, 0.4])))
    sampler.learn(ExampleScores(np.array([1, 2]), np.array([0.2, 0.6])))
    sampler.learn(ExampleScores(np.array([1]), np.array([0.5])))

    def require(scores):
        expected = 0.75 * scores / scores.sum() + 0.25 / 40
        off = np.abs(_probabilities(sampler) - expected)
        assert (off <= tolerances.allocation(1.0, tolerances.EPS64)).all()

    scores = np.full(40, 0.5)  # the mean error of the last batch, for those without one
    scores[:3] = 0.8, ((0.4 + 0.2) / 2 + 0.5) / 2, 0.6
    require(scores)
    errors = np.linspace(0.1, 0.9, 40)
    sampler.restart(ExampleScores(np.arange(40), errors))
    require(errors)


def _probabilities(sampler):
    """Of the examples, from the weights of a large sample."""
    found = np.zeros(40)
    for sample in sampler.draw([5000]):
        rows = np.array([np.flatnonzero((row == X).all(axis=1))[0] for row in sample.batch.x])
        found[rows] = 1 / 40 / sample.batch.weight
    assert (found > 0).all()
    return found


def test_an_anchor_is_exact_and_what_follows_is_the_change_since():
    path = steps(6)
    allocate_step = ControlVariate(SampledPathIntegral(TRAPEZOID, 8), every=3).start(LOSS)
    costs = [allocate_step(step).cost for step in path]
    # Node 0 is an anchor, then nodes 3 and 6; the others take two gradients on a sample.
    assert [c.full_gradients for c in costs] == [1, 0, 1, 0, 0, 1]
    assert [c.examples for c in costs] == [16, 16, 0, 16, 16, 0]
    # Where the loss is quadratic with one and the same curvature for all, nothing is left to chance.
    network = mlp((2, 2), loss="squared_error")
    x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    squares = DatasetLoss(network, np.repeat(x[:1], 8, axis=0), RNG.normal(size=(8, 2)))
    start, end = network.init(0), network.init(1)
    a = ControlVariate(SampledPathIntegral(TRAPEZOID, 2), every=9).start(squares)(Step(start, end))
    b = PathIntegral(TRAPEZOID).start(squares)(Step(start, end))
    assert np.abs(a.values - b.values).max() <= tolerances.allocation(4 * b.mass, tolerances.EPS64)


def test_the_samples_of_a_step_are_released_with_its_allocation():
    """Without the collector of cycles, which may come gigabytes later."""
    [a] = allocate(LOSS, steps(1), SampledPathIntegral(size=8, micro_batches=4))
    kept = [ref(copies) for copies in a.replicates.values()]
    gc.disable()
    try:
        del a
        assert [copies() for copies in kept] == [None, None]
    finally:
        gc.enable()


def test_theta_may_be_overwritten_after_a_step():
    path = steps(5)
    estimator = ControlVariate(SampledPathIntegral(TRAPEZOID, 8), every=10)
    fresh = [a.values for a in allocate(LOSS, path, estimator)]
    start, end, allocate_step = np.empty_like(THETA), np.empty_like(THETA), estimator.start(LOSS)
    for t, (step, expected) in enumerate(zip(path, fresh, strict=True)):
        start[:], end[:] = step.start, step.end
        np.testing.assert_array_equal(allocate_step(Step(start, end, t)).values, expected)


def test_a_budget_spends_what_it_is_given():
    path = [*steps(60)]
    for probe in (
        SampledPathIntegral(),
        SampledPathIntegral(sampling="stratified", refresh=20),
        ControlVariate(SampledPathIntegral(micro_batches=2)),
    ):
        spent = [a.cost for a in allocate(LOSS, path, AdaptiveSampleSize(probe, examples=16))]
        in_examples = sum(c.examples + 40 * (c.full_gradients + c.full_losses / 3) for c in spent)
        assert 0.8 * 16 <= in_examples / 60 <= 1.1 * 16  # the first node, and what is rounded down
    last = list(allocate(LOSS, path, AdaptiveSampleSize(SampledPathIntegral(), examples=16)))[-1]
    assert last.reason == f"{16 * 61 / 60:.1f} examples a step so far, 16 asked for"


def test_a_budget_allows_for_steps_that_share_no_node():
    budget = AdaptiveSampleSize(SampledPathIntegral(), examples=16)
    spent = [a.cost.examples for a in allocate(LOSS, steps(60)[::2], budget)]
    assert 0.8 * 16 <= np.mean(spent[2:]) <= 16  # whole examples, rounded down


def budget_of(path, loss=LOSS, *, rule=TRAPEZOID, **options):
    """Examples of each step, whether the error was met after it, and the last allocation."""
    probe = SampledPathIntegral(rule, 4, micro_batches=2, sampling="stratified")
    groups = loss.layout.groups("layer")
    bars, total, largest, spent, met = ErrorBars(groups), 0.0, 0.0, [], []
    for a in allocate(loss, path, AdaptiveSampleSize(probe, groups=groups, **options)):
        bars.update(a)
        total += a.values.sum()
        largest = max(largest, abs(total))
        reached = bars.stderr().max() / largest
        assert f"largest standard error {100 * reached:.2g} %" in a.reason
        assert f"{100 * options['relative_error']:g} % asked for" in a.reason
        assert a.converged == (reached <= options["relative_error"])
        spent.append(a.cost.examples)
        met.append(a.converged)
    return spent, met, a


@pytest.mark.parametrize(
    "rule", [pytest.param(rule, id=rule.name) for rule in (TRAPEZOID, SIMPSON, gauss_legendre(2))]
)
@pytest.mark.parametrize("error", [0.3, 0.1])
def test_a_budget_keeps_its_error_and_never_draws_more_than_there_is(error, rule):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(400, 3))
    loss = DatasetLoss(NETWORK, x, (x[:, 0] > 0).astype(int) + (x[:, 1] > 1))
    batches = minibatches(x, loss.y, 20, 61, 0)
    path = list(with_next(train(loss, NETWORK.init(0), Adam(0.01), batches, scores=True)))
    spent, met, last = budget_of(path, loss, rule=rule, relative_error=error)
    nodes = len(rule.nodes)
    new = rule.new_gradients
    assert np.mean(met) >= 0.95
    assert met[-1]
    assert max(spent[1:]) <= new * 400  # the first step has one more node, unless the rule is open
    assert spent[0] == nodes * 400
    assert np.mean(spent[20:]) < 0.5 * new * 400
    assert "samples of" in last.reason


@pytest.mark.parametrize("inner", [[0.5], [0.25, 0.75]], ids=["one node inside", "two nodes inside"])
def test_a_budget_learns_the_variance_of_the_nodes_inside_a_step(inner):
    probe = SampledPathIntegral(SIMPSON, 4, micro_batches=2)
    run = AdaptiveSampleSize(probe, relative_error=0.1, groups=GROUPS).start(LOSS)
    still, up = np.zeros(LOSS.layout.size), np.ones(LOSS.layout.size)
    for t in range(60):  # no spread at the ends of the steps
        replicates = {t: [still, still], **{t + s: [up, -up] for s in inner}, t + 1: [still, still]}
        run._run.size = 4
        run._take_in(StepAllocation(-up, 0.0, 0.0, 0.0, 1.0, step=t, replicates=replicates))
    sums = GROUPS.total(up)
    variance = len(inner) * sums**2  # of the mean of two samples
    assert np.abs(run._example / (4 * variance) - 1).max() < 0.02


def test_a_budget_takes_the_exact_gradient_where_samples_are_as_large_as_the_data():
    path = steps(6)
    for probe in (SampledPathIntegral(micro_batches=2), SampledPathIntegral()):
        exact = AdaptiveSampleSize(probe, examples=200)
        for a, wanted in zip(
            allocate(LOSS, path, exact), allocate(LOSS, path, PathIntegral(TRAPEZOID)), strict=True
        ):
            limit = tolerances.allocation(8 * wanted.mass, tolerances.EPS64)
            assert np.abs(a.values - wanted.values).max() <= limit
            assert a.cost.examples == (80 if a.step == 0 else 40)
            for copies in a.replicates.values():
                assert len(copies) == 2
                assert np.abs(copies[0] - copies[1]).max() == 0


def test_all_the_data_in_parts_have_the_mean_of_the_data():
    weight = RNG.uniform(0.1, 2, 40)
    few = np.where(np.arange(40) < 4, weight, 0.0)  # most examples are masked
    for objective, sizes in (
        (LOSS, [13, 13, 14]),
        (weighted(weight), [13, 13, 14]),
        (weighted(few), [1, 1, 2]),
    ):
        parts = Sampler(objective, "uniform", floor=1.0, seed=0).split(3)
        assert sorted(part.size for part in parts) == sizes
        mean = sum(gradient_on(objective, THETA, part) for part in parts) / 3
        wanted = objective.loss_and_grad(THETA)[1]
        assert np.abs(mean - wanted).max() <= tolerances.gradient(4.0, tolerances.EPS64)


def test_a_budget_takes_groups_by_name():
    probe, path = SampledPathIntegral(size=4, micro_batches=2), steps(10)
    by_name, by_groups = (
        list(allocate(LOSS, path, AdaptiveSampleSize(probe, relative_error=0.1, groups=groups)))
        for groups in ("layer", GROUPS)
    )
    assert [a.reason for a in by_name] == [a.reason for a in by_groups]


@pytest.mark.parametrize("examples", [1, 3])
def test_examples_without_weight_are_in_no_part(examples):
    masked = weighted(np.where(np.arange(40) < examples, 1.0, 0.0))
    probe = SampledPathIntegral(size=8, micro_batches=2)
    exact = AdaptiveSampleSize(probe, relative_error=1e-9, groups=GROUPS)
    for a, wanted in zip(
        allocate(masked, steps(3), exact), allocate(masked, steps(3), PathIntegral(TRAPEZOID)), strict=True
    ):
        limit = tolerances.allocation(8 * wanted.mass, tolerances.EPS64)
        assert np.abs(a.values - wanted.values).max() <= limit


def test_a_budget_says_that_it_misses_its_error():
    spent, met, last = budget_of(steps(40), relative_error=1e-4, largest=2)
    assert not met[-1]
    assert max(spent[1:]) == 8
    assert "samples of 8;" in last.reason


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SampledPathIntegral(size=9, micro_batches=2),
            "size must be a positive multiple of micro_batches = 2, got 9",
        ),
        (lambda: SampledPathIntegral(micro_batches=0), "micro_batches must be a whole number ≥ 1, got 0"),
        (lambda: SampledPathIntegral(seed=-1), "seed must be a whole number ≥ 0, got -1"),
        (lambda: LaggedCrossFit(seed=None), "seed must be a whole number ≥ 0, got None"),
        (lambda: ByExample(seed=None), "seed must be a whole number ≥ 0, got None"),
        (lambda: SampledPathIntegral(floor=0.0), r"floor must lie in \(0, 1\], got 0.0"),
        (
            lambda: SampledPathIntegral(refresh=0),
            "refresh must be a whole number of steps ≥ 1, 'doubling' or None, got 0",
        ),
        (lambda: SampledPathIntegral("simpson"), "SampledPathIntegral needs a QuadratureRule, got 'simpson'"),
        (lambda: ControlVariate("probe"), "ControlVariate needs a SampledPathIntegral, got 'probe'"),
        (lambda: ControlVariate(every=0), "every must be a whole number of steps ≥ 1, got 0"),
        (
            lambda: AdaptiveSampleSize("probe", examples=1),
            "AdaptiveSampleSize needs a SampledPathIntegral or ControlVariate, got 'probe'",
        ),
        (lambda: AdaptiveSampleSize(SampledPathIntegral()), "AdaptiveSampleSize needs one target"),
        (
            lambda: AdaptiveSampleSize(SampledPathIntegral(), examples=1, relative_error=0.1),
            "AdaptiveSampleSize needs one target",
        ),
        (
            lambda: AdaptiveSampleSize(SampledPathIntegral(), examples=-1.0),
            "must be a finite number > 0, got -1.0",
        ),
        (
            lambda: AdaptiveSampleSize(SampledPathIntegral(), relative_error=0.1, groups=GROUPS),
            "micro_batches=2 or more",
        ),
        (
            lambda: AdaptiveSampleSize(
                SampledPathIntegral(size=41, micro_batches=41), relative_error=0.1, groups="layer"
            ).start(LOSS),
            r"all the data, split into 41 micro-batches, but there are only 40 examples; use fewer",
        ),
        (
            lambda: AdaptiveSampleSize(ControlVariate(), examples=1).start(LOSS),
            "is not enough for one example in each sample",
        ),
    ],
)
def test_wrong_settings_say_what_is_right(make, message):
    with pytest.raises(LCAError, match=message):
        make()


@pytest.mark.parametrize(
    ("made", "same"),
    [
        (
            SampledPathIntegral(size=np.int64(8), micro_batches=np.int32(2), refine=np.float64(0.25)),
            SampledPathIntegral(size=8, micro_batches=2, refine=0.25),
        ),
        (ControlVariate(every=np.int64(5)), ControlVariate(every=5)),
        (
            AdaptiveSampleSize(SampledPathIntegral(), np.int64(9)),
            AdaptiveSampleSize(SampledPathIntegral(), 9),
        ),
        (LaggedCrossFit(np.int64(4), np.int64(9), np.uint8(3)), LaggedCrossFit(4, 9, 3)),
        (Adaptive(np.float32(0.5), audit=np.int64(7)), Adaptive(0.5, audit=7)),
        (ByExample(sample=np.int64(4), seed=np.int64(1)), ByExample(sample=4, seed=1)),
        (Settings(every=np.int64(3), check_examples=np.int64(9)), Settings(every=3, check_examples=9)),
    ],
    ids=lambda made: type(made).__name__,
)
def test_numbers_of_numpy_are_numbers(made, same):
    assert repr(made) == repr(same)  # as a record keeps it


@pytest.mark.parametrize(
    "probe",
    [
        SampledPathIntegral(size=4, micro_batches=2),
        SampledPathIntegral(size=4, sampling="importance", refresh=200),
        ControlVariate(),
        ControlVariate(SampledPathIntegral(SIMPSON, size=8, micro_batches=4)),
        ControlVariate(SampledPathIntegral(sampling="stratified", refresh=50)),
    ],
    ids=["two micro-batches", "importance", "anchored", "anchored Simpson", "anchored, importance"],
)
@pytest.mark.parametrize("n", [100, 50_000])
def test_the_number_of_examples_to_ask_for_is_enough(probe, n):
    with pytest.raises(LCAError, match="ask for .* or more") as refused:
        affordable(probe, 1.0, n)
    enough = int(str(refused.value).split("ask for ")[1].split()[0])
    assert affordable(probe, enough, n).cost.examples > 0


def test_a_floor_of_one_draws_all_examples_alike():
    assert SampledPathIntegral(floor=1.0).floor == 1.0


def test_unknown_samplings_and_objectives_without_examples_are_refused():
    with pytest.raises(
        UnknownNameError, match="unknown sampling 'systematic'; known: importance, stratified"
    ):
        SampledPathIntegral(sampling="systematic")
    with pytest.raises(LCAError, match="a mean over examples .* which Sum is not"):
        SampledPathIntegral().start(Sum({"all": LOSS}))
    sampler = Sampler(LOSS, "importance", floor=0.1, seed=0)
    with pytest.raises(LCAError, match="scores must be ≥ 0, got -0.5; pass errors"):
        sampler.learn(ExampleScores(np.array([1]), np.array([-0.5])))
    with pytest.raises(LCAError, match="example 40, but the measured data are 0..39"):
        sampler.learn(ExampleScores(np.array([40]), np.array([0.5])))
    with pytest.raises(LCAError, match="example -1, but the measured data are 0..39"):
        sampler.learn(ExampleScores(np.array([2, -1]), np.array([0.5, 0.5])))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("take", [Sampler.learn, Sampler.restart])
def test_scores_that_are_not_finite_are_ignored_with_one_warning(take, bad):
    samplers = [Sampler(LOSS, "importance", floor=0.1, seed=0) for _ in range(2)]
    known = ExampleScores(np.arange(40), np.linspace(0.1, 0.9, 40))
    for sampler in samplers:
        sampler.learn(known)
    take(samplers[0], ExampleScores(np.arange(9), np.full(9, 0.6)))
    with pytest.warns(LCAWarning, match="^2 of 11 scores are NaN or infinite"):
        take(samplers[1], ExampleScores(np.arange(11), np.append(np.full(9, 0.6), [bad, bad])))
    take(samplers[1], ExampleScores(np.arange(40), np.full(40, bad)))  # a second warning would be an error
    first, second = ([sample.factor for sample in sampler.draw([5, 5])] for sampler in samplers)
    assert first == second
    with pytest.raises(LCAError, match="scores must be ≥ 0, got -0.5"):
        ExampleScores(np.arange(2), np.array([bad, -0.5]))


class Unweighted(DatasetLoss):
    """A loss that takes no weights of examples."""

    def batch(self, index, weight=None):
        if weight is not None:
            raise LCAError("no weights here.")
        return super().batch(index)


def test_a_loss_without_weights_is_refused_before_steps_on_all_data():
    estimator = AdaptiveSampleSize(
        SampledPathIntegral(size=8, sampling="importance", micro_batches=2, refresh=5),
        relative_error=1e-9,
        groups="layer",
    )
    allocate_step = estimator.start(Unweighted(NETWORK, X, Y))
    with pytest.raises(LCAError, match="no weights here"):
        allocate_step(steps(1)[0])


def test_no_scores_change_nothing():
    samplers = [Sampler(LOSS, "importance", floor=0.1, seed=0) for _ in range(2)]
    for sampler in samplers:
        sampler.learn(ExampleScores(np.arange(9), np.linspace(0.1, 0.9, 9)))
    samplers[0].learn(ExampleScores(np.arange(0), np.zeros(0)))
    first, second = ([sample.factor for sample in sampler.draw([5, 5])] for sampler in samplers)
    assert first == second


@parametrize_with_checks(
    [
        SampledPathIntegral(SIMPSON, 6),
        SampledPathIntegral(TRAPEZOID, 8, sampling="stratified", micro_batches=2),
        SampledPathIntegral(TRAPEZOID, 8, sampling="stratified", micro_batches=2, refresh="doubling"),
        ControlVariate(SampledPathIntegral(TRAPEZOID, 6, sampling="stratified", micro_batches=2), every=7),
        AdaptiveSampleSize(SampledPathIntegral(TRAPEZOID, micro_batches=2), examples=6),
        AdaptiveSampleSize(ControlVariate(SampledPathIntegral(TRAPEZOID, micro_batches=2)), examples=20),
        AdaptiveSampleSize(
            SampledPathIntegral(TRAPEZOID, 4, micro_batches=2),
            relative_error=0.1,
            groups=Layout(("theta",), ((3,),)).groups(),
            largest=4,
        ),
    ],
    samples=20 if NIGHTLY else 4,
)
def test_they_keep_the_laws(check):
    check()


def alike_examples(sizes, seed=3):
    """A loss whose samples all have the gradient of the data, and steps of these lengths to and fro."""
    loss, way = DatasetLoss(NETWORK, X[[0] * 12], Y[[0] * 12]), np.random.default_rng(seed)
    path = [THETA]
    for size in sizes:
        path.append(path[-1] + size * way.normal(size=THETA.size))
    return loss, [Step(a, b, t) for t, (a, b) in enumerate(zip(path, path[1:], strict=False))]


def rules_taken(loss, run, found):
    """``S`` or ``T`` for each step, as its values are those of Simpson's rule or the trapezoid."""
    rules = []
    coarse, fine = (list(allocate(loss, run, PathIntegral(rule))) for rule in (TRAPEZOID, SIMPSON))
    for a, trapezoid, simpson in zip(found, coarse, fine, strict=True):
        apart = [np.abs(a.values - b.values).max() for b in (trapezoid, simpson)]
        close = [off <= tolerances.allocation(8 * a.mass, tolerances.EPS64) for off in apart]
        assert sum(close) == 1
        rules.append("S" if close[1] else "T")
    return "".join(rules)


@pytest.mark.parametrize("wrap", [lambda probe: probe, lambda probe: ControlVariate(probe, every=1000)])
def test_refine_takes_simpson_on_large_steps(wrap):
    loss, run = alike_examples([2.0] * 6 + [0.1] * 60 + [2.0] * 3)
    found = list(allocate(loss, run, wrap(SampledPathIntegral(size=4, refine=0.1))))
    assert rules_taken(loss, run, found) == "S" * 6 + "T" * 60 + "S" * 3


def test_refine_foresees_larger_steps_than_it_has_seen():
    loss, run = alike_examples([0.1] * 40 + [3.0])
    found = list(allocate(loss, run, SampledPathIntegral(size=4, refine=0.1)))
    assert rules_taken(loss, run, found)[4:] == "T" * 36 + "S"


def test_a_step_that_does_not_move_needs_neither_audit_nor_midpoint():
    loss, run = alike_examples([0.1, 0.0, 0.1])
    costs = [a.cost.examples / 4 for a in allocate(loss, run, SampledPathIntegral(size=4, refine=0.1))]
    assert costs == [3.5, 1.0, 1.5]


def mixed(seed):
    """Thirteen large steps among 120, at random."""
    sizes = np.full(120, 0.05)
    sizes[np.random.default_rng(seed).choice(np.arange(120), 13, replace=False)] = 2.0
    return sizes


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        (np.full(120, 0.05), 1.1),
        (mixed(0), 1.4),
        (mixed(1), 1.4),
        (np.tile([0.05, 2.0], 60), 1.75),  # Simpson's rule on each large step alone is 1.5
        (np.full(120, 2.0), 2.1),
    ],
    ids=["calm", "mixed", "mixed otherwise", "alternating", "large"],
)
def test_refine_pays_for_large_steps_and_little_else(sizes, most):
    loss, run = alike_examples(sizes)
    found = list(allocate(loss, run, SampledPathIntegral(size=4, refine=0.05)))
    assert sum(a.cost.examples / 4 for a in found) <= most * 120
    rules = rules_taken(loss, run, found)
    assert sum(rule == "T" for rule, size in zip(rules, sizes, strict=True) if size == 2.0) <= 3
    assert sum(rule == "S" for rule, size in zip(rules, sizes, strict=True) if size < 2.0) <= 4


def test_audits_cost_half_a_sample_and_become_rare():
    loss, _ = alike_examples([])
    run = [Step(THETA + 0.01 * (t % 2), THETA + 0.01 * ((t + 1) % 2), t) for t in range(100)]
    costs = [a.cost.examples / 4 for a in allocate(loss, run, SampledPathIntegral(size=4, refine=0.1))]
    assert costs[:5] == [3 + 0.5, 2, 1 + 0.5, 1, 1]
    assert [t for t, cost in enumerate(costs) if cost % 1] == [0, 2, 6, 14, 30, 46, 62, 78, 94]


@pytest.mark.parametrize("faulty", ["loss", "gradient"])
def test_what_is_not_finite_in_an_audit_alone_is_named(faulty, monkeypatch):
    loss, run = alike_examples([0.1])
    evaluate = DatasetLoss.loss_and_grad

    def of_an_audit(own, theta, batch=None):
        value, grad = evaluate(own, theta, batch)
        if len(batch) != 1:
            return value, grad
        return (np.nan, grad) if faulty == "loss" else (value, grad * np.inf)

    monkeypatch.setattr(DatasetLoss, "loss_and_grad", of_an_audit)
    with pytest.raises(NonFiniteError, match=r"step 0: .*(the loss of a sample is nan|in the gradient)"):
        next(iter(allocate(loss, run, SampledPathIntegral(size=4, refine=0.1))))


@pytest.mark.parametrize(
    "options",
    [
        {"refine": 0.0},
        {"refine": -0.1},
        {"refine": 1},
        {"refine": True},
        {"refine": "0.1"},
        {"refine": 0.1, "rule": SIMPSON},
    ],
)
def test_what_cannot_be_refined_is_refused(options):
    with pytest.raises(LCAError, match=r"refine=.*relative error of the trapezoid above which"):
        SampledPathIntegral(**options)


def test_refresh_without_errors_is_refused():
    with pytest.raises(LCAError, match="refresh= measures errors, which uniform sampling does not use"):
        SampledPathIntegral(refresh=3)
