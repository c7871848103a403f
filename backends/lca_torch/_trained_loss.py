"""`TrainedLoss`: a loss of which training takes the gradient, and the losses of the model in it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, wraps
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from lca.tolerances import summed
from lca_torch._labels import Labels


class ReachedLoss:
    """A loss, and the gradients that reach it in the backward pass of training, which stay as they are.

    Attributes
    ----------
    value
        A copy, as the loop may change the loss in place.
    """

    def __init__(self, loss: Tensor) -> None:
        self.value, self.eps = loss.detach().clone(), float(torch.finfo(loss.dtype).eps)
        self._gradients: list[Tensor] = []
        loss.register_hook(self._gradients.append)  # type: ignore[no-untyped-call]

    @cached_property
    def factor(self) -> float:
        """∂L/∂ℓ, with ℓ this loss and L that on which ``backward`` is called; 0 if L does not depend on ℓ."""
        return sum(float(gradient.sum()) for gradient in self._gradients)

    @cached_property
    def term(self) -> float:
        """``ℓ ∂L/∂ℓ``: its part of L, if L is linear in it."""
        return sum(float((gradient * self.value).sum()) for gradient in self._gradients)


class ForwardPass(NamedTuple):
    """A forward pass of the model in training."""

    labels: Labels
    loss: ReachedLoss | None
    """The model's own loss; ``None`` if it computes none."""
    inputs: Mapping[str, Any] | None
    """What the measured loss receives: what the model does, or the trainer; ``None`` if not required."""


class TrainedLoss:
    """What ``compute_loss`` has returned for a batch, after these forward passes of the model.

    All that it says is known when the backward pass is over.
    """

    def __init__(self, loss: Tensor, passes: Sequence[ForwardPass]) -> None:
        self._loss, self._passes = ReachedLoss(loss), passes

    @property
    def factor(self) -> float:
        """As `ReachedLoss.factor`: what the trainer multiplies the loss by."""
        return self._loss.factor

    @property
    def eps(self) -> float:
        """The machine epsilon of the dtype with the largest rounding errors."""
        return max([self._loss.eps, *(own.loss.eps for own in self._passes if own.loss is not None)])

    @property
    def passes(self) -> Sequence[ForwardPass]:
        """The forward passes whose own loss is a part of this one; all of them if none is."""
        return [own for own in self._passes if own.loss is not None and own.loss.factor] or self._passes

    def parts(self) -> Sequence[tuple[float, Labels]]:
        """The factors and labels, if the loss is a sum of multiples of the model's own losses; else empty.

        A loss that is computed from the outputs once more, and has the value of the model's own, is that one.
        """
        own = [(one.loss, one.labels) for one in self.passes if one.loss is not None]
        if any(loss.factor for loss, _ in own):
            same = self._is(sum(loss.term for loss, _ in own))
            return [(loss.factor, labels) for loss, labels in own] if same else []
        same_value = (labels for loss, labels in own if self._is(float(loss.value) * self.factor))
        return [(self.factor, labels) for labels in islice(same_value, 1)]

    def _is(self, value: float) -> bool:
        """Whether the loss has this value, times the factor of the trainer."""
        whole = self._loss.term
        # Of losses that are not finite, nothing can be said here; what is measured then raises.
        return not abs(whole - value) > summed(abs(whole) + abs(value), self.eps)


Listener: TypeAlias = Callable[[Any, Mapping[str, Any] | None], None]


def listen_to_losses(trainer: Any, listener: Listener) -> Callable[[], None]:
    """Call ``listener`` with every loss that ``trainer.compute_loss`` returns; returns what ends that.

    Its second argument are the inputs of ``compute_loss``, which may take labels out of them before it calls
    the model; ``None`` if they are no mapping.
    """
    own = _Listening.of(trainer)
    own.listeners.append(listener)

    def leave() -> None:
        own.listeners.remove(listener)
        if not own.listeners:
            own.remove()

    return leave


class _Listening:
    """``compute_loss`` of a trainer, replaced on the object."""

    def __init__(self, trainer: Any) -> None:
        self.listeners: list[Listener] = []
        self._trainer, self._before = trainer, vars(trainer).get("compute_loss")
        compute = trainer.compute_loss

        @wraps(compute)
        def told(*args: Any, **kwargs: Any) -> Any:
            given = kwargs.get("inputs", args[1] if len(args) > 1 else None)
            inputs = dict(given) if isinstance(given, Mapping) else None
            found = compute(*args, **kwargs)
            for listener in self.listeners:
                listener(found[0] if isinstance(found, tuple) else found, inputs)
            return found

        vars(told)["listening"], self._told = self, told
        trainer.compute_loss = told

    @classmethod
    def of(cls, trainer: Any) -> "_Listening":
        """The listener of the trainer, which several callbacks may share."""
        found = getattr(vars(trainer).get("compute_loss"), "listening", None)
        return found if isinstance(found, cls) else cls(trainer)

    def remove(self) -> None:
        """Put back what was there, unless somebody else has replaced it since."""
        if vars(self._trainer).get("compute_loss") is self._told:
            del self._trainer.compute_loss
            if self._before is not None:
                self._trainer.compute_loss = self._before
