"""`TrainerCallback`: a `Tracker` for the runs of `transformers.Trainer`."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from lca._extras import extra
from lca.errors import LCAError
from lca.live._logging import checks_in, tagged
from lca.objective import Objective as AnyObjective
from lca.objective import leaves
from lca.step import MicroBatch
from lca.tolerances import EPS32, summed
from lca.tracking._call import Call
from lca_torch._fit import FitCallback
from lca_torch._labels import Labels, Rule, labels_of, loss_of, rule_of
from lca_torch._loop import Loop
from lca_torch._objective import Objective
from lca_torch._process_group import processes
from lca_torch._tracker import Tracker
from lca_torch._trained_loss import ForwardPass, ReachedLoss, TrainedLoss, listen_to_losses
from lca_torch._updates import calling, untraced

with extra("transformers"):
    import transformers

__all__ = ["TrainerCallback", "TrainerLog"]


class _TrainerLoop(Loop):
    """Micro-batches are weighed as the trainer counts their losses, and the labels in them.

    The trainer either passes the number of labels in all batches of the update to the model, as
    ``num_items_in_batch``, for which some models divide the sum over a batch, or divides the mean loss by the
    number of batches. The number may include labels that the model passes over (the first one of each row,
    where a model shifts them itself), and those of all processes (``average_tokens_across_devices``), and
    some models ignore it. What is trained may also be another loss than the model's own. All that is seen by
    the gradients that reach the losses. With several processes, training takes the mean of their gradients.
    """

    measures_model = False
    """Whether a loss that the model itself returns is measured."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._forward: list[ForwardPass] = []  # since the last loss
        self._losses: list[TrainedLoss] = []
        self._rule: Rule | None = None
        self._each: Sequence[Sequence[float]] = ()  # the weights on every process, as far as known

    def count(self, module: nn.Module, inputs: Mapping[str, Any], outputs: Any) -> None:
        """The model has made a forward pass; one without gradients, as for a metric, is not of training."""
        if not (module.training and torch.is_grad_enabled() and self._requested()):
            return
        labels, loss = labels_of(inputs), loss_of(outputs)
        if self._rule is None and labels.total is not None:
            self._rule = rule_of(inputs, outputs, labels.total)
        batch = {name: value for name, value in inputs.items() if name != "num_items_in_batch"}
        self._forward.append(
            ForwardPass(
                labels,
                None if loss is None else ReachedLoss(loss),
                batch if "halves" in self._requested() else None,
            )
        )

    def trained(self, loss: Any, inputs: Mapping[str, Any] | None) -> None:
        """The trainer has computed the loss of a batch, or one without gradients for an evaluation."""
        if self._requested() and isinstance(loss, Tensor) and loss.requires_grad:
            if inputs is not None and not self.measures_model:  # some are not passed on to the model
                self._forward = [
                    own if own.inputs is None else own._replace(inputs=inputs) for own in self._forward
                ]
            self._losses.append(TrainedLoss(loss, self._forward))
            self._forward = []

    def supply(self, fields: Collection[str]) -> Mapping[str, Any]:
        if "micro_batches" in fields and len(self._marks) > 1:
            weights = self._weights()
            if len(weights) != len(self._marks):
                raise LCAError(_UNKNOWN)
            weighed = [(w, mark) for w, (_, mark) in zip(weights, self._marks, strict=True)]
            self._marks = weighed if all(weights) else weighed[-1:]  # one without labels has no weight
        if "halves" in fields:
            inputs = [own.inputs for loss in self._losses for own in loss.passes]
            if len(inputs) == 1:
                self._batches = inputs
        return super().supply(fields)

    def clear(self) -> None:
        super().clear()
        self._forward, self._losses, self._each = [], [], ()

    def _rank_weights(self, count: int) -> Sequence[float]:
        return [sum(own) for own in self._weights_of_each()]

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self._losses = self._losses[-1:]

    def _compare(self) -> None:
        self.accumulation.compare(1, len(self._marks))  # the trainer divides by the number that it has

    def _weights(self) -> Sequence[float]:
        """For each batch of the update its gradient, divided by that of its mean loss, of all processes."""
        return [fmean(weights) for weights in zip(*self._weights_of_each(), strict=True)]

    def _weights_of_each(self) -> Sequence[Sequence[float]]:
        """The weights of the batches on every process.

        Raises
        ------
        LCAError
            If they are unknown, or the model's own loss is measured and another one is trained.
        """
        if not self._each:
            weights, counted = self._own_weights()
            each = self.of_all([*_numbers(counted), *weights])
            if len(set(map(len, each))) > 1:
                raise LCAError(_UNEQUAL)
            self._check_total(counted, [own[:2] for own in each])
            self._each = [own[2:] for own in each]
        return self._each

    def _own_weights(self) -> tuple[Sequence[float], Sequence[Labels]]:
        """The weights on this process, and the labels whose number the trainer passes to the model."""
        if not self._losses:
            raise LCAError(_UNSEEN)
        scale, parts = self._loss_scale(), [loss.parts() for loss in self._losses]
        if all(parts):
            weights = [sum(factor / scale * own.share(self._rule) for factor, own in part) for part in parts]
            return weights, [own for part in parts for _, own in part if own.total is not None]
        if self.measures_model:
            raise LCAError(_ANOTHER)
        weights = [loss.factor / scale for loss in self._losses]
        alone = len(self._losses) == 1 and processes() == 1  # of one batch the labels need not be counted
        known = alone or all(own.labels.share(self._rule) == 1 for one in self._losses for own in one.passes)
        if not known or abs(sum(weights) - 1) > summed(1.0, max(loss.eps for loss in self._losses)):
            raise LCAError(_UNKNOWN)
        return weights, []

    def _check_total(self, counted: Sequence[Labels], each: Sequence[Sequence[float]]) -> None:
        """Raise `LCAError` unless the trainer passes the number of these labels, here or on all processes.

        Batches that are left over at the end of an epoch may be part of the next update, with their number;
        it is recognised on a single process.
        """
        for total in {own.total for own in counted}:
            here = _numbers([own for own in counted if own.total == total])
            if self._rule is None or total not in [*here, *map(sum, zip(*each, strict=True))]:
                raise LCAError(_UNKNOWN if len(each) == processes() else _ALONE)

    def _halves(self, *known: Any) -> tuple[MicroBatch, ...]:
        try:
            return super()._halves(*known)
        except KeyError as error:  # of a loss or weight of the user's
            raise LCAError(
                f"the measured loss does not find {error} in a batch as compute_loss receives it (as the "
                "model does, where its own loss is measured, too); leave that among the inputs, or use an "
                "estimator that requires no halves of a batch "
                "(lca.estimators.LaggedCrossFit)."
            ) from error

    def _multiple(self) -> float:
        multiple = sum(self._weights())
        return 1.0 if abs(multiple - 1) <= summed(1.0, EPS32) else multiple


_NO_METRICS = frozenset({"epoch", "learning_rate", "total_flos", "step"})
"""What the trainer logs beside metrics; the learning rates of all steps are recorded."""
_MEASURED = "an estimator that requires no gradient of training (lca.estimators.SampledPathIntegral)"
_UNKNOWN = (
    "the weights of the accumulated batches and the scale of their gradients are unknown: the Trainer does "
    "not divide the loss by the number of batches, and either the loss is computed outside the model, or it "
    "is neither the mean over the labels that the model receives nor their sum divided by "
    "num_items_in_batch (several terms), or num_items_in_batch may count other labels. If the loss is a "
    "mean, set model.accepts_loss_kwargs = False before the Trainer is made, which then divides it (but not "
    f"that of compute_loss_func), or use {_MEASURED}."
)
_ALONE = (
    "the scale of the gradients is unknown: num_items_in_batch counts labels of all processes, and this one "
    "measures alone. Let the processes share the measurement (omit process_group=None, and add the callback "
    "on each of them), set TrainingArguments(average_tokens_across_devices=False), or use "
    f"{_MEASURED}."
)
_UNEQUAL = (
    "the processes have taken the gradients of different numbers of batches for one update; let each take "
    "the same number (dataloader_drop_last=True), or use {_MEASURED}."
)
_ANOTHER = (
    "training takes the gradient of a loss that is not the model's own, and the model's own is measured: "
    "compute_loss is overridden (for weights of classes or a further term, say), compute_loss_func is "
    "passed, or label_smoothing_factor is set. Measure the loss of training (Objective(model, None, data, "
    f"batch_loss=...), with a function of model and batch), let the model return it, or use {_MEASURED}."
)
_UNSEEN = (
    "the loss of which training takes the gradient is unknown, as the Trainer has computed it otherwise than "
    f"by its method compute_loss; compute it there, or use {_MEASURED}."
)


def _numbers(counted: Sequence[Labels]) -> Sequence[float]:
    """How many labels count, all and without the first of each row."""
    return [sum(own.numbers[which] for own in counted if own.numbers) for which in range(2)]


class _Counting:
    """A forward hook that counts labels and losses; one that does nothing in a copy of the model."""

    def __init__(self, count: Callable[[nn.Module, Mapping[str, Any], Any], None] | None = None) -> None:
        self._count = count

    @untraced
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
        "TrainingArguments(gradient_accumulation_steps=2); the last update of an epoch has those that are "
        "left over, which may be one. On several ranks, call callback.tracker.ranks() in on_train_begin of a "
        "further callback",
        "halves": "train without gradient accumulation, on batches of at least two examples and with one "
        "forward pass for each; with M accumulated batches use CrossFit(micro_batches=M) without own_pass",
        "update_slope": "train with SGD, Adam, AdamW or RMSprop",
        "scores": "call callback.tracker.scores(index, outputs, labels) in compute_loss at every step, or "
        "give the estimator refresh=n",
    }
    _context: _TrainerLoop
    _loop = _TrainerLoop
    _leave: Sequence[Callable[[], None]] = ()
    _max_norm = 0.0

    def clips(self, max_norm: float | None) -> None:
        """The trainer clips gradients to this norm from now on, unless it is ``None`` or not positive."""
        max_norm = max(0.0, max_norm or 0.0)
        if max_norm != self._max_norm:
            self._max_norm = max_norm
            self.clips_norm(max_norm or math.inf)

    def follow(self, model: nn.Module) -> None:
        """Look at the losses that this model and its trainer compute, until the tracker is closed."""
        if not self._takes_gradients():
            return

        def guarded(read: Callable[..., None]) -> Callable[..., None]:
            def reading(*passed: Any) -> None:
                with self._session.guarded(self.steps):
                    read(*passed)

            return reading

        hook = model.register_forward_hook(_Counting(guarded(self._context.count)), with_kwargs=True)
        self._leave = [hook.remove]
        trainer = calling(transformers.Trainer)
        if trainer is not None:
            self._leave += [listen_to_losses(trainer, guarded(self._context.trained))]

    def _make_context(self, parameters: Sequence[nn.Parameter]) -> Loop:
        context = super()._make_context(parameters)
        assert isinstance(context, _TrainerLoop)
        measured = (list(leaves(objective)) for objective in self._session.objectives.values())
        context.measures_model = any(all(map(_is_of_model, own)) for own in measured)
        return context

    def _detach(self) -> None:
        super()._detach()
        for leave in self._leave:
            leave()
        self._leave = ()


def _is_of_model(objective: AnyObjective) -> bool:
    """Whether the objective measures the loss that the model itself returns."""
    return isinstance(objective, Objective) and objective._loss.is_of_model


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
    until the next ``train()`` with a callback, or until the record of the failed run is opened, which is then
    closed as incomplete, with all its rows.

    Nor does it show them its batches. Estimators on training batches get the gradient of the loss, before
    clipping, and with ``gradient_accumulation_steps`` the micro-batches of an update
    (`lca.estimators.CrossFit`). Their weights are the numbers of labels that count where the model divides
    by ``num_items_in_batch``, and equal where it takes the mean; the gradient is that of the mean over these
    labels, also where the trainer counts others (GPT-2), sums the means of the batches (BERT), or trains a
    multiple of the loss. Where the loss of the model is neither, such estimators stop at the first update. On
    several processes, the micro-batches are their batches if ``on_train_begin`` of a further callback calls
    ``callback.tracker.ranks()`` (`Tracker.ranks`).

    They also stop at an update for which the trainer computes another loss than the model's own, while that
    is measured (``compute_loss_func``, label smoothing, or a ``compute_loss`` of your own with weights of
    classes or further terms). If a function of yours is measured (``batch_loss=``), it has to be that loss,
    which is not checked, and gets the inputs of ``compute_loss``; with ``gradient_accumulation_steps``, the
    trainer must divide it by the number of batches. Estimators that
    require the batch itself (`lca.estimators.NextBatch` except with ``RIGHT``) need a `Tracker` around a loop
    of your own.

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
        call = Call.of("train", lambda owner: isinstance(owner, transformers.Trainer))
        self._begin_fit(model, [optimizer], state.max_steps - made, made, call)
        if self.tracker is not None:
            self.tracker.follow(model)
            self.tracker._loop_check.look_at_loader(kwargs.get("train_dataloader"))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if _is_whole(state.epoch):
            self._begin_epoch()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if _is_whole(state.epoch):
            self._end_epoch()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.tracker is not None:
            self.tracker.clips(args.max_grad_norm)
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
    """Whether ``epochs`` is a whole number of epochs, of one or more.

    >>> _is_whole(2.0), _is_whole(2.5), _is_whole(0), _is_whole(None)
    (True, False, True, False)
    """
    return epochs is not None and float(epochs).is_integer()
