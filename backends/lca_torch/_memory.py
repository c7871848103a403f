"""`Memory`: undoes what a forward pass writes into Python variables."""

from collections import deque
from collections.abc import Collection, Iterable
from operator import call, is_
from typing import Any

from lca_torch._copies import Namespace, Pair, Uncopied
from lca_torch._slots import INTERNAL

MANY = 1000
"""Entries of a container that is data and no state: it is put back, but not looked into."""
_CONTAINERS = (list, dict, set, deque)


class Memory:
    """The variables of private objects, to undo what a forward pass has written into them.

    The containers that every `torch.nn.Module` has for torch are left alone: `Slots` writes what they hold.
    """

    def __init__(self, pairs: Iterable[Pair], slots: Collection[tuple[int, str]]) -> None:
        self._spaces: list[tuple[Namespace, dict[str, Any], frozenset[str]]] = []
        self._contents: list[tuple[Any, list[Any]]] = []
        self._seen = set[int]()
        for pair in pairs:
            keys = pair.copy if pair.keys is None or "_modules" in pair.copy else pair
            own = {key: pair.copy[key] for key in keys if key in pair.copy and key not in INTERNAL}
            kept = {key: value for key, value in own.items() if (id(pair.copy), key) not in slots}
            self._spaces.append((pair.copy, kept, frozenset(pair.copy)))
            for value in own.values():
                self._remember(value)
        entries = [(space, key, value) for space, kept, _ in self._spaces for key, value in kept.items()]
        self._places = [space.get for space, _, _ in entries], [key for _, key, _ in entries]
        self._values = [value for _, _, value in entries]
        self._copies = [space for space, _, _ in self._spaces]
        self._lengths = list(map(len, self._copies))

    def _remember(self, value: Any) -> None:
        """The content of a container, and of those in it."""
        if isinstance(value, Uncopied) or not isinstance(value, (*_CONTAINERS, tuple)):
            return
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if not isinstance(value, tuple):
            self._contents.append((value, list(value.items() if isinstance(value, dict) else value)))
        if len(value) <= MANY:
            for item in value.values() if isinstance(value, dict) else value:
                self._remember(item)

    def restore(self) -> None:
        """Put back the variables that were assigned to, and delete new ones."""
        if not all(map(is_, map(call, *self._places), self._values)) or (
            list(map(len, self._copies)) != self._lengths
        ):
            for space, kept, known in self._spaces:
                space.update(kept)
                for key in [key for key in space if key not in known]:
                    del space[key]
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
