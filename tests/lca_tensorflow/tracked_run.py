"""An eager training loop in Keras, for the laws of trackers (`tests.laws.trackers`)."""

from functools import cached_property

import keras
import numpy as np
import tensorflow as tf

from lca_keras._network import model_of, positions
from lca_tensorflow import Objective, Tracker
from tests.laws.runs import NETWORK, OPTIMIZERS, THETA, Untracked, X, Y

POSITIONS = positions(NETWORK)  # in the network's θ, of every number in that of the Keras model
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
SGD = OPTIMIZERS["momentum"]
MAKE = {
    "momentum": lambda: keras.optimizers.SGD(SGD.lr, momentum=SGD.momentum),
    "adam": lambda: keras.optimizers.Adam(OPTIMIZERS["adam"].lr),
}


class TensorFlowFramework:
    """See `tests.laws.runs.ModelFramework`."""

    Tracker = Tracker
    optimizers = ("momentum",)  # Keras' Adam has its ε elsewhere
    loss = LOSS
    advice = {
        "batch": r"loop over tracker\.batches\(dataset\)",
        "micro_batches": r"add up their gradients with tracker\.add",
        "scores": r"call tracker\.scores\(index, outputs, labels\) at every step, or give .* refresh=n",
    }

    def run(self, estimator=None, **options):
        return TensorFlowRun(self, estimator, **options)

    def untracked(self, **options):
        return TensorFlowRun(self, tracked=False, **options)

    def model(self):
        model = model_of(NETWORK, "float64")
        sizes = np.cumsum([int(np.prod(v.shape)) for v in model.trainable_weights])[:-1]
        pieces = np.split(THETA[POSITIONS], sizes)
        for variable, piece in zip(model.trainable_weights, pieces, strict=True):
            variable.assign(piece.reshape(variable.shape))
        return model

    def other_model(self):
        layers = [keras.layers.Dense(8, dtype="float64"), keras.layers.Dense(3, dtype="float64")]
        return keras.Sequential([keras.Input((6,), dtype="float64"), *layers])

    def optimizer(self, model):
        optimizer = MAKE["momentum"]()
        optimizer.build(model.trainable_weights)
        return optimizer

    def objective_of(self, model):
        return Objective(model, LOSS, (X, Y), batch_size=60)

    def array(self, array):
        return tf.constant(array)


class TensorFlowRun:
    """See `tests.laws.runs.ModelRun`."""

    def __init__(self, framework, estimator=None, *, optimizer="momentum", tracked=True, **options):
        self._framework, self.model, self.optimizer = framework, framework.model(), MAKE[optimizer]()
        self.tracker = self.tracker_of(self.objective, estimator, **options) if tracked else None

    @cached_property
    def objective(self):
        """Made when it is asked for, because that takes longer than a run without a tracker."""
        return self._framework.objective_of(self.model)

    def tracker_of(self, objective, estimator=None, **options):
        return Tracker(self.model, self.optimizer, objective, estimator, **options)

    def data(self, batch):
        return tf.constant(X[batch]), tf.constant(Y[batch])

    def update(self, *batches, pieces=1, known=True, scores=False, clip=""):
        total = self._gradients(batches, pieces, known, scores)
        if clip == "norm":
            total, _ = tf.clip_by_global_norm(total, 0.01)
        if clip == "value":
            total = [tf.clip_by_value(gradient, -0.01, 0.01) for gradient in total]
        self.apply(total)

    def apply(self, gradients):
        self.optimizer.apply(gradients, self.model.trainable_weights)

    def _gradients(self, batches, pieces, known, scores):
        tracker, total = self.tracker or Untracked(), None
        told = tracker.batches if known else list
        for batch, data in zip(batches, told(map(self.data, batches)), strict=True):
            start = 0
            for (x, y), weight in tracker.micro_batches(data, pieces) if pieces > 1 else [(data, 1.0)]:
                if scores:
                    tracker.scores(batch[start : start + len(x)], self.model(x), y)
                start += len(x)
                total = self._added(total, self.gradient((x, y), weight / len(batches)))
        return total

    def gradient(self, data, weight=1.0):
        x, y = data
        with tf.GradientTape() as tape:
            loss = weight * LOSS(y, self.model(x, training=True))
        return tape.gradient(loss, self.model.trainable_weights)

    def _added(self, total, gradients):
        if self.tracker is not None:
            return self.tracker.add(total, gradients)
        return gradients if total is None else [a + b for a, b in zip(total, gradients, strict=True)]

    def give_up(self, batch, *, gradients):
        if gradients:
            self._gradients([batch], 2, True, False)
        else:
            for _ in self.tracker.batches([self.data(batch)]):
                pass

    def displace(self, value):
        kernel = self.model.trainable_weights[0]
        moved = kernel.numpy()
        moved.reshape(-1)[0] += value
        kernel.assign(moved)

    def fail(self):
        first, *rest = self._gradients([range(12)], 1, True, False)
        self.apply([first + np.where(np.arange(first.shape[1]) == 0, np.nan, 0.0), *rest])

    def theta(self):
        return self.objective.theta()

    def numpy(self, vector):
        found = np.empty(len(POSITIONS))
        found[POSITIONS] = vector.numpy()
        return found

    def examples(self, batch):
        x, y = batch
        return x.numpy(), y.numpy()

    def left(self):
        return [v.numpy() for v in (*self.model.variables, *self.optimizer.variables)]
