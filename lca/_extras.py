"""Optional dependencies: a context manager that turns a failed import into an installation hint."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import requires

from lca.errors import LCAError

OWN = "loss-change-allocation"
_OWN_EXTRAS = re.compile(rf"{OWN}\[([\w,]+)\]")
_OF_EXTRA = re.compile(r"""extra == ['"]([\w-]+)['"]""")


class MissingExtraError(LCAError, ImportError):
    """A package of an optional extra is not installed; the message says how to install it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Context manager for imports that need the optional extra ``name`` of this distribution.

    The message lists the packages of the extra, so that its command works however this distribution was
    installed: from a checkout, from a wheel, or from an index.

    Raises
    ------
    MissingExtraError
        If an import in the block fails.

    Examples
    --------
    >>> with extra("tensorboard"):
    ...     import no_such_package
    Traceback (most recent call last):
    lca._extras.MissingExtraError: no_such_package is not installed; \
install it with pip install 'pillow>=10' 'tensorboardx>=2.6.2'
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name} is not installed; install it with {install_command(name, error.name)}"
        ) from error


def install_command(name: str, package: str | None = None) -> str:
    """Return the command that installs the packages of an extra, or ``package`` if the extra is not declared.

    Examples
    --------
    >>> install_command("testing")
    "pip install 'hypothesis>=6.100' 'pytest>=8'"
    """
    packages = sorted(packages_of(name, requires(OWN) or [])) or [str(package)]
    return "pip install " + " ".join(f"'{each}'" for each in packages)


def packages_of(name: str, requirements: list[str]) -> set[str]:
    """Return the requirements of an extra, those of the extras it includes among them.

    Parameters
    ----------
    name
        The extra.
    requirements
        Lines of the metadata of this distribution, such as ``"pillow>=10; extra == 'tensorboard'"``.

    Examples
    --------
    >>> lines = [f"{OWN}[a]; extra == 'b'", "x>=1; extra == 'a'", "y>=2; extra == 'b'"]
    >>> sorted(packages_of("b", lines))
    ['x>=1', 'y>=2']
    """
    found: set[str] = set()
    for line in requirements:
        package, _, marker = line.partition(";")
        if name not in _OF_EXTRA.findall(marker):
            continue
        included = _OWN_EXTRAS.match(package)
        for each in included[1].split(",") if included else ():
            found |= packages_of(each, requirements)
        found |= set() if included else {package.strip()}
    return found
