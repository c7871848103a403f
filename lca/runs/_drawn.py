"""Which groups of a division a figure draws: heads without the rest, and the largest where there are many."""

from collections.abc import Sequence

import numpy as np

from lca.divisions import HEAD, OTHER


def drawn_places(names: Sequence[str], by: str) -> np.ndarray:
    """The places of the groups that are drawn: beside all other tensors, heads could not be seen.

    >>> drawn_places(["other", "attn[head 0]"], "head"), drawn_places(["other", "mlp"], "kind")
    (array([1]), array([0, 1]))
    """
    return np.flatnonzero([by != HEAD or name != OTHER for name in names])


def largest(totals: np.ndarray, count: int) -> np.ndarray:
    """The groups with the largest magnitudes in any row, in their order; totals (rows, groups).

    What was not measured, NaN, is smaller than any number that was.

    >>> largest(np.array([[-1.0, 0.5, np.nan], [0.0, -2.0, 0.1]]), 2)
    array([0, 1])
    """
    size = np.nanmax(np.abs(totals), axis=0, initial=0.0)
    return np.sort(np.argsort(-size, kind="stable")[:count])
