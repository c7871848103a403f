"""`LightningCallback`: a `Tracker` for the fits of Lightning (``lightning`` or ``pytorch_lightning``)."""

from importlib.util import find_spec
from typing import Any

from lca.extras import extra
from lca_torch.fit import FitTracking

with extra("lightning"):
    if find_spec("lightning") is None and find_spec("pytorch_lightning") is not None:
        from pytorch_lightning import Callback
    else:
        from lightning.pytorch import Callback

__all__ = ["LightningCallback"]


class LightningCallback(FitTracking, Callback):  # type: ignore[misc]
    """Allocates the loss change of every optimizer step of ``trainer.fit``.

    When training begins, the objective is made and a `Tracker` put on the trainer's optimizer; when it ends,
    also by an error, the tracker is taken off, and views and summary stay. The fit is the same with it as
    without, bit for bit. Accumulated batches are one step; gradient clipping and schedulers need nothing.

    Parameters
    ----------
    make_objective
        From the ``LightningModule``, on its device, to what is measured: an `Objective` of the module or of a
        part of it (``module.net``), or several by name.
    estimator, every, views, on_error, record
        As in `Tracker`. With ``on_error="warn"`` an error in ``make_objective``, too, is a warning only.

    Attributes
    ----------
    tracker
        The `Tracker` of the last fit; ``None`` before, or if measuring could not begin (`error` says why).

    Notes
    -----
    Estimators on training batches get the batches and the gradient, clipped and unscaled; with
    ``accumulate_grad_batches`` the batches of an update are its parts (`lca.estimators.CrossFit`). Errors of
    single examples are handed over by the module itself: ``callback.tracker.scores(...)``.

    Raises
    ------
    LCAError
        Through ``on_error``: if the fit has several optimizers, or for what `Tracker` raises.

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

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._begin(pl_module, trainer.optimizers)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._end()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.tracker is not None:
            self.tracker.take(batch)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._end(exception)
