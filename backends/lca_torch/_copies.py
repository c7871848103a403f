"""What private copies are made of: variables of the original and of its copy, and stand-ins."""

from collections.abc import Iterable, Iterator, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import BuiltinMethodType, CellType, MethodWrapperType, ModuleType
from typing import Any

import torch
from torch import nn

from lca.errors import LCAError
from lca.frameworks._attributes import Attributes

Namespace = MutableMapping[str, Any]


@dataclass(frozen=True, eq=False)
class Pair:
    """The variables of an original, attributes or captured ones, and those of its private copy."""

    name: str
    original: Namespace
    copy: Namespace
    keys: frozenset[str] | None = None
    """The variables that count; ``None``: all."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.original if self.keys is None else self.keys & self.original.keys())

    def path(self, key: str) -> str:
        """The name of a variable, as `torch.nn.Module.named_parameters` builds it."""
        return f"{self.name}.{key}" if self.name else key


class NotCopiedError(LCAError):
    """Something was used that cannot be copied."""

    what: str = ""
    """Its name."""


def not_copied(what: str, why: str) -> NotCopiedError:
    """The error that names what was used, and says why it cannot be."""
    error = NotCopiedError(f"the loss uses {what}, {why}.")
    error.what = what
    return error


@dataclass
class Trial:
    """The state of a copy in training mode, which may move only what it does not share with the original."""

    training: bool = False
    """Whether modules are in training mode now."""
    obstacles: dict[str, None] = field(default_factory=dict)
    """Objects that the code reads or writes that have no copy, and are not refused when they are used."""


class Uncopied:
    """Stands where a copy has something that cannot be copied; names it as soon as it is used."""

    _reason = (
        "which cannot be copied, and measuring must not touch the original; remove it from the measured "
        "forward pass and loss"
    )

    def __init__(self, path: str, value: object) -> None:
        self.__dict__["_what"] = f"{path} ({type(value).__name__})"
        self.__dict__["_kind"] = type(value)

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # for `isinstance` in the loss
        kind: type = self.__dict__["_kind"]
        return kind

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise not_copied(self.__dict__["_what"], self._reason)

    __getattr__ = __setattr__ = __call__ = __enter__ = __exit__ = __iter__ = __len__ = _refuse
    __getitem__ = __setitem__ = __bool__ = __next__ = __contains__ = __float__ = __int__ = __index__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __reversed__ = __delitem__ = _refuse
    __or__ = __ror__ = __and__ = __rand__ = __sub__ = __rsub__ = __xor__ = __rxor__ = _refuse
    __hash__ = object.__hash__


class FindsTensors(Uncopied):
    """Replaces an object that finds tensors by identity, such as a dictionary with parameters as keys."""

    _reason = (
        "which finds tensors by their identity, and the measured copy has others; let it find them by name "
        "(model.named_parameters())"
    )


class ReadOnly(Uncopied):
    """Stands for a `contextvars.ContextVar`: numbers and text in it can be read, and nothing be set."""

    _reason = (
        "which cannot be copied, and measuring must not change the original; read numbers or text from it, "
        "and set it outside of the measured forward pass and loss"
    )

    def __init__(self, path: str, variable: ContextVar[Any]) -> None:
        super().__init__(path, variable)
        self.__dict__["_variable"] = variable

    def get(self, *default: Any) -> Any:
        value = self.__dict__["_variable"].get(*default)
        return value if isinstance(value, CONSTANTS) else self._refuse()


CONSTANTS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


class Unwrapped(nn.Module):
    """In place of `DataParallel` and `DistributedDataParallel`, which would involve other devices."""

    module: nn.Module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class Arguments(Attributes):
    """The positional arguments of a `functools.partial`."""

    def __setitem__(self, name: str, value: Any) -> None:
        own = self._owner
        own.__setstate__((own.func, value, own.keywords, own.__dict__))


class Cells(MutableMapping[str, Any]):
    """The variables that a function has captured from the function around it."""

    def __init__(self, names: Iterable[str], cells: Iterable[CellType]) -> None:
        self.cells = dict(zip(names, cells, strict=True))

    def __getitem__(self, name: str) -> Any:
        try:
            return self.cells[name].cell_contents
        except ValueError:  # not assigned yet
            raise KeyError(name) from None

    def __setitem__(self, name: str, value: Any) -> None:
        self.cells[name].cell_contents = value

    def __delitem__(self, name: str) -> None:
        raise TypeError("a captured variable cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.cells if _is_assigned(self.cells[name]))

    def __len__(self) -> int:
        return len(list(iter(self)))


def _is_assigned(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def is_bound(value: Any) -> bool:
    """Whether a value is a method of an object, written in C, such as ``[1, 2].pop``, and not a function of a
    module.

    >>> is_bound([1, 2].pop), is_bound(torch.relu), is_bound(len), is_bound(dict.fromkeys)
    (True, False, False, False)
    """
    kinds = BuiltinMethodType, MethodWrapperType
    return isinstance(value, kinds) and not isinstance(value.__self__, ModuleType | type | None)
