"""Replay of Keras checkpoints: the steps of the run itself, the model as it was, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.saving import legacy_h5_format

import lca
from lca.errors import TrajectoryError
from lca_tensorflow import Objective, replay

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 5)).astype("float32"), RNG.integers(3, size=12)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def model_of(width=4):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(width, name="fc1"), keras.layers.BatchNormalization(name="norm")]
    return keras.Sequential([keras.Input((5,)), *layers, keras.layers.Dense(3, name="fc2")])


def trained(model, folder, save):
    """The points of three updates, each saved: θ and the moving mean."""
    objective = Objective(model, LOSS, (X, Y), batch_norm="frozen")
    model.compile("sgd", LOSS)
    points = []
    for step in range(4):
        points.append((objective.theta(), tf.identity(model.get_layer("norm").moving_mean.value)))
        save(model, folder / f"step-{step + 8}")  # 8, 9, 10, 11: their names are not in order
        model.train_on_batch(X, Y)
    return objective, points


def weights(model, path):
    model.save_weights(f"{path}.weights.h5")


def whole(model, path):
    model.save(f"{path}.keras")


@pytest.mark.parametrize("save", [weights, whole])
def test_the_steps_are_those_of_the_run(tmp_path, save):
    model = model_of()
    objective, points = trained(model, tmp_path, save)
    before = [v.numpy() for v in model.variables]
    steps = list(replay(tmp_path, {"train": objective}))
    assert [step.index for step in steps] == [0, 1, 2]
    for step in steps:
        for (theta, mean), found, state in zip(
            points[step.index :], (step.start, step.end), step.state, strict=False
        ):
            np.testing.assert_array_equal(found, theta)
            np.testing.assert_array_equal(state["norm.moving_mean"], mean)
    assert steps[0].end is steps[1].start
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_replay_is_allocated(tmp_path):
    objective, _ = trained(model_of(), tmp_path, weights)
    found = list(lca.allocate(objective, replay(tmp_path, objective), lca.Adaptive()))
    assert len(found) == 3
    assert all(a.converged and a.loss_change < 0 for a in found)


def test_state_that_did_not_move_is_one_object(tmp_path):
    model = model_of()
    objective, _ = trained(model, tmp_path, weights)
    for name in ("a1", "a2"):
        model.save_weights(tmp_path / f"{name}.weights.h5")
    [step] = replay([tmp_path / "a1.weights.h5", tmp_path / "a2.weights.h5"], objective)
    assert step.state[0] is step.state[1]


def test_checkpoints_of_another_model_are_refused_and_the_model_keeps_its_weights(tmp_path):
    trained(model_of(width=6), tmp_path, weights)
    model = model_of()
    objective = Objective(model, LOSS, (X, Y), batch_norm="frozen")
    before = objective.theta()
    with pytest.raises(
        TrajectoryError, match=r"step-8\.weights\.h5 is damaged, or a checkpoint of another model than"
    ):
        list(replay(tmp_path, objective))
    np.testing.assert_array_equal(objective.theta(), before)


def test_what_is_no_run_is_refused(tmp_path):
    objective = Objective(model_of(), LOSS, (X, Y), batch_norm="frozen")
    with pytest.raises(TrajectoryError, match=r"at least two checkpoints.* got 0 in .*of kind \.weights\.h5"):
        replay(tmp_path, objective)
    with pytest.raises(TrajectoryError, match="there is no folder"):
        replay(tmp_path / "none", objective)
    with pytest.raises(TrajectoryError, match=r"there is no checkpoint .*a\.keras"):
        replay([tmp_path / "a.keras", tmp_path / "b.keras"], objective)
    for name in ("1.keras", "2.keras"):
        (tmp_path / name).write_bytes(b"\x80\x04K\x01.")  # pickles
    with pytest.raises(TrajectoryError, match=r"1\.keras is damaged"):
        list(replay(tmp_path, objective))


def test_a_checkpoint_of_another_model_is_said_in_a_few_words(tmp_path):
    for step in range(2):
        other = keras.Sequential([keras.Input((6,)), keras.layers.Dense(300), keras.layers.Dense(3)])
        other.save_weights(tmp_path / f"{step}.weights.h5")
    objective = Objective(model_of(), LOSS, (X, Y), batch_norm="frozen")
    with pytest.raises(TrajectoryError, match=r"0\.weights\.h5 is .*another model") as caught:
        list(replay(tmp_path, objective))
    assert len(str(caught.value)) < 300 + 200 + len(str(tmp_path))


def test_legacy_files_named_by_epoch_and_loss_are_a_run_in_epochs(tmp_path):
    model = model_of()
    objective = Objective(model, LOSS, (X, Y), batch_norm="frozen")
    model.compile("sgd", LOSS)
    points = []
    for epoch, loss in ((1, 0.93), (2, 0.7), (10, 0.71)):
        points.append((objective.theta(), tf.identity(model.get_layer("norm").moving_mean.value)))
        legacy_h5_format.save_model_to_hdf5(model, tmp_path / f"m-{epoch}-{loss}.h5")
        model.train_on_batch(X, Y)
    steps = list(replay(tmp_path, objective))
    assert [step.checkpoints for step in steps] == [(1, 2), (2, 10)]
    for step, (theta, mean) in zip(steps, points, strict=False):
        np.testing.assert_array_equal(step.start, theta)
        np.testing.assert_array_equal(step.state[0]["norm.moving_mean"], mean)


def test_what_model_checkpoint_writes_is_recorded_in_epochs(tmp_path):
    model = model_of()
    model.compile("sgd", LOSS)
    objective = Objective(model, LOSS, (X, Y), batch_norm="frozen")
    save = keras.callbacks.ModelCheckpoint(str(tmp_path / "m-{epoch:02d}-{val_loss:.2f}.keras"))
    model.fit(X, Y, epochs=3, verbose=0, validation_data=(X, Y), callbacks=[save])
    lca.measure(objective, replay(tmp_path, objective), record=tmp_path / "run.zarr")
    record = lca.open_record(tmp_path / "run.zarr")
    assert (record.step.values.tolist(), record.step_end.values.tolist()) == ([1, 2], [2, 3])
