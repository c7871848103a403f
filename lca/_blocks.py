"""`block_starts`: cuts a long run, or a long list, into blocks of equal length that can be drawn."""

import numpy as np


def block_starts(length: int, max_blocks: int) -> np.ndarray:
    """The starts of at most ``max_blocks`` blocks of equal length; only the last one may be shorter.

    Blocks of nearly equal length, alternating between 1 and 2 steps, would show as stripes in a map of sums.

    >>> block_starts(5, 2), block_starts(3, 10)
    (array([0, 3]), array([0, 1, 2]))
    """
    return np.arange(0, length, -(-length // max_blocks))
