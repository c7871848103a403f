"""`Loop`: what an eager training loop in Keras has at hand for estimators on batches."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lca.errors import LCAError
from lca.frameworks import PyTree, Rows, examples_in
from lca.reference.optimizers import mean_without
from lca.step import ExampleScores, MicroBatch, check_outputs
from lca.tracking.context import LoopContext, multiple_of
from lca_tensorflow.parameters import flat

Gradients = Sequence[Any]


class Loop(LoopContext):
    """Remembers what passes by between two updates, as far as it is ``asked`` for.

    Gradients come with `add`, one part after another, and as a whole with `heard`, when the optimizer is
    about to apply them.
    """

    def __init__(
        self, variables: Sequence[keras.Variable], optimizer: Any, asked: Callable[[], Collection[str]]
    ) -> None:
        super().__init__()
        self._variables, self._optimizer, self._asked = variables, optimizer, asked
        self._applied: tuple[Gradients, Sequence[keras.Variable]] | None = None
        self._share, self._told, self._adding = 1.0, False, False

    def batches(self, loader: Iterable[PyTree]) -> Iterator[PyTree]:
        """The batches of ``loader``, each remembered; several to one update are its parts."""
        for batch in loader:
            self._take(batch)
            yield batch
            self._told = False

    def micro_batches(self, batch: PyTree, n: int) -> Iterator[tuple[PyTree, float]]:
        """``batch`` in n pieces, each with its share of the examples."""
        total = int(examples_in(batch))
        if not isinstance(n, int) or n < 1:
            raise LCAError(f"a batch is split into a whole number of micro-batches ≥ 1, got {n!r}.")
        n = min(n, total)  # a last batch may be too small; the estimator then says what it lacks
        if not self._told:
            self._take(batch)
        for start, end in pairwise(-(-m * total // n) for m in range(n + 1)):  # the larger ones first
            self._share = (end - start) / total
            yield Rows(batch).take(slice(start, end)), self._share

    def _take(self, batch: PyTree) -> None:
        if not self._adding:  # what the last batch was for was not made
            self._batches = []
        self._batches.append(batch)
        self._share, self._told = 1.0, True

    def add(self, total: Gradients | None, gradients: Gradients) -> list[Any]:
        """``total + gradients``, and the part that they are of; a total of ``None`` begins an update."""
        if total is None:
            self._marks, self._batches = [], self._batches[-1:]
        self._adding = True
        if "micro_batches" in self._asked():
            self._marks.append((self._share, gradients))
        if total is None:
            return list(gradients)
        return [
            b if a is None else a if b is None else _sum(a, b) for a, b in zip(total, gradients, strict=True)
        ]

    def scores(self, index: Any, outputs: Any, labels: Any) -> None:
        """Errors of single examples, as the coming update's forward pass saw them."""
        if "scores" not in self._asked():
            return
        if labels is not None:
            labels = tf.reshape(labels, [-1])
            check_outputs(tuple(outputs.shape), tuple(labels.shape))
            outputs = 1 - tf.gather(tf.nn.softmax(outputs), labels, axis=1, batch_dims=1)
        self._scores.append(ExampleScores(np.asarray(index), np.asarray(outputs, np.float64)))

    def heard(self, gradients: Gradients, variables: Sequence[keras.Variable]) -> None:
        """The optimizer is about to apply these."""
        self._applied = list(gradients), list(variables)

    def forget(self) -> None:
        super().forget()
        self._applied, self._told, self._adding = None, False, False

    def _whole_batch(self) -> PyTree:
        return tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *self._batches)

    def _gradient(self) -> tf.Tensor | None:
        if self._applied is None:
            return None
        _check_plain(self._optimizer)
        return self._flat(self._applied[0])

    def _flat(self, gradients: Gradients) -> tf.Tensor:
        """As a vector (K,) in the order of θ; 0 where there is none."""
        assert self._applied is not None
        by_variable = {id(v): g for g, v in zip(gradients, self._applied[1], strict=True)}
        found = [by_variable.get(id(variable)) for variable in self._variables]
        parts = [
            tf.zeros(v.shape, v.dtype) if grad is None else tf.convert_to_tensor(grad)
            for grad, v in zip(found, self._variables, strict=True)
        ]
        return tf.concat([tf.reshape(part, [-1]) for part in parts], 0)

    def _parts(self, gradient: tf.Tensor) -> tuple[MicroBatch, ...]:
        assert self._applied is not None
        shares = [share / sum(share for share, _ in self._marks) for share, _ in self._marks]
        vectors = [self._flat(gradients) for _, gradients in self._marks]
        factor = multiple_of(tf.add_n(vectors), gradient)
        parts = [vector * (factor / share) for vector, share in zip(vectors, shares, strict=True)]
        moving = [g is not None for g in self._applied[0]]
        rehearsal = Rehearsal(self._optimizer, self._applied[1], self._variables)
        updates = [rehearsal.update(mean_without(m, parts, shares), moving) for m in range(len(parts))]
        return tuple(map(MicroBatch, parts, updates))


class Rehearsal:
    """The update that an optimizer would make of another gradient, found by letting it make it.

    Afterwards its state and the variables are what they were, bit for bit. So whatever it does (schedule,
    decay and exceptions from it, clipping, constraints, averages) is in the update.
    """

    def __init__(
        self, optimizer: Any, trained: Sequence[keras.Variable], wanted: Sequence[keras.Variable]
    ) -> None:
        self._optimizer, self._trained, self._wanted = optimizer, trained, wanted
        if not optimizer.built:  # as it would do by itself in a moment
            optimizer.build(trained)

    def update(self, gradient: tf.Tensor, moving: Sequence[bool]) -> tf.Tensor:
        """The movement (K,) in the order ``wanted``; ``moving``: which of the trained have a gradient."""
        parts = tf.split(gradient, [int(np.prod(v.shape)) for v in self._wanted])
        by_variable = {id(v): tf.reshape(g, v.shape) for g, v in zip(parts, self._wanted, strict=True)}
        pairs = [
            (by_variable[id(v)], v)
            for v, moves in zip(self._trained, moving, strict=True)
            if moves and id(v) in by_variable
        ]
        touched = [*self._optimizer.variables, *self._trained]
        before, start = [tf.identity(variable.value) for variable in touched], flat(self._wanted)
        try:
            self._optimizer.apply([g for g, _ in pairs], [v for _, v in pairs])
            return flat(self._wanted) - start
        finally:
            for variable, value in zip(touched, before, strict=True):
                variable.assign(value)


def _sum(a: Any, b: Any) -> tf.Tensor:
    return tf.convert_to_tensor(a) + tf.convert_to_tensor(b)  # those of embeddings are tf.IndexedSlices


def _check_plain(optimizer: Any) -> None:
    """Raise `LCAError` if what the optimizer is given is not the gradient of its next update."""
    if hasattr(optimizer, "inner_optimizer") or getattr(optimizer, "loss_scale_factor", None):
        raise LCAError(
            f"a {type(optimizer).__name__} is given scaled gradients; estimators on batches need those of "
            "the loss itself, so use one that scales nothing, or an estimator that needs none (SampledPathIntegral)."
        )
    if getattr(optimizer, "gradient_accumulation_steps", None):
        raise LCAError(
            "the optimizer accumulates gradients by itself, so that no single call has that of an update; "
            "accumulate in the loop with tracker.add(total, gradients)."
        )
