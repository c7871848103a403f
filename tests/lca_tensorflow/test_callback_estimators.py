"""The cheap forms that ask nothing of a loop, in `fit` of Keras: right, or refused with the reason."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lca
from lca.errors import LCAError, LCAWarning
from lca.estimators import CrossFit, LaggedCrossFit, NextBatch, SameBatch
from lca_tensorflow import LCACallback, Objective, Tracker

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 5)).astype("float32")
Y = (X @ RNG.normal(size=(5, 3))).argmax(1)
UPDATES = 36


def fitted(estimator, averages=None, **options):
    """The callback of a run of 36 updates in two epochs, the same for every estimator."""
    keras.utils.set_random_seed(3)
    layers = keras.layers.Dense(8, "tanh", name="hidden"), keras.layers.Dense(3, name="outputs")
    model = keras.Sequential([keras.Input((5,)), *layers], name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.005, **(averages or {})), loss)
    callback = LCACallback(X, Y, batch_size=600, estimator=estimator, on_error="raise", **options)
    rows = np.arange(600)[: UPDATES // 2 * 32]
    model.fit(X[rows], Y[rows], batch_size=32, epochs=2, verbose=0, callbacks=[callback])
    return callback


@pytest.fixture(scope="module")
def exact():
    return fitted(lca.PathIntegral(lca.SIMPSON)).summary()["train"]


def test_chords_close_the_account_in_fit(exact):
    found = fitted(lca.PathIntegral(lca.SIMPSON), span=6).summary()["train"]
    assert (found["span"], found["steps"]) == (6, UPDATES // 6)
    assert abs(found["loss_end"] - exact["loss_end"]) < 1e-6
    assert abs(found["residual"]) < 0.01 * abs(found["lca_total"])
    assert found["per_tensor"].keys() == exact["per_tensor"].keys()
    for name, total in exact["per_tensor"].items():
        assert abs(found["per_tensor"][name] - total) < 0.1 * abs(exact["lca_total"]), name


def test_averages_beside_the_weights_are_no_part_of_updates_and_told_where_they_replace_them():
    plain = fitted(LaggedCrossFit()).summary()["train"]
    with pytest.warns(LCAWarning, match=r"parameters changed after the last update .*averaged weights"):
        averaged = fitted(LaggedCrossFit(), {"use_ema": True, "ema_momentum": 0.9}).summary()["train"]
    assert averaged["per_tensor"] == plain["per_tensor"]
    with pytest.raises(LCAError, match="updates of Adam with ema_overwrite_frequency depend"):
        fitted(LaggedCrossFit(), {"use_ema": True, "ema_overwrite_frequency": 10})


@pytest.mark.parametrize("estimator", [NextBatch(), CrossFit(own_pass=True)], ids=["batch", "own pass"])
def test_forms_on_the_training_batch_are_refused_as_fit_does_not_show_it(estimator):
    with pytest.raises(LCAError, match=r"requires Step\..*, which fit does not supply; use a Tracker"):
        fitted(estimator)


def clipped_model(*, jit):
    keras.utils.set_random_seed(3)
    layers = keras.layers.Dense(8, "tanh", name="hidden"), keras.layers.Dense(3, name="outputs")
    model = keras.Sequential([keras.Input((5,)), *layers], name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(0.01, global_clipnorm=0.3), loss, jit_compile=jit)
    return model


def left_by_fit(model, *callbacks):
    model.fit(X[:320], Y[:320], batch_size=32, shuffle=False, verbose=0, callbacks=list(callbacks))
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


@pytest.mark.parametrize("jit", [False, True], ids=["compiled", "XLA"])
def test_the_gradients_of_fit_are_those_of_an_eager_loop_and_training_is_the_same(jit):
    callback = LCACallback(X, Y, batch_size=600, estimator=LaggedCrossFit(), on_error="raise")
    model, plain = clipped_model(jit=jit), clipped_model(jit=jit)
    for ours, theirs in zip(left_by_fit(model, callback), left_by_fit(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "apply_gradients" not in vars(model.optimizer)
    found, wanted = callback.summary()["train"], in_a_loop(clipped_model(jit=False), LaggedCrossFit())
    assert found["steps"] == wanted["steps"] == 9
    for name, total in wanted["per_tensor"].items():  # compiled and eager, in float32
        assert abs(found["per_tensor"][name] - total) <= 1e-3 * abs(wanted["lca_total"]), name


@pytest.mark.parametrize("clip", [{}, {"global_clipnorm": 0.3}], ids=["as it is", "clipped"])
def test_what_is_kept_leaves_the_order_of_factors(clip):
    """The gradient of a scale is a product, which SGD with momentum multiplies by the learning rate."""

    def left(*callbacks):
        keras.utils.set_random_seed(1)
        model = with_layer(keras.layers.BatchNormalization())
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9, **clip), model.loss)
        return left_by_fit(model, *callbacks)

    callback = LCACallback(X, Y, batch_size=600, estimator=LaggedCrossFit(), on_error="raise")
    for ours, theirs in zip(left(callback), left(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def in_a_loop(model, estimator, **options):
    objective = Objective(model, None, (X, Y), batch_size=600, **options)
    with Tracker(model, model.optimizer, objective, estimator, on_error="raise") as tracker:
        for at in range(0, 320, 32):
            with tf.GradientTape() as tape:
                outputs = model(X[at : at + 32], training=True)
                loss = model.compute_loss(y=Y[at : at + 32], y_pred=outputs)
            model.optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
    return tracker.summary()["train"]


def with_layer(layer):
    model = keras.Sequential([keras.Input((5,)), layer, keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (
            keras.layers.GaussianNoise(0.1, name="noise"),
            r"trains with dropout or noise \(noise\), which is off in the measured loss\. SameBatch",
        ),
        (
            keras.layers.BatchNormalization(name="norm"),
            r"trains with batch statistics \(norm\), but .*'frozen'\. SameBatch",
        ),
    ],
)
def test_what_makes_the_gradients_of_training_others_is_said(layer, said):
    with pytest.warns(LCAWarning, match=said):
        in_a_loop(with_layer(layer), SameBatch(), batch_norm="frozen")


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (keras.layers.GaussianNoise(0.0), {"batch_norm": "frozen"}),
        (keras.layers.BatchNormalization(), {}),
        (keras.layers.BatchNormalization(trainable=False), {"batch_norm": "frozen"}),
    ],
)
def test_layers_that_measure_as_they_train_are_no_warning(layer, options):
    in_a_loop(with_layer(layer), SameBatch(), **options)


def test_a_train_step_of_ones_own_hides_its_gradients():
    class Net(keras.Sequential):
        def train_step(self, data):
            return super().train_step(data)

    model = Net([keras.Input((5,)), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callback = LCACallback(X, Y, batch_size=600, estimator=NextBatch(lca.RIGHT), on_error="raise")
    with pytest.raises(LCAError, match="train_step of its own. Use a Tracker around"):
        model.fit(X, Y, verbose=0, callbacks=[callback])


def same_batch():
    return LCACallback(X, Y, batch_size=600, estimator=SameBatch(), on_error="raise")


def small_model(optimizer):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(3)])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_the_step_is_compiled_as_often_as_without_a_callback():
    left = []
    for callbacks in ([], [same_batch()]):
        model = small_model(keras.optimizers.Adam(0.01))
        left_by_fit(model, *callbacks)
        model.layers[0].trainable = False  # which Keras follows when the model is compiled again
        left.append(left_by_fit(model))
    for ours, theirs in zip(*left, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_step_that_was_compiled_without_the_gradient_is_refused():
    model = small_model(keras.optimizers.Adam(0.01))
    left_by_fit(model)
    with pytest.raises(
        LCAError, match=r"by an earlier fit, .* call model\.make_train_function\(force=True\)"
    ):
        left_by_fit(model, same_batch())
    model.make_train_function(force=True)
    first, second = same_batch(), LCACallback(X, Y, batch_size=600, estimator=LaggedCrossFit())
    left_by_fit(model, first, second)
    assert (first.summary()["train"]["steps"], second.summary()["train"]["steps"]) == (10, 9)


def test_a_layer_that_keras_trains_on_as_it_was_frozen_too_late_is_refused():
    model = small_model(keras.optimizers.SGD(0.1))
    left_by_fit(model, same_batch())
    model.layers[0].trainable = False
    with pytest.raises(LCAError, match=r"trainable was set on a layer \(.*kernel\) after Keras compiled"):
        left_by_fit(model, same_batch())


def test_a_step_that_is_made_anew_in_the_middle_of_fit_is_refused():
    class Remake(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                self.model.make_train_function(force=True)

    with pytest.raises(LCAError, match="was made anew in the middle of fit .* between two calls of fit"):
        left_by_fit(small_model("sgd"), same_batch(), Remake())


def test_a_new_callback_measures_after_an_interrupted_fit():
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model, again = small_model("sgd"), same_batch()
    with pytest.raises(KeyboardInterrupt):
        left_by_fit(model, same_batch(), Interrupt())
    left_by_fit(model, again)
    assert again.summary()["train"]["steps"] == 10


def test_an_optimizer_that_alters_gradients_before_it_applies_them_does_not_hide_them():
    class Halved(keras.optimizers.SGD):
        def apply_gradients(self, grads_and_vars):
            return super().apply_gradients([(g / 2, v) for g, v in grads_and_vars])

    found = []
    for optimizer in (Halved(0.25), keras.optimizers.SGD(0.125)):
        found.append(same_batch())
        left_by_fit(small_model(optimizer), found[-1])
    ours, theirs = (callback.summary()["train"]["per_tensor"].values() for callback in found)
    assert list(ours) == list(theirs)
