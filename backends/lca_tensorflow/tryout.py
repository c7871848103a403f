"""What is tried out when an `Objective` is made, so that what does not fit is said then and not in training.

How large measuring batches are, whether the model takes them, whether their losses are means, and whether
there is NaN in the data.
"""

import math
import time

import numpy as np
import tensorflow as tf

from lca.errors import DataError, LCAError
from lca_tensorflow.data import PyTree, Rows
from lca_tensorflow.model_loss import ModelLoss

SMALLEST_BATCH = 64
"""Where the search for a measuring batch size begins."""
SAME = 1e-3
"""Relative; far above the rounding of any dtype, far below what one more copy of a batch does to a sum."""


def choose_batch_size(
    loss: ModelLoss, theta: tf.Tensor, rows: Rows, wanted: int | None, suggested: int | None
) -> int:
    """As wanted, else as the data came, else the fastest.

    Raises
    ------
    DataError
        If it is no size, or none is wanted and the loss depends on it.
    """
    if wanted is not None and (not isinstance(wanted, int) or wanted < 1):
        raise DataError(f"batch_size must be a positive integer, got {wanted!r}.")
    if wanted is None and suggested is None and loss.mixes_examples:
        raise DataError(
            "the loss depends on the measuring batches (batch statistics), so their size has to be stated: "
            "pass batch_size=..., e.g. that of training, or batch_norm='frozen'."
        )
    return wanted or suggested or _fastest_batch_size(loss, theta, rows)


def _fastest_batch_size(loss: ModelLoss, theta: tf.Tensor, rows: Rows) -> int:
    """Double the batch while a gradient gets faster by 5 % an example and fits into memory.

    One doubling may fail to: on a busy machine a single time means little.
    """
    best, size, fastest, failed = SMALLEST_BATCH, SMALLEST_BATCH, float("inf"), 0
    while failed < 2 and size < 2 * len(rows) and len(rows) > SMALLEST_BATCH:
        try:
            seconds = _seconds(loss, theta, rows.take(0, size)) / min(size, len(rows))
        except tf.errors.ResourceExhaustedError:
            break
        if seconds < 0.95 * fastest:
            best, fastest, failed = size, seconds, 0
        else:
            failed += 1
        size *= 2
    return best


def _seconds(loss: ModelLoss, theta: tf.Tensor, batch: PyTree) -> float:
    """The best of three gradients, after one that does not count."""
    seconds = []
    loss.try_out(theta, batch)
    loss.evaluate(theta, [batch], gradient=True)
    for _ in range(3):
        began = time.perf_counter()
        loss.evaluate(theta, [batch], gradient=True)  # returns a float, so it waits for the device
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def try_out(loss: ModelLoss, theta: tf.Tensor, rows: Rows, batch_size: int) -> list[str]:
    """Everything checked on the first measuring batch; the trainable parameters that get no gradient from it.

    Raises
    ------
    LCAError
        If a loss is no differentiable scalar, or the sum over a batch instead of its mean.
    DataError
        If the model cannot take a batch, or NaN or Inf in the data reach the loss.
    """
    batch = rows.take(0, batch_size)
    unused = loss.try_out(theta, batch)
    _refuse_sums(loss, theta, Rows(batch))
    _refuse_non_finite(loss, theta, rows, batch_size)
    return unused


def _refuse_sums(loss: ModelLoss, theta: tf.Tensor, rows: Rows) -> None:
    """The mean over a batch that is repeated is what it was, also with batch statistics; a sum grows with it.

    Three copies besides two, because a loss can double by accident: log n for n = 2, as in contrastive ones.
    """
    few = Rows(rows.take(0, max(len(rows) // 3, min(len(rows), 2))))
    try:
        once, *grown = (loss.evaluate(theta, [few.copies(n)], gradient=False)[0] for n in (1, 2, 3))
    except LCAError:
        raise
    except (tf.errors.InvalidArgumentError, ValueError):
        return  # a model for batches of one size only
    if all(abs(found - n * once) < SAME * abs(once) for n, found in zip((2, 3), grown, strict=True)):
        raise LCAError(
            f"the loss of {len(few)} examples is {once:.6g}, but {grown[0]:.6g} with each of them twice and "
            f"{grown[1]:.6g} with each three times, so it is their sum, not their mean; use "
            "reduction='sum_over_batch_size'."
        )


def _refuse_non_finite(loss: ModelLoss, theta: tf.Tensor, rows: Rows, batch_size: int) -> None:
    """Name what makes the loss NaN or Inf; where the model copes with it (masks), that is its business."""
    for tensor in tf.nest.flatten(rows.tree):
        bad = rows_not_finite(tensor)
        if not len(bad):
            continue
        start = int(bad[0]) // batch_size * batch_size
        found, grad = loss.evaluate(theta, [rows.take(start, start + batch_size)], gradient=True)
        if math.isfinite(found) and bool(tf.reduce_all(tf.math.is_finite(grad))):
            continue
        raise DataError(
            f"row {bad[0]} of the measured data holds NaN or Inf, and so does the loss of its batch or the "
            "gradient; leave such examples out, or mask them in the loss."
        )


def rows_not_finite(tensor: tf.Tensor) -> np.ndarray:
    """The rows that hold NaN or Inf.

    >>> rows_not_finite(tf.constant([[0.0, 1.0], [float("nan"), 2.0]]))
    array([1])
    """
    if not tensor.dtype.is_floating:
        return np.empty(0, int)
    finite = tf.reduce_all(tf.math.is_finite(tensor), list(range(1, tensor.shape.rank)))
    return np.flatnonzero(~finite.numpy())
