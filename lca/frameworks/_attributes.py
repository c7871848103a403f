"""`Attributes`: what an object keeps outside of its dictionary, as a mapping."""

from collections.abc import Iterable, Iterator, MutableMapping
from types import MemberDescriptorType
from typing import Any


class Attributes(MutableMapping[str, Any]):
    """Attributes that are in no dictionary: those of ``__slots__``, the defaults of a function.

    >>> class Options:
    ...     __slots__ = ("beta",)
    >>> options = Options()
    >>> attributes = Attributes(options, slots_of(Options))
    >>> attributes["beta"] = 0.1
    >>> options.beta, dict(attributes)
    (0.1, {'beta': 0.1})
    """

    def __init__(self, owner: Any, names: Iterable[str]) -> None:
        self._owner, self._names = owner, tuple(names)

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self._owner, name)
        except AttributeError:  # not assigned
            raise KeyError(name) from None

    def __setitem__(self, name: str, value: Any) -> None:
        object.__setattr__(self._owner, name, value)

    def __delitem__(self, name: str) -> None:
        object.__delattr__(self._owner, name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._names if hasattr(self._owner, name))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def slots_of(kind: type) -> tuple[str, ...]:
    """The attributes that instances of a class have in slots."""
    found: list[str] = []
    for base in kind.__mro__:
        own = vars(base).get("__slots__", ())
        names = (own,) if isinstance(own, str) else own
        found += [name for name in names if isinstance(vars(base).get(name), MemberDescriptorType)]
    return tuple(found)
