"""Finds what a name on the command line stands for: a built-in estimator, or ``module:object``."""

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from lca.allocation import Estimator
from lca.errors import LCAError, UnknownNameError
from lca.estimators import PathIntegral
from lca.estimators._registry import NamedEstimator, make_estimator, named_estimator
from lca.objective import Objective
from lca.quadrature import QuadratureRule


def find_estimator(name: str) -> NamedEstimator:
    """The row of a built-in estimator, or one for the estimator that ``module:object`` names.

    Raises
    ------
    LCAError
        If there is no such estimator.

    Examples
    --------
    >>> find_estimator("rk4").target, find_estimator("lca:TRAPEZOID").make(1e-3).degree
    ('full', 1)
    """
    if ":" not in name:
        return named_estimator(name)
    make = find_maker(name)
    made = make()
    if not isinstance(made, Estimator):
        raise LCAError(
            f"{name} is not an estimator but an object of type {type(made).__name__}; "
            f"{_missing(made)}{_WANTED}"
        )
    described = (type(made).__doc__ or "").strip().partition("\n")[0]
    return NamedEstimator(name, described, lambda tol: make())


def find_maker(
    target: str, also: Callable[[Any], bool] = lambda made: False, *, built_in: bool = True
) -> Callable[[], Any]:
    """A function that makes the estimator or objective that ``target`` names; it has been called once.

    Parameters
    ----------
    target
        ``module:object`` or ``path/to/file.py:object``; the object is an estimator, a quadrature rule, an
        objective, or a class or function that makes one without arguments. Or the name of a built-in
        estimator (`lca estimators`).
    also
        Which objects are accepted beside estimators and objectives.
    built_in
        Whether the name of a built-in estimator is accepted.

    Raises
    ------
    LCAError
        If it cannot be imported, or is neither an estimator nor an objective nor makes one.

    Examples
    --------
    >>> find_maker("lca:PathIntegral")().degree
    3
    """
    place, _, name = target.rpartition(":")
    if not place and name and not built_in:
        raise LCAError(f"expected module:object or path/to/file.py:object, got {target!r}.")
    if not place and name:
        return _built_in(name)
    if not name:
        raise LCAError(f"expected module:object or path/to/file.py:object, got {target!r}.")
    found: Any = _import(place)
    for part in name.split("."):
        if not hasattr(found, part):
            public = getattr(found, "__all__", [name for name in vars(found) if name[0] != "_"])
            raise UnknownNameError(f"object in {place}", part, public)
        found = getattr(found, part)
    if isinstance(found, QuadratureRule):
        return partial(PathIntegral, found)
    # A class has the attributes of its instances and would pass isinstance for a protocol.
    if not isinstance(found, type) and (isinstance(found, (Estimator, Objective)) or also(found)):
        return lambda: found
    return _tried(target, found, also)


def _built_in(name: str) -> Callable[[], Any]:
    try:
        make_estimator(name)
    except UnknownNameError as error:
        raise LCAError(
            f"expected module:object or path/to/file.py:object, or a built-in estimator: {error}"
        ) from None
    return partial(make_estimator, name)


def _tried(target: str, make: Any, also: Callable[[Any], bool]) -> Callable[[], Any]:
    if not callable(make):
        raise LCAError(f"{target} is an object of type {type(make).__name__}; {_WANTED}")
    try:
        made = make()
    except TypeError as error:
        raise LCAError(
            f"{target} cannot be called without arguments ({error}); write a function that calls it with "
            "arguments, and pass that function."
        ) from error
    except LCAError:
        raise
    except Exception as error:
        raise LCAError(
            f"{target} raised {type(error).__name__}: {error}; --traceback shows where."
        ) from error
    if not isinstance(made, (Estimator, Objective)) and not also(made):
        raise LCAError(f"{target} makes an object of type {type(made).__name__}; {_missing(made)}{_WANTED}")
    maker: Callable[[], Any] = make
    return maker


def _missing(made: object) -> str:
    """Which attributes the object lacks of the contract that it comes closest to."""
    contracts = {
        "an estimator": ("target", "degree", "cost", "start"),
        "an objective": ("layout", "loss", "loss_and_grad"),
    }
    lacking = {what: [n for n in names if not hasattr(made, n)] for what, names in contracts.items()}
    what, names = min(lacking.items(), key=lambda entry: len(entry[1]) / len(contracts[entry[0]]))
    return f"to be {what} it lacks {', '.join(names)}. " if len(names) < len(contracts[what]) else ""


_WANTED = (
    "an estimator has target, degree, cost and start; an objective has layout, loss and loss_and_grad (see "
    "the pages 'Write an estimator' and 'Write an objective' of the documentation)."
)


def _import(place: str) -> ModuleType:
    sys.path.insert(0, "")  # the current folder first, as with `python -m`
    try:
        return _from_file(Path(place)) if place.endswith(".py") else import_module(place)
    except ImportError as error:
        raise LCAError(f"cannot import {place}: {error}; is it on the path, or in this folder?") from error
    except Exception as error:  # the module's own code
        if isinstance(error, LCAError):
            raise
        raise LCAError(f"{place} raised {type(error).__name__}: {error}; --traceback shows where.") from error
    finally:
        sys.path.remove("")


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise LCAError(f"there is no file {path}.")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module
