"""`LoopContext`: the step fields that a training loop supplies for the coming update."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from math import inf
from typing import Any

import numpy as np

from lca._micro_batches import LeftOut
from lca._schedules import thins_out
from lca.arrays import Vector, array_ops
from lca.errors import DataError, LCAError
from lca.frameworks import examples_in
from lca.frameworks._trees import describe, take
from lca.objective import Batch
from lca.step import ExampleScores, MicroBatch
from lca.tolerances import halved, summed
from lca.tracking._accumulation import Accumulation
from lca.tracking._clipping import NO_MULTIPLE, Clipping, clipped_without, multiple_of, only_clipped
from lca.tracking._contents import BatchContents
from lca.tracking._drawn_rows import DrawnRows
from lca.tracking._label_spread import LabelSpread
from lca.tracking._reached import ReachedSets
from lca.tracking._scores import check_classes, check_logits
from lca.tracking._seen_batches import SeenBatches
from lca.tracking._splitting import IGNORED, cuts_of, fractions_of, of_one_size

GRADIENT_FIELDS = frozenset({"gradient", "micro_batches", "halves", "update_slope"})
"""The fields of `lca.Step` that are made from the gradient of training."""
UPDATE_FIELDS = GRADIENT_FIELDS - {"gradient"}
"""The fields that are made from the formula of an update."""
_BATCH_FIELDS = frozenset({"batch", "halves", "micro_batches"})
"""The fields that are made from a batch, or from its weight."""

DISCARDED = "has no gradient, or one that the loop has set to 0"
_WEIGHTLESS = (
    "has a batch, half or micro-batch of weight 0, such as one in which no label counts; leave such batches "
    "out, or take larger ones"
)
_COMBINED = (
    "has a gradient that is not a multiple of that of its backward pass, and the loop had set the gradients "
    "of earlier passes to 0. It may have added them later, as where it clips those of single examples or "
    "combines those of tasks, so the gradient of the loss is unknown; run passes whose gradients add up"
)
_UNWEIGHED = (
    "was made from batches that differ in size, or whose size is unknown, and so are their weights in its "
    "loss: pass weight= to tracker.batches(loader, weight=...) or tracker.begin_batch: the number of "
    "examples or tokens of a batch if the loop accumulates sums over them, or a constant (lambda batch: 1) "
    "if it accumulates the mean of each batch"
)


class LoopContext(ABC):
    """Remembers batches, gradients and scores between two updates, as far as the estimator requests them.

    A micro-batch begins when the loop receives a batch or a piece of one. The subclass of a framework says
    when a micro-batch ends, how batches are split and joined, where gradients are found, and which update the
    optimizer makes.

    Parameters
    ----------
    requested
        Returns the names of the fields of `lca.Step` to supply for the coming update.

    Attributes
    ----------
    accumulation
        Compares the number of batches in an update with that of others.
    irregular
        Why the update supplied last may lack fields that others have, as what it did; empty if it is like
        others.
    apart
        Why the gradient of the update supplied last is not that of the loss which the update before lowers,
        as what it did; empty if nothing shows that.
    take_turns
        Whether optimizers take turns, one of which takes no gradient of what another moves.
    altered
        Whether the loop has changed a gradient of the run in such a way that it may have another scale.
    gradient_on
        Takes the gradient of the measured loss on a batch, at the parameters as they are.
    measured_eps
        Machine epsilon of the precision in which the measured loss is computed, as far as it is known.
    weight_of
        How much a batch counts in the measured loss; ``None``: by its number of examples.
    seen
        How often updates are made from the batch of the update before.
    spread
        Whether the examples of an update are spread over its micro-batches, and classes over updates, by
        chance.
    drawn
        Whether the micro-batches of an update share examples, as draws with replacement do.
    reached
        Whether micro-batches or updates are of domains or tasks that take turns.
    of_all
        The numbers of every process that shares the measuring, from those of this one.
    """

    def __init__(self, requested: Callable[[], Collection[str]]) -> None:
        self._requested = requested
        self.accumulation = Accumulation()
        self.irregular = self.apart = ""
        self.take_turns = self.altered = False
        self.gradient_on: Callable[[Batch], Vector] | None = None
        self.measured_eps: Callable[[], float] = lambda: 0.0
        self.weight_of: Callable[[Batch], float] | None = None
        self.seen = SeenBatches(self._version_of)
        self.spread = LabelSpread(self._to_numpy)
        self.drawn = DrawnRows(self._to_numpy)
        self.reached = ReachedSets()
        self.of_all: Callable[[Sequence[float]], list[Sequence[float]]] = lambda own: [own]
        # Of the update under way:
        self._batches: list[Batch] = []
        self._epochs: list[int] = []  # of these, the loop over `batches` from which each comes; 0: none
        self._begun = False  # whether the loop has begun with a batch
        self._parts = 1  # micro-batches of each batch
        self._contents = BatchContents(self._version_of)  # of these
        self._marks: list[tuple[float, Any]] = []  # weight and gradient of each micro-batch
        self._scores: list[ExampleScores] = []
        self._weight: float | None = None  # of the micro-batch under way
        self._told = True  # whether the weights of all batches were passed
        self._compared = False  # whether the number of its batches was compared
        self._weightless = False  # whether one of its micro-batches has weight 0
        self._zeroed = False  # whether the loop has zeroed the gradients of an earlier pass
        self._part_counts = False  # whether clipping and scaling leave out what no optimizer moves
        # Of the run:
        self._loops = 0  # over `batches`
        self._weighed = False  # whether the weights of micro-batches were known at any update
        self._clipping = Clipping()
        self._shrink = 1.0  # the norm of the last gradient, divided by that without a micro-batch
        self._halved = 0  # batches
        self._split = 0  # updates in micro-batches

    def batches(
        self, loader: Iterable[Batch], weight: Callable[[Batch], float] | None = None
    ) -> Iterator[Batch]:
        """As `lca.tracking.ModelTracker.batches`."""
        self._loops += 1
        epoch = self._loops
        for batch in loader:
            self.begin_batch(batch, weight=None if weight is None else weight(batch))
            self._epochs[-1] = epoch
            yield batch
            self._end_micro_batch()

    def begin_batch(self, *batch: Batch, weight: float | None = None) -> None:
        """As `lca.tracking.ModelTracker.begin_batch`."""
        weight = None if weight is None else float(weight)  # it may be a tensor
        if weight is not None and not weight >= 0:
            raise LCAError(f"the weight of a batch is a number ≥ 0, got {weight!r}.")
        self._end_micro_batch()
        self._batches += [batch] if len(batch) > 1 else batch
        self._epochs += [0] * (len(self._batches) - len(self._epochs))
        self._begun = True
        if batch and not _BATCH_FIELDS.isdisjoint(self._requested()):
            self._contents.begin(self._batches)
        self._told &= weight is not None
        self._weightless |= weight == 0
        self._begin_micro_batch(1.0 if weight is None else weight)

    def clips_norm(self, max_norm: float) -> None:
        """As `lca.tracking.ModelTracker.clips_norm`."""
        self._clipping.tell(max_norm)

    def micro_batches(
        self, batch: Batch, n: int, weight: Callable[[Batch], float] | None = None
    ) -> Iterator[tuple[Batch, float]]:
        """As `lca.tracking.ModelTracker.micro_batches`."""
        if not isinstance(n, int | np.integer) or n < 1:
            raise LCAError(f"a batch is split into a whole number of micro-batches ≥ 1, got {n!r}.")
        total = self._count_examples(batch)
        if not total:
            raise LCAError("a batch without examples cannot be split into micro-batches; skip it.")
        if self._weight is None or not self._batches:  # the loop does not use `batches`
            self.begin_batch(batch)
        whole = 1.0 if self._weight is None else self._weight
        cuts = cuts_of(total, n)
        self._parts = len(cuts)
        pieces = [self._rows(batch, *cut) for cut in cuts]
        parts = fractions_of(pieces, [stop - start for start, stop in cuts], weight, self.weight_of)
        self._weightless |= not all(parts)
        for piece, part in zip(pieces, parts, strict=True):
            if part:
                self._begin_micro_batch(whole * part)
                yield piece, part
                self._end_micro_batch()

    def add_scores(self, index: Any, outputs: Any, labels: Any = None) -> None:
        """As `lca.tracking.ModelTracker.scores`."""
        if "scores" not in self._requested():
            return
        if labels is not None:
            check_logits(tuple(np.shape(outputs)), tuple(np.shape(labels)))
            classes = self._to_numpy(labels).reshape(-1)
            ignored = classes == IGNORED
            check_classes(classes[~ignored], np.shape(outputs)[1])
            errors = self._to_numpy(self._label_errors(outputs, np.where(ignored, 0, classes)))
            outputs = np.where(ignored, 0.0, errors)  # no loss, no gradient
        self._scores.append(ExampleScores(self._to_numpy(index), self._to_numpy(outputs)))

    def supply(self, fields: Collection[str]) -> Mapping[str, Any]:
        """The values of these fields of `lca.Step`, as far as the loop has supplied them."""
        self._end_micro_batch()
        self.irregular, self.apart = _WEIGHTLESS if self._weightless else "", ""
        found: dict[str, Any] = {}
        if "batch" in fields and self._batches:
            self._contents.require_unwritten(self._batches)
            batch = self._batches[0] if len(self._batches) == 1 else self._joined(self._batches)
            if self.weight_of is None or self.weight_of(batch):
                found["batch"] = batch
            else:  # its loss is not known
                self.irregular = _WEIGHTLESS
        if not GRADIENT_FIELDS.isdisjoint(fields):
            found |= self._gradients(fields)
        if "scores" in fields and self._scores:
            found["scores"] = ExampleScores(
                np.concatenate([scores.index for scores in self._scores]),
                np.concatenate([scores.values for scores in self._scores]),
            )
        if not self.apart and (self._batches or ("gradient" in found and not self._begun)):
            self.seen.add(self._batches)
        optimizer, sets = self._reached_sets()
        if sets:
            self.reached.add(optimizer, sets)
        return found

    def compare_losses(
        self, gradient: Vector, terms: Mapping[str, Callable[[Batch], Vector]]
    ) -> tuple[float, str]:
        """How far the gradient of training is from the measured one on its batch, and what explains that.

        Costs a gradient on the batch, and one for each term if they differ.

        Parameters
        ----------
        gradient
            That of training.
        terms
            The gradient of each term of the measured loss on a batch, at the parameters as they are.

        Returns
        -------
        part
            The norm of the difference, as a part of that of the measured gradient; 0 if they are equal up to
            rounding, or if the batch is not known.
        name
            The measured term that the training loss lacks; empty if no single term explains the difference.
        """
        if len(self._batches) != 1 or self.gradient_on is None:
            return 0.0, ""
        [batch] = self._batches
        # What no optimizer moves may still have the gradients of earlier updates, which nothing sets to 0.
        gradient, whole = self._moving(gradient), self._moving(self.gradient_on(batch))
        eps = self.measured_eps()
        if _are_equal(gradient, whole, [], eps):
            return 0.0, ""
        off, norm = (_norm(v) for v in (gradient - whole, whole))
        parts = ((name, self._moving(of_term(batch))) for name, of_term in terms.items())
        found = (name for name, own in parts if _are_equal(gradient, whole - own, [whole], eps))
        return (off / norm if norm else inf), next(found, "")

    def examples(self) -> tuple[int, int]:
        """The numbers of examples of the coming update and of its largest micro-batch; 0 if unknown."""
        try:
            counts = list(map(self._count_examples, self._batches))
        except LCAError:
            counts = []
        return sum(counts), -(-max(counts, default=0) // self._parts)

    def clear(self) -> None:
        """The update has been made, or will not be made; the next one begins."""
        if self._batches and not self._compared:
            self.accumulation.compare(len(self._batches), epochs=self._number_of_epochs())
        self._compared = False
        self._batches, self._epochs, self._marks, self._scores, self._weight = [], [], [], [], None
        self._told, self._weightless, self._begun, self._parts = True, False, False, 1
        self._zeroed = False

    def _begin_micro_batch(self, weight: float) -> None:
        self._weight = weight

    def _end_micro_batch(self) -> None:
        self._weight = None

    def _gradients(self, fields: Collection[str]) -> dict[str, Any]:
        """The gradient of the training loss, and of its micro-batches; not as clipped, scaled or averaged."""
        applied = self._gradient()
        if applied is None:
            return {}
        self._compared = True
        self._compare()
        self.irregular = self.irregular or self.accumulation.unusual
        if self.accumulation.scale is None:
            return {}
        total = self._gradient_sum()
        total = applied if total is None else total
        factor = 1.0 if total is applied else self._factor(total, applied)
        if factor is None:
            return self._of_altered(total, applied, fields)
        if not factor:
            self.irregular = DISCARDED
            return {}
        scale = 1.0 if factor == 1.0 else 1 / self._loss_scale()
        norm, max_norm = self._norms(total, scale, factor / scale)
        by = scale / self._multiple()
        found = {"gradient": total if by == 1.0 else total * by}
        if "micro_batches" in fields and len(self._marks) > 1 and self._weights_known():
            self._look_at_pieces()
            found["micro_batches"] = self._micro_batches(scale, norm, max_norm)
        if "halves" in fields and len(self._batches) == 1 and self.gradient_on is not None:
            found["halves"] = self._halves(found["gradient"], scale, norm, max_norm)
        if "update_slope" in fields:
            found["update_slope"] = self._update_slope(applied, factor / by)
        return found

    def _of_altered(self, total: Vector, applied: Vector, fields: Collection[str]) -> dict[str, Any]:
        """The gradient of the backward passes, of which that of the update is no multiple."""
        if not UPDATE_FIELDS.isdisjoint(fields):
            raise LCAError(NO_MULTIPLE)
        if self._zeroed:
            self.irregular = _COMBINED
            return {}
        scale = 1 / self._loss_scale()
        if not self.altered:
            self.altered = not only_clipped(self._counted(total) * scale, self._counted(applied))
        return {"gradient": total * (scale / self._multiple())}

    def _compare(self) -> None:
        """Compare the number of batches in this update with that of others."""
        batches, epochs = max(1, len(self._batches)), self._number_of_epochs()
        self.accumulation.compare(batches, len(self._marks), epochs=epochs)

    def _number_of_epochs(self) -> int:
        """How many loops over `batches` the batches of this update come from; 0 if any comes from none."""
        return len(set(self._epochs)) if all(self._epochs) else 0

    def _factor(self, total: Vector, applied: Vector) -> float | None:
        """`multiple_of`; if there is no factor for all parameters, that for those that an optimizer moves."""
        self._part_counts = False
        try:
            factor = multiple_of(total, applied)
        except LCAError:  # not finite, perhaps only where no optimizer moves anything
            factor = None
        if factor is not None:
            return factor
        self._part_counts = True
        return multiple_of(self._counted(total), self._counted(applied))

    def _norms(self, total: Vector, scale: float, factor: float) -> tuple[float, float | None]:
        """The norm of the gradient ``scale · total``, and that to which ``factor`` clips it.

        Without clipping 0, which costs nothing, and ``None``.
        """
        ops = array_ops(total)
        if abs(factor - 1) <= summed(1.0, ops.eps(total)):
            factor = 1.0
        if factor == 1.0 and self._clipping.max_norm is None:
            return 0.0, None
        counted = self._counted(total)
        norm = scale * ops.total(counted * counted) ** 0.5
        return norm, self._clipping.norm_after(norm, factor, ops.eps(total))

    def _counted(self, gradient: Vector) -> Vector:
        """What counts in the norm of a gradient by which the loop clips it."""
        return self._moving(gradient) if self._part_counts else gradient

    def _weights_known(self) -> bool:
        """Whether the batches of this update have known weights; raises `LCAError` if none ever had."""
        known = self._agree_on_weights()
        if not known and not self._weighed:
            raise LCAError(f"this update {_UNWEIGHED}.")
        if not known:
            self.irregular = self.irregular or _UNWEIGHED
        self._weighed |= known
        return known

    def _agree_on_weights(self) -> bool:
        """Whether the batches of this update have known weights, on all processes that train together."""
        if self._told or len(self._batches) == 1:
            return True
        weights = set[float]()
        if self.weight_of is not None:
            self._contents.require_unwritten(self._batches)
            weights = set(map(self.weight_of, self._batches))
        return len(weights) <= 1 and of_one_size(self._batches)

    def _look_at_pieces(self) -> None:
        """Now and then, compare the labels and rows of the micro-batches of this update."""
        self._split += 1
        if thins_out(self._split):
            pieces = self._batches
            if len(self._batches) == 1:
                [batch] = self._batches
                pieces = [
                    self._rows(batch, *cut) for cut in cuts_of(self._count_examples(batch), self._parts)
                ]
            self._look_at_examples(pieces)

    def _look_at_examples(self, pieces: Sequence[Batch]) -> None:
        self.spread.add(pieces)
        self.drawn.add(pieces)

    def _micro_batches(self, scale: float, norm: float, max_norm: float | None) -> Sequence[MicroBatch]:
        """The micro-batches of a gradient of this norm, clipped to ``max_norm``.

        The training loss is ``scale`` times that whose gradient the loop takes.
        """
        total_weight = sum(weight for weight, _ in self._marks)
        weights = [weight / total_weight for weight, _ in self._marks]
        factors = [scale / weight for weight in weights]
        later = None if max_norm is not None else self._left_out(factors, weights)
        if later is not None:
            return later
        total, own = self._gradient_sums()
        ops = array_ops(total)
        gradients = [ops.scaled(g, factor) for g, factor in zip(list(own), factors, strict=True)]
        return self._with_updates(gradients, weights, norm, max_norm)

    def _halves(
        self, gradient: Vector, scale: float, norm: float, max_norm: float | None
    ) -> tuple[MicroBatch, ...]:
        """Both halves of the batch, whose mean gradient this is.

        Empty for a batch of one example, and where a half has no weight in the loss. Where several processes
        have a part of the batch each, a half is that of all their parts.
        """
        [batch] = self._batches
        self._contents.require_unwritten(self._batches)
        total = self._count_examples(batch)
        cut = total - total // 2
        halves = self._rows(batch, 0, cut), self._rows(batch, cut, total)
        if thins_out(self._halved + 1):
            self._look_at_examples(halves)
        own: Sequence[float] = [cut, total - cut]
        if self.weight_of is not None and total > 1:
            own = [*map(self.weight_of, halves)]
        each = self.of_all(own)
        if not min(map(min, each)) > 0:
            self.irregular = _WEIGHTLESS if total > 1 else ""
            return ()
        counts = [sum(count) for count in zip(*each, strict=True)]
        weights = [count / sum(counts) for count in counts]
        first = self._gradient_of(halves[0])
        second = (gradient - weights[0] * first) * (1 / weights[1])
        self._halved += 1
        uneven = len(set(map(sum, each))) > 1  # the mean of the means of processes would be another gradient
        if uneven or thins_out(self._halved):
            subtracted = first * (weights[0] / weights[1])
            _check_half(second, self._gradient_of(halves[1]), subtracted, self.measured_eps())
        multiple = self._multiple()
        return self._with_updates([first * multiple, second * multiple], weights, norm, max_norm)

    def _gradient_of(self, batch: Batch) -> Vector:
        """The gradient of the measured loss on a batch, at the point of the gradient of training."""
        assert self.gradient_on is not None
        return self.gradient_on(batch)

    def _with_updates(
        self, gradients: Sequence[Vector], weights: Sequence[float], norm: float, max_norm: float | None
    ) -> tuple[MicroBatch, ...]:
        """Micro-batches of these gradients, as the loop takes them, with the updates without each."""
        applied: Sequence[Vector] = gradients
        if max_norm is not None:
            gradients = list(map(self._counted, gradients))
            applied, average = clipped_without(gradients, weights, max_norm, self._shrink)
            self._shrink = norm / average if average else 1.0
        updates = self._updates_without(applied, weights)
        multiple = self._multiple()
        if multiple != 1.0:
            gradients = [gradient * (1 / multiple) for gradient in gradients]
        return tuple(map(MicroBatch, gradients, updates, weights))

    def _moving(self, gradient: Vector) -> Vector:
        """The gradient with 0 for what no optimizer moves; itself if there is no such part."""
        return gradient

    def _left_out(self, factors: Sequence[float], weights: Sequence[float]) -> LeftOut | None:
        """The micro-batches, their gradients times these factors, if their updates are computed later."""
        return None

    def _reached_sets(self) -> tuple[Hashable, Sequence[Set[int]]]:
        """The optimizer of the update, and the parameters that the gradient of each micro-batch reaches.

        Those that are frozen count as reached: they are left out by the loop, and not by the loss. Without
        micro-batches there is one set, of the whole update; none if that is not known.
        """
        return None, ()

    def _gradient_sum(self) -> Vector | None:
        """The sum (K,) of the gradients that the loop has taken for this update; ``None`` if unknown."""
        return self._gradient_sums()[0] if self._marks else None

    def _loss_scale(self) -> float:
        """The factor of the loss, against underflow, with which its gradient is taken."""
        return 1.0

    def _multiple(self) -> float:
        """The loss whose gradient the loop takes, divided by the mean over the examples that count in it."""
        return self.accumulation.scale or 1.0

    def _count_examples(self, batch: Batch) -> int:
        """The number of examples; raises `LCAError` if the batch cannot be split."""
        try:
            return examples_in(batch)
        except DataError:
            raise LCAError(
                f"this batch ({describe(batch)}) cannot be split into micro-batches, which requires tensors "
                "of one length with a row for each example; split it yourself, loop over "
                "tracker.batches(pieces, weight) and use CrossFit() without own_pass."
            ) from None

    def _rows(self, batch: Batch, start: int, stop: int) -> Batch:
        """The examples from ``start`` to ``stop``; a view where possible."""
        return take(batch, slice(start, stop))

    def _version_of(self, leaf: Any) -> int:
        """A number that changes when something is written into a tensor of a batch."""
        return 0

    @abstractmethod
    def _joined(self, batches: Sequence[Batch]) -> Batch:
        """One batch of all examples."""

    @abstractmethod
    def _label_errors(self, logits: Any, labels: np.ndarray) -> Any:
        """``1 - softmax(logits)[label]`` (n,), of logits (n, C), also of NumPy, and classes (n,)."""

    @abstractmethod
    def _to_numpy(self, array: Any) -> np.ndarray:
        """The same numbers on the host."""

    @abstractmethod
    def _gradient(self) -> Vector | None:
        """The gradient (K,) that the optimizer receives, or ``None`` if the loop has not supplied it."""

    @abstractmethod
    def _gradient_sums(self) -> tuple[Vector, Iterable[Vector]]:
        """The sum (K,) of the gradients of all micro-batches, weighted as in the loss, and each of them."""

    @abstractmethod
    def _update_slope(self, gradient: Vector, factor: float) -> Vector | float:
        """`lca.Step.update_slope` of a gradient, of which ``factor`` times is applied, ``gradient`` (K,)."""

    @abstractmethod
    def _updates_without(self, gradients: Sequence[Vector], weights: Sequence[float]) -> Sequence[Vector]:
        """The update (K,) that the optimizer would make without each micro-batch."""


def _norm(vector: Vector) -> float:
    return float(array_ops(vector).total(vector * vector) ** 0.5)


def _are_equal(derived: Vector, taken: Vector, subtracted: Sequence[Vector], eps: float) -> bool:
    """Whether two gradients of one loss are equal; ``subtracted`` and ``eps`` as in `_check_half`."""
    ops = array_ops(taken)
    off, *norms = map(_norm, (derived - taken, derived, taken, *subtracted))
    return bool(off <= halved(max(norms), max(ops.eps(taken), eps)))


def _check_half(derived: Vector, taken: Vector, subtracted: Vector, eps: float) -> None:
    """Raise `LCAError` unless the gradient derived for half of a batch is the one of the measured loss.

    The rounding of the gradient ``subtracted`` for it stays in the difference, however small that is.
    ``eps`` is that of the precision in which the loss is computed, if it is coarser than that of θ. A
    gradient that is not finite, as after training has diverged, is left to the estimator, which names it.
    """
    if not array_ops(derived).all_finite(derived):
        return
    if not _are_equal(derived, taken, [subtracted], eps):
        off, norm = _norm(derived - taken), _norm(taken)
        raise LCAError(
            f"the gradient of half of the batch, derived from that of training, is off by {off:.2g} of "
            f"{norm:.2g}: the loss of training is not the measured one on its batch. Does the loop read "
            "the next batch before it updates from this one, or take the gradient on a part of it? Then loop "
            "over the loader itself and call tracker.begin_batch(trained_batch) before each gradient. Does "
            "training run in mixed precision? Then measure in the same. Has it dropout, batch statistics, "
            "weights of examples or another loss? Then CrossFit() with tracker.micro_batches(batch, 2), or "
            "LaggedCrossFit(), allocates the loss of training, and SampledPathIntegral the measured one."
        )
