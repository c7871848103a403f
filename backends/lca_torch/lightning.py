"""`LightningCallback`: a `Tracker` for the fits of Lightning (``lightning`` or ``pytorch_lightning``)."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from math import isfinite
from typing import Any

from lca._extras import extra
from lca.live._logging import tagged
from lca_torch._fit import FitCallback
from lca_torch._tracker import Tracker

with extra("lightning"):
    if find_spec("lightning") is None and find_spec("pytorch_lightning") is not None:
        from pytorch_lightning import Callback
    else:
        from lightning.pytorch import Callback

__all__ = ["LightningCallback"]


class _LightningTracker(Tracker):
    _advice = {
        "micro_batches": "for CrossFit(2) train with Trainer(accumulate_grad_batches=2), and with that "
        "number in every epoch; on several ranks call callback.tracker.ranks() in on_train_start",
        "halves": "train without accumulate_grad_batches, on batches of at least two examples; with M "
        "accumulated batches use CrossFit(micro_batches=M) without own_pass",
        "scores": "call callback.tracker.scores(index, outputs, labels) in every training_step, or give the "
        "estimator refresh=n",
    }

    trains: Callable[[], bool] = staticmethod(lambda: True)
    """Whether the trainer trains; otherwise it tries something out, and undoes it."""

    def _is_trial(self) -> bool:
        return not self.trains()

    def begin_accumulated(self, batch: Any, divisor: int) -> None:
        """Like `begin_batch`; the trainer divides the loss by ``divisor``, however few batches are left."""
        self._context.accumulation.divisor = divisor
        self.begin_batch(batch, weight=1.0)


class LightningCallback(FitCallback[_LightningTracker], Callback):  # type: ignore[misc]
    """Allocates the loss change of every optimizer step of ``trainer.fit``.

    When training begins, it makes the objective and puts a `Tracker` on the trainer's optimizers; when
    training ends, also by an error, it takes the tracker off and keeps views and summary. The fit is the same
    with and without it, bit for bit. Accumulated batches are one step, and so is every update of one of
    several optimizers; gradient clipping and schedulers need no extra code.

    Parameters
    ----------
    make_objective
        From the ``LightningModule``, on its device, to what is measured: an `Objective` of the module or of a
        part of it (``module.net``), or several by name.
    span, check_every, check_examples, groups, heads
        As in `lca.tracking.TrackerBase`.
    estimator, every, views, on_error, record, progress, log_to
        As in `Tracker`. ``on_error`` also applies to errors in ``make_objective``. In ``log_to``,
        ``"trainer"`` stands for the loggers of the trainer.

    Notes
    -----
    Estimators on training batches get the batches and the gradient of the loss, unscaled and before clipping;
    with ``accumulate_grad_batches`` the batches of an update are its micro-batches, of equal weight
    (`lca.estimators.CrossFit`). An update from fewer batches, such as those left over at the end of an epoch,
    has the gradient of their mean loss, although Lightning divides by ``accumulate_grad_batches``; it lacks
    micro-batches, so that `CrossFit` skips it: let an epoch have a multiple of them. A batch for which
    ``training_step`` returns ``None`` is passed over. On several ranks (``strategy="ddp"``), the
    micro-batches are the batches of the ranks if ``on_train_start`` of the module calls
    ``callback.tracker.ranks()`` (`Tracker.ranks`).
    Updates of Lightning's tuner (``LearningRateFinder``, ``BatchSizeFinder``), which takes the callbacks
    off the trainer meanwhile and undoes the updates, are passed over.
    Scores of single examples come from the module itself, which calls ``scores`` of the tracker.

    Raises
    ------
    LCAError
        If ``make_objective`` is not a function; and as ``on_error`` says, for the reasons of `Tracker`.

    Examples
    --------
    >>> import torch
    >>> from lca_torch import Objective
    >>> data = torch.eye(2), torch.tensor([0, 1])
    >>> loss = torch.nn.functional.cross_entropy
    >>> callback = LightningCallback(lambda module: Objective(module, loss, data))
    >>> callback.views, callback.error  # until Trainer(callbacks=[callback]).fit(...)
    ({}, None)
    """

    _tracker = _LightningTracker

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._trainer_logger = _TrainerLoggers(trainer)
        self._begin_fit(pl_module, trainer.optimizers, _updates_of(trainer), trainer.global_step)
        if self.tracker is not None and self in trainer.callbacks:
            self.tracker.trains = lambda: self in trainer.callbacks
        clips = trainer.gradient_clip_val and trainer.gradient_clip_algorithm in (None, "norm")
        if self.tracker is not None and clips:
            self.tracker.clips_norm(trainer.gradient_clip_val)
        if self.tracker is not None:
            self.tracker._loop_check.look_at_loader(trainer.train_dataloader)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._end()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._end_epoch()
        self._add_metrics(trainer.callback_metrics)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0 and trainer.limit_train_batches == 1.0:
            self._begin_epoch()
        if self.tracker is None:
            return
        if pl_module.automatic_optimization:
            self.tracker.begin_accumulated(batch, trainer.accumulate_grad_batches)
        else:
            self.tracker.begin_batch(batch)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._end(complete=False)


class _TrainerLoggers:
    """`lca.live.Logger`: the loggers that the user gave to the trainer; they end with the trainer."""

    def __init__(self, trainer: Any) -> None:
        self._loggers = trainer.loggers

    def log(self, step: int, loss: str, values: Mapping[str, float]) -> None:
        for logger in self._loggers:
            logger.log_metrics(tagged(loss, values), step=step)

    def close(self) -> None:
        for logger in self._loggers:
            logger.save()


def _updates_of(trainer: Any) -> int | None:
    """The number of updates that are still to be made; ``None`` if it is not known, or there is no end."""
    number = trainer.estimated_stepping_batches
    if not isfinite(number) or number < 0 or not trainer.lightning_module.automatic_optimization:
        return None
    return int(number) - int(trainer.global_step)
