"""The callback sees every update of fit, changes nothing, and says what it cannot see."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lca
from lca.errors import LCAError
from lca_tensorflow import LCACallback, Objective

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 5)).astype("float32"), RNG.integers(3, size=20)


def model_of(accumulate=None, **options):
    keras.utils.set_random_seed(3)
    layers = keras.layers
    stack = [layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(3)]
    model = keras.Sequential([keras.Input((5,)), *stack])
    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=accumulate)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **options)
    return model


class Points(keras.callbacks.Callback):
    """What the callback should see: the losses of the model after every batch."""

    def __init__(self, objective):
        super().__init__()
        self.objective, self.losses = objective, []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(self.objective.loss(self.objective.theta()))


def fit(model, *callbacks):
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=list(callbacks))
    return [v.numpy() for v in model.variables]


def test_every_update_is_measured_and_training_is_bit_identical():
    plain = fit(model_of())
    model = model_of()
    objective = Objective(model, None, (X, Y), batch_norm="frozen")
    ours, points = (
        LCACallback(objective, estimator=lca.PathIntegral(lca.SIMPSON), on_error="raise"),
        Points(objective),
    )
    measured = fit(model, ours, points)
    assert all(np.array_equal(a, b) for a, b in zip(plain, measured, strict=True))
    rows = ours.views["train"].trace.rows
    assert ours.steps == len(rows) == 6
    assert rows["loss_end"].tolist() == points.losses
    assert rows["loss_start"][1:].tolist() == points.losses[:-1]
    assert rows["state_change"].all()


def test_accumulated_gradients_make_one_step_of_two_batches():
    model = model_of(accumulate=2)
    ours = LCACallback(Objective(model, None, (X, Y), batch_norm="frozen"), on_error="raise")
    fit(model, ours)
    assert ours.steps == len(ours.views["train"].trace.rows) == 3


def test_what_hides_updates_is_refused():
    model = model_of(steps_per_execution=3)
    objective = Objective(model, None, (X, Y), batch_norm="frozen")
    with pytest.raises(LCAError, match="steps_per_execution=1"):
        fit(model, LCACallback(objective, on_error="raise"))
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = model_of()
    with pytest.raises(LCAError, match=r"outside strategy\.scope"):
        fit(model, LCACallback(objective, on_error="raise"))
