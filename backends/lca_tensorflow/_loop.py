"""`Loop`: the step fields of an eager training loop in Keras, whose gradients are passed on as lists."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lca.frameworks import PyTree, Rows, examples_in
from lca.tracking._context import LoopContext
from lca_tensorflow._optimizers import DryRun, check_unscaled, updates_without

Gradients = Sequence[Any]


class Loop(LoopContext):
    """Gradients come from `add`, one micro-batch after another, and as a whole from `apply`.

    The mark of a micro-batch is the list of its gradients.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        optimizer: Any,
        requested: Callable[[], Collection[str]],
    ) -> None:
        super().__init__(requested)
        self._variables, self._optimizer = variables, optimizer
        self._applied: tuple[Gradients, Sequence[keras.Variable]] | None = None
        self._adding = False

    def begin_batch(self, *batch: PyTree) -> None:
        if not self._adding:  # no gradient of the batch before was used
            self._batches = []
        super().begin_batch(*batch)

    def add(self, total: Gradients | None, gradients: Gradients) -> list[Any]:
        """As `lca_tensorflow.Tracker.add`."""
        if total is None:
            self._marks, self._batches = [], self._batches[-1:]
        self._adding = True
        if "micro_batches" in self._requested():
            self._marks.append((1.0 if self._weight is None else self._weight, gradients))
        if total is None:
            return list(gradients)
        return [_sum(a, b) for a, b in zip(total, gradients, strict=True)]

    def apply(self, gradients: Gradients, variables: Sequence[keras.Variable]) -> None:
        """The optimizer is about to apply these gradients to these variables."""
        self._applied = list(gradients), list(variables)

    def clear(self) -> None:
        super().clear()
        self._applied, self._adding = None, False

    def _count_examples(self, batch: PyTree) -> int:
        return int(examples_in(batch))

    def _rows(self, batch: PyTree, start: int, stop: int) -> PyTree:
        return Rows(batch).take(slice(start, stop))

    def _joined(self, batches: Sequence[PyTree]) -> PyTree:
        return tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *batches)

    def _label_errors(self, logits: tf.Tensor, labels: Any) -> tf.Tensor:
        return 1 - tf.gather(tf.nn.softmax(logits), tf.reshape(labels, [-1]), axis=1, batch_dims=1)

    def _to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def _gradient(self) -> tf.Tensor | None:
        if self._applied is None:
            return None
        check_unscaled(self._optimizer)
        return self._flat(self._applied[0])

    def _gradient_sums(self) -> tuple[tf.Tensor, list[tf.Tensor]]:
        vectors = [self._flat(gradients) for _, gradients in self._marks]
        return tf.add_n(vectors), vectors

    def _updates_without(self, gradients: Sequence[tf.Tensor], weights: Sequence[float]) -> list[tf.Tensor]:
        assert self._applied is not None
        applied, trained = self._applied
        dry_run = DryRun(self._optimizer, trained, self._variables)
        return updates_without(dry_run, gradients, weights, [gradient is not None for gradient in applied])

    def _flat(self, gradients: Gradients) -> tf.Tensor:
        """The gradients as a vector (K,) in the order of θ; 0 for a variable without gradient."""
        assert self._applied is not None
        by_variable = {id(v): g for g, v in zip(gradients, self._applied[1], strict=True)}
        found = [by_variable.get(id(variable)) for variable in self._variables]
        pieces = [
            tf.zeros(v.shape, v.dtype) if grad is None else tf.convert_to_tensor(grad)
            for grad, v in zip(found, self._variables, strict=True)
        ]
        return tf.concat([tf.reshape(piece, [-1]) for piece in pieces], 0)


def _sum(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return tf.convert_to_tensor(a) + tf.convert_to_tensor(b)  # those of embeddings are tf.IndexedSlices
