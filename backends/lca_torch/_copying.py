"""Private copies of models and functions: they share tensors with the originals, but no Python state.

Measuring runs such copies, so that nothing it does is seen by the user's model: attributes written in
`forward`, buffers, training flags, hooks, lists and modules captured by a loss function.
"""

from collections import defaultdict, deque
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from types import (
    CellType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lca.errors import LCAError
from lca_torch._copies import Attributes, Cells, Pair, Uncopied, Unwrapped
from lca_torch._shared_state import is_users

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_SET_STATE: Any = nn.Module.__setstate__


@dataclass
class Copier:
    """Copies objects once each; what refers to an original refers to its copy in the result."""

    pairs: list[Pair] = field(default_factory=list)
    opaque: dict[int, Any] = field(default_factory=dict)
    """Objects copied by their own rules, by id: what is in them may change unseen."""
    shared: dict[int, type | ModuleType] = field(default_factory=dict)
    """Classes and modules of the user that are reached, by id; they cannot be copied."""
    _memo: dict[int, Any] = field(default_factory=dict)
    _originals: list[Any] = field(default_factory=list)  # alive as long as their ids are in use

    def copy(self, value: Any, path: str) -> Any:  # noqa: PLR0911 - one line for each kind of value
        """A private copy of ``value``, which the user knows as ``path``; tensors are shared."""
        if id(value) in self._memo:
            return self._memo[id(value)]
        if isinstance(value, type | ModuleType):
            self._share(value, path)
            return value
        if isinstance(value, _SHARED) or _is_ours(value):
            return value
        if isinstance(value, torch.jit.ScriptModule):
            raise LCAError(
                f"{path or 'the model'} is a ScriptModule, whose tensors cannot be replaced by others; pass "
                "the torch.nn.Module that it was made from."
            )
        if isinstance(value, nn.Module):
            return self._object(value, path, self._shell(value))
        if isinstance(value, FunctionType):
            return self._function(value, path)
        if isinstance(value, MethodType):
            return MethodType(self.copy(value.__func__, path), self.copy(value.__self__, path))
        if type(value) is partial:
            args = [self.copy(a, f"{path}[{i}]") for i, a in enumerate(value.args)]
            named = {key: self.copy(a, f"{path}.{key}") for key, a in value.keywords.items()}
            made = self._remember(value, partial(self.copy(value.func, path), *args, **named))
            self.pairs.append(Pair(path, value.keywords, made.keywords))
            self.opaque[id(value)] = value
            return made
        if isinstance(value, dict | list | tuple | set | deque) and type(value).__module__ in _PLAIN:
            return self._container(value, path)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self.copy(v, f"{path}[{i}]") for i, v in enumerate(value)))
        if type(value) is SimpleNamespace or _is_plain(value):
            kind: Any = type(value)
            return self._object(value, path, kind.__new__(kind))
        return self._other(value, path)

    def _remember(self, original: Any, copy: Any) -> Any:
        self._memo[id(original)] = copy
        self._originals.append(original)
        return copy

    def _share(self, value: type | ModuleType, path: str) -> None:
        """Follow the simple variables of a class or module that stays the user's own."""
        if id(value) in self.shared or not is_users(value):
            return
        self.shared[id(value)] = value
        simple = {k: v for k, v in vars(value).items() if isinstance(v, _NUMBERS) and k[:2] != "__"}
        self.pairs.append(Pair(path, vars(value), simple, frozenset(simple)))

    def _shell(self, module: nn.Module) -> nn.Module:
        kind = Unwrapped if isinstance(module, WRAPPERS) else type(module)
        shell: nn.Module = object.__new__(kind)  # some make a class of their own in `__new__` (torch.fx)
        return shell

    def _object(self, original: Any, path: str, shell: Any) -> Any:
        self._remember(original, shell)
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
        inner = {key: self.copy(value, _join(path, key)) for key, value in state.items()}
        if own and _overrides(kind, "__setstate__"):
            shell.__setstate__(inner)
        elif inner:
            object.__getattribute__(shell, "__dict__").update(inner)
        slots = tuple(_slots(type(original)))
        if slots:
            outer, own_slots = Attributes(original, slots), Attributes(shell, slots)
            for key, value in list(outer.items()):
                own_slots[key] = self.copy(value, _join(path, key))
            self.pairs.append(Pair(path, outer, own_slots))
        if not hasattr(original, "__dict__"):
            return shell
        keys = frozenset(k for k, v in inner.items() if v is not None or original.__dict__.get(k) is None)
        complete = keys == original.__dict__.keys()
        self.pairs.append(Pair(path, original.__dict__, shell.__dict__, None if complete else keys))
        for base in type(original).__mro__:
            if not _in_library(base.__module__):
                self.shared.setdefault(id(base), base)
                self._class(base, path, shell)
        return shell

    def _class(self, kind: type, path: str, shell: Any) -> None:
        """Give a copy, as its own, the numbers and tensors of its class, and methods that read such."""
        values, methods = vars(kind), dict[str, Any]()
        fixed = {
            k for k, v in values.items() if isinstance(v, (*_NUMBERS, Tensor)) and not k.startswith("__")
        }
        inner = shell.__dict__
        fixed -= inner.keys()
        inner.update({key: values[key] for key in fixed})
        self.pairs.append(Pair(path, values, inner, frozenset(fixed)))  # type: ignore[arg-type]
        for name, method in values.items():
            if isinstance(method, FunctionType) and name not in inner and not name.startswith("__"):
                names = set(_names(method.__code__)) & method.__globals__.keys()
                read = [method.__globals__[n] for n in names]
                for found in read:
                    if isinstance(found, type | ModuleType):
                        self._share(found, name)
                if not all(isinstance(found, _FIXED) for found in read):
                    methods[name] = MethodType(self.copy(method, path), shell)
        inner.update(methods)

    def _container(self, value: Any, path: str) -> Any:
        if isinstance(value, tuple):
            return tuple(self.copy(v, f"{path}[{i}]") for i, v in enumerate(value))
        if isinstance(value, deque):
            empty: Any = deque(maxlen=value.maxlen)
        else:
            empty = defaultdict(value.default_factory) if isinstance(value, defaultdict) else type(value)()
        made = self._remember(value, empty)
        if isinstance(value, dict):
            inside = path.removesuffix("._modules").removesuffix("_modules")
            made.update({key: self.copy(v, _join(inside, key)) for key, v in value.items()})
        elif isinstance(value, set):
            made.update(self.copy(v, path) for v in value)
        else:
            made.extend(self.copy(v, f"{path}[{i}]") for i, v in enumerate(value))
        return made

    def _function(self, function: FunctionType, path: str) -> FunctionType:
        """The same code with private copies of all variables that it reads from outside."""
        if _is_library(function):
            return function
        outer = Cells(function.__code__.co_freevars, function.__closure__ or ())
        names = frozenset(set(_names(function.__code__)) & function.__globals__.keys())
        inner = dict(function.__globals__)
        cells = tuple(CellType() for _ in outer.cells)
        made = FunctionType(function.__code__, inner, function.__name__, None, cells or None)
        self._remember(function, made)
        made.__kwdefaults__ = self.copy(function.__kwdefaults__, path)
        made.__defaults__ = self.copy(function.__defaults__, path)
        made.__dict__.update({k: self.copy(v, _join(path, k)) for k, v in function.__dict__.items()})
        captured = Cells(outer.cells, cells)
        for name, value in outer.items():
            captured[name] = self.copy(value, _join(path, name))
        inner.update({name: self.copy(function.__globals__[name], _join(path, name)) for name in names})
        self.pairs.append(Pair(path, outer, captured))
        self.pairs.append(Pair(path, function.__globals__, inner, names))
        self.pairs.append(Pair(path, function.__dict__, made.__dict__))
        self.pairs.append(Pair(path, Attributes(function, _DEFAULTS), Attributes(made, _DEFAULTS)))
        return made

    def _other(self, value: Any, path: str) -> Any:
        """A copy made by the object's own rules; the tensors and modules in it are found by making one."""
        try:
            if _is_finalised(value):
                raise TypeError("copying it could release what it holds")
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
        return self._remember(value, made)


_SHARED = (
    type(None), bool, int, float, complex, str, bytes, range, slice, type(Ellipsis), Tensor, ModuleType,
    torch.dtype, torch.device, torch.Size, np.generic, np.dtype, CodeType, torch.fx.Graph,
    type(len), type(torch.relu), type(torch.ops.aten), type(Tensor.add), property,
)  # fmt: skip
_PLAIN = ("builtins", "collections")
_DEFAULTS = ("__defaults__", "__kwdefaults__")


def _is_plain(value: Any) -> bool:
    """Whether an object is nothing but its attributes, so that these can be copied one by one."""
    kind = type(value)
    custom = ("__reduce__", "__reduce_ex__", "__deepcopy__")
    return (
        (hasattr(value, "__dict__") or any(_slots(kind)))
        and not _is_finalised(value)
        and not isinstance(value, BaseException)
        and not any(_overrides(kind, name) for name in custom)
        and kind.__flags__ & 512 != 0  # made by a class statement, not in C
        and getattr(kind, "__new__") is object.__new__  # noqa: B009 - mypy
    )


def _slots(kind: type) -> Iterator[str]:
    """The attributes that instances of a class have in slots."""
    for base in kind.__mro__:
        own = vars(base).get("__slots__", ())
        names = (own,) if isinstance(own, str) else own
        yield from (n for n in names if isinstance(vars(base).get(n), MemberDescriptorType))


def _is_finalised(value: Any) -> bool:
    return hasattr(type(value), "__del__")


def _overrides(kind: type, name: str) -> bool:
    own = getattr(kind, name, None)
    return own is not None and own is not getattr(object, name, None) and own is not _SET_STATE


def _is_library(function: FunctionType) -> bool:
    """Whether a function belongs to a library, and holds no state of the user."""
    return not function.__closure__ and _in_library(function.__module__ or "")


def _is_ours(value: Any) -> bool:
    """Whether it belongs to this library: an optimizer that is tracked leads to the tracker."""
    module = value.__module__ if isinstance(value, FunctionType) else type(value).__module__
    return (module or "").partition(".")[0] in {"lca", "lca_torch"} and not isinstance(value, nn.Module)


def _in_library(module: str) -> bool:
    return module.partition(".")[0] in _LIBRARIES


_NUMBERS = bool, int, float, complex
_FIXED = (type(None), str, bytes, type, ModuleType, FunctionType, type(len), type(torch.relu))
_LIBRARIES = frozenset(
    {
        *("abc", "builtins", "collections", "functools", "math", "operator", "typing"),
        *("accelerate", "huggingface_hub", "lightning", "lightning_fabric", "lightning_utilities", "numpy"),
        *("peft", "pytorch_lightning", "timm", "torch", "torchmetrics", "torchvision", "transformers"),
        *("lca", "lca_torch"),
    }
)


def _names(code: CodeType) -> Iterator[str]:
    """The global names that a function, or one defined inside it, reads."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
