"""What a forward pass writes into Python variables, to be undone."""

from collections import deque
from collections.abc import Collection
from operator import is_
from types import ModuleType
from typing import Any

from lca_torch._copies import Pair
from lca_torch._slots import INTERNAL

MANY = 1000
"""Entries of a container that is data and no state: it is put back, but not looked into."""
_SIMPLE = (bool, int, float, complex, str, type(None))
_CONTAINERS = (list, dict, set, deque)


class Memory:
    """The variables of one private object, to undo what a forward pass has written into them."""

    def __init__(self, pair: Pair, slots: Collection[tuple[int, str]]) -> None:
        self._variables = pair.copy
        keys = pair.copy if pair.keys is None or "_modules" in pair.copy else pair
        inner = [k for k in keys if k in pair.copy]
        self._keys = [k for k in inner if (id(pair.copy), k) not in slots]
        self._values = [pair.copy[key] for key in self._keys]
        self._all = frozenset(pair.copy)
        self._contents: list[tuple[Any, list[Any]]] = []
        self._seen = set[int]()
        for key in inner:
            if key not in INTERNAL:
                self._remember(pair.copy[key])

    def _remember(self, value: Any) -> None:
        """The content of a container, and of those in it."""
        if not isinstance(value, (*_CONTAINERS, tuple)) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        if not isinstance(value, tuple):
            self._contents.append((value, list(value.items() if isinstance(value, dict) else value)))
        if len(value) <= MANY:
            for item in value.values() if isinstance(value, dict) else value:
                self._remember(item)

    def restore(self) -> None:
        if not all(map(is_, map(self._variables.get, self._keys), self._values)):
            self._variables.update(zip(self._keys, self._values, strict=True))
        if len(self._variables) > len(self._all):
            for key in [key for key in self._variables if key not in self._all]:
                del self._variables[key]
        for container, content in self._contents:
            _put_back(container, content)


def _is_same(a: Any, b: Any) -> bool:
    """Whether two items are one object, or two entries of dictionaries are."""
    return a is b or (type(a) is type(b) is tuple and len(a) == len(b) and all(map(is_, a, b)))


def _put_back(container: Any, content: list[Any]) -> None:
    now = container.items() if isinstance(container, dict) else container
    if len(now) != len(content) or not all(map(_is_same, now, content)):
        container.clear()
        (container.extend if isinstance(container, list | deque) else container.update)(content)


class Shared:
    """Simple variables and containers of a class or module that cannot be copied, as they are now."""

    def __init__(self, owner: type | ModuleType) -> None:
        self._owner = owner
        own = {key: value for key, value in vars(owner).items() if not key.startswith("__")}
        self._simple = {key: value for key, value in own.items() if isinstance(value, _SIMPLE)}
        self._contents = [
            (value, list(value.items() if isinstance(value, dict) else value))
            for value in own.values()
            if isinstance(value, _CONTAINERS) and len(value) <= MANY
        ]

    def restore(self) -> None:
        """Put them back."""
        now = vars(self._owner)
        for key, value in self._simple.items():
            if now.get(key) is not value:
                setattr(self._owner, key, value)
        for container, content in self._contents:
            _put_back(container, content)
