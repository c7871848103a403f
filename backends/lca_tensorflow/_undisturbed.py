"""`undisturbed`: restores what reading data moves in Python: generators, counters, lists, variables."""

import functools
import random
import sys
import types
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

from lca.errors import DataError
from lca.frameworks._code import globals_in

Restore: TypeAlias = Callable[[], object]
LARGE = 2**26
"""Bytes of an array, above which it is not copied: reading may not change it."""
_OPAQUE = (type, types.ModuleType, types.CodeType, str, bytes, int, float, complex, type(None), tf.Tensor)


@contextmanager
def undisturbed(*roots: object) -> Iterator[None]:
    """Restore at the end the global random generators, and all that can be reached from ``roots``.

    These are objects, their attributes, lists and arrays, functions, and the variables that those use, of
    their modules as well.

    Raises
    ------
    DataError
        If an iterator is among them, which cannot be put back; if a large array was changed, or numbers were
        drawn from TensorFlow's global generator.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> with undisturbed(lambda: rng.random()):
    ...     first = rng.random()
    >>> rng.random() == first
    True
    """
    operations = _operations()
    drawn = operations.getstate() if operations is not None else None
    restores = [*_globals(), *(restore for found in _reached(roots) for restore in _saved(found))]
    try:
        yield
    finally:
        with ExitStack() as stack:
            for restore in restores:
                stack.callback(restore)
    if operations is not None and operations is _operations() and operations.getstate() != drawn:
        raise DataError(
            "reading the measured data draws from TensorFlow's global generator, from which training draws "
            "as well; draw with NumPy or tf.random.Generator in the data set, or pass arrays."
        )


def _operations() -> random.Random | None:
    """The generator of `tf.random.set_seed`, for eager operations; there is none before its first call."""
    return getattr(context.context(), "_rng", None)


def _globals() -> list[Restore]:
    restores: list[Restore] = [
        partial(random.setstate, random.getstate()),
        partial(np.random.set_state, np.random.get_state()),  # noqa: NPY002 - users draw from it
    ]
    if torch := sys.modules.get("torch"):  # fit takes loaders of torch
        restores.append(partial(torch.set_rng_state, torch.get_rng_state()))
    own = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    restores.append(partial(global_state.set_global_attribute, GLOBAL_SEED_GENERATOR, own))
    if own is not None:
        restores += _saved(own.state)
    if stateful_random_ops.global_generator is not None:
        restores += _saved(stateful_random_ops.global_generator.state)
    return restores


def _reached(roots: Iterable[object]) -> list[object]:
    """Everything that can be reached from ``roots``, each once."""
    found: dict[int, object] = {}
    waiting = list(roots)
    while waiting:
        this = waiting.pop()
        if isinstance(this, _OPAQUE) or id(this) in found:
            continue
        found[id(this)] = this
        waiting += _inside(this)
    return list(found.values())


def _inside(this: Any) -> Iterable[object]:
    found: Iterable[object] = ()
    match this:
        case dict():
            found = this.values()
        case list() | tuple() | set() | frozenset() | deque():
            found = this
        case types.FunctionType():
            found = [*(this.__closure__ or ()), *(this.__defaults__ or ()), *_used_globals(this).values()]
        case types.CellType():
            found = _contents(this)
        case types.MethodType():
            found = this.__self__, this.__func__
        case functools.partial():
            found = this.func, this.args, this.keywords
        case keras.layers.Layer() | tf.Module():
            found = this.variables
        case np.random.Generator():
            found = [this.bit_generator]
        case keras.random.SeedGenerator() | tf.random.Generator():
            found = [this.state]
        case tf.data.Dataset._GeneratorState():  # of from_generator
            found = [this._generator]
        case _ if not _of_library(type(this)):
            found = [getattr(this, "__dict__", ()), *_methods(type(this))]
    return found


def _methods(kind: type) -> list[types.FunctionType]:
    """The functions of a class and its bases outside the libraries."""
    own = [base for base in kind.__mro__ if not _of_library(base)]
    return [value for base in own for value in vars(base).values() if isinstance(value, types.FunctionType)]


def _of_library(this: Any) -> bool:
    """Whether a class or function is one of Python's or of an installed package, not the user's own."""
    root = (this.__module__ or "").partition(".")[0]
    if root in sys.stdlib_module_names:
        return root != "__main__"
    return "-packages" in (getattr(sys.modules.get(root), "__file__", None) or "")


def _used_globals(function: types.FunctionType) -> dict[str, object]:
    """What a function uses of its module, by name; modules and classes left out."""
    if _of_library(function):
        return {}
    return {name: function.__globals__[name] for name in sorted(globals_in(function))}


def _contents(cell: types.CellType) -> list[object]:
    try:
        return [cell.cell_contents]
    except ValueError:  # empty
        return []


def _saved(this: Any) -> list[Restore]:
    """What puts an object back into its present state."""
    found: list[Restore] = []
    match this:
        case dict():
            found = [partial(_refill, this, dict(this))]
        case set():
            found = [partial(_refill_set, this, set(this))]
        case list() | deque():
            found = [partial(_refill_sequence, this, list(this))]
        case types.CellType():
            found = [partial(setattr, this, "cell_contents", value) for value in _contents(this)]
        case types.FunctionType():
            found = [partial(this.__globals__.update, _used_globals(this))]
        case np.ndarray():
            found = [_saved_array(this)] if this.flags.writeable else []
        case random.Random():
            found = [partial(this.setstate, this.getstate())]
        case np.random.RandomState():
            found = [partial(this.set_state, this.get_state())]
        case np.random.BitGenerator():
            found = [partial(setattr, this, "state", this.state)]
        case keras.Variable() | tf.Variable():
            found = [partial(this.assign, tf.identity(this))]
        case Iterator():
            raise DataError(
                f"the measured data hold a {type(this).__name__}, which reading them would use up; make it "
                "anew at every pass, inside the function that yields the data, or pass a list of batches."
            )
        case _ if hasattr(this, "get_state") and hasattr(this, "set_state"):  # generators of other libraries
            found = [partial(this.set_state, this.get_state())]
    return found


def _saved_array(array: np.ndarray) -> Restore:
    if array.nbytes <= LARGE or array.dtype.hasobject:
        return partial(np.copyto, array, array.copy())
    before = _checksum(array)

    def check() -> None:
        if _checksum(array) != before:
            raise DataError(
                f"reading the measured data changed an array of shape {array.shape} that they hold, which is "
                "too large to be put back; change a copy of it, or pass arrays (x, y)."
            )

    return check


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data)


def _refill(this: dict[Any, Any], before: dict[Any, Any]) -> None:
    if list(this) != list(before) or any(this[name] is not before[name] for name in this):
        this.clear()
        this.update(before)


def _refill_set(this: set[Any], before: set[Any]) -> None:
    this.intersection_update(before)
    this.update(before)


def _refill_sequence(this: Any, before: list[Any]) -> None:
    if len(this) != len(before) or any(a is not b for a, b in zip(this, before, strict=True)):
        this.clear()
        this.extend(before)
