"""Learning rates and metrics of Keras in the record, and what reading them costs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lca
from lca.tolerances import EPS32, summed
from lca_tensorflow import LCACallback
from lca_tensorflow._rates import LearningRates

X, Y = np.random.default_rng(0).normal(size=(12, 3)).astype("float32"), np.ones((12, 1), "float32")
SCHEDULES = keras.optimizers.schedules


class Counted(SCHEDULES.LearningRateSchedule):
    """Halves at every step, and takes numbers only."""

    calls = 0

    def __call__(self, step):
        self.calls += 1
        return 0.5 ** int(step)

    def get_config(self):
        return {}


class Compiled(Counted):
    """The number of the step."""

    def __call__(self, step):
        self.calls += 1
        return keras.ops.cast(step, "float32")


def fitted(optimizer, path, *callbacks):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", metrics=["mae"])
    model.fit(
        X, Y, epochs=2, batch_size=4, verbose=0,
        callbacks=[LCACallback(X, Y, record=path, on_error="raise"), *callbacks],
    )  # fmt: skip
    return lca.open_record(path)


def test_a_constant_rate_and_the_metrics_of_fit(tmp_path):
    run = fitted(keras.optimizers.SGD(0.1), tmp_path / "run.zarr")
    assert run.learning_rate.values[:, 0].tolist() == [0.1] * 6
    assert run.attrs["metrics"]["mae"]["step"] == [3, 6]
    assert set(run.attrs["metrics"]) == {"loss", "mae"}


def test_a_rate_that_a_callback_changes(tmp_path):
    change = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
    run = fitted(keras.optimizers.SGD(0.1), tmp_path / "run.zarr", change)
    assert run.learning_rate.values[:, 0].tolist() == [0.1] * 3 + [0.05] * 3


@pytest.mark.parametrize(
    "schedule",
    [
        SCHEDULES.ExponentialDecay(0.1, 2, 0.5),
        SCHEDULES.CosineDecay(0.1, 5),
        SCHEDULES.CosineDecay(0.0, 5, warmup_target=0.1, warmup_steps=2),
        SCHEDULES.PiecewiseConstantDecay([1, 3], [0.1, 0.01, 0.001]),
    ],
)
def test_the_rate_of_a_schedule_is_that_of_the_update(schedule, tmp_path):
    run = fitted(keras.optimizers.SGD(schedule), tmp_path / "run.zarr")
    expected = np.array([float(schedule(step)) for step in range(6)])
    assert (abs(run.learning_rate.values[:, 0] - expected) <= summed(0.1, EPS32)).all()


def test_a_schedule_is_run_for_many_steps_at_once_where_it_can_be():
    optimizer = keras.optimizers.SGD(schedule := Counted())
    rates, found = LearningRates([optimizer]), []
    for step in range(1, 4):
        optimizer.iterations.assign(step)
        found.append(rates()["0"])
    assert found == [1.0, 0.5, 0.25]  # one by one: it takes numbers only
    optimizer = keras.optimizers.SGD(schedule := Compiled())
    rates, found = LearningRates([optimizer]), []
    for step in range(1, 131):
        optimizer.iterations.assign(step)
        found.append(rates()["0"])
    assert found == [float(step) for step in range(130)]
    assert schedule.calls <= 3  # traced, not run


def test_the_schedules_of_many_runs_are_traced_without_a_warning(caplog):
    """TensorFlow warns of the fifth of nine calls of one function that trace it."""
    for _ in range(6):
        optimizer = keras.optimizers.SGD(Compiled())
        optimizer.iterations.assign(1)
        LearningRates([optimizer])()
    assert caplog.text == ""


def test_how_a_rate_is_read_follows_its_optimizer():
    optimizer = keras.optimizers.SGD(0.1)
    rates = LearningRates([optimizer])
    assert rates() == {"0": 0.1}
    optimizer.learning_rate = 0.05  # the same variable
    assert rates() == {"0": 0.05}
    optimizer.learning_rate = SCHEDULES.PiecewiseConstantDecay([0], [0.5, 0.25])
    optimizer.iterations.assign(1)
    assert rates() == {"0": 0.5}
    optimizer.learning_rate = SCHEDULES.PiecewiseConstantDecay([0], [2.0, 1.0])
    optimizer.iterations.assign(2)
    assert rates() == {"0": 1.0}


def test_a_rate_that_is_a_function_is_called():
    assert LearningRates([keras.optimizers.SGD(lambda: 0.25)])() == {"0": 0.25}


def test_a_variable_without_one_handle_is_read_as_keras_does(monkeypatch):
    def refused(**own):
        raise ValueError("`handle` is not available outside the replica context.")

    monkeypatch.setattr(tf.raw_ops, "ReadVariableOp", refused)  # as with the variables of a strategy
    optimizer = keras.optimizers.SGD(0.1)
    rates = LearningRates([optimizer])
    assert rates() == {"0": 0.1}
    optimizer.learning_rate = 0.5
    assert rates() == {"0": 0.5}


def test_a_rate_is_one_operation(monkeypatch):
    optimizer, calls = keras.optimizers.SGD(0.1), []
    rates, real = LearningRates([optimizer]), tf.raw_ops.ReadVariableOp
    monkeypatch.setattr(tf.raw_ops, "ReadVariableOp", lambda **own: calls.append(own) or real(**own))
    for _ in range(3):
        rates()
    assert len(calls) == 4  # one more to see that it can be read
