"""Optional dependencies: one way to ask for them, one message that says how to get them."""

from collections.abc import Iterator
from contextlib import contextmanager

from lca.errors import LCAError


class MissingExtraError(LCAError, ImportError):
    """A package that belongs to an optional extra is not installed."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Imports in this block need the extra ``name``; a failing one raises `MissingExtraError`.

    >>> with extra("report"):
    ...     import no_such_package
    Traceback (most recent call last):
    lca.extras.MissingExtraError: no_such_package is needed for this and not installed; \
pip install 'loss-change-allocation[report]'
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name} is needed for this and not installed; pip install 'loss-change-allocation[{name}]'"
        ) from error
