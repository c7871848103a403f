"""Tests of a loss when an objective is made, so that errors are raised then and not during training."""

import math

import numpy as np

from lca.arrays import Vector, array_ops
from lca.errors import DataError, LCAError
from lca.frameworks._data import Batches, Measured, Rows, copies
from lca.frameworks._loss import ModelLoss
from lca.frameworks._tensors import Tensor, is_tensor, tensor_ops
from lca.frameworks._trees import PyTree, is_rows, tree_leaves

DEFAULT_BATCH_SIZE = 1000
"""Examples in a measuring batch if neither the user nor the data say; all examples if there are fewer."""
SAME = 1e-3
"""Relative; far above the rounding of any dtype, far below what one more copy of a batch does to a sum."""


def choose_batch_size(data: Measured, wanted: int | None, *, mixes_examples: bool) -> int | None:
    """``wanted``, else the size of the batches that the data came in, else ``min(N, DEFAULT_BATCH_SIZE)``.

    ``None`` if the batches are measured as they come.

    Raises
    ------
    DataError
        If ``wanted`` is not a size, the batches cannot be cut, or the loss depends on the size and there is
        none.

    Examples
    --------
    >>> choose_batch_size(Rows(np.zeros(7)), None, mixes_examples=False)
    7
    """
    if wanted is not None and (not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1):
        raise DataError(f"batch_size must be a positive integer, got {wanted!r}.")
    if isinstance(data, Batches):
        if wanted is not None:
            raise DataError(
                "these batches cannot be cut anew, as they do not fit together or are read at every pass "
                "(keep=False); leave batch_size out, and they are measured as they come."
            )
        return None
    if wanted is None and data.came_in is None and mixes_examples:
        raise DataError(
            "the loss depends on the measuring batches (batch statistics), so their size has to be stated: "
            "pass batch_size=..., e.g. that of training, or batch_norm='frozen'."
        )
    return wanted or data.came_in or min(len(data), DEFAULT_BATCH_SIZE)


def try_out(loss: ModelLoss, theta: Vector, data: Measured, batch_size: int | None) -> list[str]:
    """Check everything on the first measuring batch, and the data for NaN.

    Returns the names of trainable parameters that get no gradient from that batch. Costs a few gradients of
    one batch.

    Raises
    ------
    LCAError
        If the loss is not a differentiable scalar, or is the sum over a batch instead of its mean.
    DataError
        If the model cannot take a batch, or NaN or Inf in the data reach the loss.
    """
    batch = next(iter(data.batches(batch_size)))
    try:
        unused = list(loss.try_out(theta, batch))
    except DataError as error:
        if _fits_swapped(loss, theta, batch):
            raise DataError(
                f"{error} With its two entries swapped the batch would fit; pass data as (inputs, targets)."
            ) from error.__cause__
        raise
    if loss.mixes_examples and isinstance(data, Rows):
        loss.try_out(theta, data.last(batch_size))  # one example may be left over: too few for statistics
    loss.evaluate(theta, [batch], gradient=False)
    _refuse_sums(loss, theta, batch)
    _refuse_non_finite(loss, theta, data, batch_size)
    return unused


def _fits_swapped(loss: ModelLoss, theta: Vector, batch: PyTree) -> bool:
    """Whether a batch (y, x) that raised has a loss as (x, y)."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        return False
    try:
        loss.try_out(theta, batch[::-1])
    except Exception:  # a model may raise anything
        return False
    return True


def _refuse_sums(loss: ModelLoss, theta: Vector, batch: PyTree) -> None:
    """Repeat a batch: its mean stays, also with batch statistics; a sum grows.

    Three copies besides two, because a loss can double by accident: log n for n = 2, as in contrastive
    losses.
    """
    if not is_rows(batch):
        return
    rows = Rows(batch)
    few = Rows(rows.take(slice(max(len(rows) // 3, min(len(rows), 2)))))
    found: list[float] = []
    for n in (1, 2, 3):
        try:
            found.append(loss.evaluate(theta, [copies(few.tree, n)], gradient=False)[0])
        except DataError:
            return  # a model for batches of one size only
        if n > 1 and not abs(found[-1] - n * found[0]) < SAME * abs(found[0]):
            return  # also if the losses are NaN
    once, twice, thrice = found
    raise LCAError(
        f"the loss of {len(few)} examples is {once:.6g}, but {twice:.6g} with each of them twice and "
        f"{thrice:.6g} with each three times, so it is their sum, not their mean; {loss.mean_hint}."
    )


def _refuse_non_finite(loss: ModelLoss, theta: Vector, data: Measured, batch_size: int | None) -> None:
    """Name what makes the loss NaN or Inf; NaN that the loss masks is no error."""
    if isinstance(data, Batches) and not data.kept:
        return  # that would take a pass over data that may be large
    tried, before = set[str](), 0
    for index, batch in enumerate(data.batches(batch_size)):
        for path, tensor in tree_leaves(batch):
            bad = None if path in tried or not is_tensor(tensor) else _first_non_finite_row(tensor)
            if bad is None:
                continue
            tried.add(path)
            if _is_finite(loss, theta, batch):
                continue
            place = f"row {before + bad}" if isinstance(data, Rows) else f"row {bad} of batch {index}"
            raise DataError(
                f"{place} of the measured data{path} holds {_kind(tensor)}, and so does the loss of its "
                "batch or the gradient; leave such examples out, or mask them in the loss."
            )
        before += batch_size or 0


def _first_non_finite_row(tensor: Tensor) -> int | None:
    ops = tensor_ops(tensor)
    assert ops is not None
    bad = np.flatnonzero(~ops.finite_rows(tensor))
    return int(bad[0]) if len(bad) else None


def _kind(tensor: Tensor) -> str:
    return "NaN" if bool(np.isnan(array_ops(tensor).to_numpy(tensor)).any()) else "Inf"


def _is_finite(loss: ModelLoss, theta: Vector, batch: PyTree) -> bool:
    found, grad = loss.evaluate(theta, [batch], gradient=True)
    return math.isfinite(found) and array_ops(theta).all_finite(grad)
