"""Checks of numeric options: NumPy numbers become Python numbers, and a seed must be repeatable."""

import numpy as np

from lca.errors import LCAError


def use_python_numbers(options: object) -> None:
    """Replace the NumPy numbers in the fields of a dataclass, frozen or not, by Python's.

    >>> from types import SimpleNamespace
    >>> options = SimpleNamespace(size=np.int64(8))
    >>> use_python_numbers(options)
    >>> options
    namespace(size=8)
    """
    for name, value in list(vars(options).items()):
        if isinstance(value, np.generic):
            object.__setattr__(options, name, value.item())


def check_seed(seed: object) -> None:
    """Raise `LCAError` unless random numbers that can be repeated follow from this seed."""
    if not isinstance(seed, int) or seed < 0:
        raise LCAError(f"seed must be a whole number ≥ 0, got {seed!r}.")
