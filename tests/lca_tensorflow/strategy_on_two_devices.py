"""Under `tf.distribute.MirroredStrategy` the parameters are measured; what differs by replica is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lca
from lca import tolerances
from lca.errors import LCAError
from lca_tensorflow import LCACallback, Objective, Tracker

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 5)).astype("float32"), RNG.integers(3, size=20)


@pytest.fixture(scope="module")
def strategy():
    """Two replicas on one CPU; `test_strategy` runs this file in a process of its own."""
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def model_of(strategy, *, norm=False, **options):
    keras.utils.set_random_seed(3)
    norms = [keras.layers.BatchNormalization(**options)] if norm else []
    with strategy.scope():
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4), *norms, keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def fit(model, *callbacks):
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=list(callbacks))
    return [np.asarray(tf.convert_to_tensor(v)) for v in (*model.variables, *model.optimizer.variables)]


def test_fit_is_measured_and_training_is_the_same(strategy, tmp_path):
    callback = LCACallback(X, Y, record=tmp_path / "run", on_error="raise")
    model = model_of(strategy)
    for ours, theirs in zip(fit(model, callback), fit(model_of(strategy)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    summary = callback.summary()["train"]
    booked = sum(summary[term] for term in ("lca_total", "state_change", "residual", "unmeasured_change"))
    change = summary["loss_end"] - summary["loss_start"]
    assert summary["steps"] == 6
    assert abs(change - booked) <= tolerances.summed(summary["mass"] + 2 * summary["loss_start"], 2.0**-23)
    evaluated = model.evaluate(X, Y, batch_size=20, verbose=0)
    assert abs(summary["loss_end"] - evaluated) <= tolerances.rebatched(evaluated, tolerances.EPS32)
    assert lca.open_record(tmp_path / "run").learning_rate.values.ravel() == pytest.approx([0.1] * 6)


def test_statistics_that_differ_by_replica_are_refused_with_two_ways(strategy):
    callback = LCACallback(X, Y, batch_norm="frozen", on_error="raise")
    with pytest.raises(LCAError, match=r"each replica .* batch_norm='batch', or .*synchronized=True"):
        fit(model_of(strategy, norm=True), callback)
    for options in ({"batch_norm": "batch", "batch_size": 20}, {"batch_norm": "frozen"}):
        synchronized = options["batch_norm"] == "frozen"
        callback = LCACallback(X, Y, on_error="raise", **options)
        fit(model_of(strategy, norm=True, synchronized=synchronized), callback)
        assert callback.summary()["train"]["steps"] == 6


def test_inside_the_scope_nothing_is_measured(strategy):
    model = model_of(strategy)
    with strategy.scope(), pytest.raises(LCAError, match="divides it by the number of replicas"):
        Objective(model, None, (X, Y))


def test_a_loop_of_the_strategy_is_measured_in_steps(strategy):
    model = model_of(strategy)
    tracker = Tracker(model, model.optimizer, Objective(model, None, (X, Y)), on_error="raise")

    @tf.function
    def train(x, y):
        def replica(x, y):
            with tf.GradientTape() as tape:
                loss = model.loss(y, model(x, training=True))
            model.optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)

        strategy.run(replica, (x, y))

    with tracker:
        for start in range(0, 20, 10):
            with tracker.step():
                train(X[start : start + 10], Y[start : start + 10])
    assert tracker.summary()["train"]["steps"] == 2


def test_another_strategy_is_refused(monkeypatch):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    monkeypatch.setattr(model, "_distribute_strategy", object())
    with pytest.raises(LCAError, match=r"among processes.*or under tf\.distribute\.MirroredStrategy"):
        Objective(model, keras.losses.SparseCategoricalCrossentropy(from_logits=True), (X, Y))
