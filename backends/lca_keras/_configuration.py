"""`Configuration`: the Python values that a compiled loss has baked in, and which of them changed since."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import itemgetter
from types import CellType, FunctionType
from typing import Any, NamedTuple

import numpy as np

from lca.errors import NonDeterministicError
from lca_keras._reach import (
    LARGEST_ARRAY,
    NOT_READ,
    SEQUENCES,
    class_variables,
    globals_of,
    is_long,
    is_setting,
    is_users,
    named,
    namespaces,
    reached,
)

MISSING = object()
CONFIGURATION = "configuration"
"""The entry of a state that says which Python values the loss has baked in."""


class _Clock:
    """Counts the changes of all losses: their states are merged, and the same entry must do for all."""

    now = 0

    def tick(self) -> int:
        self.now += 1
        return self.now


CLOCK = _Clock()


def not_again(changed: str) -> NonDeterministicError:
    """The error for a loss that would have to be evaluated as it was before these settings changed."""
    return NonDeterministicError(
        f"the loss has changed during the step because of {changed or 'its configuration'}, and cannot be "
        "evaluated as it was before; keep such values in a keras.Variable or tf.Variable, or change them "
        "where nothing is measured."
    )


class Place(NamedTuple):
    """Where settings are kept, and what they were; tuples compare by identity first, which is fast."""

    names: tuple[str, ...]
    read: Callable[[], tuple[Any, ...]]
    values: tuple[Any, ...]

    def changed(self) -> list[str]:
        """The names of those that are not the same."""
        try:
            now = self.read()
        except Exception:  # what can no longer be read has changed
            return list(self.names)
        return [name for name, a, b in zip(self.names, now, self.values, strict=True) if not _equal(a, b)]


class Configuration:
    """The settings of a model, its loss and all that they reach, as they are now.

    Settings are numbers, strings, functions, arrays, variables and layers, by attribute, entry of a list or
    dictionary, closure variable, global name or class. Asking for changes costs a comparison of tuples for
    each object; values are compared by identity first.

    Parameters
    ----------
    roots
        Objects with a name each.
    more
        What else is compared.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> options = SimpleNamespace(beta=1.0)
    >>> configuration = Configuration([("options", options)])
    >>> options.beta = 0.5
    >>> configuration.changed()
    ['options.beta']
    """

    def __init__(self, roots: Iterable[tuple[str, Any]], more: Iterable[Place] = ()) -> None:
        parts = reached(roots)
        self.parts = [part for _, part in parts.values()]
        self._places = [*more, *(place for name, part in parts.values() for place in _places(name, part))]
        self._reads, self._values = [p.read for p in self._places], [p.values for p in self._places]

    def same(self) -> bool:
        """Whether nothing has changed."""
        try:
            return [read() for read in self._reads] == self._values  # at every evaluation
        except Exception:  # two arrays were compared, or a name is gone
            return False

    def changed(self) -> list[str]:
        """The names of the settings that have changed, such as ``vae.beta``."""
        return [name for place in self._places for name in place.changed()]


def _places(name: str, part: Any) -> Iterator[Place]:
    if is_long(part):
        return
    if isinstance(part, SEQUENCES):
        if not isinstance(part, tuple):
            yield _sequence(name, part)
        yield from (_array(name, value) for value in part if _is_watched(value))
    for mapping in namespaces(part):
        keys = tuple(k for k, v in mapping.items() if k not in NOT_READ and is_setting(v))
        yield _new_entries(name, mapping)
        if keys:
            yield _mapping(tuple(named(name, part, key) for key in keys), mapping, keys)
        yield from (_array(named(name, part, k), mapping[k]) for k in keys if _is_watched(mapping[k]))
    if isinstance(part, type):
        yield from _class_places(part)
    elif isinstance(part, FunctionType) and is_users(part):
        yield from _function_places(part)


def _class_places(kind: type) -> Iterator[Place]:
    settings = class_variables(kind)
    if settings:
        labels = tuple(f"{kind.__name__}.{key}" for key in settings)
        yield Place(labels, partial(_class_values, kind, tuple(settings)), tuple(settings.values()))
    yield from (_array(f"{kind.__name__}.{k}", v) for k, v in settings.items() if _is_watched(v))


def _function_places(function: FunctionType) -> Iterator[Place]:
    variables, closure = function.__code__.co_freevars, function.__closure__ or ()
    if closure:
        read = partial(_cell_values, closure)
        yield Place(variables, read, read())
        yield from (_array(n, v) for n, v in zip(variables, read(), strict=True) if _is_watched(v))
    yield Place((f"the defaults of {function.__name__}",), partial(_defaults, function), _defaults(function))
    for mapping, names in globals_of(function):
        yield _mapping(names, mapping, names)
        yield from (_array(key, mapping[key]) for key in names if _is_watched(mapping[key]))


def _mapping(labels: tuple[str, ...], mapping: Mapping[Any, Any], keys: tuple[Any, ...]) -> Place:
    read = partial(_several, itemgetter(*keys), mapping) if len(keys) > 1 else partial(_one, keys[0], mapping)
    return Place(labels, read, read())


def _new_entries(name: str, mapping: Mapping[Any, Any]) -> Place:
    """An attribute may be new, and take the place of one of the class."""
    size, known = len(mapping), mapping.keys() - NOT_READ

    def read() -> tuple[Any, ...]:
        nonlocal size
        if len(mapping) != size and not mapping.keys() - NOT_READ - known:
            size = len(mapping)
        return (len(mapping) == size,)

    return Place((f"a new attribute of {name}",), read, (True,))


def _sequence(name: str, part: Iterable[Any]) -> Place:
    """The entries of a list, deque or set, by identity first."""
    return Place((f"the entries of {name}",), partial(_entries, part), _entries(part))


def _entries(part: Iterable[Any]) -> tuple[Any, ...]:
    return (list(part),)


def _array(name: str, array: np.ndarray) -> Place:
    def read() -> tuple[Any, ...]:
        return (array.tobytes(),)

    return Place((name,), read, read())


def _is_watched(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.nbytes <= LARGEST_ARRAY and value.dtype != object


def _several(get: Callable[[Any], Any], mapping: Mapping[Any, Any]) -> tuple[Any, ...]:
    found: tuple[Any, ...] = get(mapping)
    return found


def _one(key: Any, mapping: Mapping[Any, Any]) -> tuple[Any, ...]:
    return (mapping[key],)


def _class_values(kind: type, names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(vars(kind).get(name, MISSING) for name in names)


def _defaults(function: FunctionType) -> tuple[Any, ...]:
    return (function.__defaults__,)


def _cell_values(closure: tuple[CellType, ...]) -> tuple[Any, ...]:
    return tuple(cell_content(cell) for cell in closure)


def cell_content(cell: CellType) -> Any:
    """What a variable holds, or `MISSING`."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def _equal(a: Any, b: Any) -> bool:
    try:
        return a is b or bool(a == b)
    except Exception:  # values that cannot be compared count as different
        return False
