"""Input checks that all analyses share."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from lca.errors import LCAError, NonFiniteError


def check_finite(values: Any, name: str, *, ndim: int | None = None, min_rows: int = 1) -> np.ndarray:
    """Return ``values`` as a float64 array after checking its shape and that every entry is finite.

    Parameters
    ----------
    values
        Anything that `numpy.asarray` accepts, with at least one axis.
    name
        What the error messages call the array; a plural noun, such as "the layer totals".
    ndim
        The required number of axes. ``None`` accepts one or more.
    min_rows
        The smallest accepted length of the first axis.

    Raises
    ------
    LCAError
        If the array has too few rows or the wrong number of axes.
    NonFiniteError
        If the array contains NaN or infinity.

    Examples
    --------
    >>> check_finite([[1.0, np.nan]], "the layer totals")
    Traceback (most recent call last):
    lca.errors.NonFiniteError: the layer totals contain nan in row 0; drop the steps that were not measured.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or ndim not in (None, array.ndim):
        axes = "one axis or more" if ndim is None else f"{ndim} {'axis' if ndim == 1 else 'axes'}"
        raise LCAError(f"{name} must have {axes}, got an array of shape {array.shape}.")
    if len(array) < min_rows:
        raise LCAError(f"{name} must have at least {min_rows} rows, got {len(array)}.")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise NonFiniteError(
            f"{name} contain {array[tuple(bad[0])]} in row {bad[0][0]}; drop the steps that were not "
            "measured."
        )
    return array


def check_steps(steps: Any, series: Any, rows: int) -> np.ndarray:
    """The step of each row: ``steps``, the coordinate "step" of a labelled array, or 0, 1, 2, ...

    >>> check_steps(None, np.zeros(3), 3), check_steps([0, 10, 20], None, 3)
    (array([0, 1, 2]), array([ 0, 10, 20]))
    """
    if steps is None:
        steps = getattr(series, "coords", {}).get("step", np.arange(rows))
    found = np.asarray(steps)
    if found.shape != (rows,) or found.dtype.kind not in "iu" or (np.diff(found) < 1).any():
        raise LCAError(
            f"steps needs one increasing integer for each of the {rows} rows, got {found.dtype} of shape "
            f"{found.shape}."
        )
    return found


def check_spacing(steps: np.ndarray, what: str) -> int:
    """The number of steps between two rows, which has to be the same everywhere.

    >>> check_spacing(np.array([0, 10, 20]), "the phase lag")
    10
    """
    if len(steps) < 2:
        return 1
    spacing = np.diff(steps)
    if (spacing != spacing[0]).any():
        hole = int(np.argmax(spacing != spacing.min()))
        raise LCAError(
            f"{what} needs rows at equal distances of steps, which are {spacing.min()} and {spacing.max()} "
            f"here (a gap follows step {steps[hole]}); pass a part of the run without a gap."
        )
    return int(spacing[0])


def check_names(names: Iterable[str], count: int, what: str) -> tuple[str, ...]:
    """Return ``names`` as a tuple after checking that there is one for each of ``count`` columns.

    >>> check_names(["fc1"], 2, "the layer totals")
    Traceback (most recent call last):
    lca.errors.LCAError: the layer totals need one name per column, got 1 name(s) for 2 column(s).
    """
    found = tuple(names)
    if len(found) != count:
        raise LCAError(f"{what} need one name per column, got {len(found)} name(s) for {count} column(s).")
    return found
