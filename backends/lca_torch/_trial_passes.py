"""`TrialPasses`: forward passes that try a loss in other modes and at another θ, and leave no trace."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from lca._listing import listed
from lca.errors import LCAError
from lca.frameworks import PyTree
from lca.frameworks._training_mode import differ_in_training
from lca.tolerances import rebatched
from lca_torch._copies import NotCopiedError, Trial, not_copied
from lca_torch._moving_buffers import moved_after_use, running_statistics
from lca_torch._policies import RandomStates, random_state_kept
from lca_torch._reading import in_training
from lca_torch._replica import Held, Replica

_FAR = 1.1
"""Factor of θ at a point where what was computed at θ no longer fits."""
_NEAR = 1.01
"""Factor of θ at a second point where two losses are compared."""


class TrialPasses:
    """Forward passes of replicas on the batch that was tried out, in memory that the loss may write into.

    Parameters
    ----------
    model
        The model, which is never called.
    replicate
        Makes a replica of it; of a `Trial`, one that shares nothing that training mode may move.
    apart
        A replica at a multiple of θ, and a copy of a batch.
    ended
        Called at the end of each pass that may raise, with its error or ``None``.
    random
        The random generators, which passes leave as they are.
    device
        Where the model is.

    Attributes
    ----------
    batch
        The batch; ``None`` before there is one.
    """

    def __init__(
        self,
        model: nn.Module,
        replicate: Callable[[Trial | None], Replica],
        apart: Callable[..., AbstractContextManager[tuple[Held, PyTree]]],
        *,
        ended: Callable[[Exception | None], None],
        random: RandomStates,
        device: torch.device,
    ) -> None:
        self.batch: PyTree = None
        self._model, self._replicate, self._apart, self._ended = model, replicate, apart, ended
        self._random, self._device = random, device

    def writes_in_training(self) -> frozenset[str]:
        """The model's buffers that a forward pass in the modes of the model writes after it has used them.

        All that it may write, if it cannot be run. Those of normalisation layers are known without a pass.
        """
        buffers = moved_after_use(self._model)
        statistics = running_statistics(self._model)
        if self.batch is None or buffers <= statistics or has_ranks():
            return buffers
        names = [name for name, module in self._model.named_modules() if module.training]
        try:
            _, written = self._in_training(self._private_copy(), self.batch, names, gradients=False)
        except Exception:  # of the user's code, for a batch or at a time that it is not made for
            return buffers
        return buffers & (statistics | written)

    def differ_in_training(
        self, choices: Sequence[Collection[str]], *, eps: float, seed: int
    ) -> Sequence[bool]:
        """As `lca.frameworks.ModelLoss.differ_in_training`, without dropout.

        Raises
        ------
        NotCopiedError
            If there is something that has no copy.
        """
        made = self._private_copy()
        return differ_in_training(
            lambda batch, names: self._in_training(made, batch, names, gradients=True, seed=seed)[0],
            self.batch,
            choices,
            eps=eps,
            out_of_memory=(torch.OutOfMemoryError,),
            refused=(NotCopiedError,),
        )

    def raises_in_training(self) -> bool:
        """Whether the loss raises after ``train()`` of the model, too."""
        try:
            made = self._private_copy()
        except NotCopiedError:
            return True
        return isinstance(self._loss_of(made, 1.0, made.model.train), Exception)

    def refuse_cached(self, current: Replica, eps: float) -> None:
        """Refuse a model that computes in ``train()`` or ``eval()`` what its forward pass reads later."""
        made = self._replicate(None)
        found = self._loss_of(made, _FAR, made.switch)
        expected = self._loss_of(current, _FAR)
        if isinstance(found, Exception):
            return  # the loss itself is tried out next, and its error says more
        if isinstance(expected, Exception) or abs(found - expected) > rebatched(found, eps):
            raise LCAError(
                "train() or eval() of the model computes values from its parameters, and the forward pass "
                "reads these values, so at other parameters the loss would not be that of the model "
                f"({found:.6g} with eval() called there, {_shown(expected)} without). Compute them in "
                "forward, or measure in training mode: let forward read a flag of its own in place of "
                "self.training."
            )

    def losses(self, replica: Replica) -> list[str]:
        """The loss of a replica at θ and near it, digit by digit, or its errors."""
        return [str(self._loss_of(replica, factor)) for factor in (1.0, _NEAR)]

    def _private_copy(self) -> Replica:
        """A copy to be run in training mode, which shares nothing that this may move.

        Raises
        ------
        NotCopiedError
            If there is something that has no copy, and would not be refused when it is used.
        """
        trial = Trial()
        made = self._replicate(trial)
        if trial.obstacles:
            raise not_copied(listed(list(trial.obstacles)), "which has no copy")
        return made

    def _in_training(
        self, made: Replica, batch: PyTree, names: Collection[str], *, gradients: bool, seed: int = 0
    ) -> tuple[float, set[str]]:
        """A forward pass of a private copy with these modules in training mode, as `in_training`."""
        private: dict[str, Any] = {name: made.slots.now(name).clone() for name in made.slots.others}
        with (
            random_state_kept(self._device, seed),
            self._apart(made, batch, state=private, gradients=gradients) as (held, taken),
        ):
            return in_training(held, taken, names)

    def _loss_of(
        self, replica: Replica, factor: float, before: Callable[[], object] = lambda: None
    ) -> float | Exception:
        found: float | Exception
        try:
            with self._random.kept(0), self._apart(replica, self.batch, factor=factor) as (held, batch):
                held.begin()
                before()
                found = float(replica.losses(batch).detach())
        except Exception as error:  # whatever the user's code raises
            found = error
        self._ended(found if isinstance(found, Exception) else None)
        return found


def has_ranks() -> bool:
    """Whether other processes take part, for which layers that synchronise in training would wait."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _shown(found: float | Exception) -> str:
    return f"{type(found).__name__}: {found}" if isinstance(found, Exception) else f"{found:.6g}"
