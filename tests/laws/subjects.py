"""What the laws of objectives need from each framework: models, objectives and how to read numbers."""

from contextlib import nullcontext

import keras
import numpy as np
import tensorflow as tf
import torch
from torch.nn.functional import cross_entropy

import lca_tensorflow
import lca_torch
from lca_tensorflow._network import model_of, positions
from lca_torch._network import module_of
from tests.laws.plain import PlainModel, PlainObjective
from tests.lca_tensorflow.networks import floats


class Plain:
    """NumPy, by `lca.frameworks.BatchwiseLoss`."""

    name = "plain"
    objective = PlainObjective
    LOSSES = {
        "mean": None,
        "sum": np.sum,
        "each": lambda losses: losses,
        "number": lambda losses: 1.0,
        "mean only": lambda losses: 1.0 * np.mean(losses),
    }
    penalty = None
    context = staticmethod(nullcontext)

    @staticmethod
    def model(network):
        return PlainModel(network)

    @staticmethod
    def tensors(tree):
        return tree

    @staticmethod
    def vector(network, theta):
        return np.array(theta)

    @staticmethod
    def numbers(network, vector):
        return np.asarray(vector)

    @staticmethod
    def visible(model):
        return {"theta": model.theta}


class Torch(Plain):
    """`lca_torch`."""

    name = "torch"
    objective = lca_torch.Objective
    LOSSES = {
        "mean": cross_entropy,
        "sum": lambda out, y: cross_entropy(out, y, reduction="sum"),
        "each": lambda out, y: cross_entropy(out, y, reduction="none"),
        "number": lambda out, y: cross_entropy(out, y).item(),
        "mean only": lambda out, y: 1.0 * cross_entropy(out, y),
        "ignores weights": lambda out, y, reduction="mean": (
            cross_entropy(out, y) * (1.0 if reduction == "mean" else torch.ones(len(y)))
        ),
        "detached": lambda out, y: cross_entropy(out, y).detach(),
    }

    @staticmethod
    def model(network):
        torch.manual_seed(0)
        return module_of(network).double()

    @staticmethod
    def tensors(tree):
        return tuple(torch.tensor(array) for array in tree)

    @staticmethod
    def vector(network, theta):
        return torch.tensor(theta)

    @staticmethod
    def numbers(network, vector):
        return vector.numpy()

    @staticmethod
    def penalty(model, c):
        ridge = lambda tensors: 0.5 * c * sum(t.square().sum() for t in tensors.values())  # noqa: E731
        return lca_torch.Penalty(model, ridge)

    @staticmethod
    def visible(model):
        found = {name: value.numpy() for name, value in model.state_dict().items()}
        found |= {f"grad {n}": p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
        found["training"] = np.array([module.training for module in model.modules()])
        return found | {"generator": torch.get_rng_state().numpy()}


class TensorFlow(Plain):
    """`lca_tensorflow`; its θ has channels last, so numbers are in another order."""

    name = "tensorflow"
    objective = lca_tensorflow.Objective
    context = staticmethod(lambda: floats("float64"))

    @property
    def LOSSES(self):  # noqa: N802 - losses take the dtype of the context
        mean = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {
            "mean": mean,
            "sum": keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"),
            "each": keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none"),
            "number": lambda y, out: 1.0,
            "mean only": lambda y, out: 1.0 * mean(y, out),
            "ignores weights": lambda y, out, sample_weight=None: mean(y, out),
            "detached": lambda y, out: tf.stop_gradient(mean(y, out)),
        }

    @staticmethod
    def model(network):
        keras.utils.set_random_seed(0)
        return model_of(network, "float64")

    @staticmethod
    def tensors(tree):
        return tuple(tf.constant(array) for array in tree)

    @staticmethod
    def vector(network, theta):
        return tf.constant(np.asarray(theta)[positions(network)])

    @staticmethod
    def numbers(network, vector):
        found = np.zeros(network.layout.size)
        np.add.at(found, positions(network), np.asarray(vector))
        return found

    @staticmethod
    def penalty(model, c):
        ridge = lambda tensors: 0.5 * c * tf.add_n([tf.reduce_sum(t * t) for t in tensors.values()])  # noqa: E731
        return lca_tensorflow.Penalty(model, ridge)

    @staticmethod
    def visible(model):
        found = {f"{i} {v.path}": v.numpy() for i, v in enumerate(model.variables)}
        return found | {"generator": tf.random.get_global_generator().state.numpy()}


SUBJECTS = (Plain(), Torch(), TensorFlow())
