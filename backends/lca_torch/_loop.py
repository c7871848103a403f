"""`Loop`: the step fields of a training loop in torch, whose gradients accumulate in ``.grad``."""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence, Set
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lca._micro_batches import LeftOut
from lca._schedules import thins_out
from lca.arrays import array_ops
from lca.errors import LCAError
from lca.frameworks import PyTree, Rows, joined
from lca.tracking._context import DISCARDED, GRADIENT_FIELDS, UPDATE_FIELDS, LoopContext
from lca_torch._backward import BackwardPasses
from lca_torch._gradients import ELSE, Gradients, Places, Versions
from lca_torch._optimizers import refuse_maximizing
from lca_torch._process_group import MeasuringRanks
from lca_torch._ranks import Ranks
from lca_torch._update_check import UpdateCheck
from lca_torch._updates import calling, owned_by

_OTHER_LOSS = (
    "is made by another optimizer, and one of the two takes no gradient of what the other moves, so the two "
    "do not lower the same loss. Several optimizers of one tracker must all lower the measured loss; where "
    "each has a loss of its own (GAN, actor and critic), make a tracker for each model with its optimizer"
)
_FROZEN = (
    "lacks the gradient of parameters that the step moved, as they were frozen (requires_grad_(False)) in "
    "between; if models take turns in this way, each with a loss of its own (GAN), make a tracker for each "
    "model with its optimizer"
)


class _Turn(NamedTuple):
    """What an update has moved, as positions of parameters."""

    owned: frozenset[int]  # by its optimizer
    reached: frozenset[int]  # by its backward passes; empty if they were not followed
    frozen: frozenset[int]


class _Passes(NamedTuple):
    """The backward passes of a micro-batch."""

    number: int
    reached: Set[int]  # positions of parameters


class Loop(LoopContext):
    """The gradient of a micro-batch is what its backward passes add to ``.grad``, which is never written.

    The mark of a micro-batch is the sum of the gradients at the end of its last backward pass; what happens
    to ``.grad`` later, as clipping or unscaling, is not part of it. Without required fields nothing is
    recorded.

    Parameters
    ----------
    gradients
        The gradients of the measured parameters.
    requested
        As in `LoopContext`.

    Attributes
    ----------
    after_pass
        Called at the end of each backward pass from which something is requested.
    """

    after_pass: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, gradients: Gradients, requested: Callable[[], Collection[str]]) -> None:
        super().__init__(requested)
        self._grads = gradients
        self._passes = BackwardPasses(gradients.leaves, self._pass_begins, self._pass_ended)
        self._optimizer: Any = None
        self._optimizers: Sequence[torch.optim.Optimizer] = ()
        self._before: Versions | None = None  # the gradients when the micro-batch began
        self._seen: Versions | None = None  # and when the last backward pass ended
        self._total: Tensor | None = None  # their sum then
        self._taken: Places | None = None  # where the parameters were then
        self._start: Places | None = None  # and when the update began
        self._marked = False
        self._number = 0  # backward passes of the update
        self._of_each: list[_Passes] = []  # those of each micro-batch
        self._outside = False  # whether one belongs to no micro-batch
        self._reached: set[int] = set()  # parameters that a backward pass of the update has reached
        self._last: _Turn | None = None  # the update before, if it was followed, as this one may be
        self._followed = False
        self._now: tuple[Any, frozenset[int], frozenset[int]] | None = None  # of `_turn`, in this update
        self._owned = set[frozenset[int]]()  # what each optimizer that has made an update owns
        self._theta: Tensor | None = None  # the parameters when this update was first looked at
        self._moved = False  # whether they have changed since
        self._used = 0  # updates of which the gradient was used
        self._looks = True  # whether it is looked at θ during this update
        self._check: UpdateCheck | None = None
        self._ranks: Ranks | None = None

    def open(self) -> None:
        """The run begins."""
        self._passes.listen()

    def close(self) -> None:
        """The run is over."""
        self.clear()
        self._last = None
        self._passes.stop()
        if self._ranks is not None:
            self._ranks.remove()
            self._ranks = None

    def ranks(self, measuring: MeasuringRanks) -> None:
        """From now on the micro-batches of an update are the batches of these ranks."""
        self.clear()
        if self._ranks is not None:
            self._ranks.remove()
        self._ranks = self._grads.of_ranks(measuring)

    def update_begins(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """An update begins at these parameters, which these optimizers move in the run."""
        self._optimizers, self._check, self._followed, self._now = optimizers, None, True, None
        if self._requested():
            self._start = self._grads.places()
            self._look_at_theta()

    def updated_by(self, optimizer: torch.optim.Optimizer) -> None:
        """The update is made by this optimizer."""
        self._optimizer = optimizer

    def update_made(self, optimizer: torch.optim.Optimizer) -> None:
        """The update was made by this optimizer: raise `LCAError` if its formula is another."""
        self._last = None
        if self._followed:
            self._last = self._turn(optimizer)
            self._owned.add(self._last.owned)
        if self._check is not None:
            self._check.update_made()

    def supply(self, fields: Collection[str]) -> Mapping[str, Any]:
        self._end_micro_batch()
        if "micro_batches" in fields and self._ranks is not None:
            marks = [self._grads.without(mark, self._grads.unknown) for mark in self._ranks.marks()]
            weights = self._rank_weights(len(marks))
            weighed = list(zip(weights, marks, strict=True))
            self._marks = weighed if all(weights) else weighed[-1:]
            self._total = marks[-1]
        return super().supply(fields)

    def _rank_weights(self, count: int) -> Sequence[float]:
        """How much the batches of each of ``count`` ranks count in the training loss."""
        return [1.0] * count

    def clear(self) -> None:
        super().clear()
        self._before = self._seen = self._total = self._taken = self._start = self._check = None
        self._theta, self._marked, self._moved, self._followed = None, False, False, False
        self._now = None
        self._number, self._of_each, self._outside, self._reached = 0, [], False, set()
        if self._ranks is not None:
            self._ranks.clear()

    def _pass_begins(self, first: int, added: Tensor | None) -> None:
        """A backward pass is about to add to the gradients; were they left as the last one left them?"""
        fields = self._requested()
        if not fields:
            return
        if "micro_batches" in fields:
            self._grads.pass_begins(first, added)
        if self._grads.unchanged(self._seen):
            return
        found = self._grads.nonzero()  # if all are zero, the loop has zeroed them
        if found and self._total is not None and self._grads.moved(self._total):
            return
        changed = found if self._seen is None else found & self._grads.changed(self._seen)
        if self._seen is None or not changed:  # the first pass of an update, or gradients zeroed
            self._begin_anew()
            self._grads.begin(found)
        else:
            self._grads.unknown |= changed

    def _begin_anew(self) -> None:
        """The gradient of the update begins with that of the last batch; what was taken before is gone."""
        self._marks, self._batches, self._marked = [], self._batches[-1:], False
        self._zeroed |= self._number > 0
        self._number, self._of_each, self._outside, self._reached = 0, [], False, set()

    def _pass_ended(self) -> None:
        self._reached |= self._passes.reached
        fields = self._requested()
        if not fields:
            return
        self.after_pass()
        self._number += 1
        self._seen = self._grads.versions()
        self._taken = self._grads.places()
        if not GRADIENT_FIELDS.isdisjoint(fields):
            self._total = self._grads.read()
            self._look_at_theta()
        if "micro_batches" in fields and self._ranks is None:
            self._mark()
        self._marked = True

    def _mark(self) -> None:
        """The micro-batch under way has made a backward pass."""
        weight, passes = self._weight, 1
        if weight is None:
            self._outside = True
            return
        assert self._total is not None
        reached: Set[int] = self._passes.reached
        self._grads.pass_ended(self._passes.reached)
        if self._marks and (self._marked or not weight):
            # Several passes for one micro-batch; or one of weight 0, with the micro-batch before.
            before = self._of_each.pop()
            passes, reached = before.number + (weight > 0), before.reached | reached
            weight, _ = self._marks.pop()
        if weight:
            self._marks.append((weight, self._total))
            self._of_each.append(_Passes(passes, reached))

    def _look_at_theta(self) -> None:
        """Notice that the parameters change during an update, also by what torch does not count (`.data`).

        That takes a copy of them, and so it is done at some updates only.
        """
        if not self._looks:
            return
        if self._theta is None:
            self._theta = self._grads.theta()
        elif not self._moved:
            self._moved = not self._grads.is_at(self._theta)

    def _begin_micro_batch(self, weight: float) -> None:
        # A pass between the beginning of a batch and that of its first piece belongs to no piece.
        self._outside |= self._weight is not None and self._marked
        super()._begin_micro_batch(weight)
        self._before, self._marked = self._grads.versions(), False

    def _end_micro_batch(self) -> None:
        if self._weight is not None and not self._marked and self._grads.unchanged(self._before):
            self._batches = self._batches[:-1]  # the loop took no gradient from this batch
        super()._end_micro_batch()

    def _version_of(self, leaf: Any) -> int:
        return leaf._version if isinstance(leaf, Tensor) and not leaf.is_inference() else 0

    def _joined(self, batches: Sequence[PyTree]) -> PyTree:
        whole = joined(list(batches))
        if not isinstance(whole, Rows):
            raise LCAError(
                "the batches of one update differ in structure, dtypes or shapes and cannot be joined into "
                "one; use an estimator that requires no batch (lca.estimators.CrossFit)."
            )
        return whole.tree

    def _label_errors(self, logits: Any, labels: np.ndarray) -> Tensor:
        probabilities = torch.as_tensor(logits).detach().softmax(1)
        chosen = torch.as_tensor(labels, dtype=torch.int64, device=probabilities.device)
        return 1 - probabilities.gather(1, chosen.reshape(-1, 1)).squeeze(1)

    def _to_numpy(self, array: Any) -> np.ndarray:
        tensor = torch.as_tensor(array)
        return array_ops(tensor).to_numpy(tensor)

    def _gradient(self) -> Tensor | None:
        """As the optimizer sees it; the sum over the backward passes itself if nothing has changed since."""
        refuse_maximizing([self._optimizer])  # which may have begun to, or be another than those at first
        if self._total is None and not self._grads.nonzero():
            self.irregular = DISCARDED
            return None
        self._check_passes()
        self.apart = self._other_than_last()
        scale, total = getattr(self._optimizer, "grad_scale", None), self._total
        # Compared first: of a sharded model, all ranks compare, also if only one of them has a scale.
        if total is not None and self._grads.equal(total) and scale is None:
            found = total
        else:
            found = self._grads.read()
            found = found if scale is None else found.div_(scale)  # a fused optimizer unscales by itself
        due, self._used = self._looks, self._used + 1
        self._looks = thins_out(self._used + 1)
        if due and not UPDATE_FIELDS.isdisjoint(self._requested()):
            self._check = self._grads.check_of(self._optimizer, found)
        return found

    def _check_passes(self) -> None:
        """Raise `LCAError` unless the gradient is one that backward passes took at these parameters."""
        self._passes.check()
        if self._grads.unknown:
            self._require_unmoved()
        if self._total is None:
            raise LCAError(
                "no backward pass has added to the gradients since the last update: several optimizers "
                "share one backward pass, or gradients are reused or assigned. The gradient at the start of "
                f"this update is then unknown; run a backward pass before each update, {ELSE}"
            )
        self._look_at_theta()
        if self._moved or not self._taken == self._start == self._grads.places():
            if self._moves_unowned_only():
                raise LCAError(
                    "parameters that no optimizer moves were changed between the start of the update and "
                    "its backward pass, or between the pass and the update. If they follow others, as in a "
                    "momentum encoder, freeze them (requires_grad_(False)) and pass frozen='omit' to the "
                    f"objective, so that they are state and not in θ, {ELSE}"
                )
            raise LCAError(
                "the parameters were changed between the start of the update and its backward pass, or "
                "between the pass and the update (optimizers like SAM take the gradient elsewhere, several "
                "may share one, and hooks or wrappers may move the parameters before the optimizer does). "
                f"Take the gradient where the update starts, and let the optimizer alone move, {ELSE}"
            )

    def _moves_unowned_only(self) -> bool:
        """Whether all parameters that were seen to change during this update are moved by no optimizer."""
        changed = set() if self._theta is None else self._grads.moved_from(self._theta)
        places = [found for found in (self._taken, self._start, self._grads.places()) if found is not None]
        for one, other in pairwise(places):
            pairs = zip(*one, *other, strict=True)
            changed |= {which for which, (a, m, b, n) in enumerate(pairs) if (a, m) != (b, n)}
        return bool(changed) and changed <= self._unowned()

    def _compare(self) -> None:
        if self._batches:
            super()._compare()
        else:
            self.accumulation.compare(self._number, passes_of=id(self._optimizer))

    def _moving(self, gradient: Tensor) -> Tensor:
        return self._grads.without(gradient, self._unowned())

    def _unowned(self) -> set[int]:
        """Positions of the parameters that no optimizer moves."""
        owned = owned_by(self._optimizers)
        return {which for which, own in enumerate(self._grads.parameters) if id(own) not in owned}

    def _turn(self, optimizer: torch.optim.Optimizer) -> _Turn:
        if self._now is None or self._now[0] is not optimizer:
            own, every = owned_by([optimizer]), list(enumerate(self._grads.parameters))
            owned = frozenset(which for which, parameter in every if id(parameter) in own)
            frozen = frozenset(which for which, parameter in every if not parameter.requires_grad)
            self._now = optimizer, owned, frozen
        _, owned, frozen = self._now
        return _Turn(owned, frozenset(self._reached), frozen)

    def _other_than_last(self) -> str:
        """`LoopContext.apart`, as the parameters show that the passes of this update and the last reach."""
        if self._last is None:
            return ""
        last, now = self._last, self._turn(self._optimizer)
        apart = self._apart(last, now)
        self.take_turns |= bool(apart) and last.owned != now.owned and now.owned in self._owned
        return apart

    def _apart(self, last: _Turn, now: _Turn) -> str:
        if last.owned & last.reached & now.frozen:
            return _FROZEN
        # What one of the two optimizers alone moves, though the other could take its gradient:
        theirs = (last.owned & last.reached if last.reached else last.owned - now.frozen) - now.owned
        ours = (now.owned & now.reached) - last.owned - last.frozen
        if theirs and not theirs & now.reached:
            return _OTHER_LOSS
        return _OTHER_LOSS if last.reached and ours and not ours & last.reached else ""

    def _require_unmoved(self) -> None:
        """Raise `LCAError` if an optimizer moves a parameter whose gradient is unknown."""
        unowned = self._unowned()
        if self._grads.unknown <= unowned:
            return
        now = self._turn(self._optimizer)
        # What is frozen is moved by none but the optimizer of this update, which may be a new one.
        if not self._grads.unknown <= unowned | (now.frozen - now.owned):
            raise LCAError(
                "the gradients were not zero before the first backward pass of this update, or were changed "
                "(clipped, say) between its backward passes, so they are not the gradient of a loss at one "
                "point. The zero_grad() of one optimizer leaves those of others: if all optimizers lower the "
                "measured loss, call model.zero_grad() after each update, and if each has a loss of its own "
                "(GAN, actor and critic), make a tracker for each model with its optimizer. Clip before the "
                f"update only, {ELSE}"
            )

    def _reached_sets(self) -> tuple[Hashable, Sequence[Set[int]]]:
        if not self._reached:
            return None, ()
        sets: list[Set[int]] = [] if self._ranks is None else [*self._ranks.reached]
        sets = sets or [own.reached for own in self._of_each] or [self._reached]
        frozen = self._turn(self._optimizer).frozen
        return id(self._optimizer), [own | frozen for own in sets]

    def _gradient_of(self, batch: PyTree) -> Tensor:
        return self._grads.without(super()._gradient_of(batch), self._grads.unknown)

    def _gradient_sum(self) -> Tensor | None:
        return self._total

    def _left_out(self, factors: Sequence[float], weights: Sequence[float]) -> LeftOut | None:
        sums = self._sums()
        later = self._grads.left_out(
            self._optimizer, sums, factors=factors, weights=weights, multiple=self._multiple()
        )
        if later is not None:
            self._marks = []  # so that the sums are released with it
        return later

    def _gradient_sums(self) -> tuple[Tensor, Iterable[Tensor]]:
        sums = self._sums()
        return sums[-1], chain(sums[:1], (after - before for before, after in pairwise(sums)))

    def _sums(self) -> list[Tensor]:
        """The sum of the gradients at the end of each micro-batch."""
        sums, numbers = [mark for _, mark in self._marks], sorted({own.number for own in self._of_each})
        if self._outside or self._total is None or sums[-1] is not self._total:
            which = "belongs to no micro-batch"
        elif len(numbers) > 1:
            which = f"may belong to all micro-batches, as one has {numbers[-1]} and another {numbers[0]}"
        else:
            self._grads.require_alike()
            return sums
        raise LCAError(
            f"a backward pass of this update {which}; loop over tracker.batches(loader) or "
            "tracker.micro_batches(batch, n) for all of them, and add a penalty to the loss of each "
            f"micro-batch (weight * (loss + penalty)), {ELSE}"
        )

    def _agree_on_weights(self) -> bool:
        weights, known = self._grads.agreed(
            [weight for weight, _ in self._marks], super()._agree_on_weights()
        )
        self._marks = [(weight, mark) for weight, (_, mark) in zip(weights, self._marks, strict=True)]
        return known

    def _loss_scale(self) -> float:
        scaler = calling(torch.amp.GradScaler)
        return 1.0 if scaler is None else float(scaler.get_scale())

    def _update_slope(self, gradient: Tensor, factor: float) -> Tensor | float:
        slope = self._grads.update_slope(self._optimizer, gradient)
        return slope if factor == 1.0 else slope * factor

    def _updates_without(self, gradients: Sequence[Tensor], weights: Sequence[float]) -> list[Tensor]:
        return self._grads.updates_without(self._optimizer, gradients, weights)
