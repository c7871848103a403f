"""`Tracker`: measures a training loop in torch through the hooks of its optimizer."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lca.errors import LCAError
from lca.objective import Objective as AnyObjective
from lca.objective import leaves
from lca.tracking import ModelTracker
from lca.tracking._context import GRADIENT_FIELDS, UPDATE_FIELDS
from lca.tracking._optimizers import call_text, warn_of_other_optimizer, within
from lca.tracking._session import Session
from lca.tracking._spans import AnyFollower
from lca_torch._form import VectorForm, one_form
from lca_torch._gradients import Gradients
from lca_torch._kinds import is_sharded
from lca_torch._live import ParameterVector, flat, holds
from lca_torch._loop import Loop
from lca_torch._objective import Objective
from lca_torch._optimizers import check_known, refuse_maximizing
from lca_torch._process_group import TIMEOUT, MeasuringRanks, measuring_ranks
from lca_torch._shard_vector import Shards
from lca_torch._sharded import ShardedTheta, WholeCopy, require_gradients_alone, require_training_alone
from lca_torch._sharded_gradients import ShardedGradients
from lca_torch._sharded_loss import LiveShards, ShardedLoss, shards_of
from lca_torch._shared_run import leave, ranks_of, require_same_tracker
from lca_torch._slots import SMALL
from lca_torch._trained_model import TrainedTorchModel
from lca_torch._updates import Updates, held, parameters_of, stepping

_NOT_AHEAD = "none read ahead (to prefetch, wrap the loader: tracker.batches(prefetch(loader)))"


class Tracker(ModelTracker[Loop]):
    """Allocates the loss change of every ``optimizer.step()`` inside a ``with`` block.

    Each step is measured before the loop goes on. Parameters, buffers, gradients and random generators are
    not changed: training with and without a tracker gives the same numbers, bit for bit. Closures (LBFGS),
    gradient accumulation and clipping, parameter groups and learning-rate schedules need no extra code; an
    update that a `torch.amp.GradScaler` skips is not a step, nor is a call of ``step()`` while no parameter
    has a gradient, or with a closure that takes none. The step of a wrapper (Lookahead, SAM, those of
    accelerate and Fabric) and of the optimizer inside it is one step; one that makes no update, as between
    the batches that accelerate accumulates, is none.

    Parameters
    ----------
    model, optimizer
        The model that is trained, and the optimizer that updates it, or a list of those that take turns. A
        model whose parameters are sharded over the ranks (FSDP2, tensor parallelism) is measured on the
        shards, or on an unsharded copy if the objective was made from one. If another optimizer owns
        parameters of the model, such as one made during the run, its updates are steps, too; the first of
        them warns.
    objective
        The measured loss (`lca_torch.Objective` of this model, or a `lca.Sum` with one), or several by name.
    span, check_every, check_examples, groups, heads
        As in `lca.tracking.TrackerBase`.
    estimator, every, views, on_error, record, progress, log_to
        As in `lca.tracking.TrackerBase`: by default `lca.Adaptive`, every step, the views of `summary`, a
        warning, and no record.

    Raises
    ------
    LCAError
        If an argument has the wrong type or an invalid value, or ``model``, ``optimizer`` and ``objective``
        do not belong together.

    Notes
    -----
    Estimators on training batches (`lca.estimators.CrossFit` and others) require step fields. The gradient is
    that of the loss on which the loop calls ``backward``, without the scale of a `torch.amp.GradScaler`; it
    is read when the backward pass ends, so that clipping is not part of it. The update without a micro-batch
    is that of the gradient clipped by norm; clipping by value is refused, and so is whatever else moves the
    parameters inside a step (hooks, Lookahead), for which some updates are compared with their formula. The
    rest comes from a loop over `batches` or `micro_batches`, and from calls of `scores`.

    Memory beyond the estimator's: one vector (K,) on the model's device, θ before the step; θ after the step
    is read from the model itself. Between steps that vector and the last gradient are kept.

    Examples
    --------
    >>> from lca_torch import Objective
    >>> model, (x, y) = nn.Linear(2, 3), (torch.eye(2), torch.tensor([0, 2]))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> objective = Objective(model, nn.functional.cross_entropy, (x, y))
    >>> with Tracker(model, optimizer, objective) as tracker:
    ...     for _ in range(3):
    ...         optimizer.zero_grad()
    ...         nn.functional.cross_entropy(model(x), y).backward()
    ...         _ = optimizer.step()
    >>> summary = tracker.summary()["train"]
    >>> summary["steps"], summary["lca_total"] < 0
    (3, True)
    """

    _loop: ClassVar[type[Loop]] = Loop
    _exchanging: Sequence[MeasuringRanks] = ()
    _types = nn.Module, torch.optim.Optimizer
    _type_names = "torch.nn.Module", "torch.optim.Optimizer"
    _advice = {
        "batch": f"loop over tracker.batches(loader), {_NOT_AHEAD}, and make one update from each batch: "
        "call tracker.begin_batch(batch) before a further one, which the batch that caused it then judges",
        "gradient": "make each update from as many batches of tracker.batches(loader) as the others, "
        f"{_NOT_AHEAD}",
        "micro_batches": "loop over tracker.micro_batches(batch, M) before each update, or over several "
        f"batches of tracker.batches(loader), {_NOT_AHEAD}, and call backward for each, not for their sum "
        "nor for a penalty alone: weight * (loss + penalty) belongs to each. A loop that collects batches "
        "first takes them from the loader itself and calls tracker.begin_batch(batch, weight=...) before the "
        "backward pass of each",
        "halves": f"loop over tracker.batches(loader), {_NOT_AHEAD}, and make one update from each batch, of "
        "at least two examples; with gradient accumulation use CrossFit(micro_batches=M) without own_pass",
        "scores": "call tracker.scores(index, outputs, labels) at every step, or give the estimator "
        "refresh=n",
    }

    def ranks(self, group: Any = None) -> None:
        """Under `torch.nn.parallel.DistributedDataParallel`: the batch of each rank is a micro-batch.

        Call it once on every rank, inside the ``with`` block and before the first backward pass. The tracker
        gets the model inside (``model.module``), and every rank measures the same steps. All micro-batches
        have the same weight; the gradients that a rank accumulates, also under ``no_sync()``, are one. At
        each step the ranks exchange their gradients, which takes as many vectors (K,) as there are ranks; one
        that does not come within ``rank_timeout`` of the objective ends the measuring. For a sharded model,
        no rank has a gradient of its own; there, the batches that the loop accumulates are the micro-batches.

        Parameters
        ----------
        group
            The process group; default: all ranks.

        Raises
        ------
        LCAError
            If `torch.distributed` is not initialised, there is one rank only, or the model is sharded.
        """
        shared = ranks_of(self._session.objectives.values())
        timeout = max((own.timeout for own in shared), default=TIMEOUT)
        exchanging = measuring_ranks("auto" if group is None else group, timeout)
        if exchanging is None:
            raise LCAError(
                "there are no other ranks whose batches could be micro-batches; start several by torchrun "
                "and call torch.distributed.init_process_group first, and then tracker.ranks() on every rank."
            )
        self._exchanging = [exchanging]
        self._context.ranks(exchanging)

    def close(self, *, complete: bool = True) -> None:
        """Like `lca.tracking.TrackerBase.close`; also tells the other ranks that share the measurement."""
        waiting = self._waiting() if self._active else []
        try:
            super().close(complete=complete)
        finally:
            leave(waiting, "its tracker is closed")

    def _attach(self) -> None:
        self._meet_ranks()
        listener = _StepListener(
            self._session,
            self._follower,
            self._context,
            self._optimizers,
            follow_buffers=self._follow_buffers,
            is_trial=self._is_trial,
        )
        self._updates = Updates(self._measured, self._optimizers, listener)
        self._updates.follow()
        if self._session.required_fields:
            self._context.open()

    def _meet_ranks(self) -> None:
        """Compare the settings of all ranks that share the measurement, and report errors to them."""
        session = self._session
        session.on_failure = self._tell_ranks
        settings = [
            f"the estimator {session.estimator!r}".partition(" at 0x")[0],
            f"span={session.span}",
            f"{session.measured_fraction(None):.3%} of the steps",
            f"the first step {session.first_step}",
            f"{session.recorded} steps in the record",
            f"the losses {', '.join(session.objectives)}",
            f"progress={session.live.shows_progress}",
        ]
        with session.guarded(self.steps):
            require_same_tracker(session.objectives.values(), settings)

    def _tell_ranks(self, error: Exception) -> None:
        name = type(error).__name__
        leave(self._waiting(), f"{name}: {error}", name)

    def _waiting(self) -> list[MeasuringRanks]:
        """The ranks that wait for this one: those that share evaluations, or exchange gradients."""
        return [*ranks_of(self._session.objectives.values()), *self._exchanging]

    def _detach(self) -> None:
        self._updates.leave()
        self._context.close()

    def _named_parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return dict(model.named_parameters())

    def _names_of_type(self, model: nn.Module, kind: type) -> list[str]:
        owned = {
            id(parameter)
            for module in model.modules()
            if isinstance(module, kind)
            for parameter in module.parameters()
        }
        return [name for name, parameter in model.named_parameters() if id(parameter) in owned]

    def _param_groups(
        self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
    ) -> dict[str, list[str]]:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        found = ([names[id(p)] for p in group["params"] if id(p) in names] for group in groups)
        return {f"param_groups[{i}]": own for i, own in enumerate(found) if own}

    def _learning_rates(self) -> dict[str, float]:
        optimizers = list(stepping(self._optimizers))
        rates = {}
        for i, optimizer in enumerate(optimizers):
            first = f"{i}/" if len(optimizers) > 1 else ""
            for j, group in enumerate(optimizer.param_groups):
                if "lr" in group:
                    rates[f"{first}{j}"] = float(group["lr"])
        return rates

    def _parameters_of(self, objective: AnyObjective) -> dict[str, nn.Parameter]:
        if not isinstance(objective, Objective):
            return {}
        if any(map(is_sharded, self._model.parameters())) and not isinstance(objective._loss, ShardedLoss):
            return {}  # `WholeCopy` compares the two models
        return dict(objective.model.named_parameters())

    def _optimizer_texts(self, optimizer: torch.optim.Optimizer) -> Iterator[str]:
        for one in stepping([optimizer]):
            for group in one.param_groups:
                numbers = {
                    key: value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
                    for key, value in group.items()
                    if key not in ("params", "param_names", "initial_lr")
                }
                if "initial_lr" in group:  # a schedule has changed lr already, as a warm-up does
                    numbers["lr"] = float(group["initial_lr"])
                yield call_text(type(one).__name__, numbers)

    def _module_types(self) -> dict[str, str]:
        return {
            name: type(module).__name__
            for name, module in self._model.named_modules()
            if next(module.parameters(recurse=False), None) is not None
        }

    def _trained_model(self) -> TrainedTorchModel:
        self._trained = TrainedTorchModel(self._model, self._torch_losses())
        return self._trained

    def _note_modes(self) -> None:
        """Note the modes at the end of a backward pass, as they may be others at the update."""
        if self._loop_check.looks_at_next:
            self._trained.note_modes()

    def _owned(self) -> Iterator[nn.Parameter]:
        return parameters_of(self._optimizers)

    def _make_context(self, parameters: Sequence[nn.Parameter]) -> Loop:
        if UPDATE_FIELDS.intersection(self._session.required_fields):
            for optimizer in stepping(self._optimizers):
                check_known(optimizer)
        if any(
            field.endswith(("gradient", "micro_batches", "halves")) for field in self._session.required_fields
        ):
            refuse_maximizing(stepping(self._optimizers))
        self._measured = parameters
        context = self._loop(self._gradients_of(parameters), self._requested)
        context.after_pass = self._note_modes
        return context

    def _gradients_of(self, parameters: Sequence[nn.Parameter]) -> Gradients:
        self._shards: Shards | None = None
        if not any(map(is_sharded, parameters)):
            return Gradients(parameters)
        self._shards = shards_of([own._loss for own in self._torch_losses()])
        if self._shards is None:
            require_training_alone(self._session.required_fields)
            return Gradients(parameters)
        require_gradients_alone(self._session.required_fields)
        return ShardedGradients(self._model, parameters, self._shards)

    def _torch_losses(self) -> list[Objective]:
        return [own for own in leaves(self._session.objectives) if isinstance(own, Objective)]

    def _live_theta(self, parameters: Sequence[nn.Parameter]) -> "_LiveTheta | ShardedTheta | LiveShards":
        self._wholes: list[WholeCopy] = []
        measured = self._torch_losses()
        form = one_form({f"number {i}": own._form for i, own in enumerate(measured)})
        form = form or VectorForm.of({"": parameters[0]})
        if not form.is_of(parameters):
            _require_own_fields(self._session.required_fields, form)
        if not any(map(is_sharded, parameters)):
            return _LiveTheta(parameters, form)
        if self._shards is not None:
            return LiveShards(parameters, self._shards)
        self._wholes = [WholeCopy(self._model, own.model) for own in measured]
        return ShardedTheta(parameters, form)

    def _is_trial(self) -> bool:
        """Whether the coming update belongs to a trial that will be undone, as the search for a rate."""
        return False

    def _follow_buffers(self) -> None:
        """If a sharded model is measured on an unsharded copy, copy its buffers into the copy."""
        for whole in self._wholes:
            whole.follow()


class _StepListener:
    """As `lca_torch._updates.Listener`: tells the follower of updates, and the context of their optimizer."""

    def __init__(
        self,
        session: Session,
        follower: AnyFollower,
        context: Loop,
        expected: Sequence[torch.optim.Optimizer],
        *,
        follow_buffers: Callable[[], None],
        is_trial: Callable[[], bool],
    ) -> None:
        self._session, self._follower, self._context = session, follower, context
        self._follow_buffers, self._is_trial, self._in_trial = follow_buffers, is_trial, False
        self._expected = list(within(expected, held))
        self._optimizer: Any = None

    def met(self, optimizer: torch.optim.Optimizer) -> None:
        self._follower.check()  # the model may have other parameters now, which it trains

    def before(self, optimizer: torch.optim.Optimizer) -> bool:
        self._in_trial = self._is_trial()
        if self._in_trial:
            return False
        self._optimizer = optimizer
        if optimizer not in self._expected:
            self._expected.append(optimizer)
            warn_of_other_optimizer(self._follower.steps, optimizer)
        self._follow_buffers()
        self._follower.before()
        if not self._follower.reads_theta:
            return False
        self._context.update_begins(self._expected)
        return bool(self._follower.requested)

    def collect(self, optimizer: torch.optim.Optimizer) -> None:
        self._context.updated_by(optimizer)
        self._follower.collect_fields()

    def after(self, *, made: bool) -> None:
        if self._in_trial:
            self._context.clear()
        elif made:
            self._follow_buffers()
            with self._session.guarded(self._follower.steps):
                self._context.update_made(self._optimizer)
            self._follower.after()
            self._context.clear()


class _LiveTheta:
    """`lca.tracking.LiveTheta` of the parameters of a model, as vectors of this form."""

    def __init__(self, parameters: Sequence[nn.Parameter], form: VectorForm) -> None:
        self._parameters, self._form = parameters, form
        self._same = form.is_of(parameters)  # and the objectives check that the parameters stay so

    def copy(self) -> Tensor:
        return flat(self._parameters) if self._same else self._form.copy(self._parameters)

    def borrow(self) -> Tensor:
        # Of a small model, a copy is made in less time than one is read piece by piece.
        small = sum(parameter.nbytes for parameter in self._parameters) <= SMALL
        if small:
            return self.copy()
        return ParameterVector(self._parameters) if self._same else self._form.borrow(self._parameters)

    def persist(self, borrowed: Tensor, memory: Tensor) -> Tensor:
        return borrowed.persist(memory) if isinstance(borrowed, ParameterVector) else borrowed

    def is_at(self, theta: Tensor) -> bool:
        return (holds if self._same else self._form.holds)(theta, self._parameters)


def _require_own_fields(required: Sequence[str], form: VectorForm) -> None:
    """Raise `LCAError` if an estimator computes with gradients of training, which have another form."""
    wanted = [field for field in required if field.removeprefix("next_") in GRADIENT_FIELDS]
    if wanted:
        raise LCAError(
            f"the estimator requires {', '.join(wanted)} of training, which are in the precision and on the "
            f"device of the model, and θ is in {form.dtype} on {form.device}; use lca.Adaptive, "
            "lca.PathIntegral or lca.estimators.SampledPathIntegral, or omit precision= and vectors=."
        )
