"""What the loss reads besides θ is state: found in the graph, whatever its kind, and evaluated as it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lca
from lca.objective import at_state
from lca_tensorflow import Objective, Tracker
from tests.lca_tensorflow.networks import X, Y, cross_entropy, floats, stack

DENSE = keras.layers.Dense


@pytest.fixture(autouse=True)
def float64():
    with floats("float64"):
        yield


class Scaled(keras.layers.Layer):
    """Multiplies by a variable of any dtype that does not train."""

    def __init__(self, dtype):
        super().__init__()
        self.scale = self.add_weight(name="scale", shape=(), dtype=dtype, initializer="ones", trainable=False)

    def call(self, inputs):
        return inputs * keras.ops.cast(self.scale, inputs.dtype)


def other_names(objective):
    return sorted(set(objective.state()) - {"configuration"})


@pytest.mark.parametrize(("dtype", "value"), [("int32", 3), ("bool", False), ("float64", 2.5)])
def test_variables_of_every_dtype_are_state(dtype, value):
    model = stack((6,), DENSE(4, activation="tanh"), Scaled(dtype), DENSE(3))
    objective = Objective(model, cross_entropy(), (X, Y))
    theta, before = objective.theta(), objective.state()
    assert [name.rpartition(".")[2] for name in other_names(objective)] == ["scale"]
    first = objective.loss(theta)
    model.layers[1].scale.assign(value)
    assert objective.loss(theta) == pytest.approx(float(cross_entropy()(Y, model(X))), rel=1e-12)
    assert objective.loss(theta) != first
    assert at_state(objective, before).loss(theta) == first
    assert model.layers[1].scale.numpy() == value


def test_a_tensorflow_variable_of_the_loss_is_state():
    beta = tf.Variable(0.5, dtype=tf.float64)

    def loss(y, outputs):
        return cross_entropy()(y, outputs) + beta * tf.reduce_mean(outputs**2)

    model = stack((6,), DENSE(3))
    objective = Objective(model, loss, (X, Y))
    theta, before = objective.theta(), objective.state()
    first, grad = objective.loss_and_grad(theta)
    beta.assign(0.1)
    assert objective.loss(theta) == pytest.approx(float(loss(Y, model(X))), rel=1e-12)
    again, same = at_state(objective, before).loss_and_grad(theta)
    assert again == first
    assert np.array_equal(grad, same)
    assert beta.numpy() == 0.1


def test_another_model_is_state():
    model, other = stack((6,), DENSE(3)), stack((6,), DENSE(3))

    def loss(measured, batch):
        x, _ = batch
        return tf.reduce_mean((measured(x) - other(x)) ** 2)

    objective = Objective(model, None, (X, Y), batch_loss=loss)
    assert len(other_names(objective)) == 2
    theta, before = objective.theta(), objective.state()
    first = objective.loss(theta)
    other.layers[0].bias.assign_add([1.0, 2.0, 3.0])
    assert objective.loss(theta) == pytest.approx(float(loss(model, (X, Y))), rel=1e-12)
    assert at_state(objective, before).loss(theta) == first


def test_omitted_parameters_are_state():
    model = stack((6,), DENSE(4, activation="tanh"), DENSE(3))
    model.layers[0].trainable = False
    objective = Objective(model, cross_entropy(), (X, Y), frozen="omit")
    assert len(other_names(objective)) == 2
    theta, before = objective.theta(), objective.state()
    first = objective.loss(theta)
    model.layers[0].kernel.assign(model.layers[0].kernel * 2)
    assert objective.loss(theta) == pytest.approx(float(cross_entropy()(Y, model(X))), rel=1e-12)
    assert at_state(objective, before).loss(theta) == first


def test_what_the_loss_does_not_read_is_no_state():
    layers = keras.layers
    model = stack((6,), DENSE(4), layers.BatchNormalization(), layers.Dropout(0.5), DENSE(3))
    model.unused = model.add_weight(name="unused", shape=(2,), trainable=False)
    assert other_names(Objective(model, cross_entropy(), (X, Y), batch_size=17)) == []


def test_state_that_has_not_moved_is_the_same_tensor():
    model = stack((6,), DENSE(4), keras.layers.BatchNormalization(), DENSE(3))
    objective = Objective(model, cross_entropy(), (X, Y), batch_norm="frozen")
    a, b = objective.state(), objective.state()
    assert all(a[name] is b[name] for name in other_names(objective))
    model.layers[1].moving_mean.assign_add([0.0, 0.0, 1.0, 0.0])
    after = objective.state()
    assert [name for name in after if after[name] is not a[name] and name != "configuration"] == [
        next(name for name in after if "mean" in name)
    ]


def test_a_variable_that_the_forward_pass_writes_is_as_before():
    class Counting(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.calls = tf.Variable(0.0, dtype=tf.float64, trainable=False)

        def call(self, inputs):
            self.calls.assign_add(1.0)
            return inputs * self.calls

    for run_eagerly in (False, True):
        counting = Counting()
        model = stack((6,), DENSE(4), counting, DENSE(3))
        counting.calls.assign(0.0)
        objective = Objective(model, cross_entropy(), (X, Y), batch_size=5, run_eagerly=run_eagerly)
        theta = objective.theta()
        assert objective.loss(theta) == objective.loss(theta) == objective.loss_and_grad(theta)[0]
        assert counting.calls.numpy() == 0.0


def test_a_step_with_a_counter_is_allocated_with_its_state_change():
    model = stack((6,), DENSE(4, activation="tanh"), Scaled("int32"), DENSE(3))
    objective = Objective(model, cross_entropy(), (X, Y))
    optimizer = keras.optimizers.SGD(0.1)
    with Tracker(model, optimizer, objective, lca.PathIntegral(lca.SIMPSON), on_error="raise") as tracker:
        for _ in range(3):
            with tf.GradientTape() as tape:
                loss = cross_entropy()(Y, model(X))
            with tracker.step():
                optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
                model.layers[1].scale.assign_add(1)
    summary = tracker.summary()["train"]
    assert summary["steps"] == 3
