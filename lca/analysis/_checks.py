"""`checked_windows`: the self-checks of a sampled estimator, read from a record."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from math import isnan, nan
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from lca._verdict import largest_margin
from lca.errors import LCAError
from lca.row import CheckedWindow

if TYPE_CHECKING:
    from xarray import Dataset

_FIELDS = tuple(field.name for field in fields(CheckedWindow))


def checked_windows(record: "Dataset", measured: str = "train") -> tuple[list[CheckedWindow], float]:
    """The windows in which a run was checked, in order, and the margin of the sum over all of them.

    Parameters
    ----------
    record
        From `lca.open_record`.
    measured
        The name of the measured loss.

    Returns
    -------
    tuple
        The windows, none if nothing was checked; and half the 95 % interval of ``Σ total - Σ change``, NaN
        without error bars. If the writer did not close the record it is an upper bound, as neighbouring
        windows share a sample.

    Raises
    ------
    LCAError
        If the attribute ``final_checks`` is damaged.

    Examples
    --------
    >>> import tempfile
    >>> from lca import open_record
    >>> from lca.estimators import SampledPathIntegral
    >>> from lca.reference import DatasetLoss, logistic_regression
    >>> from lca.tracking import FunctionalTracker
    >>> loss, theta = DatasetLoss(logistic_regression(2, 2), np.eye(2), np.array([0, 1])), np.zeros(6)
    >>> probe = SampledPathIntegral(size=4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with FunctionalTracker(theta, loss, probe, record=f"{folder}/run") as tracker:
    ...         for _ in range(3):
    ...             theta = theta - 0.1 * loss.loss_and_grad(theta)[1]
    ...             tracker.update(theta)
    ...     [window], margin = checked_windows(open_record(f"{folder}/run"))
    >>> window.first_step, window.last_step, window.change == loss.loss(theta) - loss.loss(np.zeros(6))
    (0, 2, True)
    """
    found = [np.asarray(record[f"checked_{name}"].sel(measured=measured).values) for name in _FIELDS]
    windows = [
        CheckedWindow._of(map(float, numbers))
        for numbers in zip(*found, strict=True)
        if not isnan(numbers[0])
    ]
    later = record.attrs.get("final_checks", {}).get(measured)
    if later is None:
        return windows, largest_margin(window.margin for window in windows) if windows else nan
    with _intact():
        windows += [_window(entry) for entry in later["windows"]]  # those of earlier parts, too
        return sorted(windows, key=attrgetter("first_step")), _number(later["margin"])


def noise_of(record: "Dataset", measured: str, margin: float) -> float:
    """As `lca._verdict.sampling_limit` takes it; ``margin`` if the record does not hold it.

    Without error bars ``margin`` is NaN, and no noise is known: 0.
    """
    with _intact():
        noise = record.attrs.get("final_checks", {}).get(measured, {}).get("noise")
        if noise is not None:
            return float(noise)
    return 0.0 if isnan(margin) else margin


@contextmanager
def _intact() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LCAError(
            f"the attribute 'final_checks' of the record is damaged ({type(error).__name__}: {error})."
        ) from error


def _window(entry: dict[str, Any]) -> CheckedWindow:
    first, last = int(entry["first_step"]), int(entry["last_step"])
    change, total, margin = (_number(entry[name]) for name in ("change", "total", "margin"))
    return CheckedWindow(first, last, change, total, margin, entry.get("examples"))


def _number(stored: float | None) -> float:
    return nan if stored is None else float(stored)
