"""Weighted batches of the measured data, and the sample weights of its rows."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras.src.trainers.compile_utils import CompileLoss

from lca.errors import LCAError
from lca.frameworks import PyTree, examples_in
from lca.frameworks._tensors import is_tensor


class WeightedExamples(NamedTuple):
    """A batch whose ``sample_weight`` (n,) weighs its examples, whatever shape their losses have."""

    x: PyTree
    y: PyTree
    sample_weight: Any


def with_weights(rows: PyTree, weight: np.ndarray | None, dtype: str, *, averages_by_weight: bool) -> PyTree:
    """These rows as a batch whose loss is ``Σ_j v_j ℓ_j / Σ_j v_j`` for a ``weight`` v, else their mean.

    Where the loss of a batch is divided by its number n of examples, weights of the data are a factor of each
    example's loss, and v is scaled to add up to n. Where it is divided by the sum of the weights
    (``averages_by_weight``), v replaces the weights of the data. Those may be nested, as for several outputs.
    """
    x, y, own = keras.utils.unpack_x_y_sample_weight(rows)
    if weight is None and (own is None or not averages_by_weight):
        return rows
    factor = np.ones(examples_in(rows)) if weight is None else weight * (len(weight) / weight.sum())
    scaled = keras.ops.convert_to_tensor(factor, dtype)
    if own is None:
        return WeightedExamples(x, y, scaled)
    if averages_by_weight:
        weights_of(rows)  # one per example
        return x, y, keras.ops.reshape(scaled, own.shape)

    def times(leaf: Any) -> Any:
        return leaf * _with_rank(scaled, len(leaf.shape))

    return x, y, keras.tree.map_structure(times, own)


def weight_of_losses(batch: PyTree, loss_fn: Any, model: keras.Model, outputs: PyTree) -> PyTree:
    """The ``sample_weight`` of a batch; that of `WeightedExamples` in the shape of the losses of ``outputs``.

    Keras requires that shape where an example has several losses, as of a sequence (B, T). Outputs with
    losses of their own have weights of their own.
    """
    _, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
    if not isinstance(batch, WeightedExamples):
        return weight
    compiled = getattr(model, "_compile_loss", None) if loss_fn is None else None
    if compiled is not None:
        return _WeightsByOutput(compiled, weight).of(y, outputs)
    return _like_losses(weight, loss_fn, y, outputs) if isinstance(loss_fn, keras.losses.Loss) else weight


def without_reduction(loss: keras.losses.Loss) -> keras.losses.Loss:
    """The loss that returns all its values instead of their mean."""
    other: keras.losses.Loss = object.__new__(type(loss))  # copy.copy would lose the dtype of a loss
    vars(other).update(vars(loss), reduction=None)
    return other


def _like_losses(weight: Any, loss: keras.losses.Loss, y: Any, output: Any) -> Any:
    losses = without_reduction(loss)(y, keras.tree.map_structure(keras.ops.stop_gradient, output))
    if not losses.shape:  # of all examples together
        return weight
    ones = keras.ops.ones_like(losses, dtype=weight.dtype)  # Keras multiplies by masks in place
    return _with_rank(weight, len(losses.shape)) * ones


class _WeightsByOutput(CompileLoss):
    """A copy of a compiled loss that finds the weight of each output in place of its loss."""

    _flat_losses: list[Any]

    def __init__(self, compiled: CompileLoss, weight: Any) -> None:
        self.__dict__ |= vars(compiled)
        self._weight, self._found = weight, dict[tuple[Any, ...], Any]()
        if self.built:
            self._note()

    @property
    def metrics(self) -> list[None]:
        return [None] * len(self._flat_losses)

    def build(self, y: PyTree, outputs: PyTree) -> None:
        super().build(y, outputs)
        self._note()

    def of(self, y: PyTree, outputs: PyTree) -> PyTree:
        """One weight for an output that is no tree; else a tree of dictionaries, by the keys of Keras."""
        self.call(y, outputs)
        if set(self._found) <= {()}:
            return self._found.get((), self._weight)
        nested: dict[Any, Any] = {}
        for path, weight in self._found.items():
            place = nested
            for key in path[:-1]:
                place = place.setdefault(key, {})
            place[path[-1]] = weight
        return nested

    def _note(self) -> None:
        self._flat_losses = [part._replace(loss=self._noting(part)) for part in self._flat_losses]

    def _noting(self, part: Any) -> Callable[..., Any]:
        def of_output(y: Any, output: Any, sample_weight: None) -> Any:
            self._found[part.path] = _like_losses(self._weight, part.loss, y, output)
            return keras.ops.zeros([])

        return of_output


def _with_rank(weight: Any, rank: int) -> Any:
    return keras.ops.reshape(weight, [-1] + [1] * (rank - 1))


def weights_of(rows: PyTree) -> np.ndarray | None:
    """The sample weights (N,) of rows; ``None`` without them.

    Raises
    ------
    LCAError
        If there are several per example.
    """
    *_, weight = keras.utils.unpack_x_y_sample_weight(rows)
    if weight is None:
        return None
    if not is_tensor(weight) or math.prod(weight.shape) != examples_in(rows):
        raise LCAError(
            "single examples are drawn by one weight each, but sample_weight has several per example; give "
            "the measured data one weight per example, or none."
        )
    found: np.ndarray = keras.ops.convert_to_numpy(weight).reshape(-1)
    return found
