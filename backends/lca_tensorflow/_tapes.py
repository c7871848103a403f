"""Gradient tapes of the user's: those inside a loss, and those of a training loop."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import tensorflow as tf

Told: TypeAlias = Callable[[Iterable[tuple[Any, Any]]], None]
"""Receives the sources of a gradient, each with its part."""


@contextmanager
def inner_tapes(replaced: Callable[[Any], Any]) -> Iterator[Callable[[Any], None]]:
    """Let tapes that a loss opens differentiate by the values that replace its variables.

    ``replaced`` returns the value in place of a variable, or the variable itself. Yields a function to call
    with each value that is read; tapes that watch accessed variables then watch the value as well.
    """
    tape_class, opened = tf.GradientTape, list[Any]()
    push, watch, gradient = tape_class._push_tape, tape_class.watch, tape_class.gradient

    def opening(tape: Any) -> None:
        push(tape)
        opened.append(tape)

    def watching(tape: Any, tensor: Any) -> None:
        watch(tape, tf.nest.map_structure(replaced, tensor))

    def differentiating(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
        return gradient(tape, target, tf.nest.map_structure(replaced, sources), *args, **kwargs)

    def accessed(value: Any) -> None:
        for tape in opened:
            if tape._recording and tape._watch_accessed_variables:
                watch(tape, value)

    with _methods(_push_tape=opening, watch=watching, gradient=differentiating):
        yield accessed


_listeners: list[Told] = []
_replaced = ExitStack()  # puts the method of the tapes back when the last listener ends


@contextmanager
def computed_gradients(told: Told) -> Iterator[None]:
    """Call ``told`` with each gradient of an eager tape. Several may listen, and end in any order."""
    if not _listeners:
        _replaced.enter_context(_methods(gradient=_followed(tf.GradientTape.gradient)))
    _listeners.append(told)
    try:
        yield
    finally:
        _listeners.remove(told)
        if not _listeners:
            _replaced.close()


def _followed(gradient: Any) -> Callable[..., Any]:
    def differentiating(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
        found = gradient(tape, target, sources, *args, **kwargs)
        if not tf.inside_function():
            for told in _listeners:
                told(zip(tf.nest.flatten(sources), tf.nest.flatten(found), strict=True))
        return found

    return differentiating


@contextmanager
def _methods(**methods: Any) -> Iterator[None]:
    """`tf.GradientTape` with other methods for a while."""
    before = {name: getattr(tf.GradientTape, name) for name in methods}
    for name, method in methods.items():
        setattr(tf.GradientTape, name, method)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(tf.GradientTape, name, method)
