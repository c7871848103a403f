"""Which normalisation layers use batch statistics is found out from how training calls them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from lca_tensorflow import Objective
from tests.lca_tensorflow.networks import X, Y, cross_entropy, floats, stack
from tests.nightly import NIGHTLY

LAYERS = keras.layers
DENSE, NORM = LAYERS.Dense, LAYERS.BatchNormalization


@pytest.fixture(autouse=True)
def float64():
    with floats("float64"):
        yield


class Frozen(keras.Model):
    """A base in inference mode under a head in the mode of the call, as Keras' guide to transfer learning."""

    def __init__(self, twice=False):
        super().__init__()
        self.base = keras.Sequential(
            [keras.Input((6,)), DENSE(4), NORM(name="inner"), LAYERS.Activation("tanh")]
        )
        self.norm, self.out, self.twice = NORM(name="outer"), DENSE(3), twice

    def call(self, inputs, training=False):
        hidden = self.norm(self.base(inputs, training=False), training=training)
        if self.twice:  # a layer that is called in both modes
            hidden = hidden + self.norm(hidden, training=False)
        return self.out(hidden)


class OwnNorm(NORM):
    """A subclass that passes the mode on under its own rule."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask)


def filled(model):
    """The model with moving statistics that differ from those of any batch."""
    model(X)
    for layer in model._flatten_layers():
        if isinstance(layer, NORM):
            layer.moving_mean.assign(np.linspace(-1, 1, layer.moving_mean.shape[0]))
            layer.moving_variance.assign(np.linspace(0.5, 2, layer.moving_mean.shape[0]))
    return model


def in_training(model):
    """The loss as training computes it, moving statistics put back; no layer here is random."""
    before = [v.numpy() for v in model.variables]
    with tf.GradientTape() as tape:
        loss = cross_entropy()(Y, model(X, training=True))
    grads = tape.gradient(loss, model.trainable_weights)
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    return float(loss), np.concatenate([np.ravel(g) for g in grads])


def inner_model():
    inner = keras.Sequential([keras.Input((4,)), NORM(), DENSE(4)], name="inner_model")
    return stack((6,), DENSE(4), inner, NORM(), DENSE(3))


def partly_frozen():
    model = stack((6,), DENSE(4), NORM(name="fixed"), DENSE(4), NORM(name="free"), DENSE(3))
    model.get_layer("fixed").trainable = False
    return model


def functional():
    inputs = keras.Input((6,))
    base = keras.Sequential([keras.Input((6,)), DENSE(4), NORM()])
    hidden = NORM()(base(inputs, training=False))
    return keras.Model(inputs, DENSE(3)(hidden))


def shared():
    inputs, norm = keras.Input((6,)), NORM()
    return keras.Model(inputs, DENSE(3)(norm(DENSE(6)(norm(inputs)))))


MODELS = {
    "base in inference mode": Frozen,
    "nested": inner_model,
    "not trainable": partly_frozen,
    "functional base in inference mode": functional,
    "shared": shared,
    "subclass": lambda: stack((6,), DENSE(4), OwnNorm(), DENSE(3)),
    "synchronized": lambda: stack((6,), DENSE(4), NORM(synchronized=True), DENSE(3)),
    "renorm": lambda: stack((6,), DENSE(4), NORM(renorm=True), DENSE(3)),
    "unit": lambda: stack((6,), DENSE(4), LAYERS.UnitNormalization(), LAYERS.GroupNormalization(2), DENSE(3)),
}


EAGERLY = MODELS if NIGHTLY else ("base in inference mode", "functional base in inference mode", "shared")
"""Those whose calls differ in their mode or in what they read; the others call each layer once."""


@pytest.mark.parametrize(
    ("name", "run_eagerly"), [*((name, False) for name in MODELS), *((name, True) for name in EAGERLY)]
)
def test_the_statistics_are_those_of_training(name, run_eagerly):
    model = filled(MODELS[name]())
    objective = Objective(model, cross_entropy(), (X, Y), batch_size=17, run_eagerly=run_eagerly)
    loss, grad = objective.loss_and_grad(objective.theta())
    expected, by_hand = in_training(model)
    assert loss == pytest.approx(expected, rel=1e-12)
    grads = objective.layout.unflatten(grad.numpy())
    trained = [np.ravel(grads[name]) for name in objective.layout.names if name in objective.differentiated]
    assert np.allclose(np.concatenate(trained), by_hand, rtol=1e-9, atol=1e-13)


def test_a_layer_that_is_called_in_both_modes():
    """Its second call reads the moving statistics of the state, not what the first would make of them."""
    model = filled(Frozen(twice=True))
    objective = Objective(model, cross_entropy(), (X, Y), batch_size=17)
    theta = objective.theta()
    loss, grad = objective.loss_and_grad(theta)
    model.norm.momentum = 1.0  # training does not move them then
    assert loss == pytest.approx(in_training(model)[0], rel=1e-12)
    direction = tf.constant(np.random.default_rng(2).normal(size=theta.shape))
    h = 1e-5
    difference = objective.loss(theta + h * direction) - objective.loss(theta - h * direction)
    assert difference / (2 * h) == pytest.approx(float(tf.reduce_sum(grad * direction)), rel=1e-6)


def test_moving_statistics_that_are_read_are_state_and_others_are_not():
    model = filled(Frozen())
    objective = Objective(model, cross_entropy(), (X, Y), batch_size=17)
    names = [name for name in objective.state() if "moving" in name]
    assert len(names) == 2
    assert all("inner" in name for name in names)


def test_a_layer_that_is_frozen_later_turns_to_its_moving_statistics():
    model = filled(stack((6,), DENSE(4), NORM(name="norm"), DENSE(3)))
    objective = Objective(model, cross_entropy(), (X, Y), batch_size=17)
    theta, before = objective.theta(), objective.state()
    first = objective.loss(theta)
    model.get_layer("norm").trainable = False
    assert objective.loss(theta) == pytest.approx(in_training(model)[0], rel=1e-12)
    assert objective.loss(theta) != first
    assert objective.at_state(before).loss(theta) == first
    assert len(objective.state()) == 3


def test_a_batch_loss_may_call_the_model_as_it_likes():
    model = filled(stack((6,), DENSE(4), NORM(), DENSE(3)))
    batch_loss = lambda model, batch: cross_entropy()(batch[1], model(batch[0]))  # noqa: E731
    objective = Objective(model, None, (X, Y), batch_loss=batch_loss, batch_size=17)
    assert objective.loss(objective.theta()) == pytest.approx(in_training(model)[0], rel=1e-12)
