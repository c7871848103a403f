"""The functions of a ``train_step`` of the user's, and whether they take the compiled loss."""

from inspect import unwrap
from types import FunctionType
from typing import Any

import keras

from lca.frameworks._code import names_in

WAYS = frozenset({"compute_loss", "_compute_loss", "compiled_loss", "_compile_loss"})
INHERITED = frozenset({"compute_loss_and_updates", "stateless_compute_loss", "train_step"})
"""Methods that take the compiled loss, unless the class of the model defines them."""
_LIBRARIES = frozenset({"jax", "keras", "numpy", "tensorflow", "torch"})
"""Libraries, whose code is not the user's."""


def trains_compiled_loss(model: keras.Model) -> bool:
    """Whether the user's ``train_step``, or what it calls, takes the compiled loss in one of Keras' ways."""
    own = own_steps(model)
    return not own or takes_compiled_loss(model, own[0])


def takes_compiled_loss(model: keras.Model, function: FunctionType) -> bool:
    """Whether a function of the user's, or what it calls, takes the compiled loss in one of Keras' ways."""
    waiting, seen = [function], {function}
    while waiting:
        function = waiting.pop()
        names = names_in(function.__code__)
        if not WAYS.isdisjoint(names):
            return True
        for name in names:
            found = called(model, function, name)
            found = inherited(model, function) if found is function else found
            if found is None and name in INHERITED:
                return True
            if found is not None and found not in seen:
                seen.add(found)
                waiting.append(found)
    return False


def own_steps(model: keras.Model) -> list[FunctionType]:
    """The user's ``train_step``, or what Keras' own step differentiates on JAX."""
    found = []
    for name in ("train_step", "compute_loss_and_updates"):
        own, given = _function(getattr(model, name, None)), _function(getattr(keras.Model, name, None))
        if own is not None and given is not None and own is not given:
            found.append(own)
    return found


def called(model: keras.Model, function: FunctionType, name: str) -> FunctionType | None:
    """The user's method of the model, or function of the module, that a function may call by this name."""
    for place in (vars(model), *map(vars, type(model).__mro__), function.__globals__):
        if (found := _function(place.get(name))) is not None:
            return users(found)
    return None


def inherited(model: keras.Model, method: FunctionType) -> FunctionType | None:
    """The user's method of the same name by which ``super()`` in a method of the model continues."""
    name = method.__name__
    found = [_function(vars(kind)[name]) for kind in type(model).__mro__ if name in vars(kind)]
    after = found[found.index(method) + 1 :] if method in found else []
    return users(after[0]) if after else None


def _function(value: Any) -> FunctionType | None:
    """The function behind a method or wrapper."""
    found = getattr(value, "__func__", value)  # of a static or class method
    found = unwrap(found) if callable(found) else found
    return found if isinstance(found, FunctionType) else None


def users(value: Any) -> FunctionType | None:
    """`_function`, if it is the user's."""
    found = _function(value)
    return None if found is None or found.__module__.partition(".")[0] in _LIBRARIES else found
