"""`Originals`: lets code that finds objects by their identity work on private copies of these objects.

A registry may have modules as keys, or their `id`; blocks may refer to their model weakly.
"""

import dis
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any
from weakref import ProxyTypes, ReferenceType, WeakKeyDictionary, WeakSet, WeakValueDictionary

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from lca.errors import LCAError
from lca_torch._shared_state import is_users

WEAK_CONTAINERS = (WeakKeyDictionary, WeakValueDictionary, WeakSet, WeakIdKeyDictionary)
_ORIGINAL = "_the_original"


class Originals:
    """Knows the originals of private copies, and answers for these where code asks by identity."""

    def __init__(self) -> None:
        self._originals: dict[int, Any] = {}
        self._copies: dict[int, Any] = {}
        self._alive: list[Any] = []

    def original(self, value: Any) -> Any:
        """The original of a copy, also in a tuple or as the owner of a method; all else as it is."""
        if type(value) is tuple:
            return tuple(map(self.original, value))
        if isinstance(value, MethodType):
            return MethodType(value.__func__, self.original(value.__self__))
        return self._own(value)

    def _own(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.__dict__.get(_ORIGINAL, value)
        return self._originals.get(id(value), value)

    def copy(self, value: Any) -> Any:
        """The copy of an original; all else as it is."""
        return self._copies.get(id(value), value)

    def id(self, value: object) -> int:
        """Stands for `id` in the code of private copies: the number of the original."""
        return id(self._own(value))

    def hash(self, value: object) -> int:
        """Stands for `hash` in the code of private copies: that of the original."""
        return hash(self.original(value))

    def builtins_in(self, function: FunctionType) -> dict[str, Any]:
        """What takes the places of the builtins by which the code of a function asks for identity.

        Raises
        ------
        LCAError
            If the code calls ``__hash__`` by its name, which nothing can take the place of.
        """
        read = _read_by(function.__code__)
        if "__hash__" in read:
            raise LCAError(
                f"{function.__qualname__} calls __hash__ by its name, but private copies are measured, which "
                "have other identities; call hash(...), or use names (model.named_parameters())."
            )
        instead = {"id": self.id, "hash": self.hash}
        return {name: instead[name] for name in read - function.__globals__.keys()}

    def learn(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Take in originals and their copies."""
        for original, copy in pairs:
            if copy is not original:
                self._originals[id(copy)], self._copies[id(original)] = original, copy
                self._alive.append(copy)  # as long as its number is in use

    def keep(self, copy: object) -> None:
        """Keep alive what is referred to weakly, as the user's model does with its original."""
        self._alive.append(copy)

    @staticmethod
    def mark(attributes: dict[str, Any], original: Tensor) -> None:
        """Let these attributes of a tensor say which one it stands for."""
        attributes[_ORIGINAL] = original


def _read_by(code: CodeType) -> set[str]:
    """Which names that stand for identity some code reads: builtins, and ``__hash__`` of an object."""
    found = set[str]().union(*(_read_by(inner) for inner in code.co_consts if isinstance(inner, CodeType)))
    if {"id", "hash", "__hash__"}.isdisjoint(code.co_names):
        return found
    for one in dis.get_instructions(code):
        is_builtin = one.argval in ("id", "hash") and "GLOBAL" in one.opname
        if is_builtin or (one.argval == "__hash__" and ("ATTR" in one.opname or "METHOD" in one.opname)):
            found.add(one.argval)
    return found


def is_weak(value: object) -> bool:
    """Whether a value is a weak reference to a module or an object of the user's, or a container of such."""
    if type(value) in ProxyTypes or type(value) is ReferenceType:
        target = referent(value)
        return isinstance(target, nn.Module) or is_users(type(target))
    return type(value) in WEAK_CONTAINERS


def referent(value: Any) -> Any:
    """The object that a weak reference refers to; `None` if it is gone, or cannot be found."""
    if type(value) is ReferenceType:
        return value()
    try:
        return value.__init__.__self__
    except (AttributeError, ReferenceError):
        return None


def finds_tensors(value: Any) -> bool:
    """Whether a value is a container that finds tensors by their identity, or holds them weakly."""
    if isinstance(value, WeakValueDictionary):
        return any(map(_is_of_tensor, value.values()))
    if isinstance(value, dict):
        return any(map(_is_of_tensor, dict.keys(value)))  # past the methods of a subclass
    return isinstance(value, (set, frozenset, *WEAK_CONTAINERS)) and any(map(_is_of_tensor, value))


def _is_of_tensor(key: Any) -> bool:
    """Whether a key is a tensor, refers to one or contains one."""
    if isinstance(key, tuple | frozenset):
        return any(map(_is_of_tensor, key))
    return isinstance(key() if isinstance(key, ReferenceType) else key, Tensor)


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
