"""Tests of a loss when an objective is made, so that errors are raised then and not during training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lca.arrays import Vector, array_ops
from lca.errors import DataError, LCAError
from lca.frameworks._data import Batches, Measured, Rows, copies
from lca.frameworks._loss import ModelLoss
from lca.frameworks._loss_checks import require_weight, weight_of
from lca.frameworks._split import MOST_COPIED, MOST_ROWS, Cut, SplitTest, cuts_of, points_of, split_test
from lca.frameworks._tensors import Tensor, is_tensor, tensor_ops
from lca.frameworks._trees import PyTree, examples_in, is_rows, tensors_in, tree_leaves
from lca.tolerances import rebatched

DEFAULT_BATCH_SIZE = 1000
"""Examples in a measuring batch if neither the user nor the data say; all examples if there are fewer."""
SAME = 1e-3
"""Relative; far above the rounding of any dtype, far below what one more copy of a batch does to a sum."""


def choose_batch_size(data: Measured, wanted: int | None) -> int | None:
    """``wanted``, else the size of the batches that the data came in, else ``min(N, DEFAULT_BATCH_SIZE)``.

    ``None`` if the batches are measured as they come.

    Raises
    ------
    DataError
        If ``wanted`` is not a size, or the batches cannot be cut.

    Examples
    --------
    >>> choose_batch_size(Rows(np.zeros(7)), None)
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
    return wanted or data.came_in or min(len(data), DEFAULT_BATCH_SIZE)


@dataclass(frozen=True)
class Found:
    """What the try-out has found.

    Attributes
    ----------
    split
        Whether the loss is a mean.
    cuts
        The batches on which that was tested, as `cuts_of`.
    few
        The rows of which gradients were taken.
    unused
        The names of parameters that get no gradient.
    """

    split: SplitTest
    cuts: Sequence[Cut]
    few: PyTree
    unused: Sequence[str]


def try_out(loss: ModelLoss, theta: Vector, data: Measured, wanted: int | None) -> Found:
    """Check all that can be, before training: on the first measuring batch, on all of them, and in parts.

    Costs one forward pass over the data, unless they are read at every pass, one gradient of a measuring
    batch, and those of `split_test`.

    Raises
    ------
    LCAError
        If the loss is not a differentiable scalar, or is the sum over a batch instead of its mean.
    DataError
        If the model cannot take a batch, a loss is NaN or Inf, or the loss is not a mean over the examples
        and it is not stated which batches to measure.
    """
    batch_size = choose_batch_size(data, wanted)
    _refuse_ambiguous_axes(loss, data)
    batch = _first_that_counts(loss, data, batch_size)
    try:
        unused = list(loss.try_out(theta, batch))
    except DataError as error:
        if _fits_swapped(loss, theta, batch):
            raise DataError(
                "the two entries of the data look swapped, as the batch would fit the other way round; pass "
                f"data as (inputs, targets). As it is, {error}"
            ) from error.__cause__
        raise
    few, grad = _gradient(loss, theta, batch)
    _refuse_sums(loss, theta, batch)
    rows = data if isinstance(data, Rows) else Rows(batch)
    if is_rows(rows.tree):
        cuts = cuts_of(rows, batch)
        split = split_test(loss, points_of(loss, theta, grad), cuts)
    else:
        cuts, split = [], SplitTest("its batches cannot be cut, so it cannot be told whether it is a mean")
    if text := unstated(loss, data, wanted, split):
        raise DataError(text)
    _refuse_non_finite(loss, theta, data, batch_size)
    _evaluate_all(loss, theta, data, batch_size)
    return Found(split, cuts, few, unused)


def _first_that_counts(loss: ModelLoss, data: Measured, batch_size: int | None) -> PyTree:
    """The first measuring batch whose weight is not 0."""
    for batch in data.batches(batch_size):
        if loss.counts_examples:
            examples_in(batch)
        if weight_of(loss, batch):
            return batch
    return require_weight(0.0)


def _refuse_ambiguous_axes(loss: ModelLoss, data: Measured) -> None:
    """Batches whose second axes differ and whose first axes do not: which one runs over examples?"""
    if not (loss.counts_examples and isinstance(data, Batches) and data.kept):
        return
    shapes = [[tuple(tensor.shape) for tensor in tensors_in(batch)] for batch in data.batches()]
    if not all(shapes) or not all(len(shape) > 1 for batch in shapes for shape in batch):
        return  # objects whose tensors are not seen, or labels: axis 0 runs over examples
    *first, last = ({shape[0] for shape in batch} for batch in shapes)
    same = all(lengths == first[0] for lengths in first) and (not first or max(last) <= max(first[0]))
    if same and len({tuple(shape[1] for shape in batch) for batch in shapes}) > 1:
        raise DataError(
            "the batches differ in length along axis 1 and not along axis 0, so axis 0 may be examples or "
            "time, and it is not known how much each batch counts; pass "
            "batch_weight=function of a batch: its number of examples, or of tokens if the loss is a mean "
            "over tokens."
        )


def _gradient(loss: ModelLoss, theta: Vector, batch: PyTree) -> tuple[PyTree, Vector]:
    """A few rows and their gradient; enables gradients inside the loss if their loss is another without."""
    few = Rows(batch).take(slice(MOST_ROWS)) if is_rows(batch) else batch
    try:
        value, grad = loss.evaluate(theta, [few], gradient=True)
    except DataError:  # a model for batches of one size only
        few = batch
        value, grad = loss.evaluate(theta, [few], gradient=True)
    rounding = rebatched(value, max(array_ops(theta).eps(theta), loss.precision_eps or 0))

    def differs(found: float | None) -> bool:
        return found is None or abs(found - value) > rounding  # not if the losses are NaN

    without = _without_gradient(loss, theta, few)
    if differs(without):
        before, loss.differentiates_inside = loss.differentiates_inside, True
        if differs(loss.evaluate(theta, [few], gradient=False)[0]):
            loss.differentiates_inside = before
            if without is not None and not differs(loss.evaluate(theta, [few], gradient=True)[0]):
                raise LCAError(
                    f"the loss of a batch is {value:.6g} where its gradient is computed, and {without:.6g} "
                    "where it is not; it must not depend on whether gradients are enabled."
                )  # otherwise it is random, which is refused when allocating
    return few, grad


def _without_gradient(loss: ModelLoss, theta: Vector, batch: PyTree) -> float | None:
    try:
        return loss.evaluate(theta, [batch], gradient=False)[0]
    except DataError:
        return None


def hints_of(loss: ModelLoss) -> str:
    """Why the loss may be no mean over examples, as far as that can be seen, and what to do; else empty."""
    weight = loss.weight_hint if loss.counts_examples else ""
    return "; ".join(filter(None, (weight, loss.batch_hint)))


def unstated(loss: ModelLoss, data: Measured, wanted: int | None, split: SplitTest) -> str:
    """Why a loss that depends on how the data are cut into batches is refused; "" if the cut is stated.

    Batches of a loader state it as well; not so where only the weights are missing.
    """
    came = isinstance(data, Batches) or data.came_in is not None
    if not split.reason or wanted is not None or (came and not (split.reweighed and loss.counts_examples)):
        return ""
    hint = hints_of(loss) or (
        "pass batch_weight=function of a batch: what its loss is divided by"
        if loss.counts_examples
        else "batch_weight must give what the loss of a batch is divided by"
    )
    explained = split.reweighed or loss.batch_hint
    weight = f"{hint}; or, to measure this mean over batches, " if explained else ""
    size = "its batch size has to be stated: pass batch_size=..., e.g. that of training"
    if isinstance(data, Batches):
        size = "pass as batch_weight the number of examples"
    statistics, frozen = (
        (" (batch statistics)", ", or batch_norm='frozen'") if loss.mixes_examples else ("", "")
    )
    return f"the loss depends on the measuring batches{statistics}: {split.reason}; {weight}{size}{frozen}."


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
    few = Rows(rows.take(slice(min(MOST_COPIED, max(len(rows) // 3, min(len(rows), 2))))))
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
    if not weight_of(loss, batch):
        return True
    found, grad = loss.evaluate(theta, [batch], gradient=True)
    return math.isfinite(found) and array_ops(theta).all_finite(grad)


def _evaluate_all(loss: ModelLoss, theta: Vector, data: Measured, batch_size: int | None) -> None:
    """Evaluate every measuring batch, and name the rows of one that has no loss.

    Not for batches that are read at every pass, which may take long.
    """
    if (isinstance(data, Batches) and not data.kept) or not array_ops(theta).all_finite(theta):
        return
    if _are_finite(loss, theta, data, batch_size):
        return
    before = 0
    for index, batch in enumerate(data.batches(batch_size)):
        error = _failure(loss, theta, batch)
        if error is not None:
            rows, found = _located(loss, theta, batch, error)
            if isinstance(data, Rows):
                place = _numbers(before + rows.start, before + rows.stop)
            else:
                place = f"{_numbers(rows.start, rows.stop)} of batch {index}" if rows else f"batch {index}"
            raise DataError(
                f"{place} of the measured data cannot be measured: {found}; correct or leave out these data."
            ) from error.__cause__
        before += batch_size or 0


def _are_finite(loss: ModelLoss, theta: Vector, data: Measured, batch_size: int | None) -> bool:
    """Whether all batches have a loss, in one call."""
    try:
        return math.isfinite(loss.evaluate(theta, data.batches(batch_size), gradient=False)[0])
    except (LCAError, ArithmeticError, ValueError):  # or infinite losses that have no sum
        return False


def _failure(loss: ModelLoss, theta: Vector, batch: PyTree) -> LCAError | None:
    """Why this batch has no loss; ``None`` if it has one, or has weight 0."""
    try:
        if loss.counts_examples:
            examples_in(batch)
        if not weight_of(loss, batch):
            return None
        found, _ = loss.evaluate(theta, [batch], gradient=False)
    except LCAError as error:
        return error
    return None if math.isfinite(found) else DataError(f"their loss is {found:g}")


def _located(loss: ModelLoss, theta: Vector, batch: PyTree, error: LCAError) -> tuple[range, LCAError]:
    """The fewest rows of a batch that fail in the same way, found by bisection, and their error."""
    if not is_rows(batch):
        return range(0), error
    cut = Rows(batch)
    rows = range(len(cut))
    while len(rows) > 1:
        for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            found = _failure(loss, theta, cut.take(slice(half.start, half.stop)))
            if found is not None and type(found.__cause__) is type(error.__cause__):
                rows, error = half, found
                break
        else:
            break
    return rows, error


def _numbers(start: int, stop: int) -> str:
    return f"row {start}" if stop == start + 1 else f"rows {start} to {stop - 1}"
