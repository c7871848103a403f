"""`TensorFlowBackend`: what `lca demo --backend tensorflow` and the conformance kit run on."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

from lca.objective import Objective as AnyObjective
from lca.objective import Sum
from lca.reference._backend import Dtype
from lca.reference._data import Batch
from lca.reference._models import Network
from lca.reference._optimizers import Optimizer
from lca.reference._training import train
from lca.step import Step
from lca_keras._network import NetworkLoss, losses_of, model_of
from lca_tensorflow._objective import Objective
from lca_tensorflow._penalty import Penalty

Example = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


@dataclass(frozen=True)
class TensorFlowBackend:
    """TensorFlow as an `lca.reference.Backend`: Keras layers, updates of `lca.reference`.

    ``run_eagerly`` and ``jit_compile`` are those of `Objective`.

    Examples
    --------
    >>> from lca.reference import logistic_regression
    >>> from lca.reference import SGD
    >>> network, data = logistic_regression(2, 3), Batch(np.eye(2), np.array([0, 2]))
    >>> backend = TensorFlowBackend()
    >>> objective = backend.objective(network, data, "float32")
    >>> [step] = backend.train(objective, network.init(seed=0, dtype="float32"), SGD(0.1), [data])
    >>> step.end.dtype, objective.loss(step.end) < objective.loss(step.start)
    (tf.float32, True)
    """

    run_eagerly: bool = False
    jit_compile: bool = False
    name: ClassVar[str] = "tensorflow"

    def vector(self, theta: np.ndarray) -> tf.Tensor:
        return tf.constant(theta)

    def objective(
        self, network: Network, data: Batch, dtype: Dtype, *, penalty: float = 0.0, batch_size: int = 1000
    ) -> AnyObjective:
        network.check_batch(data)
        model, losses = model_of(network, dtype), losses_of(network)

        def weighted_mean(model: keras.Model, batch: Example) -> tf.Tensor:
            x, y, weight = batch
            return tf.reduce_sum(losses(y, model(x, training=False)) * weight) / tf.reduce_sum(weight)

        measured = Objective(
            model,
            None,
            _tensors(data),
            batch_loss=weighted_mean,
            batch_weight=lambda batch: tf.reduce_sum(tf.cast(batch[2], tf.float64)),
            batch_size=batch_size,
            batch_norm=network.batch_norm,
            run_eagerly=self.run_eagerly,
            jit_compile=self.jit_compile,
        )
        loss = NetworkLoss(network, measured, _tensors)
        if not penalty:
            return loss

        def ridge(tensors: Mapping[str, tf.Tensor]) -> tf.Tensor:
            free = [tensor for name, tensor in tensors.items() if name not in network.frozen]
            return 0.5 * penalty * tf.add_n([tf.reduce_sum(tf.square(tensor)) for tensor in free])

        return Sum({"data": loss, "penalty": Penalty(network.layout, ridge)})

    def train(
        self, objective: AnyObjective, theta: np.ndarray, optimizer: Optimizer, batches: Iterable[Batch]
    ) -> Iterator[Step]:
        return train(objective, self.vector(theta), optimizer, batches)


def _tensors(batch: Batch) -> Example:
    weight = np.ones(len(batch)) if batch.weight is None else batch.weight
    return tf.constant(batch.x), tf.constant(batch.y), tf.constant(weight)
