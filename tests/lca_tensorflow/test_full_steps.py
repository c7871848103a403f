"""Whole runs whose loss reads more than weights, against 12 Gauss nodes and plain tapes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lca
from lca_tensorflow import LCACallback, Objective, Tracker
from tests.lca_tensorflow.networks import X, Y, cross_entropy, floats, stack

LAYERS = keras.layers
DENSE = LAYERS.Dense
MOVE = tf.reshape(tf.range(18.0, dtype=tf.float64), (6, 3)) % 5
NODES, WEIGHTS = np.polynomial.legendre.leggauss(12)


@pytest.fixture(autouse=True)
def float64():
    with floats("float64"):
        yield


def mean(model, batch):
    x, y = batch
    return cross_entropy()(y, model(x, training=False))


class Oracle:
    """A_t of every step from copies of all variables; ``others`` move besides the weights."""

    def __init__(self, model, loss, others=()):
        self.model, self.loss = model, loss
        self.weights = [v for v in model.weights if v.name in ("kernel", "bias", "gamma", "beta")]
        self.others = [*others, *(v for v in model.weights if "moving" in v.name or v.name == "count")]
        self.total = [0.0 for _ in self.weights]
        self.state_change = 0.0

    def read(self):
        return [v.numpy() for v in self.weights], [v.numpy() for v in self.others]

    def write(self, values):
        for variables, numbers in zip((self.weights, self.others), values, strict=True):
            for variable, number in zip(variables, numbers, strict=True):
                variable.assign(number)

    def value(self, weights, others):
        self.write((weights, others))
        return float(self.loss(self.model, (X, Y)))

    def gradient(self, weights, others):
        self.write((weights, others))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in self.weights])
            loss = self.loss(self.model, (X, Y))
        found = tape.gradient(loss, [v.value for v in self.weights])
        return [
            np.zeros(v.shape) if g is None else tf.convert_to_tensor(g).numpy()
            for v, g in zip(self.weights, found, strict=True)
        ]

    def add(self, before, after):
        """The step between two results of `read`."""
        now = self.read()
        for node, weight in zip((NODES + 1) / 2, WEIGHTS / 2, strict=True):
            point = [a + node * (b - a) for a, b in zip(before[0], after[0], strict=True)]
            for i, gradient in enumerate(self.gradient(point, before[1])):
                self.total[i] += weight * float(np.sum(gradient * (after[0][i] - before[0][i])))
        self.state_change += self.value(*after) - self.value(after[0], before[1])
        self.write(now)


def agree(summary, oracle):
    assert summary["lca_total"] == pytest.approx(sum(oracle.total), rel=1e-8, abs=1e-12)
    assert summary["state_change"] == pytest.approx(oracle.state_change, rel=1e-8, abs=1e-12)


class Counted(keras.Model):
    """Its loss falls with an integer that each training step raises; its base is called as in inference."""

    def __init__(self):
        super().__init__()
        self.base, self.norm, self.out = DENSE(4), LAYERS.BatchNormalization(), DENSE(3)
        self.count = self.add_weight(
            shape=(), dtype="int32", trainable=False, name="count", initializer="ones"
        )

    def call(self, inputs, training=False):
        hidden = self.norm(self.base(inputs), training=False)
        return self.out(hidden) / keras.ops.cast(self.count, "float64")


def first(kind):
    """Model, loss, other variables, what happens before each step."""
    if kind == "two phases":
        model = stack((6,), DENSE(4, activation="tanh", name="base"), DENSE(3, name="head"))
        model.layers[0].trainable = False
        return model, mean, (), lambda t: setattr(model.layers[0], "trainable", t >= 2)
    model = Counted()
    model(X[:2])
    if kind == "base in inference":
        return model, mean, (), lambda t: None
    if kind == "integer":
        return model, mean, (), lambda t: None
    beta = tf.Variable(0.5, dtype=tf.float64)

    def penalised(model, batch):
        return mean(model, batch) + beta * tf.reduce_sum(tf.square(model.out.kernel))

    return model, penalised, (beta,), lambda t: None


def during(kind, model, others):
    """What moves with the update."""
    if kind == "integer":
        model.count.assign_add(1)
    if kind == "base in inference":
        model.norm.moving_mean.assign_add([0.1, 0.0, -0.2, 0.0])
    if others:
        others[0].assign_add(0.25)


@pytest.mark.parametrize("kind", ["two phases", "integer", "beta", "base in inference"])
def test_a_run_agrees_with_twelve_gauss_nodes(kind):
    model, loss, others, before_step = first(kind)
    optimizer = keras.optimizers.SGD(0.5, momentum=0.5)
    optimizer.build([v for layer in model._flatten_layers() for v in layer._trainable_variables])
    objective = Objective(model, None, (X, Y), batch_loss=loss, batch_size=17)
    oracle, seen = Oracle(model, loss, others), []
    with Tracker(model, optimizer, objective, lca.Adaptive(tol=1e-10), on_error="raise") as tracker:
        for t in range(4):
            before_step(t)
            start = oracle.read()
            with tf.GradientTape() as tape:
                value = loss(model, (X, Y))
            gradients = tape.gradient(value, model.trainable_weights)
            with tracker.step():
                optimizer.apply(gradients, model.trainable_weights)
                during(kind, model, others)
            seen.append((start, oracle.read()))
    for start, end in seen:
        oracle.add(start, end)
    agree(tracker.summary()["train"], oracle)
    assert bool(oracle.state_change) == (kind != "two phases")


def test_a_loss_that_differentiates_inside_is_measured():
    """A network of x that is to be sin x and have the derivative cos x: a tape within a tape."""
    model = stack((1,), DENSE(8, activation="tanh"), DENSE(1))
    x = tf.constant(np.linspace(-1, 1, 9)[:, None])

    def residual(model, batch):
        (points,) = batch
        with tf.GradientTape() as tape:
            tape.watch(points)
            outputs = model(points, training=False)
        gaps = tape.gradient(outputs, points) - tf.cos(points)
        return tf.reduce_mean(tf.square(gaps) + tf.square(outputs - tf.sin(points)))

    objective = Objective(model, None, [(x,)], batch_loss=residual)
    theta = objective.theta()
    loss, grad = objective.loss_and_grad(theta)
    assert loss == pytest.approx(float(residual(model, (x,))), rel=1e-12)
    assert objective.loss(theta) == pytest.approx(loss, rel=1e-12)
    direction = np.cos(np.arange(theta.shape[0]))
    ends = [objective.loss(theta + sign * 1e-5 * direction) for sign in (1, -1)]
    assert float(grad.numpy() @ direction) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_the_best_weights_put_back_at_the_end_are_told_and_the_books_close():
    model = stack((6,), DENSE(3))
    model.compile(keras.optimizers.SGD(30.0), cross_entropy())
    objective = Objective(model, None, (X, Y), batch_size=17)
    stop = keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True)
    callback = LCACallback(objective, on_error="raise")
    begin = objective.loss(objective.theta())
    with pytest.warns(lca.errors.LCAWarning, match="changed after the last update"):
        model.fit(X, Y, batch_size=4, epochs=9, verbose=0, callbacks=[callback, stop])
    summary = callback.summary()["train"]
    assert stop.stopped_epoch
    gap = summary["lca_total"] + summary["residual"] + summary.get("unmeasured_change", 0.0)
    assert begin + gap == pytest.approx(objective.loss(objective.theta()), rel=1e-6)


@pytest.mark.parametrize("at_end", [True, False])
def test_weights_that_the_loop_assigns_itself_are_told(at_end):
    model = stack((6,), DENSE(3))
    optimizer = keras.optimizers.SGD(0.1)
    objective = Objective(model, cross_entropy(), (X, Y), batch_size=17)
    begin = objective.loss(objective.theta())

    def update():
        with tf.GradientTape() as tape:
            value = cross_entropy()(Y, model(X))
        gradients = tape.gradient(value, model.trainable_weights)
        optimizer.apply(gradients, model.trainable_weights)

    def run():
        with Tracker(model, optimizer, objective, on_error="raise") as tracker:
            update()
            if not at_end:
                model.layers[0].kernel.assign_sub(MOVE)
            update()
            if at_end:
                optimizer.update_step(MOVE, model.layers[0].kernel, 0.1)
        return tracker

    message = "changed after the last update" if at_end else "changed between steps"
    with pytest.warns(lca.errors.LCAWarning, match=message):
        tracker = run()
    summary = tracker.summary()["train"]
    whole = summary["lca_total"] + summary["residual"] + summary["unmeasured_change"]
    assert begin + whole == pytest.approx(objective.loss(objective.theta()), rel=1e-9)
    assert abs(summary["unmeasured_change"]) > 1e-3
