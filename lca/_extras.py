"""Optional dependencies: a context manager that turns a failed import into an installation hint."""

from collections.abc import Iterator
from contextlib import contextmanager

from lca.errors import LCAError


class MissingExtraError(LCAError, ImportError):
    """A package of an optional extra is not installed; the message says how to install it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Context manager for imports that need the optional extra ``name`` of this distribution.

    Raises
    ------
    MissingExtraError
        If an import in the block fails.

    Examples
    --------
    >>> with extra("report"):
    ...     import no_such_package
    Traceback (most recent call last):
    lca._extras.MissingExtraError: no_such_package is not installed; \
install it with pip install 'loss-change-allocation[report]'
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name} is not installed; install it with pip install 'loss-change-allocation[{name}]'"
        ) from error
