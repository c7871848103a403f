"""Learning rates and metrics of Keras in the record, and what reading them costs."""

import keras
import numpy as np
import pytest

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
