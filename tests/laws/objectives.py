"""The laws of `lca.frameworks.ModelObjective`, the same for every framework.

Each law takes a subject (`tests.laws.subjects`). Losses and gradients are compared with `DatasetLoss`, whose
gradients are derived by hand.
"""

import numpy as np
import pytest

import lca
from lca import tolerances
from lca.arrays import array_ops
from lca.errors import DataError, LayoutError, LCAError, NonFiniteError, UnknownNameError
from lca.estimators import SampledPathIntegral
from lca.frameworks import DEFAULT_BATCH_SIZE
from lca.objective import (
    Objective,
    Sampled,
    Scored,
    Stateful,
    at_state,
    differentiating,
    evaluate_each,
    leaves,
    state_of,
)
from lca.reference import BatchNorm, CrossEntropy, DatasetLoss, Dense, Dropout, Network, Tanh

EPS = tolerances.EPS64
RNG = np.random.default_rng(0)
N = 17
X, Y = RNG.normal(size=(N, 4)), RNG.integers(3, size=N)
MEAN, VARIANCE = tuple(RNG.normal(size=5)), tuple(RNG.uniform(0.5, 2, size=5))
LAYERS = (Dense(4, 5), Tanh(), Dropout(0.5), Dense(5, 3))
MLP = Network(LAYERS, CrossEntropy(), (4,))

CLASS_WEIGHTS = (0.5, 3.0, 1.25)

LAWS = {}


def law(function):
    """Register a law under the name of its function."""
    LAWS[function.__name__] = function
    return function


def normalised(policy):
    """A network with BatchNorm, with running statistics that are not 0 and 1."""
    norm = BatchNorm(5, policy, MEAN, VARIANCE, eps=0.125)
    return Network((Dense(4, 5), norm, Tanh(), Dense(5, 3)), CrossEntropy(), (4,))


def made(subject, network=MLP, data=(X, Y), loss="mean", **options):
    """An objective of ``network`` on ``data``: a pair of arrays, or a list of such batches."""
    model, loss_fn = subject.model(network), subject.LOSSES[loss]
    given = subject.tensors(data) if isinstance(data, tuple) else [subject.tensors(batch) for batch in data]
    return subject.objective(model, loss_fn, given, **options)


def tensors_of(state):
    """The tensors in a state; it may also hold a number for the Python side of the model."""
    return {name: value for name, value in (state or {}).items() if name != "configuration"}


def require_close(found, expected):
    """Two losses that were added up in another order."""
    assert abs(found - expected) <= tolerances.summed(1 + abs(expected), EPS)


def require_equal(subject, objective, oracle, network=MLP):
    """The same loss and gradient at a random point."""
    theta = network.init(1) + 0.1
    expected, grad = oracle.loss_and_grad(theta)
    vector = subject.vector(network, theta)
    loss, own = objective.loss_and_grad(vector)
    require_close(loss, expected)
    require_close(objective.loss(vector), expected)
    gap = np.abs(subject.numbers(network, own) - grad).max()
    assert gap <= tolerances.gradient(1 + float(np.abs(grad).max()), EPS)


# --- losses and gradients ------------------------------------------------------------------------------


@law
def loss_and_gradient_equal_the_reference_in_ragged_batches(subject):
    for size in (1, 5, N, 100):
        require_equal(subject, made(subject, batch_size=size), DatasetLoss(MLP, X, Y))


@law
def every_protocol_is_kept(subject):
    objective = made(subject)
    for protocol in (Objective, Stateful, Sampled, Scored):
        assert isinstance(objective, protocol)
    assert list(leaves({"train": lca.Sum({"all": objective})})) == [objective]
    assert objective.layout.size == MLP.layout.size
    assert len(objective.theta()) == MLP.layout.size


@law
def the_loss_of_a_batch_is_its_own_mean(subject):
    objective = made(subject, batch_size=5)
    theta = MLP.init(1)
    own = DatasetLoss(MLP, X[3:14], Y[3:14]).loss(theta)
    require_close(objective.loss(subject.vector(MLP, theta), subject.tensors((X[3:14], Y[3:14]))), own)


@law
def measuring_again_gives_the_same_bits(subject):
    first, second = made(subject), made(subject)
    theta = subject.vector(MLP, MLP.init(1))
    (loss, grad), (again, same) = first.loss_and_grad(theta), second.loss_and_grad(theta)
    assert (loss, first.batch_size) == (again, second.batch_size)
    assert first.loss(theta) == loss
    assert np.array_equal(np.asarray(grad), np.asarray(same))


@law
def the_model_is_untouched(subject):
    network = normalised("batch")
    for policy in ("batch", "frozen"):
        model = subject.model(network)
        before = {name: np.array(value) for name, value in subject.visible(model).items()}
        objective = subject.objective(
            model, subject.LOSSES["mean"], subject.tensors((X, Y)), batch_size=6, batch_norm=policy
        )
        theta = subject.vector(network, network.init(3))
        objective.loss_and_grad(theta)
        objective.scores(theta)
        with pytest.raises(LCAError):
            objective.loss(theta, subject.tensors((X[:, :2], Y)))
        after = subject.visible(model)
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[name], after[name]) for name in before)


@law
def steps_are_allocated_and_what_is_not_finite_is_named(subject):
    objective = made(subject)
    start = subject.vector(MLP, MLP.init(1))
    end = start - 0.1 * objective.loss_and_grad(start)[1]
    [a] = lca.allocate(objective, [lca.Step(start, end)], lca.PathIntegral(lca.SIMPSON))
    assert a.loss_change < 0
    assert abs(a.residual) < 1e-4 * a.mass
    broken = [lca.Step(start, subject.vector(MLP, np.full(MLP.layout.size, np.nan)))]
    with pytest.raises(NonFiniteError, match="in fc1"):
        list(lca.allocate(objective, broken, lca.PathIntegral(), check=False))


# --- batch size and data -------------------------------------------------------------------------------


@law
def the_default_batch_size_is_deterministic(subject):
    assert DEFAULT_BATCH_SIZE == 1000
    assert made(subject).batch_size == N
    assert made(subject, data=(np.tile(X, (60, 1)), np.tile(Y, 60))).batch_size == DEFAULT_BATCH_SIZE
    assert made(subject, batch_size=3).batch_size == 3
    assert made(subject, data=cut(6)).batch_size == 6
    assert made(subject, data=[(X[:4], Y[:4]), (X[4:], Y[4:])]).batch_size == N
    for wrong in (0, 2.5, True):
        with pytest.raises(DataError, match=f"batch_size must be a positive integer, got {wrong}"):
            made(subject, batch_size=wrong)


def cut(size):
    """The data in batches of this size."""
    return [(X[i : i + size], Y[i : i + size]) for i in range(0, N, size)]


@law
def batches_are_the_same_loss_as_rows(subject):
    for options in ({}, {"batch_size": 4}, {"keep": False}):
        require_equal(subject, made(subject, data=cut(6), **options), DatasetLoss(MLP, X, Y))


@law
def an_iterator_of_batches_is_refused_and_not_used_up(subject):
    batches, model, loss = [subject.tensors(b) for b in cut(6)], subject.model(MLP), subject.LOSSES["mean"]
    for once in (iter(batches), (batch for batch in batches), map(tuple, batches)):
        for keep in (True, False):
            with pytest.raises(DataError, match=r"iterator.*read only once.*list\(batches\)"):
                subject.objective(model, loss, once, keep=keep)
        assert len(list(once)) == 3  # nothing was read


@law
def batches_that_are_read_at_every_pass_cannot_be_cut_or_drawn_from(subject):
    objective = made(subject, data=cut(6), keep=False)
    assert objective.batch_size is None
    assert objective.labels is None
    with pytest.raises(DataError, match="cannot be cut anew.*leave batch_size out"):
        made(subject, data=cut(6), keep=False, batch_size=4)
    with pytest.raises(LCAError, match=r"one row per example.*lca\.Adaptive.*CrossFit"):
        _ = objective.n_examples


@law
def data_that_cannot_be_measured_are_refused(subject):
    for data, message in [
        ((X, Y[:5]), r"one row per example and one length, got a tuple of float64 \(17, 4\), int64 \(5,\)"),
        ((X[:0], Y[:0]), "are empty"),
        (
            (X[:, :2], Y),
            r"the loss of a measuring batch \(tuple of float64 \(17, 2\), int64 \(17,\)\) raised",
        ),
        ((Y, X), r"look swapped.*pass data as \(inputs, targets\). As it is, the loss .* raised"),
    ]:
        with pytest.raises(DataError, match="(?s)" + message):
            made(subject, data=data)
    with pytest.raises(DataError) as caught:
        made(subject, data=(X[:, :2], Y))
    assert "swapped" not in str(caught.value)


@law
def nan_in_the_data_is_named(subject):
    if subject.name == "plain":
        pytest.skip("the reference refuses NaN by itself")
    linear = Network((Dense(4, 3),), CrossEntropy(), (4,))  # tanh would saturate at Inf
    for row, number, kind in [(2, np.nan, "NaN"), (N - 1, np.nan, "NaN"), (7, np.inf, "Inf")]:
        broken = X.copy()
        broken[row, 1] = number
        where = rf"row {row} of the measured data\[0\] holds {kind}.*leave such examples out, or mask them"
        with pytest.raises(DataError, match=where):
            made(subject, linear, (broken, Y), batch_size=5)


@law
def the_user_may_weigh_batches(subject):
    objective = made(subject, batch_size=10, batch_weight=lambda batch: 3.0)
    theta = MLP.init(1)
    parts = [DatasetLoss(MLP, X[part], Y[part]).loss(theta) for part in (slice(10), slice(10, N))]
    require_close(objective.loss(subject.vector(MLP, theta)), sum(parts) / 2)
    with pytest.raises(LCAError, match="no batch_weight"):
        objective.batch(np.arange(3))
    with pytest.raises(LCAError, match=r"no batch_weight.*lca\.Adaptive.*CrossFit"):
        SampledPathIntegral(size=4).start(objective)
    with pytest.raises(DataError, match="batches add up to 0; pass a batch_weight that is positive"):
        made(subject, batch_weight=lambda batch: 0.0)


# --- what is a mean over examples ----------------------------------------------------------------------


@law
def a_loss_divided_by_other_weights_asks_for_them(subject):
    """The weighted mean over all examples, or what the user states; never what a default happens to give."""
    for data in ((X, Y), cut(6)):
        with pytest.raises(
            DataError, match=r"by number of examples, is .*batch_weight=.*batch_size="
        ) as caught:
            made(subject, loss="class weights", data=data)
    assert "depends on the measuring batches" in str(caught.value)
    weight = np.array(CLASS_WEIGHTS)[Y]
    theta = MLP.init(1)
    single = np.array([DatasetLoss(MLP, X[[n]], Y[[n]]).loss(theta) for n in range(N)])
    for size in (1, 5, None):
        options = {"loss": "class weights", "batch_size": size, "batch_weight": subject.class_weight}
        objective = made(subject, **options)
        assert objective.is_mean
        for whole in (objective, objective.by_class(), made(subject, data=cut(6), **options)):
            require_close(whole.loss(subject.vector(MLP, theta)), (weight * single).sum() / weight.sum())


@law
def a_loss_that_is_no_mean_is_measured_in_the_batches_that_are_stated(subject):
    theta = MLP.init(1)
    weight = np.array(CLASS_WEIGHTS)[Y]
    single = np.array([DatasetLoss(MLP, X[[n]], Y[[n]]).loss(theta) for n in range(N)])
    pieces = [slice(i, min(i + 5, N)) for i in range(0, N, 5)]
    means = [(weight[p] * single[p]).sum() / weight[p].sum() for p in pieces]
    objective = made(subject, loss="class weights", batch_size=5)
    expected = sum(m * (p.stop - p.start) for m, p in zip(means, pieces, strict=True)) / N
    require_close(objective.loss(subject.vector(MLP, theta)), expected)
    assert not objective.is_mean
    for refused in (objective.by_class, lambda: objective.n_examples, lambda: objective.batch(np.arange(3))):
        with pytest.raises(LCAError, match="the loss of .* examples is .* by number of examples"):
            refused()


@law
def a_contrastive_loss_is_measured_in_the_batches_it_came_in(subject):
    if "contrastive" not in subject.LOSSES:
        pytest.skip("gradients are derived by hand")
    with pytest.raises(DataError, match="its batch size has to be stated: pass batch_size="):
        made(subject, loss="contrastive")
    objective = made(subject, loss="contrastive", data=cut(6))
    assert (objective.batch_size, objective.is_mean) == (6, False)
    theta = objective.theta()
    parts = [objective.loss(theta, subject.tensors(batch)) for batch in cut(6)]
    require_close(objective.loss(theta), (6 * parts[0] + 6 * parts[1] + 5 * parts[2]) / N)
    with pytest.raises(LCAError, match="a class cannot be measured alone"):
        objective.by_class()


@law
def a_weight_that_does_not_fit_the_loss_is_no_mean_either(subject):
    with pytest.raises(DataError, match="by batch_weight, is"):
        made(subject, batch_weight=lambda batch: 3.0)


@law
def a_batch_of_weight_zero_is_left_out_whatever_its_loss(subject):
    broken = X.copy()
    broken[5:10] = np.nan
    rest = np.r_[0:5, 10:N]
    objective = made(subject, data=(broken, Y), batch_size=5, batch_weight=subject.finite_rows)
    require_equal(subject, objective, DatasetLoss(MLP, X[rest], Y[rest]))
    broken[:5] = np.nan  # also the first one
    objective = made(subject, data=(broken, Y), batch_size=5, batch_weight=subject.finite_rows)
    require_equal(subject, objective, DatasetLoss(MLP, X[10:], Y[10:]))


@law
def weights_that_are_no_numbers_are_refused(subject):
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(DataError, match="must give a finite number that is not negative"):
            made(subject, batch_size=5, batch_weight=lambda batch, weight=weight: weight)


@law
def batches_of_unknown_length_ask_for_a_weight(subject):
    for batch in ((X, Y[:5]), (X[None], Y), (X, Y, np.zeros(()))):
        with pytest.raises(
            DataError, match=r"number of examples of a batch \(tuple of .* pass batch_weight="
        ):
            made(subject, data=[batch])


@law
def data_that_fail_beyond_the_first_batch_are_named(subject):
    labels = Y.copy()
    labels[13] = 7
    with pytest.raises(
        DataError, match=r"row 13 of the measured data cannot be measured: .*correct or leave"
    ):
        made(subject, data=(X, labels), batch_size=5)


# --- policies ------------------------------------------------------------------------------------------


@law
def batch_norm_policies_are_those_of_the_reference(subject):
    for policy in ("batch", "frozen"):
        network = normalised(policy)
        oracle = DatasetLoss(network, X, Y, batch_size=6)
        require_equal(subject, made(subject, network, batch_size=6, batch_norm=policy), oracle, network)
        named = made(subject, network, batch_size=6, batch_norm={"bn1": policy})
        require_equal(subject, named, oracle, network)
    both = (Dense(4, 5), BatchNorm(5, "frozen", MEAN, VARIANCE), BatchNorm(5), Tanh(), Dense(5, 3))
    network = Network(both, CrossEntropy(), (4,))
    mixed = made(subject, network, batch_size=6, batch_norm={"bn1": "frozen"})
    require_equal(subject, mixed, DatasetLoss(network, X, Y, batch_size=6), network)
    for wrong, message in [
        ({"bn3": "frozen"}, "unknown normalisation layer 'bn3'; known: bn1, bn2"),
        ("running", "unknown batch_norm policy 'running'"),
        ({"bn1": "off"}, "unknown batch_norm policy 'off'"),
    ]:
        with pytest.raises(UnknownNameError, match=message):
            made(subject, network, batch_size=6, batch_norm=wrong)


@law
def with_batch_statistics_the_batch_size_is_stated(subject):
    network = normalised("batch")
    with pytest.raises(DataError, match="has to be stated: pass batch_size=.*or batch_norm='frozen'"):
        made(subject, network)
    with pytest.raises(DataError, match="has to be stated"):
        made(subject, network, data=[(X[:4], Y[:4]), (X[4:], Y[4:])])
    assert made(subject, network, data=cut(6)).batch_size == 6
    assert made(subject, network, batch_norm="frozen").batch_size == N


@law
def the_last_batch_is_tried_as_well(subject):
    if subject.name in ("tensorflow", "keras"):
        pytest.skip("Keras gives statistics of one example")
    with pytest.raises(DataError, match="at least two values|more than 1 value"):
        made(subject, normalised("batch"), batch_size=4)  # 17 = 4 · 4 + 1


@law
def frozen_statistics_are_a_state(subject):
    network = normalised("frozen")
    objective = made(subject, network, batch_norm="frozen")
    theta = subject.vector(network, network.init(1))
    state = objective.state()
    statistics = tensors_of(state)
    assert len(statistics) == 2
    loss, grad = objective.loss_and_grad(theta)
    held = objective.at_state(state)
    assert held.layout is objective.layout
    require_close(held.loss(theta), loss)
    assert np.array_equal(np.asarray(held.loss_and_grad(theta)[1]), np.asarray(grad))
    moved = {**state, **{name: 2 * value for name, value in statistics.items()}}
    doubled = BatchNorm(5, "frozen", *(tuple(2 * np.array(v)) for v in (MEAN, VARIANCE)), eps=0.125)
    other = Network((Dense(4, 5), doubled, Tanh(), Dense(5, 3)), CrossEntropy(), (4,))
    require_equal(subject, objective.at_state(moved), DatasetLoss(other, X, Y), network)
    assert held.loss(theta) == objective.loss(theta)  # measuring at another state changed nothing
    batch = subject.tensors((X[:5], Y[:5]))
    require_close(held.loss(theta, batch), objective.loss(theta, batch))
    assert not tensors_of(made(subject, normalised("batch"), batch_size=6).state())
    step = lca.Step(theta, theta - 0.1 * grad, state=(state, moved))
    [a] = lca.allocate(objective, [step], lca.PathIntegral(lca.SIMPSON))
    end = objective.at_state(moved).loss(step.end) - objective.at_state(state).loss(step.end)
    require_close(a.state_change, end)


@law
def frozen_parameters_have_gradient_zero_or_no_place(subject):
    network = Network(LAYERS, CrossEntropy(), (4,), frozen=("fc1.weight", "fc1.bias"))
    kept, rest = made(subject, network), made(subject, network, frozen="omit")
    require_equal(subject, kept, DatasetLoss(network, X, Y), network)
    grads = kept.layout.unflatten(np.asarray(kept.loss_and_grad(kept.theta())[1]))
    assert [bool(grad.any()) for grad in grads.values()] == [False, False, True, True]
    assert rest.layout.names == kept.layout.names[2:]
    expected = np.concatenate([grads[name].ravel() for name in rest.layout.names])
    found = np.asarray(rest.loss_and_grad(rest.theta())[1])
    assert np.abs(found - expected).max() <= tolerances.gradient(1.0, EPS)
    with pytest.raises(UnknownNameError, match="unknown policy for frozen parameters 'keep'"):
        made(subject, network, frozen="keep")


@law
def tied_parameters_get_the_sum_of_their_gradients(subject):
    tied = {"fc2.weight": "fc1.weight", "fc2.bias": "fc1.bias"}
    network = Network((Dense(4, 4), Tanh(), Dense(4, 4)), CrossEntropy(), (4,), tied=tied)
    require_equal(subject, made(subject, network), DatasetLoss(network, X, Y), network)


# --- terms ---------------------------------------------------------------------------------------------


@law
def classes_are_terms_that_add_up(subject):
    objective = made(subject, batch_size=5)
    classes, theta = objective.by_class(), MLP.init(1)
    assert list(classes.terms) == ["class 0", "class 1", "class 2"]
    require_equal(subject, classes, DatasetLoss(MLP, X, Y))
    for c, term in enumerate(classes.terms.values()):
        mine = c == Y
        own = DatasetLoss(MLP, X[mine], Y[mine]).loss(theta)
        require_close(term.loss(subject.vector(MLP, theta)), mine.mean() * own)
    only = made(subject, data=(X[Y != 1], Y[Y != 1])).by_class()
    assert list(only.terms) == ["class 0", "class 2"]
    with pytest.raises(LCAError, match="a class cannot be measured alone: .*use batch_norm='frozen'"):
        made(subject, normalised("batch"), batch_size=N).by_class()
    with pytest.raises(LCAError, match="inputs, integer labels"):
        made(subject, data=cut(6), keep=False).by_class()


@law
def penalties_are_a_term_that_adds_up(subject):
    if subject.penalty is None:
        pytest.skip("a framework need not offer penalties")
    model = subject.model(MLP)
    data = subject.objective(model, subject.LOSSES["mean"], subject.tensors((X, Y)))
    penalty = subject.penalty(model, 0.25)
    both = lca.Sum({"data": data, "penalty": penalty})
    theta = subject.vector(MLP, MLP.init(1))
    squares = float(np.square(MLP.init(1)).sum())
    loss, grad = penalty.loss_and_grad(theta)
    require_close(loss, 0.125 * squares)
    require_close(penalty.loss(theta, "any batch"), loss)
    assert np.abs(np.asarray(grad) - 0.25 * np.asarray(theta)).max() <= tolerances.gradient(1.0, EPS)
    require_close(both.loss(theta), data.loss(theta) + 0.125 * squares)
    [a] = lca.allocate(both, [lca.Step(theta, 0.9 * theta)], lca.PathIntegral(lca.SIMPSON))
    rows = {name: np.asarray(term.values) for name, term in a.terms.items()}
    require_close(rows["penalty"].sum(), 0.125 * (0.81 - 1) * squares)
    gap = np.abs(rows["data"] + rows["penalty"] - np.asarray(a.values)).max()
    assert gap <= tolerances.allocation(a.mass, EPS)


@law
def terms_that_cannot_be_told_apart_are_refused_with_the_way_to_make_them(subject):
    way = r'lca\.Sum\(\{"data": objective, "penalty": Penalty\(model, function\)\}\)'
    if subject.name in ("tensorflow", "keras"):
        terms = made(subject).by_term()
        assert list(terms.terms) == ["data", "penalty"]
        require_equal(subject, terms, DatasetLoss(MLP, X, Y))
        return
    with pytest.raises(LCAError, match=way):
        made(subject).by_term()


# --- samples -------------------------------------------------------------------------------------------


@law
def samples_are_weighted_means(subject):
    objective = made(subject, batch_size=4)
    index, weight = np.array([3, 3, 0, 16, 7, 9]), np.arange(1.0, 7.0)
    assert objective.n_examples == N
    assert objective.weight is None
    assert objective.labels.tolist() == Y.tolist()
    theta = subject.vector(MLP, MLP.init(1))
    single = [objective.loss_and_grad(theta, objective.batch(np.array([n]))) for n in index]
    value, grad = objective.loss_and_grad(theta, objective.batch(index, weight))
    require_close(value, sum(w * one for w, (one, _) in zip(weight, single, strict=True)) / weight.sum())
    mean = sum(w * np.asarray(one) for w, (_, one) in zip(weight, single, strict=True)) / weight.sum()
    assert np.abs(np.asarray(grad) - mean).max() <= tolerances.gradient(1.0, EPS)
    plain = objective.loss(theta, objective.batch(index))
    require_close(plain, sum(one for one, _ in single) / len(index))
    require_close(objective.loss(theta, objective.batch(np.arange(N))), objective.loss(theta))
    require_close(plain, DatasetLoss(MLP, X[index], Y[index]).loss(MLP.init(1)))


@law
def samples_at_one_point_are_evaluated_as_each_alone(subject):
    network = normalised("frozen")
    objective = made(subject, network, batch_size=6, batch_norm="frozen")
    some = differentiating(at_state(objective, state_of(objective)), objective.layout.names[:2])
    theta = subject.vector(network, network.init(2))
    samples = [objective.batch(index) for index in (np.arange(6), np.array([3, 3, 8]), np.arange(N))]
    for measured in (objective, some):
        for one, sample in zip(evaluate_each(measured, theta, samples), samples, strict=True):
            loss, grad = measured.loss_and_grad(theta, sample)
            assert one.loss == loss
            np.testing.assert_array_equal(subject.numbers(network, one.grad), subject.numbers(network, grad))


@law
def scores_are_the_errors_of_the_classifier(subject):
    objective, reference = made(subject, batch_size=5), DatasetLoss(MLP, X, Y)
    theta = subject.vector(MLP, MLP.init(1))
    logits = MLP.forward(MLP.init(1), X)
    right = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[np.arange(N), Y]
    scores = objective.scores(theta)
    assert scores.dtype == np.float64
    assert np.abs(scores - (1 - right)).max() <= tolerances.summed(1.0, EPS)
    assert np.abs(scores - reference.scores(MLP.init(1))).max() <= tolerances.summed(1.0, EPS)
    two = objective.scores(theta, objective.batch(np.array([5, 2])))
    assert np.abs(two - scores[[5, 2]]).max() <= tolerances.summed(1.0, EPS)
    given = objective.scores(theta, subject.tensors((X[[5, 2]], Y[[5, 2]])))
    assert np.abs(two - given).max() <= tolerances.summed(1.0, EPS)


@law
def losses_that_are_no_mean_of_examples_cannot_be_weighted(subject):
    losses = [loss for loss in ("mean only", "ignores weights") if loss in subject.LOSSES]
    for objective in (made(subject, loss=loss) for loss in losses):
        assert objective.is_mean
        assert objective.loss(objective.theta(), objective.batch(np.arange(3))) > 0
        for _ in range(2):  # the answer is remembered
            with pytest.raises(LCAError, match="are weighted.*or use sampling='uniform'"):
                objective.batch(np.arange(3), np.ones(3))


@law
def no_example_is_drawn_from_a_loss_that_mixes_them(subject):
    objective = made(subject, normalised("batch"), batch_size=N)
    assert not objective.is_mean
    for draw in (
        lambda: objective.n_examples,
        lambda: objective.batch(np.arange(3)),
        lambda: SampledPathIntegral(size=4).start(objective),
    ):
        with pytest.raises(
            LCAError, match=r"cannot be drawn.*batch statistics.*batch_norm='frozen'.*CrossFit"
        ):
            draw()


# --- refusals ------------------------------------------------------------------------------------------


@law
def sums_are_refused_whatever_the_number_of_examples(subject):
    for n in (1, N):
        with pytest.raises(LCAError, match=r"(?s)of \d+ examples is .*their sum, not their mean; \w+"):
            made(subject, data=(X[:n], Y[:n]), loss="sum")
        made(subject, data=(X[:n], Y[:n]))
    for policy, n in [("batch", 2), ("frozen", 1), ("frozen", N)]:
        options = {
            "network": normalised(policy),
            "data": (X[:n], Y[:n]),
            "batch_norm": policy,
            "batch_size": N,
        }
        with pytest.raises(LCAError, match="their sum, not their mean"):
            made(subject, loss="sum", **options)
        made(subject, **options)


@law
def losses_that_are_no_scalars_are_refused(subject):
    for loss, message in [
        ("each", rf"must be a scalar, got shape \({N},\); \w+"),
        ("number", "must be a floating-point tensor, got float"),
        ("detached", "does not depend on any parameter that trains; is it computed"),
    ]:
        if loss in subject.LOSSES and not (subject.name == "plain" and loss == "number"):
            with pytest.raises(LCAError, match=message):
                made(subject, loss=loss)


@law
def arguments_in_another_order_are_told(subject):
    with pytest.raises(LCAError, match=r"the order is Objective\(model, loss_fn, data\)"):
        subject.objective(subject.model(MLP), subject.tensors((X, Y)), subject.LOSSES["mean"])


@law
def data_in_another_form_are_told(subject):
    if subject.name == "plain":
        pytest.skip("this framework does not check its arguments")
    x, y = subject.tensors((X, Y))
    model, loss = subject.model(MLP), subject.LOSSES["mean"]
    for data, message in [
        ([x, y], r"^the data are a list of two tensors.*pass \(inputs, targets\)"),
        (x, r"^the data are one tensor.*pass data as \(inputs, targets\)"),
    ]:
        with pytest.raises(DataError, match=message):
            subject.objective(model, loss, data)
    with pytest.raises(LCAError, match=r"^expected .*the order is Objective\(model, loss_fn, data\)"):
        subject.objective(loss, model, (x, y))
    if subject.name != "jax":  # whose example leaves this to Python
        with pytest.raises(LCAError, match=r"are one argument: pass Objective\(model, loss_fn, \(x, y\)\)"):
            subject.objective(model, loss, x, y)


@law
def vectors_that_do_not_fit_are_refused(subject):
    objective = made(subject)
    for wrong, message in [
        (subject.vector(MLP, MLP.init(1))[1:], r"theta: expected shape \(43,\)"),
        ([0.0] * 43, "must be a NumPy array or a tensor"),
    ]:
        with pytest.raises(LayoutError, match=message):
            objective.loss(wrong)


@law
def samples_are_refused_where_a_term_of_the_batch_mean_has_become_active(subject):
    objective = made(subject, loss="at least 20")  # constant at the start
    sample = objective.batch(np.arange(8))
    trained = 200 * MLP.init(1)
    assert objective.is_mean
    theta = subject.vector(MLP, trained)
    before = np.array(array_ops(theta).to_numpy(theta))
    with pytest.raises(LCAError, match=r"tried, 2 evaluations ago .*and now the loss is not a mean"):
        _ = [objective.loss(theta, sample) for _ in range(2)]
    assert np.array_equal(array_ops(theta).to_numpy(theta), before)
