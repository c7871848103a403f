"""Private copies of models and functions: they share tensors with the originals, but no Python state.

Measuring runs such copies, so that nothing it does is seen by the user's model: attributes written in
`forward`, buffers, training flags, hooks, lists and modules captured by a loss function.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, partial
from types import (
    CellType,
    CodeType,
    FunctionType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, finalize, proxy

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lca.errors import LCAError
from lca.frameworks._attributes import Attributes, slots_of
from lca.frameworks._code import globals_in
from lca_torch._copies import (
    Arguments,
    Cells,
    FindsTensors,
    Pair,
    ReadOnly,
    Trial,
    Uncopied,
    Unwrapped,
    is_bound,
)
from lca_torch._distribution import is_mesh, unsharded_class, without_distribution
from lca_torch._kept_results import standing_in, users_keeper_in
from lca_torch._libraries import in_library
from lca_torch._originals import (
    WEAK_CONTAINERS,
    Originals,
    finds_tensors,
    is_weak,
    referent,
    replace_keys,
)
from lca_torch._shared_state import is_users
from lca_torch._shared_variables import DEFAULTS, Follower, Shared
from lca_torch._without_copy import is_its_own_copy

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_SET_STATE: Any = nn.Module.__setstate__


@dataclass
class Copier:
    """Copies objects once each; what refers to an original refers to its copy in the result."""

    pairs: list[Pair] = field(default_factory=list)
    opaque: dict[int, Any] = field(default_factory=dict)
    """Objects copied by their own rules, by id: what is in them may change unseen."""
    objects: list[tuple[str, Any]] = field(default_factory=list)
    """Objects copied attribute by attribute, with their paths; their classes may change."""
    trial: Trial | None = None
    """The state of copies that are run in training mode."""
    _memo: dict[int, Any] = field(default_factory=dict)
    _alive: list[Any] = field(default_factory=list)  # alive as long as their ids are in use

    def __post_init__(self) -> None:
        self.originals = Originals()
        self._variables = Follower(self.copy, self.originals, self.trial)
        self._keyed: list[tuple[Any, Any]] = []

    def finish(self) -> list[Shared]:
        """The variables of classes, modules and functions that the copies read where the user has them."""
        found, pairs = self._variables.finish()
        self.pairs += pairs
        self.originals.learn((original, self._memo[id(original)]) for original in self._alive)
        for original, made in self._keyed:
            replace_keys(original, made, self._memo)
        return found

    def copy(self, value: Any, path: str) -> Any:  # noqa: PLR0911, PLR0912 - one line for each kind
        """A private copy of ``value``, which the user knows as ``path``; tensors are shared."""
        if id(value) in self._memo:
            return self._memo[id(value)]
        if isinstance(value, type | ModuleType):
            self._variables.add(value)
            return value
        if is_bound(value):
            return self._bound(value, path)
        if isinstance(value, _SHARED) or _is_ours(value) or is_mesh(value):
            return value
        if finds_tensors(value):
            return self._remember(value, FindsTensors(path, value))
        if is_weak(value):
            return self._weak(value, path)
        if isinstance(value, nn.Module):
            return self._object(value, path, self._shell(value, path))
        if isinstance(value, FunctionType):
            return self._function(value, path)
        if isinstance(value, MethodType):
            return MethodType(self.copy(value.__func__, path), self.copy(value.__self__, path))
        if type(value) is partial:
            args = [self.copy(a, f"{path}[{i}]") for i, a in enumerate(value.args)]
            named = {key: self.copy(a, f"{path}.{key}") for key, a in value.keywords.items()}
            made = self._remember(value, partial(self.copy(value.func, path), *args, **named))
            self.pairs.append(Pair(path, value.keywords, made.keywords))
            self.pairs.append(Pair(path, Arguments(value, ["args"]), Arguments(made, ["args"])))
            self.opaque[id(value)] = value
            return made
        if isinstance(value, dict | list | tuple | set | deque) and _is_container(type(value)):
            return self._container(value, path)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self.copy(v, f"{path}[{i}]") for i, v in enumerate(value)))
        if type(value) is SimpleNamespace or _is_plain(value):
            shell = SimpleNamespace() if type(value) is SimpleNamespace else object.__new__(type(value))
            return self._object(value, path, shell)
        if isinstance(value, _OF_THREADS):
            return self._of_thread(value, path)
        return self._other(value, path)

    def _remember(self, original: Any, copy: Any) -> Any:
        self._memo[id(original)] = copy
        self._alive.append(original)
        return copy

    def _shell(self, module: nn.Module, path: str) -> nn.Module:
        if isinstance(module, torch.jit.ScriptModule):
            raise LCAError(
                f"{path or 'the model'} is a ScriptModule, whose tensors cannot be replaced by others; pass "
                "the torch.nn.Module that it was made from."
            )
        kind = Unwrapped if isinstance(module, WRAPPERS) else unsharded_class(type(module))
        shell: nn.Module = object.__new__(kind)  # some make a class of their own in `__new__` (torch.fx)
        return shell

    def _object(self, original: Any, path: str, shell: Any) -> Any:
        self._remember(original, shell)
        self.objects.append((path, original))
        kind = type(shell)
        state = getattr(original, "__dict__", {})
        own = isinstance(shell, nn.Module) and kind is not Unwrapped and not _overrides(kind, "__deepcopy__")
        if own and _overrides(kind, "__getstate__"):
            state = original.__getstate__()
        if isinstance(shell, Unwrapped):
            state = nn.Module().__dict__ | {
                "_modules": {"module": original.module},
                "training": original.training,
            }
        if isinstance(original, nn.Module):
            state = without_distribution(state)
        state = {key: value for key, value in state.items() if not _is_cached(type(original), key, value)}
        inner = {key: self.copy(value, _join(path, key)) for key, value in state.items()}
        if own and _overrides(kind, "__setstate__"):
            shell.__setstate__(inner)
        elif inner:
            object.__getattribute__(shell, "__dict__").update(inner)
        slots = slots_of(type(original))
        if slots:
            outer, own_slots = Attributes(original, slots), Attributes(shell, slots)
            for key, value in list(outer.items()):
                own_slots[key] = self.copy(value, _join(path, key))
            self.pairs.append(Pair(path, outer, own_slots))
        self._variables.add_class(type(original), by_name=False)
        if not hasattr(original, "__dict__"):
            return shell
        keys = frozenset(k for k, v in inner.items() if v is not None or original.__dict__.get(k) is None)
        complete = keys == original.__dict__.keys()
        self.pairs.append(Pair(path, original.__dict__, shell.__dict__, None if complete else keys))
        return shell

    def _container(self, value: Any, path: str) -> Any:
        if type(value).__module__ not in _PLAIN:
            return self._subclassed(value, path)
        if isinstance(value, tuple):
            return tuple(self.copy(v, f"{path}[{i}]") for i, v in enumerate(value))
        if isinstance(value, deque):
            empty: Any = deque(maxlen=value.maxlen)
        else:
            empty = type(value)()
            if isinstance(value, defaultdict):
                empty.default_factory = self.copy(value.default_factory, path)
        made = self._remember(value, empty)
        if isinstance(value, dict):
            inside = path.removesuffix("._modules").removesuffix("_modules")
            made.update({key: self.copy(v, _join(inside, key)) for key, v in value.items()})
            self._keyed.append((value, made))
        elif isinstance(value, set):
            made.update(self.copy(v, path) for v in value)
        else:
            made.extend(self.copy(v, f"{path}[{i}]") for i, v in enumerate(value))
        return made

    def _bound(self, value: Any, path: str) -> Any:
        """A method, written in C, of the copy of its object."""
        owner = self.copy(value.__self__, path)
        if owner is value.__self__:
            return value
        made = Uncopied(path, value) if isinstance(owner, Uncopied) else getattr(owner, value.__name__)
        return self._remember(value, made)

    def _of_thread(self, value: Any, path: str) -> Any:
        """A lock of its own; or what holds attributes of a thread, with those of this one."""
        if type(value) in _LOCKS:
            return self._remember(value, _LOCKS[type(value)]())
        if isinstance(value, ContextVar):
            return self._remember(value, ReadOnly(path, value))
        kind: Any = type(value)
        made = self._remember(value, kind.__new__(kind))
        made.__dict__.update({key: self.copy(v, _join(path, key)) for key, v in value.__dict__.items()})
        self.pairs.append(Pair(path, value.__dict__, made.__dict__))
        self._variables.add_class(type(value), by_name=False)
        return made

    def _weak(self, value: Any, path: str) -> Any:
        """A weak reference, or a container of them, to the copies; it does not keep them alive either."""
        if not isinstance(value, WEAK_CONTAINERS):
            target = referent(value)
            copied = self.copy(target, path)
            self.originals.keep(copied)
            made = type(value)(copied) if isinstance(value, ReferenceType) else proxy(copied)
            return self._remember(value, made)
        made = self._remember(value, type(value)())
        if isinstance(value, WeakKeyDictionary):
            made.update({key: self.copy(v, path) for key, v in value.items()})
        else:
            made.update(value)
        self.opaque[id(value)] = value
        self._keyed.append((value, made))
        return made

    def _subclassed(self, value: Any, path: str) -> Any:
        """A dictionary or list of a class of the user's; its own methods are not called."""
        base = dict if isinstance(value, dict) else list
        made = self._remember(value, base.__new__(type(value)))
        if base is dict:
            dict.update(made, {key: self.copy(v, _join(path, key)) for key, v in dict.items(value)})
            self._keyed.append((value, made))
        else:
            list.extend(made, [self.copy(v, f"{path}[{i}]") for i, v in enumerate(list.__iter__(value))])
        own = object.__getattribute__(value, "__dict__") if type(value).__dictoffset__ else {}
        if own:
            inner = object.__getattribute__(made, "__dict__")
            inner.update({key: self.copy(v, _join(path, key)) for key, v in own.items()})
            self.pairs.append(Pair(path, own, inner))
        self._variables.add_class(type(value), by_name=False)
        return made

    def _function(self, function: FunctionType, path: str) -> FunctionType:
        """The same code with private copies of all variables that it reads from outside."""
        uncompiled = getattr(function, "_torchdynamo_orig_callable", None)
        if uncompiled is not None:
            plain: FunctionType = self._remember(function, self.copy(uncompiled, path))
            return plain
        if _is_library(function):
            return function
        outer = Cells(function.__code__.co_freevars, function.__closure__ or ())
        named = self._variables.mention(function)
        names = globals_in(function)
        inner = dict(function.__globals__)
        inner.update(self.originals.builtins_in(function))
        cells = tuple(CellType() for _ in outer.cells)
        made = FunctionType(function.__code__, inner, function.__name__, None, cells or None)
        self._remember(function, made)
        made.__kwdefaults__ = self.copy(function.__kwdefaults__, path)
        made.__defaults__ = self.copy(function.__defaults__, path)
        made.__dict__.update({k: self.copy(v, _join(path, k)) for k, v in function.__dict__.items()})
        captured = Cells(outer.cells, cells)
        for name, value in outer.items():
            captured[name] = self._read_by(value, named, _join(path, name))
        known = function.__globals__
        inner.update({name: self._read_by(known[name], named, _join(path, name)) for name in names})
        self.pairs.append(Pair(path, outer, captured))
        self.pairs.append(Pair(path, function.__globals__, inner, names))
        self.pairs.append(Pair(path, function.__dict__, made.__dict__))
        self.pairs.append(Pair(path, Attributes(function, DEFAULTS), Attributes(made, DEFAULTS)))
        return made

    def _read_by(self, value: Any, names: frozenset[str], path: str) -> Any:
        """A private copy of what code with these names reads."""
        if isinstance(value, ModuleType):
            self._variables.add_module(value, names)
            return value
        return self.copy(value, path)

    def _other(self, value: Any, path: str) -> Any:
        """A copy made by the object's own rules; the tensors and modules in it are found by making one."""
        if users_keeper_in(value) is not None:
            made = standing_in(value, self.originals.original, self.originals.copy, self.trial)
            return self._remember(value, made)
        if isinstance(value, property):
            return value
        if isinstance(value, frozenset):
            return self._remember(value, frozenset(self.copy(v, path) for v in value))
        try:
            if _is_finalised(value):
                raise TypeError("copying it could release what it holds")
            if type(value).__module__ in _ITERATING and isinstance(value, Iterator):
                self.opaque[id(value)] = value
                return self._remember(value, self._iterator(value, path))
            memo = dict(self._memo)
            made = deepcopy(value, memo)
            inside = [v for v in memo.get(id(memo), ()) if isinstance(v, Tensor | nn.Module)]
            if inside:
                shared = {id(v): self.copy(v, path) for v in inside}
                made = deepcopy(value, {**self._memo, **shared})
        except Exception:  # whatever its own __deepcopy__ raises
            made = Uncopied(path, value)
        else:
            if made is not value:
                self.opaque[id(value)] = value
            elif is_its_own_copy(value):
                self._variables.add_attributes(value)
        return self._remember(value, made)

    def _iterator(self, value: Any, path: str) -> Any:
        """An iterator of Python at the same place, over copies of what it reads and calls."""
        kind, given, *state = value.__reduce__()
        made = kind(*(self.copy(part, path) for part in given))
        if state and state[0] is not None:
            made.__setstate__(self.copy(state[0], path))
        return made


_SHARED = (
    type(None), bool, int, float, complex, str, bytes, range, slice, type(Ellipsis), Tensor, ModuleType,
    torch.dtype, torch.device, torch.Size, np.generic, np.dtype, CodeType, torch.fx.Graph,
    type(len), type(torch.relu), type(torch.ops.aten), type(Tensor.add),
)  # fmt: skip
_PLAIN = ("builtins", "collections")
_ITERATING = ("builtins", "itertools")
_LOCKS: dict[type, Callable[[], Any]] = {type(make()): make for make in (threading.Lock, threading.RLock)}
_OF_THREADS = threading.local, ContextVar, *_LOCKS


def _is_plain(value: Any) -> bool:
    """Whether an object is nothing but its attributes, so that these can be copied one by one."""
    kind = type(value)
    return (
        (hasattr(value, "__dict__") or bool(slots_of(kind)))
        and not _is_finalised(value)
        and not isinstance(value, BaseException | Enum)
        and (is_users(kind) or not any(_overrides(kind, name) for name in _CUSTOM))
        and _can_be_empty(kind)
    )


_CUSTOM = ("__new__", "__reduce__", "__reduce_ex__", "__deepcopy__")
"""Methods by which libraries define how an object is copied; those of a user may return the same object."""
_HEAP = 512
"""The flag of classes that a class statement has made, not C."""


def _can_be_empty(kind: type) -> bool:
    """Whether an instance can be made without the code of the class, and holds nothing that C put there."""
    try:
        object.__new__(kind)
    except TypeError:
        return False
    return bool(kind.__flags__ & _HEAP)


def _is_container(kind: type) -> bool:
    """Whether a class is one of Python's, or a subclass of `dict` or `list` that is copied like them."""
    if kind.__module__ in _PLAIN or not issubclass(kind, dict | list):
        return kind.__module__ in _PLAIN
    base = dict if issubclass(kind, dict) else list
    custom = ("__new__", "__reduce__", "__reduce_ex__", "__deepcopy__")
    same = all(getattr(kind, name, None) == getattr(base, name, None) for name in custom)
    return same and not slots_of(kind) and not hasattr(kind, "__del__")


def _is_finalised(value: Any) -> bool:
    return hasattr(type(value), "__del__") or isinstance(value, finalize)


def _overrides(kind: type, name: str) -> bool:
    own = getattr(kind, name, None)
    return own is not None and own is not getattr(object, name, None) and own is not _SET_STATE


def _is_cached(kind: type, key: str, value: Any) -> bool:
    """Whether a `cached_property` holds what was computed from parameters; a copy computes it anew."""
    if not isinstance(getattr(kind, key, None), cached_property):
        return False
    return any(isinstance(leaf, Tensor) and leaf.grad_fn is not None for leaf in tree_leaves(value))


def _is_library(function: FunctionType) -> bool:
    """Whether a function belongs to a library, and holds no state of the user."""
    return not function.__closure__ and in_library(function.__module__ or "")


def _is_ours(value: Any) -> bool:
    """Whether an object belongs to this library: an optimizer that is tracked leads to the tracker."""
    module = value.__module__ if isinstance(value, FunctionType) else type(value).__module__
    return (module or "").partition(".")[0] in {"lca", "lca_torch"} and not isinstance(value, nn.Module)


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
