"""`TrainerCallback`: a `Tracker` for the runs of `transformers.Trainer`."""

from typing import Any

from lca._extras import extra
from lca_torch._fit import FitCallback
from lca_torch._tracker import Tracker

with extra("transformers"):
    import transformers

__all__ = ["TrainerCallback"]


class _TrainerTracker(Tracker):
    _advice = {
        "batch": "the Trainer does not show its batches to callbacks, so use a Tracker around a training "
        "loop of your own, or an estimator that requires no batch (lca.estimators.CrossFit)",
        "micro_batches": "accumulate the gradients of several batches with "
        "TrainingArguments(gradient_accumulation_steps=2)",
        "scores": "call callback.tracker.scores(index, outputs, labels) in compute_loss at every step, or "
        "give the estimator refresh=n",
    }


class TrainerCallback(FitCallback, transformers.TrainerCallback):  # type: ignore[misc]
    """Allocates the loss change of every optimizer step of ``trainer.train()``.

    When training begins, it makes the objective and puts a `Tracker` on the trainer's optimizer; when
    training ends, it takes the tracker off and keeps views and summary. The run is the same with and without
    it, bit for bit. With ``gradient_accumulation_steps`` the accumulated batches are one step.

    Parameters
    ----------
    make_objective
        From the model, on its device, to what is measured: an `Objective` of the model, or several by name.
    estimator, every, views, on_error, record
        As in `Tracker`. ``on_error`` also applies to errors in ``make_objective``.

    Raises
    ------
    LCAError
        As ``on_error`` says, for the reasons of `Tracker`.

    Notes
    -----
    The trainer does not tell its callbacks about an error: after one, the tracker stays on the optimizer
    until the next ``train()``, which marks the record of the failed run as incomplete.

    Nor does it show them its batches. Estimators on training batches get the gradient, and with
    ``gradient_accumulation_steps`` the micro-batches of an update, of equal weight
    (`lca.estimators.CrossFit`). Those that require the batch itself (`lca.estimators.NextBatch` except with
    ``RIGHT``) need a `Tracker` around a loop of your own.

    Examples
    --------
    >>> from lca_torch import Objective
    >>> callback = TrainerCallback(lambda model: Objective(model, None, tokens))  # the model's own loss
    >>> callback.views, callback.error  # until Trainer(..., callbacks=[callback]).train()
    ({}, None)
    """

    _tracker = _TrainerTracker

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        self._begin_fit(model, [optimizer])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.tracker is not None:
            self.tracker.begin_batch()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.tracker is not None:
            self.tracker.begin_batch()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._end()
