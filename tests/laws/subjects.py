"""What the laws of objectives need from each framework: models, objectives and how to read numbers."""

from contextlib import nullcontext

import keras
import numpy as np
import tensorflow as tf
import torch
from torch.nn.functional import cross_entropy

import lca_tensorflow
import lca_torch
from lca_keras._network import model_of, positions
from lca_torch._network import module_of
from tests.laws.objectives import CLASS_WEIGHTS
from tests.laws.plain import ClassWeights, PlainModel, PlainObjective
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
        "class weights": ClassWeights(CLASS_WEIGHTS),
        "at least 20": lambda losses: np.maximum(np.mean(losses), 20.0),
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

    @staticmethod
    def class_weight(batch):
        """The sum of the weights of the classes of a batch (x, y)."""
        return np.asarray(CLASS_WEIGHTS)[np.asarray(batch[1])].sum()

    @staticmethod
    def finite_rows(batch):
        return float(np.isfinite(np.asarray(batch[0])).all(1).sum())


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
        "class weights": torch.nn.CrossEntropyLoss(weight=torch.tensor(CLASS_WEIGHTS).double()),
        "contrastive": lambda out, y: cross_entropy(out @ out.T, torch.arange(len(y))),
        "at least 20": lambda out, y: cross_entropy(out, y).clamp(min=20.0),
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
        weights = tf.constant(CLASS_WEIGHTS, tf.float64)
        by_class = lambda y, out, w: mean(y, out, sample_weight=w) / tf.reduce_mean(w)  # noqa: E731
        return {
            "mean": mean,
            "sum": keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"),
            "each": keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none"),
            "number": lambda y, out: 1.0,
            "mean only": lambda y, out: 1.0 * mean(y, out),
            "ignores weights": lambda y, out, sample_weight=None: mean(y, out),
            "detached": lambda y, out: tf.stop_gradient(mean(y, out)),
            "class weights": lambda y, out: by_class(y, out, tf.gather(weights, y)),
            "contrastive": lambda y, out: mean(tf.range(tf.shape(y)[0]), out @ tf.transpose(out)),
            "at least 20": lambda y, out: tf.maximum(mean(y, out), tf.constant(20.0, out.dtype)),
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
    def class_weight(batch):
        return tf.reduce_sum(tf.gather(tf.constant(CLASS_WEIGHTS, tf.float64), batch[1]))

    @staticmethod
    def finite_rows(batch):
        return tf.reduce_sum(tf.cast(tf.reduce_all(tf.math.is_finite(batch[0]), 1), tf.float64))

    @staticmethod
    def visible(model):
        found = {f"{i} {v.path}": v.numpy() for i, v in enumerate(model.variables)}
        return found | {"generator": tf.random.get_global_generator().state.numpy()}


SUBJECTS = (Plain(), Torch(), TensorFlow())
