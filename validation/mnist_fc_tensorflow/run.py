"""Claim: in `model.fit`, the Keras callback reproduces the paper's MNIST-FC figures, and the sums add up.

The set-up of `validation.mnist_fc` with Adam 0.002. The first weights and the batches are those of the runs
in `validation/mnist_fc_torch`, seed for seed, so that both backends' figures can be compared.
"""

import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import keras
import numpy as np
import tensorflow as tf
import torch
from torch.utils.data import DataLoader
from tqdm.keras import TqdmCallback

from lca.reference import Batch
from lca.summary import RunViews
from lca_tensorflow import LCACallback, Objective
from validation.mnist_fc import ESTIMATORS, Run, figures, images, main
from validation.mnist_fc_torch.run import he_normal_mlp

FOLDER = Path(__file__).parent
OPTIMIZERS = {"adam": lambda: keras.optimizers.Adam(0.002, epsilon=1e-8)}  # torch's epsilon; Keras has 1e-7
BATCH = 250


class TorchBatches(keras.utils.PyDataset):
    """The first ``steps`` batches that a shuffling torch `DataLoader` would give from here on."""

    def __init__(self, data: Batch, steps: int) -> None:
        super().__init__()
        self._data = data
        self._rows = list(islice(self._epochs(), steps))

    def _epochs(self) -> Iterator[np.ndarray]:
        loader = DataLoader(range(len(self._data)), batch_size=BATCH, shuffle=True)
        while True:
            yield from (rows.numpy() for rows in loader)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        batch = self._data.take(self._rows[index])
        return batch.x, batch.y


def torch_weights_in_keras() -> keras.Sequential:
    """The network of `mnist_fc_torch` with the weights torch's generator makes now; kernels are (in, out)."""
    layers = [keras.layers.Dense(n, activation, name=name) for n, activation, name in _LAYERS]
    model = keras.Sequential([keras.Input((784,)), *layers])
    model.set_weights([parameter.detach().numpy().T for parameter in he_normal_mlp().parameters()])
    return model


_LAYERS = ((100, "relu", "fc1"), (50, "relu", "fc2"), (10, None, "fc3"))


def measure(optimizer_name: str, estimator_name: str, seed: int, steps: int) -> Run:
    """Train once with a callback; the figures of the run."""
    torch.manual_seed(seed)
    data, model = images(), torch_weights_in_keras()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(OPTIMIZERS[optimizer_name](), loss)
    objective = Objective(model, loss, (data.x, data.y), batch_size=1000)
    callback = LCACallback(objective, estimator=ESTIMATORS[estimator_name], on_error="raise")
    bar = TqdmCallback(verbose=2, mininterval=10)
    began = time.perf_counter()
    model.fit(TorchBatches(data, steps), shuffle=False, verbose=0, callbacks=[callback, bar])
    view = callback.views["train"]
    assert isinstance(view, RunViews)
    return {
        "optimizer": optimizer_name,
        "estimator": estimator_name,
        "seed": seed,
        **figures(view, began),
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
    }


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    torch.set_num_threads(1)
    main(__doc__, FOLDER, OPTIMIZERS, measure, {"torch backend: ": FOLDER.parent / "mnist_fc_torch"})
