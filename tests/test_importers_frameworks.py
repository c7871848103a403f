"""A run of Keras in one HDF5 file, measured by NumPy, torch and Keras in one call: with its own losses."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn

import lca
import lca_tensorflow
import lca_torch
from lca.errors import LayoutError, LCAWarning
from lca.importers import replay_hdf5
from lca.reference import DatasetLoss, small_cnn
from lca.tolerances import EPS32, summed

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.normal(size=(20, 8, 12, 2)).astype("float32"), RNG.integers(3, size=20)  # channels last
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def keras_model():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    conv = {"padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((8, 12, 2)),
            layers.Conv2D(3, 3, name="conv1", **conv), layers.MaxPooling2D(),
            layers.Conv2D(5, 3, name="conv2", **conv), layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(4, name="fc1", activation="relu"), layers.Dense(3, name="fc2"),
        ]
    )  # fmt: skip


class TorchModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(30, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The file, with big-endian numbers, and the losses that Keras computed at its points."""
    path, model, losses, points = tmp_path_factory.mktemp("run") / "run.h5", keras_model(), [], []
    model.compile(keras.optimizers.SGD(0.3), LOSS)
    for _ in range(4):
        losses.append(float(LOSS(LABELS, model(IMAGES))))
        points.append(np.concatenate([variable.numpy().ravel() for variable in model.trainable_variables]))
        model.train_on_batch(IMAGES, LABELS)
    with h5py.File(path, "w") as file:
        held = file.create_dataset("all_weights", data=np.array(points, ">f4"))
        held.attrs["var_names"] = [f"{v.path}:0" for v in model.trainable_variables]
        held.attrs["var_shapes"] = [str(tuple(v.shape)) for v in model.trainable_variables]
    assert losses[-1] < losses[0] - 0.1
    return path, losses


def numpy_objective():
    images = IMAGES.transpose(0, 3, 1, 2).astype(np.float64)
    return DatasetLoss(small_cnn((2, 8, 12), 3, channels=(3, 5), hidden=(4,)), images, LABELS)


def torch_objective(dtype=torch.float32):
    data = torch.tensor(IMAGES.transpose(0, 3, 1, 2)).to(dtype), torch.tensor(LABELS)
    return lca_torch.Objective(TorchModel().to(dtype), nn.functional.cross_entropy, data)


def keras_objective():
    return lca_tensorflow.Objective(keras_model(), LOSS, (IMAGES, LABELS))


@pytest.mark.parametrize(
    ("make", "options", "dtype"),
    [
        (numpy_objective, {"reorder_flattened": True}, np.float64),
        (torch_objective, {"reorder_flattened": True}, torch.float32),
        (lambda: torch_objective(torch.float64), {"reorder_flattened": True}, torch.float64),
        (keras_objective, {}, tf.float32),
    ],
    ids=["numpy", "torch", "torch in float64", "keras"],
)
def test_a_run_is_measured_in_one_call(run, make, options, dtype):
    path, losses = run
    objective = make()
    steps = replay_hdf5(path, objective, **options)
    assert next(iter(steps)).start.dtype == dtype
    found = list(lca.allocate(objective, steps, lca.PathIntegral(lca.SIMPSON)))
    assert [a.step for a in found] == [0, 1, 2]
    for a, before, after in zip(found, losses, losses[1:], strict=False):
        tolerance = summed(a.mass + before, EPS32)
        assert abs(a.loss_start - before) <= tolerance
        assert abs(a.loss_end - after) <= tolerance


def test_flattened_images_are_asked_about(run):
    with pytest.raises(LayoutError, match=r"run\.h5: fc1\.weight follows a convolution.*reorder_flattened"):
        replay_hdf5(run[0], torch_objective())


def test_several_losses_are_replayed_together(run):
    losses = {"train": torch_objective(), "half": lca.Scaled(torch_objective(), 0.5)}
    steps = replay_hdf5(run[0], losses, reorder_flattened=True, rows=2)
    [found] = lca.allocate_each(losses, steps, lca.PathIntegral(lca.SIMPSON))
    torch.testing.assert_close(found["half"].values, found["train"].values / 2)


def test_a_state_that_is_not_in_the_file_is_warned_of(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    objective = lca_torch.Objective(
        model, nn.functional.cross_entropy, (torch.eye(3), torch.tensor([0, 1, 1])),
        batch_norm="frozen", batch_size=3,
    )  # fmt: skip
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file["all_weights"] = RNG.normal(size=(2, 12))
        file.attrs["var_names"] = ["0.weight", "0.bias", "1.weight", "1.bias"]
        file.attrs["var_shapes"] = ["(2, 3)", "(2,)", "(2,)", "(2,)"]
    with pytest.warns(LCAWarning, match=r"also depends on 1\.running_mean, 1\.running_var, and .*no state"):
        replay_hdf5(tmp_path / "run.h5", objective)
