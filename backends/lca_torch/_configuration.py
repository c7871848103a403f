"""`Configuration`: the Python side of a model and its loss, and what has changed since it was copied."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import call, is_
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lca_torch._copies import Pair
from lca_torch._policies import kept_in_evaluation

_STRUCTURE = ("_modules", "_forward_hooks", "_forward_pre_hooks")
_IGNORED = frozenset(nn.Module().__dict__) - {"training", *_STRUCTURE}
_SIMPLE = (bool, int, float, complex, str, bytes, type(None))
_MOST = 1000
"""Entries of a list, or bytes of an array, that are compared one by one."""


class Configuration:
    """What variables of the user's objects held when they were copied.

    Numbers, strings and containers of them count by value, other objects by identity. Tensors do not count:
    they are θ or state. Nor does the flag ``training`` of the model: the copy has its own.

    Parameters
    ----------
    pairs
        What was copied.
    model
        The user's model.
    """

    def __init__(self, pairs: Iterable[Pair], model: nn.Module) -> None:
        own = {id(module.__dict__) for module in model.modules()}
        self._watched = [_Watched(pair, frozenset({"training"}) if id(pair.original) in own else frozenset())
                         for pair in pairs]  # fmt: skip
        self._same = _Same(self._watched)
        self._norms = any(isinstance(module, _NormBase) for module in model.modules())
        self._model, self._kept = model, kept_in_evaluation(model)

    def changes(self) -> dict[str, str]:
        """What has changed since the last call, by the path of the variable, in words."""
        found = dict[str, str]()
        if not self._same:
            found = {path: words for watched in self._watched for path, words in watched.changes()}
            self._same = _Same(self._watched)
        kept = kept_in_evaluation(self._model) if self._norms else None
        if kept not in (None, self._kept):
            self._kept = kept
            found["training"] = "which normalisation layers are kept in evaluation mode"
        return found


class _Watched:
    """The variables of one object."""

    def __init__(self, pair: Pair, ignored: frozenset[str]) -> None:
        self.pair, self._ignored = pair, ignored | _IGNORED
        self._remember()

    def changes(self) -> Iterator[tuple[str, str]]:
        if self._same:
            return
        before = self._tokens
        self._remember()
        for key in before.keys() | self._tokens.keys():
            old, new = before.get(key), self._tokens.get(key)
            if old != new:
                path = self.pair.path(key)
                yield path, f"{path} changed{_words(old, new)}"

    def _remember(self) -> None:
        self.values = {key: self.pair.original[key] for key in self.pair if key not in self._ignored}
        self._tokens = {key: _token(value) for key, value in self.values.items()}
        self._same = _Same([self])


class _Same:
    """True as long as variables, and the containers among their values, hold the very same objects.

    No Python code runs for each of them, so that a thousand take a tenth of a millisecond.
    """

    def __init__(self, watched: Sequence[_Watched]) -> None:
        places = [(w.pair.original, key, value) for w in watched for key, value in w.values.items()]
        self._getters = [original.get for original, _, _ in places]
        self._keys = [key for _, key, _ in places]
        self._values = [value for _, _, value in places]
        self._containers = [value for value in self._values if isinstance(value, list | dict | set)]
        self._mappings = [value for value in self._containers if isinstance(value, dict)]
        self._items = list(self._inside())
        self._sized = [*(w.pair.original for w in watched), *self._containers]
        self._lengths = list(map(len, self._sized))
        self._deep = [(v, _token(v)) for v in self._values if isinstance(v, np.ndarray) or _is_nested(v)]

    def _inside(self) -> Iterator[Any]:
        return chain(chain.from_iterable(self._containers), *map(dict.values, self._mappings))

    def __bool__(self) -> bool:
        return (
            list(map(len, self._sized)) == self._lengths
            and all(map(is_, map(call, self._getters, self._keys), self._values))
            and all(map(is_, self._inside(), self._items))
            and all(_token(value) == token for value, token in self._deep)
        )


def _is_nested(value: Any) -> bool:
    """Whether it is a container of others, in which something may change unseen."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(isinstance(item, list | tuple | dict | set | np.ndarray) for item in items)


def _token(value: Any) -> Any:
    """Equal for values of the same meaning, as far as that can be told quickly."""
    if isinstance(value, _SIMPLE):
        return type(value).__name__, repr(value)
    if isinstance(value, Tensor):
        return "tensor"
    if isinstance(value, list | tuple | dict):
        items = value.items() if isinstance(value, dict) else value
        return type(value).__name__, len(value), tuple(map(_token, items)) if len(value) <= _MOST else None
    if isinstance(value, np.ndarray) and value.nbytes <= _MOST:
        return "array", value.shape, value.tobytes()
    return type(value).__name__, id(value)


def _words(old: Any, new: Any) -> str:
    simple = {kind.__name__ for kind in _SIMPLE}
    if all(isinstance(token, tuple) and token[0] in simple for token in (old, new)):
        return f" from {old[1]} to {new[1]}"
    return ""
