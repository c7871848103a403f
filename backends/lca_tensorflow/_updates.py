"""`Updates`: reports the eager updates of variables, whichever Keras optimizers make them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from lca_keras._counts import trained_by

Around: TypeAlias = Callable[[Any, list[Any], Sequence[keras.Variable]], AbstractContextManager[None]]
"""Maps an optimizer, gradients and their variables to the context in which the update is made."""

_following: list["Updates"] = []
_intercepted: dict[type, tuple[Any, Any]] = {}  # by class: its own `apply`, and what stands in for it


class Updates:
    """Follows the updates of all optimizers that update one of some variables.

    ``apply`` is intercepted where classes of optimizers define it, so that an optimizer that is made in
    mid-run is seen too. An update inside another (``super().apply()``, the optimizer inside a wrapper) is
    part of it. Inside a `tf.function` updates are seen when the function is traced, and not when it runs.

    Parameters
    ----------
    variables
        Whose updates are followed.
    around
        Called for each eager update.
    traced
        Called with the optimizer of an update that is traced.
    """

    def __init__(
        self, variables: Iterable[keras.Variable], around: Around, traced: Callable[[Any], object]
    ) -> None:
        self._owned = {id(variable) for variable in variables}
        self._around, self.traced = around, traced
        self.inside = False

    def follow(self) -> None:
        """Begin to report updates."""
        if not _following:
            for kind in _defining(keras.optimizers.Optimizer):
                _intercept(kind)
        _following.append(self)

    def leave(self) -> None:
        """Follow no longer; with the last that follows, the classes are as they were."""
        _following.remove(self)
        if not _following:
            for kind, (own, ours) in _intercepted.items():
                if kind.__dict__["apply"] is ours:  # and not wrapped by somebody else since
                    kind.apply = own  # type: ignore[attr-defined]
            _intercepted.clear()

    def concerns(self, variables: Iterable[keras.Variable]) -> bool:
        """Whether one of these variables is followed."""
        return any(id(variable) in self._owned for variable in variables)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """An update is made; the updates inside of it are a part of it."""
        self.inside = True
        try:
            yield
        finally:
            self.inside = False

    def around(
        self, optimizer: Any, grads: list[Any], variables: Sequence[keras.Variable]
    ) -> AbstractContextManager[None]:
        """The context of an update."""
        return self._around(optimizer, grads, variables)


def _defining(kind: type) -> Iterator[type]:
    """The class that defines ``apply`` for ``kind``, and all below it that define their own."""
    yield next(base for base in kind.__mro__ if "apply" in vars(base))
    waiting: list[type] = kind.__subclasses__()
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        if "apply" in vars(one):
            yield one


def _intercept(kind: Any) -> None:
    if kind in _intercepted:
        return
    own = vars(kind)["apply"]

    # A tf.function converts this function, and through it that of the user.
    def apply(self: Any, grads: Any, trainable_variables: Any = None, **kwargs: Any) -> Any:
        if tf.inside_function():
            _traced(self, trainable_variables)
            return own(self, grads, trainable_variables, **kwargs)
        return _eager(own, self, grads, trainable_variables, kwargs)

    _intercepted[kind] = own, apply
    kind.apply = apply


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def _traced(optimizer: Any, variables: Any) -> None:
    trained = variables if isinstance(variables, list | tuple) else trained_by(optimizer)
    for updates in _following:
        if updates.concerns(trained):
            with tf.init_scope():
                updates.traced(optimizer)


def _eager(own: Any, optimizer: Any, grads: Any, variables: Any, kwargs: dict[str, Any]) -> Any:
    outer = [updates for updates in _following if not updates.inside]
    if not outer:
        return own(optimizer, grads, variables, **kwargs)
    grads = list(grads)  # an iterator can be read only once, and the optimizer reads it too
    variables = None if variables is None else list(variables)
    trained = trained_by(optimizer) if variables is None else variables
    followers = [updates for updates in outer if updates.concerns(trained)]
    with ExitStack() as stack:
        for updates in followers:  # all of them first: a dry run for one is not an update for another
            stack.enter_context(updates.entered())
        for updates in followers:
            stack.enter_context(updates.around(optimizer, grads, trained))
        return own(optimizer, grads, variables, **kwargs)
