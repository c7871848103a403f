"""What the laws of objectives need from Keras, on any engine; see `tests.laws.subjects`."""

import keras
import numpy as np
from keras import ops

import lca_keras
from lca_keras._network import model_of, positions
from tests.laws.objectives import CLASS_WEIGHTS
from tests.lca_tensorflow.networks import floats
from tests.nightly import NIGHTLY


def shared(laws):
    """The laws to check on this engine, as the engines share the code; at night, all.

    On PyTorch every second one, and on JAX, which compiles for minutes, every third of the others.
    """
    laws = list(laws)
    if NIGHTLY:
        return laws
    return laws[1::6] if keras.backend.backend() == "jax" else laws[::2]


class Keras:
    """`lca_keras`; its θ has channels last, so numbers are in another order."""

    name = "keras"
    objective = lca_keras.Objective
    penalty = None  # regularizers, or a loss of model and batch
    context = staticmethod(lambda: floats("float64"))

    @property
    def LOSSES(self):  # noqa: N802 - losses take the dtype of the context
        mean = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        weights = np.array(CLASS_WEIGHTS)
        by_class = lambda y, out, w: mean(y, out, sample_weight=w) / ops.mean(w)  # noqa: E731
        return {
            "mean": mean,
            "sum": keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"),
            "each": keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none"),
            "number": lambda y, out: 1.0,
            "mean only": lambda y, out: 1.0 * mean(y, out),
            "ignores weights": lambda y, out, sample_weight=None: mean(y, out),
            "detached": lambda y, out: ops.stop_gradient(mean(y, out)),
            "class weights": lambda y, out: by_class(y, out, ops.take(weights, y)),
            "contrastive": lambda y, out: mean(ops.arange(len(y)), out @ ops.transpose(out)),
            "at least 20": lambda y, out: ops.maximum(mean(y, out), 20.0),
        }

    @staticmethod
    def model(network):
        keras.utils.set_random_seed(0)
        return model_of(network, "float64")

    @staticmethod
    def tensors(tree):
        return tuple(ops.convert_to_tensor(array) for array in tree)

    @staticmethod
    def vector(network, theta):
        return ops.convert_to_tensor(np.asarray(theta)[positions(network)])

    @staticmethod
    def numbers(network, vector):
        found = np.zeros(network.layout.size)
        np.add.at(found, positions(network), np.asarray(vector))
        return found

    @staticmethod
    def class_weight(batch):
        return float(np.array(CLASS_WEIGHTS)[np.asarray(batch[1])].sum())

    @staticmethod
    def finite_rows(batch):
        return float(np.isfinite(np.asarray(batch[0])).all(1).sum())

    @staticmethod
    def visible(model):
        found = {f"{i} {v.path}": ops.convert_to_numpy(v) for i, v in enumerate(model.variables)}
        return found | generators()


def generators():
    """The states of the global generators."""
    found = {"numpy": np.random.get_state()[1]}  # noqa: NPY002
    if keras.backend.backend() == "torch":
        import torch  # noqa: PLC0415

        found["torch"] = torch.get_rng_state().numpy()
    return found
