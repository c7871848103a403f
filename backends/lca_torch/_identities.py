"""What code finds by the identity of an object, with private copies in place of the user's objects.

A registry may have modules as keys, or their `id`; blocks may refer to their model weakly.
"""

import dis
from collections import OrderedDict
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
    keys = () if isinstance(value, WeakValueDictionary) else value
    return any(
        isinstance(part, Tensor) for key in keys for part in (key if isinstance(key, tuple) else (key,))
    )


def replace_keys(original: Any, made: Any, copies: Mapping[int, Any]) -> None:
    """Let the copy of a container find the copies of the objects by which the original finds something."""
    if isinstance(made, WeakValueDictionary):
        for key, value in original.items():
            made[key] = copies.get(id(value), value)
        return
    keys = [_copied(key, copies) for key in original]
    if all(key is own for key, own in zip(keys, original, strict=True)):
        return
    bases = (OrderedDict, dict, type(made))
    kind: Any = next(base for base in bases if isinstance(made, base))  # past the methods of a subclass
    values = None if isinstance(made, WeakSet) else list(kind.values(made))
    kind.clear(made)
    kind.update(made, keys if values is None else zip(keys, values, strict=True))


def _copied(key: Any, copies: Mapping[int, Any]) -> Any:
    """What the copies have in place of a key; a method is found by its object."""
    if isinstance(key, tuple) and type(key) is tuple:
        parts = tuple(_copied(part, copies) for part in key)
        return key if all(a is b for a, b in zip(parts, key, strict=True)) else parts
    if isinstance(key, MethodType):
        owner = copies.get(id(key.__self__), key.__self__)
        return key if owner is key.__self__ else MethodType(key.__func__, owner)
    return copies.get(id(key), key)
