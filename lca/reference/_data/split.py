"""`Split`: a training set and a held-out set."""

from dataclasses import dataclass

import numpy as np

from lca.errors import DataError
from lca.reference._data.batches import Batch

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Split:
    """A training set and a held-out set with the same feature shape and integer labels.

    Parameters
    ----------
    x_train, x_test
        Features (N, ...), floating point and finite.
    y_train, y_test
        Labels (N,), integers ≥ 0.

    Raises
    ------
    DataError
        If one of the sets is invalid (see `Batch`), labels are not integers ≥ 0, or feature shapes differ.

    Examples
    --------
    >>> split = Split(np.zeros((4, 2)), np.array([0, 1, 2, 0]), np.zeros((1, 2)), np.array([1]))
    >>> split.n_classes
    3
    """

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            try:
                whole = Batch(getattr(self, f"x_{part}"), getattr(self, f"y_{part}"))
            except DataError as error:
                raise DataError(f"x_{part}, y_{part}: {error}") from error
            _check_labels(whole.y, f"y_{part}")
            object.__setattr__(self, f"x_{part}", whole.x)
            object.__setattr__(self, f"y_{part}", whole.y)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise DataError(
                f"x_train and x_test must share one feature shape, got {self.x_train.shape[1:]} and "
                f"{self.x_test.shape[1:]}; reshape or crop one of them."
            )

    @property
    def n_classes(self) -> int:
        """The number of classes: one more than the largest label of either set."""
        return int(max(self.y_train.max(), self.y_test.max())) + 1

    def reshaped(self, feature_shape: tuple[int, ...]) -> "Split":
        """Return the same examples with features of shape (N, *feature_shape), in row-major order.

        Used to pass images as vectors, or to add a channel axis.

        Raises
        ------
        DataError
            If the number of features is another.

        Examples
        --------
        >>> from lca.reference import load_digits
        >>> load_digits().reshaped((64,)).x_train.shape
        (1500, 64)
        """
        if np.prod(feature_shape) != np.prod(self.x_train.shape[1:]):
            raise DataError(
                f"examples of shape {self.x_train.shape[1:]} cannot be reshaped to {feature_shape}; the "
                "sizes must agree."
            )
        x_train, x_test = (x.reshape(len(x), *feature_shape) for x in (self.x_train, self.x_test))
        return Split(x_train, self.y_train, x_test, self.y_test)


def _check_labels(y: Array, name: str) -> None:
    if y.dtype.kind != "i" or y.min() < 0:
        what = f"{y.dtype} of shape {y.shape}" if y.dtype.kind != "i" else f"{y.min()}"
        raise DataError(
            f"{name} must hold integer labels ≥ 0 of shape (n,), got {what}; number classes from 0."
        )
