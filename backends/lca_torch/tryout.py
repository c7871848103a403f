"""What is tried out when an `Objective` is made, so that what does not fit is said then and not in training.

How large measuring batches are, whether the model takes them, whether their losses are means, and whether
there is NaN in the data.
"""

import math
import time

import torch
from torch import Tensor

from lca.errors import DataError, LCAError
from lca_torch.data import Batches, Measured, PyTree, Rows, is_rows, leaves, tree_map
from lca_torch.model_loss import ModelLoss

SMALLEST_BATCH = 64
"""Where the search for a measuring batch size begins."""
SAME = 1e-3
"""Relative; far above the rounding of any dtype, far below what one more copy of a batch does to a sum."""


def choose_batch_size(loss: ModelLoss, theta: Tensor, data: Measured, wanted: int | None) -> int | None:
    """As wanted, else as the data came, else the fastest; ``None``: batches are measured as they come.

    Raises
    ------
    DataError
        If the batches cannot be cut to the size wanted, or none is wanted and the loss depends on it.
    """
    if not isinstance(data, Rows):
        if wanted is not None:
            raise DataError(
                "these batches do not fit together and cannot be cut anew; leave batch_size out, and they "
                "are measured as they come."
            )
        return None
    if wanted is not None:
        if not isinstance(wanted, int) or wanted < 1:
            raise DataError(f"batch_size must be a positive integer, got {wanted!r}.")
        return wanted
    if not loss.mixes_examples:
        return _fastest_batch_size(loss, theta, data)
    if data.suggested is None:
        raise DataError(
            "the loss depends on the measuring batches (batch statistics), so their size has to be stated: "
            "pass batch_size=..., e.g. that of training, or batch_norm='frozen'."
        )
    return data.suggested


def _fastest_batch_size(loss: ModelLoss, theta: Tensor, rows: Rows) -> int:
    """Double the batch while a gradient gets faster by 5 % an example and fits into memory."""
    best, size, fastest = SMALLEST_BATCH, SMALLEST_BATCH, float("inf")
    while best < len(rows):
        try:
            seconds = _seconds(loss, theta, rows.take(slice(size))) / min(size, len(rows))
        except torch.OutOfMemoryError:
            break
        if seconds > 0.95 * fastest:
            break
        best, size, fastest = size, 2 * size, seconds
    return best


def _seconds(loss: ModelLoss, theta: Tensor, batch: PyTree) -> float:
    """The best of three gradients, after one that does not count."""
    seconds = []
    loss.try_out(theta, batch)
    for _ in range(3):
        began = time.perf_counter()
        loss.evaluate(theta, [batch], gradient=True)  # returns a float, so it waits for the device
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def try_out(loss: ModelLoss, theta: Tensor, data: Measured, batch_size: int | None) -> list[str]:
    """Everything checked on the first measuring batch; the trainable parameters that get no gradient from it.

    Raises
    ------
    LCAError
        If a loss is no differentiable scalar, or the sum over a batch instead of its mean.
    DataError
        If the model cannot take a batch, or NaN or Inf in the data reach the loss.
    """
    batch = next(iter(data.batches(batch_size)))
    unused = loss.try_out(theta, batch)
    if loss.mixes_examples and isinstance(data, Rows):
        # For statistics, the one example that may be left over is too few.
        loss.try_out(theta, data.last(batch_size))
    _refuse_sums(loss, theta, batch)
    _refuse_non_finite(loss, theta, data, batch_size)
    return unused


def _refuse_sums(loss: ModelLoss, theta: Tensor, batch: PyTree) -> None:
    """The mean over a batch that is repeated is what it was, also with batch statistics; a sum grows with it.

    Three copies besides two, because a loss can double by accident: log n for n = 2, as in contrastive ones.
    """
    if not is_rows(batch):
        return
    rows = Rows(batch)
    few = rows.take(slice(max(len(rows) // 3, min(len(rows), 2))))
    try:
        once = _loss_of_copies(loss, theta, few, 1)
        grown = [_loss_of_copies(loss, theta, few, n) for n in (2, 3)]
    except DataError:
        return  # a model for batches of one size only
    if all(abs(found - n * once) < SAME * abs(once) for n, found in zip((2, 3), grown, strict=True)):
        n = len(Rows(few))
        raise LCAError(
            f"the loss of {n} examples is {once:.6g}, but {grown[0]:.6g} with each of them twice and "
            f"{grown[1]:.6g} with each three times, so it is their sum, not their mean; use reduction='mean'."
        )


def _loss_of_copies(loss: ModelLoss, theta: Tensor, batch: PyTree, copies: int) -> float:
    repeated = tree_map(lambda tensor: torch.cat([tensor] * copies), batch)
    return loss.evaluate(theta, [repeated], gradient=False)[0]


def _refuse_non_finite(loss: ModelLoss, theta: Tensor, data: Measured, batch_size: int | None) -> None:
    """Name what makes the loss NaN or Inf; where the model copes with it (masks), that is its business."""
    if isinstance(data, Batches) and not isinstance(data.source, list):
        return  # to read all of it only for this would take a pass
    tried, before = set[str](), 0
    for index, batch in enumerate(data.batches(batch_size)):
        for path, tensor in leaves(batch):
            if path in tried or not isinstance(tensor, Tensor) or bool(torch.isfinite(tensor).all()):
                continue
            tried.add(path)
            found, grad = loss.evaluate(theta, [batch], gradient=True)
            if math.isfinite(found) and grad is not None and bool(torch.isfinite(grad).all()):
                continue
            row, what = _first_non_finite_row(tensor), "NaN" if bool(tensor.isnan().any()) else "Inf"
            place = f"row {before + row}" if isinstance(data, Rows) else f"row {row} of batch {index}"
            raise DataError(
                f"{place} of the measured data{path} holds {what}, and so does the loss of its batch or the "
                "gradient; leave such examples out, or mask them in the loss."
            )
        before += batch_size or 0


def _first_non_finite_row(tensor: Tensor) -> int:
    finite = torch.isfinite(tensor).reshape(len(tensor) if tensor.ndim else 1, -1).all(1)
    return int(finite.logical_not().nonzero()[0])
