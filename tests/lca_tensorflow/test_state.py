"""What the loss reads besides θ is state: found in the graph, whatever its kind, and evaluated as it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lca
from lca.errors import LCAError
from lca.objective import at_state
from lca_tensorflow import LCACallback, Objective, Tracker
from tests.lca_tensorflow.networks import Averages, X, Y, cross_entropy, floats, stack

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


@pytest.mark.parametrize("value", [np.ones(3), np.float32(1.0)], ids=["shape", "dtype"])
def test_a_state_that_is_not_of_the_model_is_refused(value):
    objective = Objective(stack((6,), Scaled("float64"), DENSE(3)), cross_entropy(), (X, Y))
    [name] = other_names(objective)
    state = {**objective.state(), name: value}
    with pytest.raises(LCAError, match=rf"holds '{name}' as float.* but the model has it as float64 \(\)"):
        at_state(objective, state).loss(objective.theta())


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


# --- when it moves ---------------------------------------------------------------------------------------


class Clipped(keras.layers.Layer):
    """Adds a mean that its forward pass moves in training, and multiplies by a factor of someone else's."""

    def __init__(self, factor):
        super().__init__()
        self.mean = self.add_weight(name="mean", shape=(), initializer="zeros", trainable=False)
        self.factor = factor

    def call(self, inputs, training=False):
        found = (inputs + self.mean) * self.factor
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * keras.ops.mean(inputs))
        return found


def integral(model, start, end, mean, factor):
    """``Σ Δ · ∇L`` along a step at many nodes, in this state, by plain tapes; everything is put back."""
    layer, weights = model.layers[1], model.trainable_weights
    kept = layer.mean.numpy(), layer.factor.numpy(), [w.numpy() for w in weights]
    layer.mean.assign(mean)
    layer.factor.assign(factor)
    total = 0.0
    nodes, parts = np.polynomial.legendre.leggauss(20)
    for node, part in zip((nodes + 1) / 2, parts / 2, strict=True):
        for w, a, b in zip(weights, start, end, strict=True):
            w.assign(a + node * (b - a))
        with tf.GradientTape() as tape:
            loss = cross_entropy()(Y, model(X))
        grads = tape.gradient(loss, weights)
        total += part * sum(float(np.sum(g * (b - a))) for g, a, b in zip(grads, start, end, strict=True))
    layer.mean.assign(kept[0])
    layer.factor.assign(kept[1])
    for w, value in zip(weights, kept[2], strict=True):
        w.assign(value)
    return total


@pytest.mark.parametrize("how", ["loop", "fit", "fit, callback behind"])
def test_a_step_is_taken_in_the_state_that_its_gradient_saw(how):
    """A callback raises the factor before each batch; the forward pass moves the mean."""
    factor = tf.Variable(1.0, dtype=tf.float64)
    model = stack((6,), DENSE(4, activation="tanh"), Clipped(factor), DENSE(3))
    model.compile(keras.optimizers.SGD(0.5), cross_entropy())
    layer, truth = model.layers[1], []

    class Raise(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            factor.assign_add(0.2)
            self.start = layer.mean.numpy(), factor.numpy(), [w.numpy() for w in model.trainable_weights]

        def on_train_batch_end(self, batch, logs=None):
            mean, value, start = self.start
            truth.append(integral(model, start, [w.numpy() for w in model.trainable_weights], mean, value))

    estimator, raised = lca.Adaptive(tol=1e-10, nested_tol=1e-6, max_gradients=65), Raise()
    if how == "loop":
        objective = Objective(model, cross_entropy(), (X, Y))
        with Tracker(model, model.optimizer, objective, estimator, on_error="raise") as tracker:
            for batch in range(3):
                raised.on_train_batch_begin(batch)
                with tf.GradientTape() as tape:
                    loss = cross_entropy()(Y, model(X, training=True))
                grads = tape.gradient(loss, model.trainable_weights)
                model.optimizer.apply(grads, model.trainable_weights)
                raised.on_train_batch_end(batch)
    else:
        tracker = LCACallback(X, Y, estimator=estimator, on_error="raise")
        own = [tracker, raised] if how == "fit, callback behind" else [raised, tracker]
        model.fit(X, Y, batch_size=len(Y), epochs=3, shuffle=False, verbose=0, callbacks=own)
    rows = tracker.views["train"].trace.rows
    assert len(truth) == 3
    assert np.abs(rows["total"] - truth).max() <= 10 * estimator.tol
    assert (rows["loss_start"][1:] == rows["loss_end"][:-1]).all()
    assert np.abs(rows["residual"]).max() <= estimator.tol
    assert (np.abs(rows["state_change"]) > 1e5 * estimator.tol).all()


def test_only_what_a_forward_pass_of_training_updates_is_moved_by_it():
    model = Averages()
    model(X)
    objective = Objective(model, cross_entropy(), (X, Y))
    assert [name.rpartition(".")[2] for name in objective.moved_by_forward] == ["average"]
    assert not np.any(model.average.numpy())


def test_a_step_is_measured_in_the_state_that_the_loop_has_set_for_it():
    """The sign of the outputs alternates, so that a step in the state of another one would hurt."""
    model, optimizer, loss = Averages(), keras.optimizers.SGD(0.05), cross_entropy()
    model(X)
    with Tracker(model, optimizer, Objective(model, loss, (X, Y)), lca.Adaptive()) as tracker:
        changes = []
        for number in range(6):
            model.factor.assign(1.0 - 2.0 * (number % 2))
            with tf.GradientTape() as tape:
                value = loss(Y, model(X))
            variables = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))
            changes.append(float(loss(Y, model(X)) - value))
    total = tracker.summary()["train"]["lca_total"]
    assert abs(total - sum(changes)) <= abs(sum(changes)) / 100
