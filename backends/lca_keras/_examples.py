"""Weighted batches of the measured data, and the sample weights of its rows."""

import math
from typing import Any

import keras
import numpy as np

from lca.errors import LCAError
from lca.frameworks import PyTree, examples_in
from lca.frameworks._tensors import is_tensor


def with_weights(rows: PyTree, weight: np.ndarray | None, dtype: str, *, averages_by_weight: bool) -> PyTree:
    """These rows as a batch whose loss is ``Σ_j v_j ℓ_j / Σ_j v_j`` for a ``weight`` v, else their mean.

    Where the loss of a batch is divided by its number n of examples, weights of the data are a factor of each
    example's loss, and v is scaled to add up to n. Where it is divided by the sum of the weights
    (``averages_by_weight``), v replaces the weights of the data. Those may be nested, as for several outputs.
    """
    x, y, own = keras.utils.unpack_x_y_sample_weight(rows)
    if weight is None:
        return (x, y) if averages_by_weight else rows
    scaled = keras.ops.convert_to_tensor(weight * (len(weight) / weight.sum()), dtype)
    if own is None or averages_by_weight:
        return x, y, scaled

    def times(leaf: Any) -> Any:
        return leaf * keras.ops.reshape(scaled, [-1] + [1] * (len(leaf.shape) - 1))

    return x, y, keras.tree.map_structure(times, own)


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
