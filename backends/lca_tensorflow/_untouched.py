"""`untouched`: what a forward pass writes in Python, or draws from global generators, is put back."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.utils.tracking import Tracker
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

from lca.errors import NonDeterministicError
from lca_tensorflow._reach import NOT_READ, class_variables, namespaces, reached

MISSING = object()
KERAS_GLOBALS = ("global_seed_generator", "current_call_ctx")


@contextmanager
def untouched(roots: Iterable[tuple[str, Any]], *, drawing: bool = False) -> Iterator[None]:
    """Restore the attributes of all objects, the contents of their containers, and the global generators.

    For the tracing of a loss, and for its evaluation if it is not compiled: both run the user's code, which
    may count its calls or keep what it has computed. ``drawing`` allows random numbers.

    Raises
    ------
    NonDeterministicError
        If a random generator was used; it is restored first.
    """
    parts = [part for _, part in reached(roots).values()]
    restore = [put_back for part in parts for put_back in _restorers(part)]
    generators, keras_globals = (
        Generators.now(parts),
        {n: global_state.get_global_attribute(n) for n in KERAS_GLOBALS},
    )
    drawn = ""
    try:
        yield
        drawn = generators.drawn()
    finally:
        generators.restore()
        for name, value in keras_globals.items():
            global_state.set_global_attribute(name, value)
        for put_back in restore:
            put_back()
    if drawn and not drawing:
        raise NonDeterministicError(
            f"the loss draws random numbers from a generator of {drawn}, so it is not a function of the "
            "weights; draw them only when called with training=True, or outside of the loss."
        )


class Generators(NamedTuple):
    """The states of the generators of random numbers, and the variables that only Python code knows."""

    python: Any
    numpy: Any
    operations: Any
    """Of `tf.random.set_seed`, for operations that are run eagerly."""
    shared: Any
    """The global `tf.random.Generator`, which is made when first used."""
    own: list[tuple[tf.Variable, tf.Tensor]]
    """The states of TensorFlow's generators, the global one and the model's."""
    variables: list[tuple[tf.Variable, tf.Tensor]]

    @classmethod
    def now(cls, parts: Sequence[Any]) -> "Generators":
        shared = stateful_random_ops.global_generator
        spaces = [mapping for part in parts for mapping in namespaces(part)]
        spaces += [class_variables(part) for part in parts if isinstance(part, type)]
        values = [value for mapping in spaces for value in mapping.values()]
        generators = [v for v in [shared, *values] if isinstance(v, tf.random.Generator)]
        own = [(generator.state, generator.state.read_value()) for generator in generators]
        variables = [(v, v.read_value()) for v in values if isinstance(v, tf.Variable)]
        numpy = np.random.get_state()  # noqa: NPY002 - the one that users' code draws from
        return cls(random.getstate(), numpy, _operations(), shared, own, variables)

    def drawn(self) -> str:
        """The library whose generator has moved since, or an empty string."""
        if random.getstate() != self.python:
            return "Python"
        now = np.random.get_state()  # noqa: NPY002
        if not all(np.array_equal(a, b) for a, b in zip(now, self.numpy, strict=True)):
            return "NumPy"
        moved = _operations() != self.operations or stateful_random_ops.global_generator is not self.shared
        return "TensorFlow" if moved or any(_moved(v, value) for v, value in self.own) else ""

    def restore(self) -> None:
        """Put all of them back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        if self.operations is not None:
            context.context()._rng.setstate(self.operations)
        stateful_random_ops.global_generator = self.shared
        for variable, value in (*self.own, *self.variables):
            if _moved(variable, value):
                variable.assign(value)


def _operations() -> Any:
    generator = getattr(context.context(), "_rng", None)
    return None if generator is None else generator.getstate()


def _moved(variable: tf.Variable, value: tf.Tensor) -> bool:
    return not bool(tf.reduce_all(variable.read_value() == value))


def _restorers(part: Any) -> Iterator[Callable[[], None]]:
    if isinstance(part, list):
        yield _list_restorer(part)
    if isinstance(part, type):
        yield _class_restorer(part)
    for mapping in namespaces(part):
        yield _restorer(mapping, dict(mapping))
        for key in mapping.keys() & NOT_READ:  # the other lists are parts themselves
            if isinstance(mapping[key], list):
                yield _list_restorer(mapping[key])
            elif isinstance(mapping[key], Tracker):
                yield from (_set_restorer(ids) for ids in mapping[key].stored_ids.values())


def _list_restorer(part: list[Any]) -> Callable[[], None]:
    entries = list(part)

    def put_back() -> None:
        if len(part) != len(entries) or any(a is not b for a, b in zip(part, entries, strict=True)):
            list.__setitem__(part, slice(None), entries)  # past the tracking of Keras

    return put_back


def _set_restorer(part: set[Any]) -> Callable[[], None]:
    entries = set(part)
    return lambda: set.intersection_update(part, entries)


def _class_restorer(kind: type) -> Callable[[], None]:
    settings = class_variables(kind)

    def put_back() -> None:
        now = class_variables(kind)
        for name in settings.keys() | now.keys():
            if name not in settings:
                type.__delattr__(kind, name)
            elif now.get(name, MISSING) is not settings[name]:
                type.__setattr__(kind, name, settings[name])

    return put_back


def _restorer(mapping: dict[Any, Any], entries: dict[Any, Any]) -> Callable[[], None]:
    def put_back() -> None:
        if len(mapping) != len(entries) or any(mapping.get(k, entries) is not v for k, v in entries.items()):
            dict.clear(mapping)
            dict.update(mapping, entries)

    return put_back
