"""`untouched`: undoes what a forward pass writes in Python or draws from global generators."""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

from lca_keras._reach import held_by, reached
from lca_keras._untouched import HostGenerators, drawn_error, kept


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
    generators = Generators.now(parts)
    drawn = ""
    with kept(parts):
        try:
            yield
            drawn = generators.drawn()
        finally:
            generators.restore()
    if drawn and not drawing:
        raise drawn_error(drawn)


class Generators(NamedTuple):
    """The states of the generators of random numbers, and the variables that only Python code knows."""

    host: HostGenerators
    operations: random.Random | None
    """The generator set by `tf.random.set_seed` for eager operations; these draw from another until
    `restore`.

    Its state alone would not do: each operation that it seeds also counts what it has drawn.
    """
    shared: Any
    """The global `tf.random.Generator`, which is made when first used."""
    own: list[tuple[tf.Variable, tf.Tensor]]
    """The states of TensorFlow's generators, the global one and the model's."""
    variables: list[tuple[tf.Variable, tf.Tensor]]

    @classmethod
    def now(cls, parts: Sequence[Any]) -> "Generators":
        """The states as they are."""
        shared = stateful_random_ops.global_generator
        values = [value for part in parts for value in held_by(part)]
        generators = [v for v in [shared, *values] if isinstance(v, tf.random.Generator)]
        own = [(generator.state, generator.state.read_value()) for generator in generators]
        variables = [(v, v.read_value()) for v in values if isinstance(v, tf.Variable)]
        operations = getattr(context.context(), "_rng", None)
        if operations is not None:
            context.context()._rng = _stand_in()
        return cls(HostGenerators.now(parts), operations, shared, own, variables)

    def drawn(self) -> str:
        """The library whose generator has moved since, or an empty string."""
        if host := self.host.drawn():
            return host
        moved = stateful_random_ops.global_generator is not self.shared
        moved |= self.operations is not None and context.context()._rng.getstate() != _stand_in().getstate()
        return "TensorFlow" if moved or any(_moved(v, value) for v, value in self.own) else ""

    def restore(self) -> None:
        """Put all of them back."""
        self.host.restore()
        if self.operations is not None:
            context.context()._rng = self.operations
        stateful_random_ops.global_generator = self.shared
        for variable, value in (*self.own, *self.variables):
            if _moved(variable, value):
                variable.assign(value)


def _stand_in() -> random.Random:
    return random.Random("measuring")


def _moved(variable: tf.Variable, value: tf.Tensor) -> bool:
    return not bool(tf.reduce_all(variable.read_value() == value))
