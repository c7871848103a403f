"""`TapeScope`: variables replaced by given values, also for the tapes that a loss opens itself."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import keras
import tensorflow as tf

from lca_keras._policies import Scope
from lca_tensorflow._tapes import inner_tapes


class TapeScope(Scope):
    """`lca_keras._policies.Scope`, in which tapes differentiate by the values that replace variables."""

    def __init__(
        self,
        values: Iterable[tuple[keras.Variable, tf.Tensor]],
        *,
        random: bool = False,
        unmoved: Iterable[Any] = (),
    ) -> None:
        given = list(values)
        super().__init__(given, random=random, unmoved=unmoved)
        self._given = {id(variable): value for variable, value in given}
        self._accessed: Callable[[tf.Tensor], None] = lambda value: None
        self._tapes = ExitStack()

    def __enter__(self) -> "TapeScope":
        self._accessed = self._tapes.enter_context(inner_tapes(lambda v: self._given.get(id(v), v)))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._tapes.close()
        super().__exit__(*error)

    def get_current_value(self, variable: keras.Variable) -> Any:
        value = super().get_current_value(variable)
        if value is not None and variable.trainable:
            self._accessed(value)
        return value
