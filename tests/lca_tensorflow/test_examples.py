"""`Objective` as `lca.objective.Scored`: single examples, weighted batches, errors; probes of a Keras run."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from lca import Step, tolerances
from lca.errors import LCAError
from lca.estimators import ControlVariate, CrossFit, SampledPathIntegral
from lca.reference import DatasetLoss, logistic_regression
from lca.tolerances import EPS32, EPS64
from lca_tensorflow import LCACallback, Objective

RNG = np.random.default_rng(0)
N = 17
X, Y = RNG.normal(size=(N, 4)).astype("float32"), RNG.integers(3, size=N)
W = RNG.uniform(0.5, 2.0, size=N).astype("float32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
AVERAGED = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")


def model_of(*layers):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5, "tanh"), *layers, keras.layers.Dense(3)]
    )


def compiled():
    model = model_of()
    model.compile("adam", LOSS)
    return model


def with_two_outputs():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, {n: keras.layers.Dense(c, name=n)(inputs) for n, c in (("a", 3), ("b", 1))})
    model.compile("adam", {"a": LOSS, "b": "mse"})
    return Objective(model, None, (X, {"a": Y, "b": X[:, :1]}, {"a": W, "b": W[::-1, None]}))


def shaped(*shape):
    """A model whose outputs have several axes for each example."""
    keras.utils.set_random_seed(0)
    layers = keras.layers.Dense(int(np.prod(shape)), "tanh"), keras.layers.Reshape(shape)
    return keras.Sequential([keras.Input((4,)), *layers])


def sequences(loss=LOSS, weight=None):
    """A model with a loss value for each of two places of an example."""
    labels = np.stack([Y, Y[::-1]], 1)
    return Objective(shaped(2, 3), loss, (X, labels) if weight is None else (X, labels, weight))


def segmented(weight=None):
    model = shaped(2, 3, 1)
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    image = (RNG.random((N, 2, 3, 1)) > 0.5).astype("float32")
    return Objective(model, None, (X, image) if weight is None else (X, image, weight))


def masked():
    """Every example has one place that is masked, so all have as many losses."""
    words = RNG.integers(1, 5, size=(N, 3))
    words[np.arange(N), Y] = 0
    keras.utils.set_random_seed(0)
    embedding = keras.layers.Embedding(5, 4, mask_zero=True)
    model = keras.Sequential([keras.Input((3,), dtype="int32"), embedding, keras.layers.Dense(3)])
    model.compile("adam", LOSS)
    return Objective(model, None, (words, words % 3))


def with_outputs_of_all_ranks():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(12)(inputs)
    outputs = {
        "a": keras.layers.Dense(3)(inputs),
        "b": [keras.layers.Reshape((2, 6))(hidden), keras.layers.Reshape((2, 2, 3))(hidden)],
    }
    model = keras.Model(inputs, outputs)
    model.compile("adam", {"a": LOSS, "b": ["mse", LOSS]}, loss_weights={"a": 1.0, "b": [0.5, 2.0]})
    labels = RNG.integers(3, size=(N, 2, 2))
    return Objective(model, None, (X, {"a": Y, "b": [RNG.normal(size=(N, 2, 6)), labels]}))


def one_loss_for_an_image():
    """The outputs have more axes than losses usually leave."""
    image = (RNG.random((N, 2, 3)) > 0.5).astype("float32")
    return Objective(shaped(2, 3), keras.losses.Dice(axis=(1, 2)), (X, image))


CASES = {
    "sequences": sequences,
    "sequences divided by weights": lambda: sequences(AVERAGED),
    "sequences divided by weights of examples": lambda: sequences(AVERAGED, W[:, None]),
    "segmentation": segmented,
    "segmentation with weights": lambda: segmented(RNG.uniform(0.5, 2.0, size=(N, 2, 3)).astype("float32")),
    "segmentation with weights of examples": lambda: segmented(W[:, None, None]),
    "masked": masked,
    "outputs of all ranks": with_outputs_of_all_ranks,
    "one loss for an image": one_loss_for_an_image,
    "loss": lambda: Objective(model_of(), LOSS, (X, Y)),
    "compiled": lambda: Objective(compiled(), None, (X, Y)),
    "sample weights": lambda: Objective(model_of(), LOSS, (X, Y, W)),
    "divided by weights": lambda: Objective(model_of(), AVERAGED, (X, Y, W)),
    "class weights": lambda: Objective(model_of(), LOSS, (X, Y), class_weight={0: 1.0, 1: 3.0, 2: 1.0}),
    "two outputs": with_two_outputs,
    "penalty": lambda: Objective(model_of(keras.layers.Dense(4, kernel_regularizer="l2")), LOSS, (X, Y)),
}


@pytest.mark.parametrize("case", CASES)
def test_weighted_batches_are_weighted_means_and_the_mean_of_all_is_the_loss(case):
    loss, index, v = CASES[case](), np.array([3, 3, 0, 16, 7, 9]), np.arange(1.0, 7.0)
    theta = loss.theta()
    single = [loss.loss_and_grad(theta, loss.batch(np.array([n]))) for n in range(N)]
    value, grad = loss.loss_and_grad(theta, loss.batch(index, v))
    wanted = sum(w * single[n][0] for w, n in zip(v, index, strict=True)) / v.sum()
    assert abs(value - wanted) <= tolerances.summed(wanted, EPS32)
    mean = sum(w * single[n][1] for w, n in zip(v, index, strict=True)) / v.sum()
    assert float(tf.reduce_max(tf.abs(grad - mean))) <= tolerances.gradient(1.0, EPS32)
    weight = np.ones(N) if loss.weight is None else loss.weight
    everything = float(np.average([one for one, _ in single], weights=weight))
    assert abs(everything - loss.loss(theta)) <= tolerances.summed(everything, EPS32)


@pytest.mark.parametrize("case", CASES)
def test_examples_have_the_losses_that_batches_of_one_have(case):
    loss, index = CASES[case](), np.array([3, 0, 16, 7])
    theta = loss.theta()
    movement = loss.loss_and_grad(theta)[1]
    found = loss.by_example(theta, movement, loss.layout.groups("tensor"), index)
    single = [loss.loss_and_grad(theta, loss.batch(np.array([n]))) for n in index]
    wanted = np.array([value for value, _ in single])
    assert np.abs(found.losses - wanted).max() <= tolerances.rebatched(wanted.max(), EPS32)
    slopes = np.array([float(tf.reduce_sum(gradient * movement)) for _, gradient in single])
    mass = max(float(tf.reduce_sum(tf.abs(gradient * movement))) for _, gradient in single)
    assert np.abs(found.slopes.sum(0) - slopes).max() <= tolerances.rebatched(mass, EPS32)


def test_scores_count_weights_where_the_loss_does():
    scores = CASES["loss"]().scores(CASES["loss"]().theta())
    weighted = CASES["sample weights"]()
    assert np.abs(weighted.scores(weighted.theta()) - W * scores).max() <= tolerances.summed(2.0, EPS32)
    averaged = CASES["divided by weights"]()
    assert np.abs(averaged.scores(averaged.theta()) - scores).max() <= tolerances.summed(1.0, EPS32)


def test_targets_that_are_numbers_have_no_classes():
    loss = Objective(model_of(), keras.losses.MeanSquaredError(), (X, np.ones((N, 3), "float32")))
    assert loss.labels is None
    gap = np.abs(loss.model(X).numpy() - 1).sum(1) / 3  # ½ Σ_j |2 (f_j - 1) / 3|
    assert np.abs(loss.scores(loss.theta()) - gap).max() <= tolerances.summed(float(gap.max()), EPS32)


def test_a_batch_loss_has_no_single_examples():
    loss = Objective(model_of(), None, (X, Y), batch_loss=lambda m, b: LOSS(b[1], m(b[0])))
    assert loss.loss(loss.theta(), loss.batch(np.arange(3))) > 0
    with pytest.raises(LCAError, match=r"takes a sample_weight.*sampling='uniform'"):
        loss.batch(np.arange(3), np.ones(3))
    with pytest.raises(LCAError, match=r"a loss_fn of outputs and targets.*sampling='uniform'"):
        loss.scores(loss.theta())


def test_weights_that_are_several_per_example_are_refused():
    averaged = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    rows = keras.Sequential([keras.Input((4,)), keras.layers.Reshape((2, 2)), keras.layers.Dense(3)])
    loss = Objective(rows, averaged, (X, np.ones((N, 2, 3), "float32"), np.ones((N, 2))))
    with pytest.raises(LCAError, match="one weight per example"):
        _ = loss.weight


ESTIMATORS = {
    "uniform": SampledPathIntegral(size=6, micro_batches=2),
    "importance": SampledPathIntegral(size=6, sampling="importance", refresh=2),
    "stratified": SampledPathIntegral(size=6, sampling="stratified", micro_batches=2, refresh=2),
    "anchored": ControlVariate(SampledPathIntegral(size=4), every=3),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_probe_is_that_of_the_reference(name):
    estimator = ESTIMATORS[name]
    reference = DatasetLoss(logistic_regression(4, 3), X.astype(float), Y)
    model = keras.Sequential([keras.Input((4,), dtype="float64"), keras.layers.Dense(3, dtype="float64")])
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    loss = Objective(model, cross_entropy, (X.astype(float), Y))
    points = np.cumsum(RNG.normal(size=(6, 15)) / 5, axis=0)

    def kernel_first(theta):  # the reference has a row a neuron
        return np.concatenate([theta[:12].reshape(3, 4).T.ravel(), theta[12:]])

    ours, theirs = estimator.start(loss), estimator.start(reference)
    tensors = [tf.constant(kernel_first(theta)) for theta in points]
    for t in range(5):
        found, wanted = ours(Step(*tensors[t : t + 2], t)), theirs(Step(*points[t : t + 2], t))
        gap = np.abs(found.values.numpy() - kernel_first(wanted.values)).max()
        assert gap <= tolerances.allocation(wanted.mass, EPS64)
        assert found.cost == wanted.cost


def test_fit_takes_a_probe_and_trains_as_without():
    theta = []
    for callbacks in ([], [LCACallback(X, Y, estimator=ESTIMATORS["stratified"], on_error="raise")]):
        model = compiled()
        model.fit(X, Y, batch_size=6, epochs=4, shuffle=False, verbose=0, callbacks=callbacks)
        theta.append(np.concatenate([np.ravel(w) for w in model.get_weights()]))
    assert np.array_equal(*theta)
    summary = callbacks[0].summary()["train"]
    assert summary["steps"] == 12
    assert summary["lca_total"] < 0


def test_what_keras_does_not_hand_over_is_said():
    callback = LCACallback(X, Y, estimator=CrossFit(), on_error="raise")
    with pytest.raises(
        LCAError, match=r"fit does not supply; use a Tracker.*lca\.estimators\.SampledPathIntegral"
    ):
        compiled().fit(X, Y, verbose=0, callbacks=[callback])
