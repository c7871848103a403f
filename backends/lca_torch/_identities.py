"""What code finds by the identity of an object, with private copies in place of the user's objects.

A registry may have modules as keys, or their `id`; blocks may refer to their model weakly.
"""

import dis
from collections.abc import Iterable, Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any
from weakref import ProxyTypes, ReferenceType, WeakKeyDictionary, WeakSet, WeakValueDictionary

from torch import Tensor, nn

WEAK_CONTAINERS = (WeakKeyDictionary, WeakValueDictionary, WeakSet)
_ID = "_id_of_the_original"


class Identity:
    """Stands for `id` in the code of private copies: gives the number of the original."""

    def __init__(self) -> None:
        self._ids: dict[int, int] = {}
        self._alive: list[Any] = []

    def __call__(self, value: object) -> int:
        own = id(value)
        if isinstance(value, Tensor):
            found: int = value.__dict__.get(_ID, own)
            return found
        return self._ids.get(own, own)

    def learn(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Take in originals and their copies."""
        for original, copy in pairs:
            if copy is not original:
                self._ids[id(copy)] = id(original)
                self._alive.append(copy)  # as long as its number is in use

    def keep(self, copy: object) -> None:
        """Keep alive what is referred to weakly, as the user's model does with its original."""
        self._alive.append(copy)

    @staticmethod
    def mark(attributes: dict[str, Any], original: Tensor) -> None:
        """Let these attributes of a tensor say which one it stands for."""
        attributes[_ID] = id(original)


def reads_identity(function: FunctionType) -> bool:
    """Whether the code of a function calls the builtin `id`."""
    return "id" not in function.__globals__ and _reads_id(function.__code__)


def _reads_id(code: CodeType) -> bool:
    inside = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    if "id" in code.co_names and any(
        found.argval == "id" and "GLOBAL" in found.opname for found in dis.get_instructions(code)
    ):
        return True
    return any(map(_reads_id, inside))


def is_weak(value: object) -> bool:
    """Whether it is a weak reference to a module, or a container of weak references."""
    if type(value) in ProxyTypes or type(value) is ReferenceType:
        return isinstance(referent(value), nn.Module)
    return type(value) in WEAK_CONTAINERS


def referent(value: Any) -> Any:
    """What is referred to; `None` if it is gone, or does not say."""
    if type(value) is ReferenceType:
        return value()
    try:
        return value.__init__.__self__
    except (AttributeError, ReferenceError):
        return None


def has_tensors(value: Any) -> bool:
    """Whether a dictionary or set finds tensors by their identity."""
    return any(isinstance(key, Tensor) for key in (() if isinstance(value, WeakValueDictionary) else value))


def replace_keys(original: Any, made: Any, copies: Mapping[int, Any]) -> None:
    """Let the copy of a container find the copies of the objects by which the original finds something."""
    if isinstance(made, WeakValueDictionary):
        for key, value in original.items():
            made[key] = copies.get(id(value), value)
        return
    same = (FunctionType, MethodType)
    found = {id(k): copies[id(k)] for k in original if id(k) in copies and not isinstance(k, same)}
    if not any(found[id(key)] is not key for key in original if id(key) in found):
        return
    if isinstance(made, WeakSet):
        made.clear()
        made.update(found.get(id(key), key) for key in original)
        return
    items = [(found.get(id(key), key), value) for key, value in made.items()]
    made.clear()
    made.update(items)
