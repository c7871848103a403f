"""`TracedStep`: notices Python values that a compiled training step keeps although they have changed."""

import warnings
from collections.abc import Iterable
from typing import Any

import keras

from lca._listing import listed
from lca._schedules import doubles
from lca.errors import LCAError, LCAWarning
from lca_keras._configuration import Configuration
from lca_keras._shared_loss import SharedLoss

_LONGEST = 64  # steps between two comparisons of losses that so far were the same
_KEPT = "_lca_traced_step"


class TracedStep:
    """The measured losses as they are when Keras traces the training step of a model.

    A compiled step keeps the Python values of its first batch, and the measured losses follow them: an
    attribute that a callback changes later would change the measured loss and not the one that is trained.

    Parameters
    ----------
    losses
        The losses that are measured.
    model
        Count only values that can be reached from this model, which is all that ``fit`` trains with.
    """

    def __init__(self, losses: Iterable[SharedLoss], model: keras.Model | None = None) -> None:
        losses = [*losses]
        roots = [root for loss in losses for root in loss.roots]
        self._configuration = Configuration(roots if model is None else [(model.name, model)])
        self._losses = losses
        self._versions = self._latest = self._now()
        self._looks = 0

    def changed(self) -> str:
        """The values that have changed since, by name; "" if the measured losses are the same.

        Costs next to nothing if nothing has changed; else now and then two losses of a batch, as a term that
        is 0 at first can show the change later.
        """
        try:
            now = self._now()
        except LCAError:  # which the present losses raise where they are measured
            return ""
        if _identical(now, self._versions):
            return ""
        self._looks = self._looks + 1 if _identical(now, self._latest) else 1
        self._latest = now
        if not doubles(self._looks, _LONGEST):
            return ""
        pairs = zip(self._losses, self._versions, now, strict=True)
        if all(new is old or loss.same_as(old) for loss, old, new in pairs):
            return ""
        return listed([*dict.fromkeys(self._configuration.changed())])

    def warn(self) -> bool:
        """Warn if the losses differ from those of a compiled step in a loop; whether they do."""
        if changed := self.changed():
            warnings.warn(
                f"{changed} changed, and the measured loss with it. A compiled training step (tf.function, "
                "jax.jit, train_on_batch) keeps the value with which it was traced; if it was not traced "
                "anew, another loss is measured than is trained. Keep such a value in a keras.Variable and "
                "assign it.",
                LCAWarning,
                stacklevel=5,
            )
        return bool(changed)

    def check(self) -> None:
        """Raise `LCAError` if the losses differ from those of the compiled training step."""
        if changed := self.changed():
            raise LCAError(
                f"{changed} changed after Keras had compiled the training step, which keeps the old value: "
                "the loss that is measured is no longer the one that is trained. Keep such a value in a "
                "keras.Variable and assign it, or call model.make_train_function(force=True) after the "
                "change, or compile the model with run_eagerly=True."
            )

    def keep(self, function: Any) -> None:
        """Remember this as long as Keras keeps the step, which is this function."""
        setattr(function, _KEPT, self)

    @staticmethod
    def kept_by(function: Any) -> "TracedStep | None":
        """What was remembered last of this step, by an earlier call of ``fit``."""
        found = getattr(function, _KEPT, None)
        return found if isinstance(found, TracedStep) else None

    def _now(self) -> list[object]:
        return [loss.version() for loss in self._losses]


def _identical(versions: Iterable[object], others: Iterable[object]) -> bool:
    return all(a is b for a, b in zip(versions, others, strict=True))
