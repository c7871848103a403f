"""Python state that a private copy shares with its original: saved before reading, put back afterwards.

Functions and classes cannot be copied, and with them goes all that they reach by name: global and class
attributes, variables of closures, the generators there. Some objects refuse to be copied (open files).
"""

import random
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from io import IOBase
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from lca.errors import DataError
from lca.frameworks._code import globals_in, names_in

_MISSING = object()
_MANY = 1000
"""Entries of a container that is data and no state: its entries are put back, but not looked into."""


class _Slot(NamedTuple):
    """One place that can be read and written."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


class SharedState:
    """The state that reading a copy may still move, and the global generators.

    >>> shared = SharedState()
    >>> numbers = np.random.default_rng(0)
    >>> shared.add([numbers])
    >>> before = shared.save()
    >>> first = numbers.random()
    >>> shared.restore(before)
    >>> first == numbers.random()
    True
    """

    def __init__(self) -> None:
        self._slots = [
            _Slot(random.getstate, random.setstate),
            _Slot(np.random.get_state, np.random.set_state),
            _Slot(torch.get_rng_state, torch.set_rng_state),
        ]
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._slots.append(_Slot(torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all))
        self._seen: dict[int, Any] = {}

    def save(self) -> list[Any]:
        """The values of all places as they are now."""
        return [slot.read() for slot in self._slots]

    def restore(self, values: list[Any]) -> None:
        """Put back what `save` returned."""
        for slot, value in zip(self._slots, values, strict=True):
            slot.write(value)

    def add(self, found: Any) -> None:
        """Register ``found`` and all that it reaches by name.

        Raises
        ------
        DataError
            If there is an iterator among it: reading would use it up.
        """
        if id(found) in self._seen or isinstance(found, ModuleType | torch.Tensor | np.ndarray):
            return
        self._seen[id(found)] = found
        slot = slot_of(found)
        if slot is not None:
            self._slots.append(slot)
        elif isinstance(found, FunctionType):
            self._add_function(found)
        elif isinstance(found, MethodType):
            self.add(found.__func__)
            self.add(found.__self__)
        elif isinstance(found, type):
            self._add_class(found)
        elif isinstance(found, dict | list | set | deque):
            self._add_container(found)
        elif isinstance(found, Iterator):
            raise DataError(refusal(found))
        elif is_users(type(found)) and hasattr(found, "__dict__"):
            self._add_container(vars(found))
            self.add(type(found))

    def _add_function(self, function: FunctionType) -> None:
        if not is_users(function):
            return
        for cell in function.__closure__ or ():
            self._add_slot(_cell_slot(cell))
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self.add(value)
        names, known = names_in(function.__code__), globals_in(function)
        for name in known:
            self._add_slot(_item_slot(function.__globals__, name))
        for module in map(function.__globals__.get, known):
            if isinstance(module, ModuleType) and is_users(module):
                for name in names & vars(module).keys():
                    self._add_slot(_item_slot(vars(module), name))

    def _add_class(self, found: type) -> None:
        for owner in filter(is_users, found.__mro__):
            for name, value in list(vars(owner).items()):
                for function in functions_of(value):
                    self.add(function)
                if not name.startswith("__") and not functions_of(value):
                    self._add_slot(_attribute_slot(owner, name))

    def _add_container(self, found: Any) -> None:
        self._slots.append(_contents_slot(found))
        if len(found) <= _MANY:
            for value in list(found.values() if isinstance(found, dict) else found):
                self.add(value)

    def _add_slot(self, slot: _Slot) -> None:
        self._slots.append(slot)
        self.add(slot.read())


def slot_of(found: Any) -> _Slot | None:  # noqa: PLR0911 - one return for each kind
    """How the state of a generator, an open file or a shared value is read and written, if it is one."""
    if isinstance(found, torch.Generator | np.random.RandomState):
        return _Slot(found.get_state, found.set_state)
    if isinstance(found, random.Random) and not isinstance(found, random.SystemRandom):
        return _Slot(found.getstate, found.setstate)
    if isinstance(found, np.random.Generator):
        return _property_slot(found.bit_generator, "state")
    if isinstance(found, np.random.BitGenerator):
        return _property_slot(found, "state")
    if isinstance(found, IOBase) and not found.closed and found.seekable():
        return _Slot(found.tell, found.seek)
    if type(found).__module__.startswith("multiprocessing.") and hasattr(found, "value"):
        return _property_slot(found, "value")
    return None


def refusal(found: Any) -> str:
    """Why the data cannot be read without disturbing the training, and what to pass."""
    return (
        f"the data cannot be read without using up what training reads: they hold a {type(found).__name__}, "
        "which can be neither copied nor put back; pass the data set itself, or a list of batches."
    )


def _property_slot(owner: Any, name: str) -> _Slot:
    return _Slot(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _cell_slot(cell: Any) -> _Slot:
    def read() -> Any:
        try:
            return cell.cell_contents
        except ValueError:
            return _MISSING

    def write(value: Any) -> None:
        if value is not _MISSING:
            cell.cell_contents = value

    return _Slot(read, write)


def _item_slot(names: dict[str, Any], name: str) -> _Slot:
    def write(value: Any) -> None:
        if value is _MISSING:
            names.pop(name, None)
        elif names.get(name, _MISSING) is not value:
            names[name] = value

    return _Slot(lambda: names.get(name, _MISSING), write)


def _attribute_slot(owner: type, name: str) -> _Slot:
    def write(value: Any) -> None:
        if vars(owner).get(name, _MISSING) is not value:
            setattr(owner, name, value)

    return _Slot(lambda: vars(owner).get(name, _MISSING), write)


def _contents_slot(found: Any) -> _Slot:
    def write(values: Any) -> None:
        found.clear()
        (found.extend if isinstance(found, list | deque) else found.update)(values)

    return _Slot(found.copy, write)


def functions_of(member: Any) -> list[FunctionType]:
    """The functions that a member of a class wraps: a method, a static or class method, a property."""
    if isinstance(member, property):
        return [part for part in (member.fget, member.fset) if isinstance(part, FunctionType)]
    function = getattr(member, "__func__", getattr(member, "func", member))
    return [function] if isinstance(function, FunctionType) else []


def is_users(found: Any) -> bool:
    """Whether a class, function or module is neither installed nor part of Python or this package."""
    name = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None)
    return isinstance(name, str) and _is_users_module(name)


@cache
def _is_users_module(name: str) -> bool:
    """Whether a module is neither installed nor part of Python or this package."""
    if name == "__main__":
        return True
    if name.partition(".")[0] in ("lca", "lca_torch"):
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    libraries = {sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")}
    return bool(file) and not any(str(file).startswith(library) for library in libraries)
