"""`TrainerCallback`: a `Tracker` for the runs of `transformers.Trainer`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from lca._extras import extra
from lca.errors import LCAError
from lca.tracking._context import IGNORED
from lca_torch._fit import FitCallback
from lca_torch._loop import Loop
from lca_torch._tracker import Tracker

with extra("transformers"):
    import transformers

__all__ = ["TrainerCallback"]


class _CountedLoop(Loop):
    """Micro-batches are weighed by the labels that count in them, as the model's forward pass receives them.

    The trainer divides either the loss of a batch by the number of labels in all batches of the update, which
    it passes on as ``num_items_in_batch``, or the mean loss by the number of batches.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._counts: list[_Counts] = []

    def count(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """A hook that runs before the forward pass of the model."""
        if module.training and "micro_batches" in self._requested():
            self._counts.append(_counts(kwargs))

    def supply(self, fields: Collection[str]) -> Mapping[str, Any]:
        if "micro_batches" in fields and len(self._marks) > 1:
            weights = self._label_weights()
            weighed = [(w, mark) for w, (_, mark) in zip(weights, self._marks, strict=True)]
            self._marks = (
                weighed if all(weights) else weighed[-1:]
            )  # a batch without labels is no micro-batch
        return super().supply(fields)

    def clear(self) -> None:
        super().clear()
        self._counts = []

    def _label_weights(self) -> Sequence[float]:
        totals = {counts.total for counts in self._counts}
        if len(self._counts) == len(self._marks):
            if totals == {None} and all(counts.numbers for counts in self._counts):
                return [1.0] * len(self._marks)
            for numbers in zip(*(counts.numbers for counts in self._counts), strict=True):
                if {sum(numbers)} == totals:
                    return numbers
        raise LCAError(
            "the weights of the accumulated batches are unknown: the model does not receive the labels, or "
            "their number is not num_items_in_batch (a loss outside the model, as compute_loss_func or label "
            "smoothing, or several processes). Let the model compute its loss, or use an estimator that "
            "requires no micro-batches (lca.estimators.SampledPathIntegral)."
        )


class _Counts(NamedTuple):
    """How many labels of a batch count, without and with a shift by one token; and ``num_items_in_batch``."""

    numbers: tuple[float, ...]
    total: float | None


def _counts(inputs: Mapping[str, Any]) -> _Counts:
    labels, total = inputs.get("shift_labels", inputs.get("labels")), inputs.get("num_items_in_batch")
    numbers: tuple[float, ...] = ()
    if isinstance(labels, Tensor) and labels.ndim:
        # Where the trainer counts labels that a model with shifted labels passes over, the scale is unknown.
        shifted = labels if "shift_labels" in inputs or labels.ndim == 1 else labels[..., 1:]
        numbers = (float((shifted != IGNORED).sum()),)
    return _Counts(numbers, None if total is None else float(total))


class _TrainerTracker(Tracker):
    _advice = {
        "batch": "the Trainer does not show its batches to callbacks, so use a Tracker around a training "
        "loop of your own, or an estimator that requires no batch (lca.estimators.CrossFit)",
        "micro_batches": "accumulate the gradients of several batches with "
        "TrainingArguments(gradient_accumulation_steps=2)",
        "scores": "call callback.tracker.scores(index, outputs, labels) in compute_loss at every step, or "
        "give the estimator refresh=n",
    }
    _context: _CountedLoop
    _loop = _CountedLoop
    _hook: Any = None

    def count_labels(self, model: nn.Module) -> None:
        """Count the labels that the forward pass of this model receives, until the tracker is closed."""
        if "micro_batches" in self._session.required_fields:
            self._hook = model.register_forward_pre_hook(self._context.count, with_kwargs=True)

    def _detach(self) -> None:
        super()._detach()
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


class TrainerCallback(FitCallback[_TrainerTracker], transformers.TrainerCallback):  # type: ignore[misc]
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

    Nor does it show them its batches. Estimators on training batches get the gradient of the loss, before
    clipping, and with ``gradient_accumulation_steps`` the micro-batches of an update
    (`lca.estimators.CrossFit`). Their weights are the numbers of labels that count where the model divides
    by ``num_items_in_batch``, and equal where the trainer averages the losses of the model; where the loss
    is computed outside the model (``compute_loss_func``, label smoothing) they are unknown, and such
    estimators stop at the first update. Those that require the batch itself (`lca.estimators.NextBatch`
    except with ``RIGHT``) need a `Tracker` around a loop of your own.

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
        if self.tracker is not None:
            self.tracker.count_labels(model)
            if args.max_grad_norm:
                self.tracker.clips_norm(args.max_grad_norm)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.tracker is not None:
            self.tracker.begin_batch(weight=1.0)  # until its labels are counted

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.tracker is not None:
            self.tracker.begin_batch(weight=1.0)  # until its labels are counted

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._end()
