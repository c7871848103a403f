"""`kept` undoes what a forward pass writes in Python; `HostGenerators` restores random generators."""

import pickle
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from io import IOBase
from itertools import starmap
from types import CellType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from keras.src.backend.common import global_state
from keras.src.utils.tracking import Tracker

from lca.errors import NonDeterministicError
from lca.frameworks._environment import environment_kept
from lca.frameworks._keepers import emptied_again
from lca_keras._configuration import MISSING, cell_content
from lca_keras._reach import (
    GENERATORS,
    LARGEST_ARRAY,
    NOT_READ,
    class_variables,
    globals_of,
    held_by,
    is_iterator,
    is_long,
    is_opaque,
    is_users,
    keepers_of,
    namespaces,
    written_elsewhere,
)

KERAS_GLOBALS = ("global_seed_generator", "current_call_ctx")


@contextmanager
def kept(parts: Iterable[Any]) -> Iterator[None]:
    """Restore at the end the variables of these objects, the contents of containers, and Keras' globals.

    ``parts`` are those of `lca_keras._reach.reached`: evaluating a loss runs the user's code, which may count
    its calls or keep what it has computed.
    """
    parts = list(parts)
    restore = [put_back for part in parts for put_back in _restorers(part)]
    own = {id(f.__globals__): f.__globals__ for f in parts if isinstance(f, FunctionType) and is_users(f)}
    restore += map(_new_names_restorer, own.values())
    keras_globals = {name: global_state.get_global_attribute(name) for name in KERAS_GLOBALS}
    try:
        for part in parts:
            if not is_long(part):
                _withhold_iterators(part)
        with environment_kept():
            yield
    finally:
        for name, value in keras_globals.items():
            global_state.set_global_attribute(name, value)
        for put_back in restore:
            put_back()


class Withheld:
    """In place of an iterator while a loss is evaluated, which would use up what training reads from it."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._kind = type(iterator).__name__

    def __iter__(self) -> "Withheld":
        return self

    def __next__(self) -> Any:
        raise NonDeterministicError(
            f"the loss takes values from an iterator ({self._kind}), which measuring would use up; compute "
            "them from a variable that the training loop changes."
        )

    send = __next__


class HostGenerators(NamedTuple):
    """The states of generators of Python and NumPy: the global ones, and those that the user's code holds."""

    states: list[tuple[Any, Any]]

    @classmethod
    def now(cls, parts: Iterable[Any]) -> "HostGenerators":
        """The states as they are."""
        held = (value for part in parts for value in held_by(part))
        own = {id(v): v for v in held if isinstance(v, GENERATORS) and not is_opaque(v)}
        known = [random._inst, np.random.mtrand._rand, *own.values()]
        return cls([(generator, _state_of(generator)) for generator in known])

    def drawn(self) -> str:
        """The library whose generator has moved since, or an empty string."""
        moved = [one for one, before in self.states if pickle.dumps(_state_of(one)) != pickle.dumps(before)]
        return ("Python" if isinstance(moved[0], random.Random) else "NumPy") if moved else ""

    def restore(self) -> None:
        """Put all of them back."""
        for generator, state in self.states:
            if isinstance(generator, random.Random):
                generator.setstate(state)
            elif isinstance(generator, np.random.RandomState):
                generator.set_state(state)
            else:
                generator.bit_generator.state = state


def _state_of(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def drawn_error(library: str) -> NonDeterministicError:
    """The error for a loss that draws from a generator of a library."""
    return NonDeterministicError(
        f"the loss draws random numbers from a generator of {library}, so it is not a function of the "
        "weights; draw them only when called with training=True, or outside of the loss."
    )


def _restorers(part: Any) -> Iterator[Callable[[], object]]:
    if isinstance(part, list):
        yield _list_restorer(part)
    if isinstance(part, deque | set):
        yield _container_restorer(part)
    if isinstance(part, type):
        yield _class_restorer(part)
    if isinstance(part, FunctionType) and is_users(part):
        yield from map(_cell_restorer, part.__closure__ or ())
        yield from (_names_restorer(known, names) for known, names in globals_of(part))
        yield from starmap(_attribute_restorer, written_elsewhere(part))
    yield from map(emptied_again, keepers_of(part))
    for held in held_by(part):
        if _is_small_array(held):
            yield _array_restorer(held)
        elif isinstance(held, ContextVar) and held.get(MISSING) is not MISSING:
            yield partial(held.reset, held.set(held.get()))
        elif isinstance(held, IOBase) and not held.closed and held.seekable():
            yield partial(held.seek, held.tell())
    for mapping in namespaces(part):
        yield _restorer(mapping, dict(mapping))
        for key in mapping.keys() & NOT_READ:  # the other lists are parts themselves
            if isinstance(mapping[key], list):
                yield _list_restorer(mapping[key])
            elif isinstance(mapping[key], Tracker):
                yield from (_set_restorer(ids) for ids in mapping[key].stored_ids.values())


def _withhold_iterators(part: Any) -> None:
    """Put `Withheld` in place of iterators; the restorers of the part put them back."""
    places: list[tuple[MutableMapping[Any, Any], Iterable[Any]]] = [(m, list(m)) for m in namespaces(part)]
    if isinstance(part, FunctionType) and is_users(part):
        places += globals_of(part)
        for cell in part.__closure__ or ():
            if is_iterator(cell_content(cell)):
                cell.cell_contents = Withheld(cell.cell_contents)
    for mapping, keys in places:
        for key in keys:
            if is_iterator(mapping[key]):
                mapping[key] = Withheld(mapping[key])


def _list_restorer(part: list[Any]) -> Callable[[], None]:
    entries = list(part)

    def put_back() -> None:
        if len(part) != len(entries) or any(a is not b for a, b in zip(part, entries, strict=True)):
            list.__setitem__(part, slice(None), entries)  # past the tracking of Keras

    return put_back


def _container_restorer(part: deque[Any] | set[Any]) -> Callable[[], None]:
    entries = list(part)

    def put_back() -> None:
        if len(part) != len(entries) or any(a is not b for a, b in zip(part, entries, strict=True)):
            part.clear()
            (part.extend if isinstance(part, deque) else part.update)(entries)

    return put_back


def _cell_restorer(cell: CellType) -> Callable[[], None]:
    """A variable of the function around."""
    before = cell_content(cell)

    def put_back() -> None:
        if before is not MISSING and cell_content(cell) is not before:
            cell.cell_contents = before

    return put_back


def _names_restorer(known: dict[str, Any], names: Iterable[str]) -> Callable[[], None]:
    """A function that restores the values of global names."""
    before = {name: known[name] for name in names}

    def put_back() -> None:
        known.update({name: value for name, value in before.items() if known.get(name) is not value})

    return put_back


def _new_names_restorer(known: dict[str, Any]) -> Callable[[], None]:
    """Global names that are new; but modules that were imported stay."""
    size = len(known)

    def put_back() -> None:
        for name in list(known)[size:]:  # the last ones
            if not (name.startswith("__") or isinstance(known[name], ModuleType)):
                del known[name]

    return put_back


def _attribute_restorer(module: ModuleType, name: str) -> Callable[[], None]:
    before = vars(module).get(name, MISSING)

    def put_back() -> None:
        if before is MISSING and name in vars(module):
            delattr(module, name)
        elif before is not MISSING:
            setattr(module, name, before)

    return put_back


def _array_restorer(array: np.ndarray) -> Callable[[], None]:
    before = array.copy()

    def put_back() -> None:
        if array.tobytes() != before.tobytes():
            np.copyto(array, before)

    return put_back


def _is_small_array(held: Any) -> bool:
    return (
        isinstance(held, np.ndarray)
        and held.flags.writeable
        and held.nbytes <= LARGEST_ARRAY
        and not held.dtype.hasobject
    )


def _set_restorer(part: set[Any]) -> Callable[[], None]:
    entries = set(part)
    return lambda: set.intersection_update(part, entries)


def _class_restorer(kind: type) -> Callable[[], None]:
    settings = class_variables(kind)

    def put_back() -> None:
        now = class_variables(kind)
        for name in settings.keys() | now.keys():
            if name not in settings:
                type.__delattr__(kind, name)
            elif now.get(name, MISSING) is not settings[name]:
                type.__setattr__(kind, name, settings[name])

    return put_back


def _restorer(mapping: MutableMapping[Any, Any], entries: dict[Any, Any]) -> Callable[[], None]:
    bases = (OrderedDict, dict, type(mapping))
    kind: Any = next(base for base in bases if isinstance(mapping, base))  # past the methods of a subclass

    def put_back() -> None:
        if len(mapping) != len(entries) or any(mapping.get(k, entries) is not v for k, v in entries.items()):
            kind.clear(mapping)
            kind.update(mapping, entries)

    return put_back
