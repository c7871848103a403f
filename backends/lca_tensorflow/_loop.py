"""`Loop`: the step fields of an eager training loop in Keras, whose gradients are passed on as lists."""

import warnings
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from lca._schedules import thins_out
from lca.errors import LCAError, LCAWarning
from lca.frameworks import PyTree
from lca.tolerances import summed
from lca.tracking._context import GRADIENT_FIELDS, LoopContext
from lca_tensorflow._optimizers import DryRun, check_unscaled, update_slope, updates_without
from lca_tensorflow._vectors import gradient_of

Gradients = Sequence[Any]
_REMEMBERED = 20  # updates
_REPEATED = 3  # two of many gradients may have one norm by chance,
_REPEATED_ROUND = 2  # but hardly one that is a round number
_COMPARED = 10_000  # entries, of which few are the same by chance
_DIFFERENT = 0.9  # of the entries below the largest, unless they are counts


class _Size(NamedTuple):
    """The size of a gradient, and the sum of its entries, by which others of this size are told from it."""

    value: float
    total: float
    rounding: float
    entries: int = 1  # that have this size

    def is_limit(self) -> bool:
        """Whether entries have a round number in common, as after clipping by value."""
        return self.entries >= _REPEATED and self.is_round()

    def is_like(self, other: "_Size") -> bool:
        return abs(self.value - other.value) <= other.rounding

    def is_round(self) -> bool:
        """Whether a number has at most three digits, as limits that people choose have."""
        return abs(float(f"{self.value:.3g}") - self.value) <= self.rounding


class Loop(LoopContext):
    """Gradients come from `add`, one micro-batch after another, and as a whole from `apply`.

    The mark of a micro-batch is the list of its gradients.

    Parameters
    ----------
    variables
        Those of θ, in order.
    requested
        As in `LoopContext`.
    delayed
        Whether steps are measured with the gradient of the next update, which then has to have one of all
        that the update before has moved.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        requested: Callable[[], Collection[str]],
        *,
        delayed: bool = False,
    ) -> None:
        super().__init__(requested)
        self._variables, self._delayed = variables, delayed
        self._owned = frozenset(id(variable) for variable in variables)
        self._optimizer: Any = None
        self._applied: tuple[Gradients, Sequence[keras.Variable]] | None = None
        self._moved = frozenset[int]()  # by the update before, ids of variables
        self._adding = False  # gradients of an update
        self._taken = True  # of the batch under way
        self._marked = False  # whether the micro-batch under way has a mark
        self._outside = False  # whether a gradient was added when no micro-batch was under way
        self._sizes: list[dict[str, _Size]] = []  # of the gradients of the last updates
        self._computed: dict[int, list[Any]] = {}  # gradients by the id of their variable
        self._places: dict[int, list[Any]] = {}  # and where the variable was then, at some updates
        self._used = 0  # updates of which the gradient was used
        self._warned = False
        self._dry_runs = 0  # updates with dry runs

    def begin_batch(self, *batch: PyTree, weight: float | None = None) -> None:
        """As `lca.tracking.ModelTracker.begin_batch`."""
        if not self._adding:  # no gradient of the batches before was used
            self._batches = []
        self._drop_unused()
        super().begin_batch(*batch, weight=weight)
        self._taken = False

    def add(self, total: Gradients | None, gradients: Gradients) -> list[Any]:
        """As `lca_tensorflow.Tracker.add`."""
        if total is None:
            self._zeroed |= bool(self._marks)
            self._marks, self._batches = [], self._batches[-1:]
            self._marked = self._outside = False
        self._adding = self._taken = True
        self._told &= self._weight is not None
        self._outside |= self._weight is None
        weight = 1.0 if self._weight is None else self._weight
        if weight and not GRADIENT_FIELDS.isdisjoint(self._requested()):
            before = self._marks.pop()[1] if self._marked else None
            self._marks.append((weight, _sums(before, gradients)))
            self._marked = self._weight is not None
        return _sums(total, gradients)

    def computed(self, parts: Iterable[tuple[Any, Any]]) -> None:
        """A tape has computed these gradients; each follows the variable that it belongs to."""
        if not GRADIENT_FIELDS.isdisjoint(self._requested()):
            looks = thins_out(self._used + 1)
            for source, gradient in parts:
                if id(source) in self._owned:
                    self._computed.setdefault(id(source), []).append(gradient)
                    if looks:
                        self._places.setdefault(id(source), []).append(source.value.read_value())

    def apply(self, optimizer: Any, gradients: Gradients, variables: Sequence[keras.Variable]) -> None:
        """The optimizer is about to apply these gradients to these variables."""
        self._optimizer, self._applied = optimizer, (list(gradients), list(variables))

    def supply(self, fields: Collection[str]) -> Mapping[str, Any]:
        self._drop_unused()
        return super().supply(fields)

    def _begin_micro_batch(self, weight: float) -> None:
        super()._begin_micro_batch(weight)
        self._marked = False

    def _end_micro_batch(self) -> None:
        super()._end_micro_batch()
        self._marked = False

    def _weights_known(self) -> bool:
        if self._outside and len(self._batches) == 1:
            raise LCAError(
                "gradients of micro-batches were added when the loop over them had ended, so their weights "
                "are unknown; call tracker.add inside of `for piece, weight in tracker.micro_batches(batch, "
                "M)`, and do not read its pieces ahead, as list(...) does."
            )
        return super()._weights_known()

    def _drop_unused(self) -> None:
        """Forget the last batch if others gave the gradients that were added."""
        if self._adding and not self._taken:
            self._batches = self._batches[:-1]

    def clear(self) -> None:
        super().clear()
        if self._applied is None:
            self._computed, self._places = {}, {}
        else:  # other optimizers may apply the rest
            for variable in self._applied[1]:
                self._computed.pop(id(variable), None)
                self._places.pop(id(variable), None)
            if self._delayed:
                moved = (id(v) for g, v in zip(*self._applied, strict=True) if g is not None)
                self._moved = self._owned.intersection(moved)
        self._applied, self._adding, self._taken, self._outside = None, False, True, False

    def _version_of(self, leaf: Any) -> int:
        # Tensors are constant.
        return hash(leaf.numpy().tobytes()) if isinstance(leaf, tf.Variable) else 0

    def _joined(self, batches: Sequence[PyTree]) -> PyTree:
        return tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *batches)

    def _label_errors(self, logits: tf.Tensor, labels: Any) -> tf.Tensor:
        return 1 - tf.gather(tf.nn.softmax(logits), tf.reshape(labels, [-1]), axis=1, batch_dims=1)

    def _to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def _gradient(self) -> tf.Tensor | None:
        if self._applied is None or not self._moved.issubset(map(id, self._applied[1])):
            return None
        check_unscaled(self._optimizer)
        gradient = self._flat(self._applied[0])
        self._refuse_moved()
        if not self._marks:
            self._refuse_altered()
        self._used += 1
        return gradient

    def _refuse_moved(self) -> None:
        """Raise `LCAError` if the gradients were computed elsewhere than where the update starts."""
        assert self._applied is not None
        for gradient, variable in zip(*self._applied, strict=True):
            places = self._places.get(id(variable))
            if gradient is None or not places:
                continue
            computed = self._computed[id(variable)]
            which = next((i for i, own in enumerate(computed) if own is gradient), -1)
            if not np.array_equal(places[which], variable.numpy(), equal_nan=True):
                raise LCAError(
                    f"{variable.path!r} was changed between the tape that computed its gradient and the "
                    "update, as by optimizers like SAM, which take the gradient elsewhere. Take it where the "
                    "update starts, and let the optimizer alone move the weights, or use an estimator that "
                    "requires no gradient of training (lca.estimators.SampledPathIntegral)."
                )

    def _refuse_altered(self) -> None:
        """Raise `LCAError` if the gradients are not those that tapes have computed."""
        assert self._applied is not None
        applied = zip(*self._applied, strict=True)
        pairs = [(g, v) for g, v in applied if id(v) in self._owned and g is not None]
        seen = [(self._computed[id(v)], g, v) for g, v in pairs if id(v) in self._computed]
        if altered := [v.path for found, gradient, v in seen if not _is_from(found, gradient)]:
            raise LCAError(
                f"the loop alters gradients between the tape and the optimizer, that of {altered[0]!r} among "
                "them, so the gradient of the loss is unknown. If it adds gradients up or clips their "
                "global norm, pass the gradients of the tape to the tracker: total = tracker.add(None, "
                "gradients). If it clips each gradient by itself, let the optimizer do that (clipnorm=, "
                "clipvalue=), or pass the gradients to the tracker as well, with NextBatch or SameBatch; if "
                "it scales the gradients, scale the loss instead. Or use an estimator that requires no "
                "gradient of training (lca.estimators.SampledPathIntegral)."
            )
        if len(seen) < len(pairs):
            self._refuse_clipped()
            self._warn_unseen()

    def _warn_unseen(self) -> None:
        if not self._warned:
            warnings.warn(
                "the estimator takes the gradients that the optimizer receives for those of the loss, and "
                "cannot tell whether the loop alters them, as no eager tf.GradientTape has computed them; "
                "pass them on as they are computed: total = tracker.add(None, gradients).",
                LCAWarning,
                stacklevel=2,
            )
        self._warned = True

    def _refuse_clipped(self) -> None:
        """Raise `LCAError` if gradients that differ have one size, as after clipping by the loop.

        Sizes are the norm, those of single tensors, and the largest entry.
        """
        assert self._applied is not None
        sizes = dict(_sizes(*self._applied))
        for what, size in sizes.items():
            same = {seen[what] for seen in self._sizes if what in seen and seen[what].is_like(size)}
            enough = _REPEATED_ROUND if size.is_round() else _REPEATED
            if size.value and (len({size, *same}) >= enough or size.is_limit()):
                raise LCAError(
                    f"the gradients of updates have the {what} {size.value:.6g}, so the loop clips "
                    "them, and the gradient of the loss is unknown; pass it on before it is clipped: total = "
                    "tracker.add(None, gradients), or let the optimizer clip (global_clipnorm=...)."
                )
        self._sizes = [*self._sizes[-_REMEMBERED:], sizes]

    def _reached_sets(self) -> tuple[Hashable, Sequence[Set[int]]]:
        if self._applied is None:
            return None, ()
        applied, variables = self._applied
        own, each = [id(variable) for variable in variables], [mark for _, mark in self._marks] or [applied]
        if any(len(part) != len(own) for part in each):
            return None, ()
        frozen = self._owned.difference(own)
        return id(self._optimizer), [
            frozen.union(
                which for which, gradient in zip(own, gradients, strict=True) if gradient is not None
            )
            for gradients in each
        ]

    def _gradient_sums(self) -> tuple[tf.Tensor, list[tf.Tensor]]:
        vectors = [self._flat(gradients) for _, gradients in self._marks]
        return tf.add_n(vectors), vectors

    def _update_slope(self, gradient: tf.Tensor, factor: float) -> tf.Tensor:
        assert self._applied is not None
        applied, trained = self._applied
        return update_slope(self._optimizer, trained, self._variables, applied) * factor

    def _updates_without(self, gradients: Sequence[tf.Tensor], weights: Sequence[float]) -> list[tf.Tensor]:
        assert self._applied is not None
        applied, trained = self._applied
        dry_run = DryRun(self._optimizer, trained, self._variables)
        self._dry_runs += 1
        if thins_out(self._dry_runs):
            dry_run.check(applied)
        return updates_without(dry_run, gradients, weights, [gradient is not None for gradient in applied])

    def _flat(self, gradients: Gradients) -> tf.Tensor:
        assert self._applied is not None
        return gradient_of(self._variables, gradients, self._applied[1])


def _is_from(computed: Sequence[Any], gradient: Any) -> bool:
    """Whether a gradient is one of those that were computed for its variable, or the sum of all of them."""
    if any(gradient is one for one in computed):
        return True
    parts = [np.asarray(tf.convert_to_tensor(part)) for part in computed if part is not None]
    now = np.asarray(tf.convert_to_tensor(gradient))
    if not parts:
        return not now.any()
    slack = summed(sum(float(np.linalg.norm(part)) for part in parts), float(np.finfo(now.dtype).eps))
    return any(float(np.linalg.norm(now - one)) <= slack for one in (*parts, sum(parts)))


def _sizes(gradients: Gradients, variables: Sequence[keras.Variable]) -> Iterator[tuple[str, _Size]]:
    """The sizes that clipping can set."""
    found = [
        (v, np.asarray(tf.convert_to_tensor(g)))
        for g, v in zip(gradients, variables, strict=True)
        if g is not None
    ]
    if not found:
        return
    eps = float(np.finfo(found[0][1].dtype).eps)
    parts = [(v, part.ravel().astype(float)) for v, part in found]
    norms = [float(np.linalg.norm(part)) for _, part in parts]
    sums = [float(part.sum()) for _, part in parts]
    total, norm = sum(sums), float(np.linalg.norm(norms))
    told = [abs(part) for v, part in parts if len(v.shape) > 1 and not _are_counts(abs(part))]
    if told:
        entries = np.concatenate(told)
        largest = float(entries.max(initial=0.0))
        yield "largest entry", _Size(largest, total, eps * largest, int(np.count_nonzero(entries == largest)))
    for (v, _), own, own_sum in zip(parts, norms, sums, strict=True):
        if len(v.shape) > 1:  # those of biases may repeat, as counts do
            yield f"norm in {v.path!r} of", _Size(own, own_sum, summed(own, eps))
    yield "norm", _Size(norm, total, summed(norm, eps))


def _are_counts(entries: np.ndarray) -> bool:
    """Whether many of the entries below the largest are the same, as those of mean signs under MAE are."""
    below = entries[(entries > 0) & (entries < entries.max(initial=0.0))][:_COMPARED]
    return bool(np.unique(below).size < _DIFFERENT * below.size)


def _sums(total: Gradients | None, gradients: Gradients) -> list[Any]:
    """The sum of each gradient and its total; without a total, the gradients."""
    if total is None:
        return list(gradients)
    return [_sum(a, b) for a, b in zip(total, gradients, strict=True)]


def _sum(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return tf.convert_to_tensor(a) + tf.convert_to_tensor(b)  # those of embeddings are tf.IndexedSlices
