"""`TrainerCallback`: a `Tracker` for the runs of `transformers.Trainer`."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lca._extras import extra
from lca.errors import LCAError
from lca.live._logging import checks_in, tagged
from lca_torch._fit import FitCallback
from lca_torch._labels import Labels, Rule, labels_of, rule_of
from lca_torch._loop import Loop
from lca_torch._tracker import Tracker

with extra("transformers"):
    import transformers

__all__ = ["TrainerCallback", "TrainerLog"]


class _CountedLoop(Loop):
    """Micro-batches are weighed by the labels that count in them, as the losses of the model show.

    The trainer either passes the number of labels in all batches of the update to the model, as
    ``num_items_in_batch``, for which some models divide the sum over a batch, or divides the mean loss by the
    number of batches. The number may include labels that the model passes over (the first one of each row,
    where a model shifts them itself), and some models ignore it.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._labels: list[Labels] = []
        self._inputs: list[Mapping[str, Any]] = []  # of each batch, where its halves are required
        self._rule: Rule | None = None

    def count(self, module: nn.Module, inputs: Mapping[str, Any], outputs: Any) -> None:
        """The model has made a forward pass; one without gradients, as for a metric, is not of training."""
        if not (module.training and torch.is_grad_enabled() and self._requested()):
            return
        labels = labels_of(inputs)
        if self._rule is None and labels.total is not None:
            self._rule = rule_of(inputs, outputs, labels.total)
        self._labels.append(labels)
        if "halves" in self._requested():
            self._inputs.append(
                {name: value for name, value in inputs.items() if name != "num_items_in_batch"}
            )

    def supply(self, fields: Collection[str]) -> Mapping[str, Any]:
        if "micro_batches" in fields and len(self._marks) > 1:
            weights = self._weights()
            if len(weights) != len(self._marks):
                raise LCAError(_UNKNOWN)
            weighed = [(w, mark) for w, (_, mark) in zip(weights, self._marks, strict=True)]
            self._marks = weighed if all(weights) else weighed[-1:]  # one without labels has no weight
        if "halves" in fields and len(self._inputs) == 1:
            self._batches = self._inputs
        return super().supply(fields)

    def clear(self) -> None:
        super().clear()
        self._labels, self._inputs = [], []

    def _weights(self) -> Sequence[float]:
        """Of the batches of the update, up to a common factor; raises `LCAError` if they are unknown."""
        total = self._total_labels()
        if total is None and all(labels.received for labels in self._labels):
            return [1.0] * len(self._labels)
        sums = [sum(numbers) for numbers in zip(*(labels.numbers for labels in self._labels), strict=True)]
        if self._rule is None or total not in sums:
            raise LCAError(_UNKNOWN)
        return [labels.weight(self._rule) for labels in self._labels]

    def _total_labels(self) -> float | None:
        """``num_items_in_batch`` of the update."""
        return self._labels[0].total if self._labels else None

    def _multiple(self) -> float:
        total = self._total_labels()
        if total is None:
            return 1.0
        weights = self._weights()
        return sum(weights) / total if self._rule is not None and self._rule.divides else len(weights)


_NO_METRICS = frozenset({"epoch", "learning_rate", "total_flos", "step"})
"""What the trainer logs beside metrics; the learning rates of all steps are recorded."""
_UNKNOWN = (
    "the weights of the accumulated batches and the scale of their gradients are unknown: the model does not "
    "receive the labels, or its loss is neither the mean over them nor their sum divided by "
    "num_items_in_batch (a loss outside the model, as compute_loss_func or label smoothing, several terms, "
    "or several processes). If its loss is a mean, set model.accepts_loss_kwargs = False before the Trainer "
    "is made, which then divides it by the number of batches, or use an estimator that requires no gradient "
    "of training (lca.estimators.SampledPathIntegral)."
)


class _Counting:
    """A forward hook that counts labels; one that does nothing in a copy of the model."""

    def __init__(self, count: Callable[[nn.Module, Mapping[str, Any], Any], None] | None = None) -> None:
        self._count = count

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any) -> None:
        if self._count is not None:
            self._count(module, kwargs, outputs)

    def __reduce__(self) -> tuple[type["_Counting"], tuple[()]]:
        return _Counting, ()


class _TrainerTracker(Tracker):
    _advice = {
        "batch": "the Trainer does not show its batches to callbacks, so use a Tracker around a training "
        "loop of your own, or an estimator that requires no batch (lca.estimators.CrossFit)",
        "micro_batches": "accumulate the gradients of several batches with "
        "TrainingArguments(gradient_accumulation_steps=2)",
        "halves": "train without gradient accumulation, on batches of at least two examples",
        "update_slope": "train with SGD, Adam, AdamW or RMSprop",
        "scores": "call callback.tracker.scores(index, outputs, labels) in compute_loss at every step, or "
        "give the estimator refresh=n",
    }
    _context: _CountedLoop
    _loop = _CountedLoop
    _hook: Any = None

    def count_labels(self, model: nn.Module) -> None:
        """Count the labels that the forward pass of this model receives, until the tracker is closed."""

        def count(*passed: Any) -> None:
            with self._session.guarded(self.steps):
                self._context.count(*passed)

        if self._takes_gradients():
            self._hook = model.register_forward_hook(_Counting(count), with_kwargs=True)

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
    span, check_every, check_examples, groups, heads
        As in `lca.tracking.TrackerBase`.
    estimator, every, views, on_error, record, progress, log_to
        As in `Tracker`. ``on_error`` also applies to errors in ``make_objective``. For what the trainer
        reports to there is `TrainerLog`.

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
    by ``num_items_in_batch``, and equal where it takes the mean; the gradient is that of the mean over these
    labels, also where the trainer counts others (GPT-2) or sums the means of the batches (BERT). Where the
    loss of the model is neither, or is computed outside it (``compute_loss_func``, label smoothing), such
    estimators stop at the first update. A ``compute_loss`` of your own is not looked at: if it returns
    another loss than the model does, only the self-check shows it; let the model return that loss. Those
    that require the batch itself (`lca.estimators.NextBatch` except with ``RIGHT``) need a `Tracker` around
    a loop of your own.

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
        made = state.global_step
        self._begin_fit(model, [optimizer], state.max_steps - made, made)
        if self.tracker is not None:
            self.tracker.count_labels(model)
            if args.max_grad_norm:
                self.tracker.clips_norm(args.max_grad_norm)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if _is_whole(state.epoch):
            self._begin_epoch()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if _is_whole(state.epoch):
            self._end_epoch()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.tracker is not None:
            self.tracker.begin_batch(weight=1.0)  # until its labels are counted

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.tracker is not None:
            self.tracker.begin_batch(weight=1.0)  # until its labels are counted

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        own = {name: v for name, v in (logs or {}).items() if "lca/" not in name and name not in _NO_METRICS}
        self._add_metrics(own)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._end()


class TrainerLog:
    """A `lca.live.Logger` that calls ``trainer.log``: the numbers go to all that the trainer reports to.

    The numbers are named ``lca/<loss>/<name>``; the trainer adds ``train/`` before that for some of them. It
    also keeps them in its history of logs and prints them, so they are passed on as often as the
    trainer logs its own: at every ``logging_steps``-th measured step, and at self-checks.

    Parameters
    ----------
    trainer
        A `transformers.Trainer`. It does not tell its callbacks about itself, so that the callback is added
        to it when it is there.
    every
        Pass on every n-th measured step instead.

    Examples
    --------
    >>> from lca_torch.huggingface import TrainerCallback, TrainerLog
    >>> # trainer = Trainer(model, TrainingArguments(report_to="wandb"), train_dataset=data)
    >>> # trainer.add_callback(TrainerCallback(make_objective, log_to=TrainerLog(trainer)))
    """

    def __init__(self, trainer: Any, *, every: int | None = None) -> None:
        steps = trainer.args.logging_steps
        self._trainer = trainer
        self._every = every or (int(steps) if steps >= 1 else 1)
        self._pending: dict[str, float] = {}
        self._step, self._seen = -1, 0

    def log(self, step: int, loss: str, values: Mapping[str, float]) -> None:
        """As `lca.live.Logger.log`; the losses of a step are one entry, sent when the next one begins."""
        if step != self._step:
            self._send()
            self._step, self._seen = step, self._seen + 1
        values = values if self._seen % self._every == 0 else checks_in(values)
        self._pending |= tagged(loss, values)

    def close(self) -> None:
        """Send the last entry."""
        self._send()

    def _send(self) -> None:
        if self._pending:
            self._trainer.log({**self._pending, "lca/step": self._step})
        self._pending = {}


def _is_whole(epochs: float | None) -> bool:
    """Whether so many epochs of the trainer have ended, and no part of a further one.

    >>> _is_whole(2.0), _is_whole(2.5), _is_whole(0), _is_whole(None)
    (True, False, True, False)
    """
    return epochs is not None and float(epochs).is_integer()
