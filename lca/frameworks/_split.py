"""The split test: whether the loss of a batch is the weighted mean of the losses of its parts.

Class weights, ignored labels, masks, batch statistics, contrastive losses and time-major data all show in
it, without a list of their names.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, product
from typing import NamedTuple

import numpy as np

from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.frameworks._data import Rows
from lca.frameworks._loss import ModelLoss
from lca.frameworks._loss_checks import weight_of
from lca.frameworks._tensors import Tensor, dtype_of, is_floating, is_integer
from lca.frameworks._trees import PyTree, tensors_in
from lca.objective import State
from lca.tolerances import rebatched

MOST_ROWS = 24
"""Rows that are evaluated one by one."""
MOST_PAIRS = 6
MOST_COPIED = 85
"""Rows that are repeated to tell a sum from a mean."""
MOST_IN_BATCH = 3 * MOST_COPIED
"""Rows of a measuring batch that are evaluated in two parts: as many as are repeated once, and twice."""
CHUNK = 2**20
"""Numbers that are read at once."""
NO_PARTS = "the model takes no parts of a batch, so it cannot be told whether its loss is a mean"


@dataclass(frozen=True)
class SplitTest:
    """What the split test has found.

    Attributes
    ----------
    reason
        Why the loss is not, or not known to be, a mean over examples; "" if it is one.
    reweighed
        Whether it may be one under other weights: every loss lies between those of its parts.
    """

    reason: str = ""
    reweighed: bool = False


class Cut(NamedTuple):
    """A batch and its parts."""

    whole: PyTree
    parts: Sequence[PyTree]


@dataclass(frozen=True)
class _Split:
    whole: PyTree
    parts: Sequence[PyTree]
    theta: Vector
    state: State | None
    loss: float
    mean: float
    eps: float

    @property
    def gap(self) -> float:
        return abs(self.loss - self.mean) if math.isfinite(self.mean) else math.inf

    def tolerance(self, condition: float = 0.0) -> float:
        """The largest difference of the loss and the mean that rounding explains."""
        scale = max(abs(value) for value in (self.loss, self.mean) if math.isfinite(value))
        return rebatched(scale, self.eps, condition)


def split_test(
    loss: ModelLoss, points: Sequence[Vector], cuts: Sequence[Cut], state: State | None = None
) -> SplitTest:
    """Compare the losses of a few batches with the weighted means of their parts; weights of `batch_weight`.

    ``points`` are those of `points_of` and ``cuts`` those of `cuts_of`; no cuts are data of one example,
    which is its own mean. Costs four forward passes of at most 255 rows, and those of about a hundred single
    rows.
    """
    if not cuts:
        return SplitTest()
    found = [split for point, cut in product(points, cuts) if (split := _evaluated(loss, point, cut, state))]
    if not found:
        return SplitTest(NO_PARTS)
    broken = [split for split in found if _is_broken(loss, split)]
    if not broken or _is_random(loss, broken[0]):  # allocating refuses what is random
        return SplitTest()
    loss_text, mean_text = _told_apart(broken[0].loss, broken[0].mean)
    weighed = "number of examples" if loss.counts_examples else "batch_weight"
    return SplitTest(
        f"the loss of {len(Rows(broken[0].whole))} examples is {loss_text}, but the mean of the "
        f"losses of their parts, by {weighed}, is {mean_text}",
        not loss.mixes_examples
        and all(_is_between(loss, split) for split in broken)
        and _has_weights(loss, found),
    )


def _told_apart(a: float, b: float) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to see that they differ, and at least 6.

    >>> _told_apart(1.0, 1.00000001)
    ('1', '1.00000001')
    """
    pairs = ((f"{a:.{digits}g}", f"{b:.{digits}g}") for digits in range(6, 18))
    return next((pair for pair in pairs if pair[0] != pair[1]), (str(a), str(b)))


def eps_of(loss: ModelLoss, theta: Vector) -> float:
    """Machine epsilon of the precision in which the loss is computed."""
    return max(array_ops(theta).eps(theta), loss.precision_eps or 0)


def cuts_of(rows: Rows, batch: PyTree) -> list[Cut]:
    """Batches to be compared with their parts; none if there is one row.

    They are rows that differ most from each other, all of them and in pairs, each cut into single rows, and
    the measuring ``batch``, cut at a third. Few sizes of batches occur, because some frameworks compile a
    loss for each size.
    """
    if len(rows) < 2:  # noqa: PLR2004
        return []
    differing, pairs = _differing(rows)
    chosen = [Rows(rows.take(index)) for index in (differing, *pairs)]
    cuts = [Cut(few.tree, list(few.batches(1))) for few in chosen]
    some = Rows(Rows(batch).take(slice(MOST_IN_BATCH)))
    third = max(len(some) // 3, min(len(some) - 1, 2))
    if third:
        cuts.append(Cut(some.tree, [some.take(slice(third)), some.take(slice(third, None))]))
    return cuts


def points_of(loss: ModelLoss, theta: Vector, grad: Vector) -> list[Vector]:
    """θ and a point elsewhere, away along a gradient.

    Losses that agree at θ by accident, as at the start of a network whose last layer is 0, differ there.
    """
    return [theta, _elsewhere(loss, theta, grad)]


def _differing(rows: Rows) -> tuple[np.ndarray, list[np.ndarray]]:
    """Numbers of rows that differ most from each other, by what is seen in them, and pairs of these."""
    statistics = list(chain.from_iterable(map(_statistics, tensors_in(rows.tree))))
    pairs = {(int(np.argmin(s)), int(np.argmax(s))): None for s in statistics}
    rare = chain.from_iterable(map(_rare, statistics))
    spread = np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS // 2)).astype(int)
    extreme = list(islice(dict.fromkeys(chain(chain(*pairs), map(int, rare))), MOST_ROWS // 2))
    chosen = np.array([*islice(dict.fromkeys(chain(extreme, spread.tolist(), range(len(rows)))), MOST_ROWS)])
    return chosen, [np.array(pair) for pair in islice((p for p in pairs if p[0] != p[1]), MOST_PAIRS)]


def _statistics(tensor: Tensor) -> Iterator[np.ndarray]:
    """Sum, smallest entry and number of zeros of each row (n,): what tells masks, labels and padding."""
    if not (is_floating(tensor) or is_integer(tensor) or dtype_of(tensor) == "bool"):
        return iter(())
    length = int(tensor.shape[0])
    size = max(1, math.prod(tuple(tensor.shape)[1:]))
    some = max(1, CHUNK // size)
    pieces = (tensor[start : start + some] for start in range(0, length, some))
    read = (array_ops(piece).to_numpy(piece).reshape(-1, size) for piece in pieces)
    found = [np.stack([x.sum(1, dtype=float), x.min(1), (x == 0).sum(1)]) for x in read]
    return iter(np.nan_to_num(np.concatenate(found, 1)))


def _rare(statistic: np.ndarray) -> np.ndarray:
    """Where each value occurs first, the rarest values first; nothing if almost every value is another."""
    values, first, counts = np.unique(statistic, return_index=True, return_counts=True)
    return first[np.argsort(counts, kind="stable")] if 2 * len(values) <= len(statistic) else first[:0]


def _elsewhere(loss: ModelLoss, theta: Vector, grad: Vector) -> Vector:
    """Another point of about the same size, where nothing is 0, equal or fitted.

    The entries of each tensor take each other's places; the gradient moves those that all were 0.
    """
    vector, moved = array_ops(theta), loss.rearranged(theta)
    own, other = vector.abs_total(theta), vector.abs_total(grad)
    if not 0 < other < math.inf:
        return moved
    return vector.add_scaled(moved, -(own or vector.size(theta)) / other, grad)


def _evaluated(loss: ModelLoss, theta: Vector, cut: Cut, state: State | None) -> _Split | None:
    """Both losses; ``None`` if there is no loss of the whole, or the model does not take the parts."""
    once, mean = _loss(loss, theta, [cut.whole], state), _loss(loss, theta, cut.parts, state)
    if once is None or mean is None or not math.isfinite(once):
        return None
    return _Split(*cut, theta, state, once, mean, eps_of(loss, theta))


def _loss(loss: ModelLoss, theta: Vector, batches: Sequence[PyTree], state: State | None) -> float | None:
    try:  # a batch of weight 0 need not have a loss
        return loss.evaluate(theta, [b for b in batches if weight_of(loss, b)], state, gradient=False)[0]
    except (LCAError, ArithmeticError, ValueError):  # or infinite losses that have no sum
        return None


def _is_broken(loss: ModelLoss, split: _Split) -> bool:
    """Whether both losses differ by more than their rounding."""
    return split.gap > split.tolerance() and (
        split.gap == math.inf or split.gap > split.tolerance(_condition(loss, split))
    )


def _condition(loss: ModelLoss, split: _Split) -> float:
    """How far the losses of the whole and of its parts move if every parameter moves by eps.

    Unlike the loss itself, this does not vanish where the loss is the small difference of large numbers, as
    that of examples which are fitted.
    """
    before, moves = _losses(loss, split, split.theta), [0.0]
    for sign in (1, -1):
        theta = (1 + sign * split.eps) * split.theta
        moved = zip(before, _losses(loss, split, theta), strict=True)
        found = [abs(after - own) for own, after in moved if math.isfinite(after - own)]
        moves += [sum(found) / len(found)] if found else []
    return max(moves)


def _losses(loss: ModelLoss, split: _Split, theta: Vector) -> list[float]:
    """The loss of the whole batch and of each of its parts; NaN for a part that has none."""
    found = [_loss(loss, theta, [batch], split.state) for batch in (split.whole, *split.parts)]
    return [math.nan if value is None else value for value in found]


def _is_random(loss: ModelLoss, split: _Split) -> bool:
    again = _loss(loss, split.theta, [split.whole], split.state)
    return again is None or not abs(again - split.loss) <= split.tolerance()


def _is_between(loss: ModelLoss, split: _Split) -> bool:
    """Whether the loss lies between the losses of the parts; those that have none weigh nothing."""
    parts = [_loss(loss, split.theta, [part], split.state) for part in split.parts]
    finite = [value for value in parts if value is not None and math.isfinite(value)]
    off = split.tolerance()
    return bool(finite) and min(finite) - off <= split.loss <= max(finite) + off


def _has_weights(loss: ModelLoss, splits: Sequence[_Split]) -> bool:
    """Whether the two parts of a batch have the same share in its loss at both points, as weights have."""
    ranges: dict[int, tuple[float, float]] = {}
    for split in splits:
        if len(split.parts) != 2:  # noqa: PLR2004 - more parts leave their shares open
            continue
        first, second = (_loss(loss, split.theta, [part], split.state) for part in split.parts)
        least = 4 * split.tolerance()
        if first is None or second is None or not abs(first - second) > least:
            continue
        share, error = (split.loss - second) / (first - second), least / abs(first - second)
        low, high = ranges.get(id(split.parts), (-math.inf, math.inf))
        ranges[id(split.parts)] = max(low, share - error), min(high, share + error)
    return all(low <= high for low, high in ranges.values())
