"""Estimators on training batches: the formulas written out, what they ask of a loop, and their messages."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

import lca
from lca import LEFT, MIDPOINT, RIGHT, SIMPSON, TRAPEZOID, Layout, LCAError, Step, tolerances
from lca.errors import IncompleteStepError, NonFiniteError, TrajectoryError
from lca.estimators import CrossFit, NextBatch, SameBatch
from lca.reference import (
    SGD,
    Adam,
    DatasetLoss,
    bowl,
    leave_one_out,
    logistic_regression,
    minibatches,
    mlp,
    train,
    with_next,
)
from lca.step import MicroBatch
from lca.testing import parametrize_with_checks
from lca.views import ErrorBars
from tests.nightly import NIGHTLY

NETWORK = mlp((3, 5, 3), activation="tanh")
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 3)), RNG.integers(0, 3, 40)
LOSS = DatasetLoss(NETWORK, X, Y)


def steps(micro_batches=2, optimizer=None, count=6):
    batches = minibatches(X, Y, 8, count + 1, seed=1)
    return list(
        with_next(train(LOSS, NETWORK.init(0), optimizer or Adam(0.05), batches, micro_batches=micro_batches))
    )


def close(a, expected):
    mass = max(a.mass, float(np.abs(expected).sum()))
    return np.abs(a.values - expected).max() <= tolerances.allocation(mass, tolerances.EPS64)


def g(theta, batch):
    return LOSS.loss_and_grad(theta, batch)[1]


def test_same_batch_is_the_training_gradient_times_the_step():
    for step in steps(micro_batches=1):
        a = SameBatch().start(LOSS)(step)
        assert close(a, g(step.start, step.batch) * (step.end - step.start))
        assert np.isnan([a.loss_start, a.loss_end, a.residual]).all()
        assert a.source is step
        assert a.state_change == 0


FORMULAS = {
    LEFT: lambda s: g(s.start, s.next_batch),
    RIGHT: lambda s: g(s.end, s.next_batch),
    MIDPOINT: lambda s: g((s.start + s.end) / 2, s.next_batch),
    TRAPEZOID: lambda s: (g(s.start, s.next_batch) + g(s.end, s.next_batch)) / 2,
    SIMPSON: lambda s: (
        (g(s.start, s.next_batch) + 4 * g((s.start + s.end) / 2, s.next_batch) + g(s.end, s.next_batch)) / 6
    ),
}


@pytest.mark.parametrize("rule", FORMULAS, ids=lambda rule: rule.name)
def test_next_batch_is_the_rule_on_the_next_batch(rule):
    for step in steps(micro_batches=1):
        a = NextBatch(rule).start(LOSS)(step)
        assert close(a, FORMULAS[rule](step) * (step.end - step.start))
        assert a.cost == NextBatch(rule).cost
        assert a.mass >= np.abs(a.values).sum() * (1 - tolerances.EPS64)


@pytest.mark.parametrize("estimator", [SameBatch(), NextBatch(), CrossFit(), CrossFit(epoch=5)], ids=str)
def test_neighbouring_steps_share_no_gradient(estimator):
    """The gradient at the end of a step is one on the next batch, and at the start of the next it is not."""
    allocate_step = estimator.start(LOSS)
    for step in steps():
        alone = estimator.start(LOSS)(step)
        np.testing.assert_array_equal(allocate_step(step).values, alone.values)


def test_the_end_of_the_next_batch_is_free():
    costs = {rule: NextBatch(rule).cost.batch_gradients for rule in FORMULAS}
    assert list(costs.values()) == [1, 0, 1, 1, 2]
    assert NextBatch(RIGHT).required_fields == ("next_gradient",)
    assert NextBatch(MIDPOINT).required_fields == ("next_batch",)


@pytest.mark.parametrize("micro_batches", [2, 3])
@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), Adam(0.05)])
def test_cross_fit_pairs_each_part_with_the_update_without_it(micro_batches, optimizer):
    state = optimizer.init(NETWORK.init(0))
    for step in steps(micro_batches, optimizer):
        cuts = [step.batch.take(slice(m, None, micro_batches)) for m in range(micro_batches)]
        grads = [g(step.start, cut) for cut in cuts]
        left = np.zeros_like(step.start)
        for m in range(micro_batches):
            others = [k for k in range(micro_batches) if k != m]
            mean = np.average([grads[k] for k in others], axis=0, weights=[len(cuts[k]) for k in others])
            weight = len(cuts[m]) / len(step.batch)
            left += weight * grads[m] * optimizer.update(state, mean, step.start)[1]
        right = g(step.end, step.next_batch) * (step.end - step.start)
        scale = float(np.abs(left).sum() + np.abs(right).sum())
        limit = 8 * tolerances.allocation(scale, tolerances.EPS64)  # the updates are not mere products
        assert np.abs(CrossFit(micro_batches, LEFT).start(LOSS)(step).values - left).max() <= limit
        assert np.abs(CrossFit(micro_batches).start(LOSS)(step).values - (left + right) / 2).max() <= limit
        state = optimizer.update(state, step.gradient, step.start)[0]


def test_micro_batches_count_by_their_weight():
    """The gradient of the whole batch is the weighted mean, so a fixed update gets the same allocation."""
    rng = np.random.default_rng(7)
    grads, delta = rng.normal(size=(2, 3)), rng.normal(size=3)
    parts = [MicroBatch(grad, delta, weight) for grad, weight in zip(grads, (6.0, 2.0), strict=True)]
    step = Step(np.zeros(3), delta, micro_batches=tuple(parts))
    expected = (0.75 * grads[0] + 0.25 * grads[1]) * delta
    off = np.abs(CrossFit(2, LEFT).start(bowl(3))(step).values - expected)
    assert off.max() <= tolerances.allocation(float(np.abs(expected).sum()), tolerances.EPS64)
    for wrong in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(LCAError, match="weight of a micro-batch must be a positive finite number"):
            MicroBatch(grads[0], delta, wrong)


@pytest.mark.parametrize("rule", [LEFT, TRAPEZOID], ids=lambda rule: rule.name)
@pytest.mark.parametrize(("micro_batches", "epoch"), [(2, 3), (3, 2)])
def test_cross_fit_in_an_epoch_is_right_in_the_mean_over_all_ways_to_deal_it(micro_batches, epoch, rule):
    """Examples of one curvature, one a part; the first two batches of every shuffled epoch."""
    examples, (curvature, theta) = RNG.normal(size=(micro_batches * epoch, 4)), RNG.uniform(1, 2, size=(2, 4))
    sgd, objective = SGD(0.3), bowl(4)
    dealt, plain, truth = [], [], []
    for order in itertools.permutations(range(len(examples)), 2 * micro_batches):
        grads = [curvature * (theta - examples[n]) for n in order[:micro_batches]]
        updates = leave_one_out(sgd, sgd.init(theta), grads, theta)
        mean = np.mean(grads, axis=0)
        end = theta - 0.3 * mean
        after = [curvature * (end - examples[n]) for n in order[micro_batches:]]
        step = Step(
            theta,
            end,
            gradient=mean,
            micro_batches=tuple(map(MicroBatch, grads, updates)),
            next_gradient=np.mean(after, axis=0),
            next_micro_batches=tuple(
                map(MicroBatch, after, updates)
            ),  # their number counts, not their updates
        )
        dealt.append(CrossFit(micro_batches, rule, epoch=epoch).start(objective)(step).values)
        plain.append(CrossFit(micro_batches, rule).start(objective)(step).values)
        slopes = [curvature * (at - examples.mean(axis=0)) for at in (theta, end)]
        truth.append(np.average(slopes, axis=0, weights=(1, 0) if rule == LEFT else (1, 1)) * (end - theta))
    off = np.abs(np.mean(dealt, axis=0) - np.mean(truth, axis=0))
    mass = float(np.abs(truth).mean(axis=0).sum())
    assert off.max() <= tolerances.summed(mass, tolerances.EPS64)
    assert np.abs(np.mean(plain, axis=0) - np.mean(truth, axis=0)).max() > 0.01 * mass


def test_an_epoch_is_some_batches_and_not_independent_draws():
    for epoch in (0, 1, -4, 2.5, "40"):
        with pytest.raises(LCAError, match="epoch must be a whole number of batches ≥ 2"):
            CrossFit(epoch=epoch)
    for epoch in (0, 0.5, -4, np.nan, np.inf, "40"):
        with pytest.raises(LCAError, match="divided by those of an update, a number ≥ 1"):
            CrossFit(independent=True, epoch=epoch)
    assert CrossFit().unbiased
    assert CrossFit(independent=True, epoch=np.float64(2.5)).unbiased
    assert not CrossFit(epoch=40).unbiased
    assert "gradient" in CrossFit(epoch=40).required_fields


@pytest.mark.parametrize(
    ("sizes", "examples"), [((1, 1), 2), ((1, 1), 5), ((1, 1, 1), 4), ((1, 2), 4), ((2, 2), 4)]
)
def test_independent_batches_without_replacement_are_right_in_the_mean_over_all_of_them(sizes, examples):
    """Examples of one curvature; all ways to draw two batches, and full batches."""
    data, (curvature, theta) = RNG.normal(size=(examples, 4)), RNG.uniform(1, 2, size=(2, 4))
    sgd, objective, b, m = SGD(0.3), bowl(4), sum(sizes), len(sizes)
    cuts, weights = np.cumsum(sizes)[:-1], np.array(sizes) / b

    def parts_at(theta, batch):
        grads = [curvature * (theta - piece.mean(axis=0)) for piece in np.split(data[list(batch)], cuts)]
        updates = leave_one_out(sgd, sgd.init(theta), grads, theta, sizes=sizes)
        return np.average(grads, axis=0, weights=weights), tuple(map(MicroBatch, grads, updates, sizes))

    drawn, plain, truth = [], [], []
    for batch in itertools.permutations(range(examples), b):
        mean, parts = parts_at(theta, batch)
        end = theta - 0.3 * mean
        for after in itertools.combinations(range(examples), b):
            next_mean, next_parts = parts_at(end, after)
            fields = {"next_gradient": next_mean, "next_micro_batches": next_parts}
            step = Step(theta, end, gradient=mean, micro_batches=parts, **fields)
            epoch = examples / b
            drawn.append(CrossFit(m, independent=True, epoch=epoch).start(objective)(step).values)
            plain.append(CrossFit(m, independent=True).start(objective)(step).values)
            slopes = [curvature * (at - data.mean(axis=0)) for at in (theta, end)]
            truth.append(np.mean(slopes, axis=0) * (end - theta))
            if examples == b:
                assert np.abs(drawn[-1] - truth[-1]).max() <= tolerances.summed(
                    float(np.abs(truth[-1]).sum()), tolerances.EPS64
                )
    off = np.abs(np.mean(drawn, axis=0) - np.mean(truth, axis=0))
    mass = float(np.abs(truth).mean(axis=0).sum())
    assert off.max() <= tolerances.summed(mass, tolerances.EPS64)
    assert np.abs(np.mean(plain, axis=0) - np.mean(truth, axis=0)).max() > 0.01 * mass


@pytest.mark.parametrize(
    ("sizes", "slope", "momentum"),
    [
        ((1, 1), 0.0, 0.0),
        ((1, 1, 1), 0.0, 0.0),
        ((1, 1, 1, 1), 0.0, 0.0),
        ((1, 7), 0.5, 0.0),
        ((1, 7), 0.5, 0.9),
        ((1, 2, 3, 10), 0.5, 0.9),
    ],
)
def test_cross_fit_error_bars_see_that_the_update_is_noise_too(sizes, slope, momentum):
    """Where the mean gradient is 0, all of the left end's error is the product of the noise.

    Where micro-batches differ in size, the product of noise and mean gradient is a part of it.
    """
    m, k = len(sizes), 400
    rng, layout = np.random.default_rng(m), Layout(("w",), ((k,),))
    groups, sgd = layout.groups(), SGD(1.0, momentum=momentum)

    class Flat:
        layout = Layout(("w",), ((k,),))

    bars, theta = ErrorBars(groups), np.zeros(k)
    allocate, state = CrossFit(m, independent=True).start(Flat()), sgd.init(theta)
    steps = []
    for _ in range(301):
        grads = [rng.normal(slope, n**-0.5, size=k) for n in sizes]
        updates = leave_one_out(sgd, state, grads, theta, sizes=sizes)
        mean = np.average(grads, axis=0, weights=sizes)
        state, update = sgd.update(state, mean, theta)
        steps.append((theta, mean, tuple(map(MicroBatch, grads, updates, sizes))))
        theta = theta + update
    errors = []
    for t, (now, after) in enumerate(itertools.pairwise(steps)):
        (start, _, parts), (end, mean, next_parts) = now, after
        a = allocate(
            Step(start, end, t, micro_batches=parts, next_micro_batches=next_parts, next_gradient=mean)
        )
        bars.update(a)
        errors.append(a.values.sum() - slope * (end - start).sum())
    ratio = np.mean(np.square(errors)) / np.mean(bars.per_step() ** 2)
    assert 0.75 < ratio < 1.35  # 300 squares of nearly normal numbers: ±8 %, and as much for the variances


def test_error_bars_of_cross_fit_need_independent_batches_and_the_trapezoid():
    step = steps()[0]
    assert not CrossFit().start(LOSS)(step).replicates
    with pytest.raises(
        LCAError, match=r"gives no replicates, so the spread is unknown; use SampledPathIntegral"
    ):
        ErrorBars(LOSS.layout.groups()).update(CrossFit().start(LOSS)(step))
    with pytest.raises(LCAError, match="error bars for the trapezoid only"):
        CrossFit(2, LEFT, independent=True)
    with pytest.raises(LCAError, match="requires Step.next_micro_batches"):
        CrossFit(independent=True).start(LOSS)(replace(step, next_micro_batches=()))


@pytest.mark.parametrize(
    ("estimator", "name", "field"),
    [
        (SameBatch(), "SameBatch", "gradient"),
        (NextBatch(LEFT), "NextBatch(left)", "next_batch"),
        (NextBatch(RIGHT), "NextBatch(right)", "next_gradient"),
        (CrossFit(), "CrossFit(2, trapezoid)", "micro_batches"),
    ],
)
def test_a_missing_field_is_named_and_no_framework_is(estimator, name, field):
    with pytest.raises(IncompleteStepError) as caught:
        estimator.start(LOSS)(Step(NETWORK.init(0), NETWORK.init(1), 7))
    wanted = f"step 7: {name} requires Step.{field}, which the training loop did not supply."
    assert (str(caught.value), caught.value.field) == (wanted, field)


def test_halves_are_fitted_as_micro_batches_are_at_half_a_pass():
    path = steps()
    for step in path:
        bare = replace(step, micro_batches=(), next_micro_batches=())
        given = replace(bare, halves=step.micro_batches, next_halves=step.next_micro_batches)
        ours, theirs = (
            CrossFit(independent=True, own_pass=own).start(LOSS)(which)
            for own, which in ((True, given), (False, step))
        )
        np.testing.assert_array_equal(ours.values, theirs.values)
        assert (ours.cost.batch_gradients, theirs.cost.batch_gradients) == (0.5, 0.0)
        for key, copies in theirs.replicates.items():
            for a, b in zip(ours.replicates[key], copies, strict=True):
                np.testing.assert_array_equal(a, b)
    with pytest.raises(IncompleteStepError, match=r"requires Step\.halves, which"):
        CrossFit(own_pass=True).start(LOSS)(path[0])
    with pytest.raises(LCAError, match="into two halves, so micro_batches must be 2, got 3"):
        CrossFit(3, own_pass=True)


def test_wrong_settings_say_what_is_right():
    with pytest.raises(LCAError, match="NextBatch needs a QuadratureRule, got 'left'"):
        NextBatch("left")
    with pytest.raises(LCAError, match="got 'simpson', use TRAPEZOID or LEFT"):
        CrossFit(2, SIMPSON)
    with pytest.raises(LCAError, match="micro_batches must be a whole number ≥ 2, got 1"):
        CrossFit(1)
    with pytest.raises(
        LCAError,
        match=r"step 0: CrossFit\(3\) requires 3 micro-batches in .*, but .* supplied 2; split every",
    ):
        CrossFit(3).start(LOSS)(steps()[0])


def test_bad_numbers_are_refused_with_step_and_tensor():
    step = steps()[2]
    bad = step.gradient.copy()
    bad[0] = np.nan
    with pytest.raises(NonFiniteError, match="step 2: NaN or Inf in the gradient, in fc1.weight"):
        SameBatch().start(LOSS)(replace(step, gradient=bad))
    with pytest.raises(
        NonFiniteError, match="step 2: NaN or Inf in the parameters at the end, in fc1.weight"
    ):
        SameBatch().start(LOSS)(replace(step, end=bad))
    with pytest.raises(LCAError, match="a gradient is float32 where θ is float64"):
        SameBatch().start(LOSS)(replace(step, gradient=step.gradient.astype(np.float32)))
    with pytest.raises(TrajectoryError, match="from float64 to float32"):
        SameBatch().start(LOSS)(replace(step, end=step.end.astype(np.float32)))


def test_sums_are_too_small_with_shuffled_epochs_and_right_with_independent_batches():
    """What the last batches taught shows least on the examples that were not seen for longest."""
    rng = np.random.default_rng(3)
    network = logistic_regression(20, 3)
    x, y = rng.normal(size=(60, 20)), rng.integers(0, 3, 60)
    objective = DatasetLoss(network, x, y)

    def too_large(seed, independent):
        batches = minibatches(x, y, 6, 151, seed, independent=independent)
        path = list(with_next(train(objective, network.init(0), SGD(0.1), batches)))
        found = sum(NextBatch().start(objective)(step).values.sum() for step in path)
        return found / (objective.loss(path[-1].end) - objective.loss(path[0].start)) - 1

    errors = {kind: [too_large(seed, kind) for seed in range(24)] for kind in (False, True)}
    spread = {kind: np.std(found, ddof=1) / np.sqrt(24) for kind, found in errors.items()}
    assert np.mean(errors[False]) < -5 * spread[False]
    assert abs(np.mean(errors[True])) < 4 * spread[True]


@parametrize_with_checks(
    [
        SameBatch(),
        NextBatch(LEFT),
        NextBatch(),
        CrossFit(),
        CrossFit(independent=True),
        *(CrossFit(m, independent=True, epoch=epoch) for m, epoch in ((2, 1), (2, 2.5), (2, 5), (3, 4))),
    ],
    samples=20 if NIGHTLY else 5,
)
def test_they_keep_the_laws(check):
    check()


def test_they_are_estimators():
    for estimator in (SameBatch(), NextBatch(), CrossFit()):
        [*_] = lca.allocate(LOSS, steps(), estimator)
