"""How a batch is split into micro-batches, and how much each of them counts in the loss."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from lca.arrays import array_ops
from lca.errors import LCAError
from lca.frameworks import tensors_in
from lca.objective import Batch

IGNORED = -100  # the default ignore_index of cross-entropy


def cuts_of(total: int, n: int) -> list[tuple[int, int]]:
    """Where ``total`` examples are cut into n pieces, the larger ones first; into single ones if n is larger.

    >>> cuts_of(5, 2), cuts_of(1, 2)
    ([(0, 3), (3, 5)], [(0, 1)])
    """
    n = min(int(n), total)
    return list(pairwise(-(-m * total // n) for m in range(n + 1)))


def fractions_of(
    pieces: Sequence[Batch],
    sizes: Sequence[int],
    weight: Callable[[Batch], float] | None,
    measured: Callable[[Batch], float] | None,
) -> list[float]:
    """The part of each piece in the loss of the batch.

    Parameters
    ----------
    pieces
        The micro-batches.
    sizes
        Their numbers of examples, which are their weights where there is no other, or all weights are 0.
    weight, measured
        From a piece to its weight, a number or a scalar tensor: that of the user, which takes precedence, and
        that of the measured loss.

    Examples
    --------
    >>> fractions_of(["aab", "b"], [3, 1], None, None)
    [0.75, 0.25]
    >>> fractions_of(["aab", "b"], [3, 1], lambda piece: piece.count("a"), None)
    [1.0, 0.0]
    """
    weights: Sequence[float] = sizes
    if weight is not None:
        weights = [float(weight(piece)) for piece in pieces]
    elif measured is not None:
        weights = _measured_weights(measured, pieces)
    _check_weights(weights)
    if not any(weights):  # nothing counts, as in the loss of the whole batch
        weights = sizes
    total = sum(weights)
    return [own / total for own in weights]


def _measured_weights(weight_of: Callable[[Batch], float], pieces: Sequence[Batch]) -> list[float]:
    """How much pieces of a batch count in the measured loss; raises `LCAError` if that fails."""
    try:
        return [float(weight_of(piece)) for piece in pieces]
    except Exception as error:  # of a function of the user's
        raise LCAError(
            "batch_weight of the measured loss cannot weigh a micro-batch of the training loop, which may "
            f"have another form than the measured data ({type(error).__name__}: {error}); pass weight=, a "
            "function of a micro-batch, to tracker.micro_batches."
        ) from error


def _check_weights(weights: Sequence[float]) -> None:
    """Raise `LCAError` unless these are weights of micro-batches."""
    if not all(weight >= 0 for weight in weights):
        raise LCAError(
            f"the weights of micro-batches are numbers ≥ 0, got {weights}; pass weight=, a function of a "
            "micro-batch, if training weighs batches otherwise than the measured loss."
        )


def of_one_size(batches: Sequence[Batch]) -> bool:
    """Whether batches have equal weights as their tensors show."""
    sizes = set(map(size_of, batches))
    return len(sizes) == 1 and None not in sizes


def size_of(batch: Batch) -> str | None:
    """What batches of equal weight have in common: the shapes and the ignored labels of their tensors.

    ``None`` if the batch holds no tensor. Entries of -100 are labels that losses ignore by convention.

    >>> size_of((np.zeros((2, 3)), np.array([1, -100]))), size_of("text")
    ('(2, 3) 0, (2,) 1', None)
    """
    found = tensors_in(batch)
    return ", ".join(f"{tuple(tensor.shape)} {_ignored(tensor)}" for tensor in found) or None


def _ignored(tensor: Any) -> int:
    numbers = array_ops(tensor).to_numpy(tensor) if "int" in str(tensor.dtype) else np.zeros(0)
    return int(np.count_nonzero(numbers == IGNORED))
