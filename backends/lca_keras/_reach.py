"""The Python objects that a model and its loss are made of: layers, losses, functions, containers.

Compiling a loss turns the numbers in these objects into constants, so a change of one has to be noticed
(`Configuration`). A forward pass may write to them, which has to be undone (`untouched`).
"""

import random
import sys
import threading
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextvars import ContextVar
from functools import partial
from io import IOBase
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any
from weakref import ReferenceType

import keras
import numpy as np

from lca.frameworks._attributes import Attributes, slots_of
from lca.frameworks._code import globals_in, imports_in, module_attributes, names_in
from lca.frameworks._environment import may_change
from lca.frameworks._keepers import KEEPER, keeper_in
from lca_keras._engine import tensor_types

MOST_ENTRIES = 256
"""Lists and dictionaries with more entries hold data, not settings: their entries are not followed."""
LARGEST_ARRAY = 2**16
"""Bytes; larger arrays count as changed only if another takes their place."""
NOT_READ: frozenset[Any] = frozenset(vars(keras.layers.Layer(name="any"))) - {
    "_trainable",
    "_dtype_policy",
    "_layers",
    "activity_regularizer",
} | {
    "optimizer",
    "history",
    "compiled",
    "loss",
    "steps_per_execution",
    "unrolled_steps_per_execution",
    "stop_training",
    "stop_evaluating",
    "stop_predicting",
    "train_function",
    "test_function",
    "predict_function",
    "_compile_config",
    "_compile_metrics",
    "_compiled_trainable_state",
    "_distribute_strategy",
    "_eval_epoch_iterator",
    "_flat_losses",
    "_initial_epoch",
    "_jax_state",
    "_jax_state_synced",
    "_jit_compile",
    "_loss_tracker",
    "_run_eagerly",
    "_self_name_based_restores",
    "_self_saveable_object_factories",
    "_self_unconditional_checkpoint_dependencies",
    "_self_unconditional_deferred_dependencies",
    "_self_unconditional_dependency_names",
    "_self_update_uid",
    "_y_pred_build_structure",
    "_y_true_build_structure",
    "output_names",
}
"""What Keras itself keeps in layers, models and losses about calls and training; no loss depends on it."""
_LIBRARIES = sys.stdlib_module_names | {
    "jax",
    "jaxlib",
    "keras",
    "lca",
    "lca_keras",
    "lca_tensorflow",
    "numpy",
    "tensorflow",
    "torch",
}
_KERAS_PARTS = (
    keras.layers.Layer,
    keras.losses.Loss,
    keras.metrics.Metric,
    keras.regularizers.Regularizer,
)
_PARTS = (FunctionType, MethodType, partial, SimpleNamespace, threading.local)
SEQUENCES = (list, tuple, deque, set)
_METHODS = (MethodType, BuiltinMethodType)
_NO_OBJECTS = (*SEQUENCES, *_METHODS, partial, FunctionType)
_SIMPLE = (bool, int, float, complex, str, bytes, type(None), type, np.generic)
GENERATORS = (random.Random, np.random.RandomState, np.random.Generator)
_BY_IDENTITY = (*tensor_types(), keras.Variable, np.ndarray, keras.dtype_policies.DTypePolicy, *GENERATORS)
_OPAQUE = (bytearray, array, ContextVar, random.SystemRandom, np.random.BitGenerator)


def reached(
    roots: Iterable[tuple[str, Any]], enters: Callable[[Any], bool] = lambda part: True
) -> dict[int, tuple[str, Any]]:
    """Every part that can be reached from the roots, by id, with a name for messages.

    Parts inside a part that ``enters`` rejects are not reached.
    """
    found: dict[int, tuple[str, Any]] = {}
    waiting = list(roots)
    while waiting:
        name, part = waiting.pop()
        if id(part) in found or not is_part(part):
            continue
        found[id(part)] = name, part
        if enters(part) and not is_long(part):
            waiting += _inside(name, part)
    return found


def opaque_in(roots: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The objects within reach of the roots whose state cannot be read, and so cannot be restored.

    Objects that other installed packages keep for themselves, such as caches, are left out.
    """
    own = {_package(base) for _, root in roots for base in type(root).__mro__} - _LIBRARIES

    def enters(part: Any) -> bool:
        if isinstance(part, (*SEQUENCES, dict)):  # also those of Keras, in which it keeps the user's
            return True
        return _package(part) in own or not _is_installed(_package(part))

    for name, part in reached(roots, enters).values():
        if not enters(part):
            continue
        if type(part) is KEEPER or (is_long(part) and not _are_fixed(part)):
            yield name, part
        elif not is_long(part):
            held = isinstance(part, SEQUENCES)  # whose iterators cannot be withheld
            yield from ((k, v) for k, v in _inside(name, part) if is_opaque(v) or (held and is_iterator(v)))


def not_put_back(roots: Sequence[tuple[str, Any]]) -> list[str]:
    """What code within reach of the roots may change that is not put back after a pass, by name."""
    found: list[str] = []
    for name, part in reached(roots).values():
        if not isinstance(part, (*SEQUENCES, dict)) and _is_installed(_package(part)):
            continue
        inside = [(name, part)] if type(part) is KEEPER else list(_inside(name, part))
        found += [f"{n} ({type(v).__name__})" for n, v in inside if type(v) is KEEPER or _is_moved(v)]
        if isinstance(part, FunctionType) and is_users(part):
            found += [
                f"{module.__name__}.{name}"
                for module, name, _ in module_attributes(part)
                if _is_of_python(module) and name != "environ" and may_change(vars(module).get(name))
            ]
    return list(dict.fromkeys(found))


def _is_moved(value: Any) -> bool:
    return is_opaque(value) and not _is_compiled(value) and not isinstance(value, IOBase)


def written_elsewhere(function: FunctionType) -> list[tuple[ModuleType, str]]:
    """The attributes of modules that are not the user's which a function writes."""
    found = module_attributes(function)
    return [(module, name) for module, name, written in found if written and not _is_users_module(module)]


def _package(part: Any) -> str:
    """The package of a class or function, or that of the class of an object."""
    known = isinstance(part, (type, FunctionType)) or type(part) is KEEPER
    return str(getattr(part if known else type(part), "__module__", None) or "").partition(".")[0]


def _is_installed(package: str) -> bool:
    return "-packages" in (getattr(sys.modules.get(package), "__file__", None) or "")


def _are_fixed(container: Any) -> bool:
    """Whether the entries of a container have no state, as numbers."""
    entries = container.values() if isinstance(container, dict) else container
    if set(map(type, entries)) <= set(_SIMPLE):  # fast
        return True
    return all(
        _are_fixed(entry) if isinstance(entry, tuple) else not (is_part(entry) or is_opaque(entry))
        for entry in entries
    )


def is_opaque(value: Any) -> bool:
    """Whether the state of a value cannot be read: native objects, open files, compiled functions."""
    if isinstance(value, _OPAQUE) or (isinstance(value, np.ndarray) and value.dtype.hasobject):
        return True
    if isinstance(value, (*_SIMPLE, *_BY_IDENTITY)) or is_part(value) or is_iterator(value):
        return False
    kind = type(value)
    native = hasattr(kind, "resource_handle") or _is_compiled(value)  # of TensorFlow
    return native or is_users(kind) or isinstance(value, Iterator)


def _is_compiled(value: Any) -> bool:
    return hasattr(type(value), "get_concrete_function")


def is_long(part: Any) -> bool:
    """Whether a part is a container with too many entries to follow them."""
    return isinstance(part, (*SEQUENCES, dict)) and len(part) > MOST_ENTRIES


def is_part(value: Any) -> bool:  # noqa: PLR0911 - one for each kind
    """Whether a value has settings of its own: a user's object or class, a layer, a function, a container."""
    if isinstance(value, (*SEQUENCES, dict)):
        return True
    if isinstance(value, type) or type(value) is KEEPER:
        return is_users(value)
    if isinstance(
        value, (FunctionType, MethodType, partial, SimpleNamespace, threading.local, *_KERAS_PARTS)
    ):
        return True
    if isinstance(value, ReferenceType):
        return is_part(value())
    if isinstance(value, BuiltinMethodType):  # as Generator.normal; others belong to a module
        return not isinstance(value.__self__, (ModuleType, type, type(None)))
    if isinstance(value, _BY_IDENTITY) or not is_users(type(value)):
        return False
    return hasattr(value, "__dict__") or bool(slots_of(type(value)))


def is_setting(value: Any) -> bool:
    """Whether a loss with this value baked in has to be traced again when another takes its place."""
    if isinstance(value, tuple):
        return not is_long(value) and all(map(is_setting, value))
    if isinstance(value, (*_SIMPLE, *_BY_IDENTITY)) or callable(value) or is_opaque(value):
        return True
    return is_part(value) and not is_long(value)


def is_iterator(value: Any) -> bool:
    """Whether a value is a generator or another iterator of Python, which evaluating a loss would use up."""
    return isinstance(value, Iterator) and type(value).__module__ in ("builtins", "itertools")


def is_users(kind: Any) -> bool:
    """Whether a class or function is the user's own, not part of a library that is known here."""
    return str(getattr(kind, "__module__", None) or "").partition(".")[0] not in _LIBRARIES


def namespaces(part: Any) -> Iterator[MutableMapping[Any, Any]]:
    """The attributes of an object or a function, or the dictionary that it is; those of a class are apart."""
    if isinstance(part, dict):
        yield part
    elif isinstance(part, FunctionType):
        if is_users(part):
            yield part.__dict__
    elif not isinstance(part, (*_NO_OBJECTS, type)):
        if hasattr(part, "__dict__"):
            yield vars(part)
        if slots := slots_of(type(part)):
            yield Attributes(part, slots)


def held_by(part: Any) -> Iterator[Any]:
    """What a part holds, its entries and the variables that a function reads among them.

    Nothing for a container that is too long to be looked into.
    """
    if is_long(part):
        return
    if isinstance(part, SEQUENCES):
        yield from part
    elif isinstance(part, _METHODS):
        yield part.__self__
    for mapping in namespaces(part):
        yield from mapping.values()
    if isinstance(part, type):
        yield from class_variables(part).values()
    elif isinstance(part, FunctionType) and is_users(part):
        yield from (value for _, value in cells("", part))
        yield from part.__defaults__ or ()
        for mapping, names in globals_of(part):
            yield from (mapping[name] for name in names)


def class_variables(kind: type) -> dict[str, Any]:
    """The attributes of a user's class that are settings, not methods."""
    own = ((name, value) for name, value in vars(kind).items() if not name.startswith("__"))
    return {name: value for name, value in own if is_setting(value) and not list(_functions(value))}


def keepers_of(part: Any) -> list[Any]:
    """The user's functions that keep their results: a part itself, or members of a class."""
    members = list(vars(part).values()) if isinstance(part, type) else [part]
    found = (keeper_in(member) for member in members)
    return [keeper for keeper in found if keeper is not None and is_users(keeper)]


def functions_of(part: Any) -> Iterator[FunctionType]:
    """The user's functions that run when a part is called: itself, or the methods of a class."""
    if isinstance(part, FunctionType):
        if is_users(part):
            yield part
    elif isinstance(part, type):
        for value in list(vars(part).values()):
            yield from _functions(value)


def _functions(member: Any) -> Iterator[FunctionType]:
    """The functions behind a member of a class: a method, a property, a static or class method."""
    if isinstance(member, property):
        parts: Iterable[Any] = (member.fget, member.fset)
    else:
        parts = [getattr(member, name, None) for name in ("__func__", "func", "__wrapped__")]
    yield from (part for part in (member, *parts) if isinstance(part, FunctionType) and is_users(part))


def globals_of(function: FunctionType) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """The global names, also of the user's modules, that a function refers to, if they are settings."""
    names, known, own = names_in(function.__code__), function.__globals__, globals_in(function)
    modules = [known[n] for n in sorted(own) if isinstance(known[n], ModuleType)] + imports_in(function)
    spaces = [(known, own), *((module.__dict__, names) for module in modules if _is_users_module(module))]
    for mapping, read in spaces:
        kept = tuple(name for name in sorted(read) if name in mapping and _is_followed(mapping[name]))
        if kept:
            yield mapping, kept


def _is_of_python(module: ModuleType) -> bool:
    return module.__name__.partition(".")[0] in sys.stdlib_module_names


def _is_users_module(module: ModuleType) -> bool:
    return module.__name__.partition(".")[0] not in _LIBRARIES


def _is_followed(value: Any) -> bool:
    if isinstance(value, (FunctionType, type)):
        return is_users(value)
    if is_part(value) or is_iterator(value) or is_opaque(value):
        return True
    return is_setting(value) and not callable(value)


def _inside(name: str, part: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(part, SEQUENCES):
        yield from ((f"{name}[{i}]", value) for i, value in enumerate(part))
    elif isinstance(part, ReferenceType):
        yield name, part()
    elif isinstance(part, _METHODS):
        yield from ((name, getattr(part, "__func__", None)), (name, part.__self__))
    elif isinstance(part, partial):
        yield from ((name, part.func), (f"{name}.args", part.args), (f"{name}.keywords", part.keywords))
    elif isinstance(part, defaultdict):
        yield f"{name}.default_factory", part.default_factory
    elif isinstance(part, type):
        yield from ((f"{part.__name__}.{k}", v) for k, v in class_variables(part).items())
        yield from ((base.__name__, base) for base in (*part.__mro__, type(part)))
    for mapping in namespaces(part):
        kept = ((k, v) for k, v in mapping.items() if k not in NOT_READ)
        yield from ((named(name, part, k), v) for k, v in kept)
    if not isinstance(part, (dict, type, *_NO_OBJECTS)):
        yield from ((base.__name__, base) for base in type(part).__mro__)
    for function in functions_of(part):
        if function is not part:
            yield f"{name}.{function.__name__}", function
            continue
        yield from cells(name, function)
        yield f"{name}.defaults", function.__defaults__
        yield f"{name}.defaults", function.__kwdefaults__
        for known, names in globals_of(function):
            yield from ((key, known[key]) for key in names)


def named(name: str, part: Any, key: Any) -> str:
    """How a message names an entry of a part."""
    if isinstance(part, dict):
        return f"{name}[{key!r}]"
    return f"{part.name if isinstance(part, keras.layers.Layer) else name}.{key}"


def cells(name: str, function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The variables that a function has from the function it was defined in."""
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield variable, cell.cell_contents
        except ValueError:  # not bound yet
            continue
