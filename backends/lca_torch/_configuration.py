"""`Configuration`: the Python side of a model and its loss, and what has changed since it was copied."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from operator import call, is_, is_not
from types import BuiltinFunctionType, BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lca_torch._copies import Pair, is_bound
from lca_torch._originals import finds_tensors
from lca_torch._policies import kept_in_evaluation
from lca_torch._shared_variables import SharedVariables

_STRUCTURE = ("_modules", "_buffers", "_forward_hooks", "_forward_pre_hooks")
_IGNORED = frozenset(nn.Module().__dict__) - {"training", *_STRUCTURE}
_SIMPLE = (bool, int, float, complex, str, bytes, type(None))
_MOST = 1000
"""Entries of a list that are compared one by one, and objects that are looked at inside another."""
_LARGE = 1 << 16
"""Bytes of an array from which on only its identity counts; a fresh replica tells at audited steps."""
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)


class Configuration:
    """What variables of the user's objects held when they were copied.

    Numbers, strings and containers of them count by value, other objects by identity. Tensors do not count:
    they are θ or state; but it counts that there is one, as with a buffer that is registered late. Of what
    finds tensors by their identity, as the state of an optimizer, the content does not count, since a copy
    has a stand-in for it that refuses to be used. Nor does
    the flag ``training`` of the model: the copy has its own.

    Parameters
    ----------
    pairs
        What was copied.
    model
        The user's model.
    opaque
        Objects that were copied by rules of their own, by id; they count by their content.
    objects
        Those that were copied attribute by attribute, with their paths; their classes count.
    """

    def __init__(
        self,
        pairs: Iterable[Pair],
        model: nn.Module,
        opaque: Mapping[int, Any],
        objects: Sequence[tuple[str, Any]] = (),
    ) -> None:
        own = {id(module.__dict__) for module in model.modules()}
        self._watched = [
            _Watched(pair, frozenset({"training"}) if id(pair.original) in own else frozenset(), opaque)
            for pair in pairs
        ]
        self._same = _Same(self._watched)
        self._paths, self._objects = [path for path, _ in objects], [value for _, value in objects]
        self._kinds = list(map(type, self._objects))
        self._norms = any(isinstance(module, _NormBase) for module in model.modules())
        self._model, self._kept = model, kept_in_evaluation(model)

    @property
    def moved(self) -> bool:
        """Whether `changes` would find something that it has to look into."""
        return not self._same or list(map(type, self._objects)) != self._kinds

    def changes(self) -> dict[str, str]:
        """What has changed since the last call, by the path of the variable, in words."""
        found: dict[str, str] = {}
        if not self._same:
            found = {path: words for watched in self._watched for path, words in watched.changes()}
            self._same = _Same(self._watched)
        kinds = list(map(type, self._objects))
        if kinds != self._kinds:
            triples = zip(self._paths, self._kinds, kinds, strict=True)
            found |= {
                f"{path}.__class__": _reclassed(path, *pair) for path, *pair in triples if is_not(*pair)
            }
            self._kinds = kinds
        kept = kept_in_evaluation(self._model) if self._norms else None
        if kept not in (None, self._kept):
            self._kept = kept
            found["training"] = "which normalisation layers are kept in evaluation mode"
        return found


def _reclassed(path: str, old: type, new: type) -> str:
    return f"the class of {path or 'the model'} changed from {old.__name__} to {new.__name__}"


class _Watched:
    """The variables of one object."""

    def __init__(self, pair: Pair, ignored: frozenset[str], opaque: Mapping[int, Any]) -> None:
        self.pair, self._ignored, self.opaque = pair, ignored | _IGNORED, opaque
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

    def token(self, value: Any) -> Any:
        """What is compared of a value."""
        return _Content(self.opaque).token(value)

    def _remember(self) -> None:
        self.values = {key: self.pair.original[key] for key in self.pair if key not in self._ignored}
        self._tokens = {key: self.token(value) for key, value in self.values.items()}
        self._same = _Same([self])


class _Same:
    """True as long as variables, and the containers among their values, hold the very same objects.

    No Python code runs for each of them, so that a thousand take a tenth of a millisecond.
    """

    def __init__(self, watched: Sequence[_Watched]) -> None:
        places = [(_quick(w.pair.original), key, v) for w in watched for key, v in w.values.items()]
        self._getters = [original.get for original, _, _ in places]
        self._keys = [key for _, key, _ in places]
        self._values = [value for _, _, value in places]
        containers = [v for v in self._values if isinstance(v, list | dict | set | deque)]
        self._sized = [*(_quick(w.pair.original) for w in watched), *containers]
        self._lengths = list(map(len, self._sized))
        self._filled = [held for held in containers if len(held)]  # the length of an empty one says all
        self._mappings = [value for value in self._filled if isinstance(value, dict)]
        self._items = list(self._inside())
        self._deep = [(w, v, w.token(v)) for w in watched for v in w.values.values() if _is_deep(v, w.opaque)]

    def _inside(self) -> Iterator[Any]:
        return chain(chain.from_iterable(self._filled), *map(dict.values, self._mappings))

    def __bool__(self) -> bool:
        return (
            list(map(len, self._sized)) == self._lengths
            and all(map(is_, map(call, self._getters, self._keys), self._values))
            and all(map(is_, self._inside(), self._items))
            and all(w.token(value) == token for w, value, token in self._deep)
        )


def _quick(variables: Any) -> Any:
    """The mapping itself where the pair has one that knows more."""
    return variables.raw if isinstance(variables, SharedVariables) else variables


def _is_deep(value: Any, opaque: Mapping[int, Any]) -> bool:
    """Whether something may change in it that its own items do not show."""
    if finds_tensors(value):
        return False
    if isinstance(value, np.ndarray | MethodType) or id(value) in opaque or is_bound(value):
        return True
    items = value.values() if isinstance(value, dict) else value if isinstance(value, _CONTAINERS) else ()
    deep = *_CONTAINERS, np.ndarray, MethodType, BuiltinMethodType
    return any(isinstance(i, deep) or id(i) in opaque for i in items)


class _Content:
    """Tokens that are equal for values of the same meaning, as far as that can be told quickly.

    Objects that were copied by rules of their own are taken apart by these (`copyreg`), and so is what only
    they hold; all others have variables that are followed, or are immutable, and count by identity.
    """

    def __init__(self, opaque: Mapping[int, Any]) -> None:
        self._opaque, self._left = opaque, _MOST
        self._seen = set[int]()

    def token(self, value: Any, *, inside: bool = False) -> Any:  # noqa: PLR0911 - one for each kind
        if isinstance(value, _SIMPLE):
            return type(value).__name__, repr(value)
        if isinstance(value, Tensor):
            return "tensor", id(value) if inside else 0
        if isinstance(value, np.ndarray) and value.nbytes <= _LARGE and not value.dtype.hasobject:
            return "array", value.shape, value.tobytes()
        if isinstance(value, _CONTAINERS):
            if finds_tensors(value):
                return "finds tensors", id(value)
            return self._container(value, inside=inside)
        if isinstance(value, MethodType):
            return id(value.__func__), self.token(value.__self__, inside=inside)
        if is_bound(value):
            return value.__name__, self.token(value.__self__, inside=inside)
        if id(value) in self._opaque or (inside and not isinstance(value, _BY_IDENTITY)):
            return self._state(value)
        return type(value).__name__, id(value)

    def _container(self, value: Any, *, inside: bool) -> Any:
        if id(value) in self._seen:
            return "seen"
        self._seen.add(id(value))
        items = list(value.items() if isinstance(value, dict) else value)
        if isinstance(value, set | frozenset):
            items.sort(key=hash)
        if len(items) > _MOST:
            parts = chain.from_iterable(items) if isinstance(value, dict) else items
            return type(value).__name__, hash(tuple(map(id, parts)))
        return type(value).__name__, len(items), tuple(self.token(item, inside=inside) for item in items)

    def _state(self, value: Any) -> Any:
        """What would be pickled."""
        self._left -= 1
        if id(value) in self._seen or self._left < 0:
            return type(value).__name__, id(value)
        self._seen.add(id(value))
        try:
            parts = value.__reduce_ex__(4)
        except Exception:  # whatever a class that refuses raises
            return type(value).__name__, id(value)
        if isinstance(parts, str):
            return type(value).__name__, id(value)
        listed = [list(islice(p, _MOST)) if isinstance(p, Iterator) else p for p in parts]
        return type(value).__name__, tuple(self.token(part, inside=True) for part in listed)


_BY_IDENTITY = nn.Module, FunctionType, BuiltinFunctionType, ModuleType, type


def _words(old: Any, new: Any) -> str:
    simple = {kind.__name__ for kind in _SIMPLE}
    if all(isinstance(token, tuple) and token[0] in simple for token in (old, new)):
        return f" from {old[1]} to {new[1]}"
    return ""
