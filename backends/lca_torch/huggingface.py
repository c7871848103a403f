"""`TrainerCallback`: a `Tracker` for the runs of `transformers.Trainer`."""

from typing import Any

from lca.extras import extra
from lca_torch.fit import FitTracking

with extra("transformers"):
    import transformers

__all__ = ["TrainerCallback"]


class TrainerCallback(FitTracking, transformers.TrainerCallback):  # type: ignore[misc]
    """Allocates the loss change of every optimizer step of ``trainer.train()``.

    When training begins, the objective is made and a `Tracker` put on the trainer's optimizer; when it ends,
    the tracker is taken off, and views and summary stay. The run is the same with it as without, bit for bit.
    With ``gradient_accumulation_steps`` the accumulated batches are one step.

    Parameters
    ----------
    make_objective
        From the model, on its device, to what is measured: an `Objective` of the model, or several by name.
    estimator, every, views, on_error, record
        As in `Tracker`. With ``on_error="warn"`` an error in ``make_objective``, too, is a warning only.

    Attributes
    ----------
    tracker
        The `Tracker` of the last run; ``None`` before, or if measuring could not begin (`error` says why).

    Raises
    ------
    LCAError
        Through ``on_error``: for what `Tracker` raises.

    Notes
    -----
    The trainer does not tell its callbacks of an error: after one, the tracker stays on the optimizer until
    the next ``train()``, and a record is not closed.

    Nor does it show them its batches. Estimators on training batches get the gradient, and the parts of an
    update from ``gradient_accumulation_steps`` (`lca.estimators.CrossFit`), which count alike; those that
    need the batch itself (`NextBatch` but for ``RIGHT``) want a loop of your own, under a `Tracker`.

    Examples
    --------
    >>> from lca_torch import Objective
    >>> callback = TrainerCallback(lambda model: Objective(model, None, tokens))  # the model's own loss
    >>> callback.views, callback.error  # until Trainer(..., callbacks=[callback]).train()
    ({}, None)
    """

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        self._begin(model, [optimizer])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.tracker is not None:
            self.tracker.take()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.tracker is not None:
            self.tracker.take()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._end()
