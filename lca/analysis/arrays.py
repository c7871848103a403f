"""What every analysis asks of the arrays it is given."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from lca.errors import LCAError, NonFiniteError


def finite(values: Any, what: str, *, ndim: int | None = None, least: int = 1) -> np.ndarray:
    """``values`` as float64 with at least ``least`` rows, all of them finite.

    Parameters
    ----------
    what
        What the message calls them.
    ndim
        The number of axes; ``None``: one or more.

    Raises
    ------
    LCAError
        If there are too few rows, or another number of axes than ``ndim``.
    NonFiniteError
        If there is NaN or infinity, in a row that a broken run or an unfinished record left behind.

    Examples
    --------
    >>> finite([[1.0, np.nan]], "the layer totals")
    Traceback (most recent call last):
    lca.errors.NonFiniteError: the layer totals hold nan in row 0; leave out the steps that were not measured.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or ndim not in (None, array.ndim):
        raise LCAError(f"{what} must have {ndim or 'one or more'} axes, got shape {array.shape}.")
    if len(array) < least:
        raise LCAError(f"{what} must have at least {least} rows, got {len(array)}.")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise NonFiniteError(
            f"{what} hold {array[tuple(bad[0])]} in row {bad[0][0]}; leave out the steps that were not "
            "measured."
        )
    return array


def check_names(names: Iterable[str], count: int, what: str) -> tuple[str, ...]:
    """``names`` as a tuple, one for each of ``count`` columns."""
    found = tuple(names)
    if len(found) != count:
        raise LCAError(f"{what} need one name a column: {count} columns, {len(found)} names.")
    return found
