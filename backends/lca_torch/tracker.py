"""`Tracker`: measures a training loop that somebody else wrote, through the hooks of its optimizer."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from lca.allocation import Estimator
from lca.errors import LayoutError, LCAError
from lca.frameworks import PyTree
from lca.layout import check_same_layout
from lca.objective import Objective, leaves
from lca.summary import RunViews
from lca.tracking import MakeViews, OnError, RecordTo, Schedule, Session
from lca.tracking.follower import RunFollower
from lca.views import View
from lca_torch.live import ParameterVector, flat, holds
from lca_torch.loop import Loop
from lca_torch.objective import Objective as TorchObjective
from lca_torch.optimizers import check_known


class Tracker:
    """Allocates the loss change of every ``optimizer.step()`` inside a ``with`` block.

    θ is read before and after the step, wherever it lives, and the step is measured before the loop goes on.
    Parameters, buffers, gradients and random generators are left alone: training with and without a tracker
    gives the same numbers, bit for bit. Closures (LBFGS), gradient accumulation and clipping, parameter
    groups and schedules need nothing; a step that a `GradScaler` skips is no step.

    Parameters
    ----------
    model, optimizer
        What is being trained, and what makes the steps.
    objective
        The measured loss (`lca_torch.Objective` of this model, or a `lca.Sum` with one), or several by name.
    estimator, every, views, on_error, record
        As in `lca.tracking.Session`: default `lca.Adaptive`, every step, the views of `summary`, a
        warning, and no record.

    Notes
    -----
    Estimators on training batches (`lca.estimators.CrossFit` and others) take what they need from the loop.
    The gradient is read as the optimizer sees it, unscaled and clipped. For the rest the loop runs over
    `batches`, cuts a batch with `parts`, or calls `scores`.

    Memory beyond the estimator's: one vector on the model's device, θ before the step. θ after the step is
    read in the model itself. Between steps that vector and the last gradient are kept, 2 K numbers.

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

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective | Mapping[str, Objective],
        estimator: Estimator | None = None,
        *,
        every: Schedule = 1,
        views: MakeViews = RunViews.of,
        on_error: OnError = "warn",
        record: RecordTo | None = None,
    ) -> None:
        _check_kinds(model, optimizer, objective)
        self._measurement = Session(
            objective, estimator, every=every, views=views, on_error=on_error, record=record
        )
        self._optimizer, self._on_error = unwrapped(optimizer), on_error
        parameters = _parameters(model, self._optimizer, self._measurement)
        if "micro_batches" in self._measurement.required_fields:
            check_known(self._optimizer)
        self._loop = Loop(parameters, self._optimizer, lambda: self._watch.asked)
        measured = [o for o in leaves(self._measurement.objectives) if isinstance(o, TorchObjective)]
        self._watch = RunFollower(self._measurement, _Live(parameters, measured), self._loop.hand_over)
        self._hooks: list[Any] = []
        self._entered = False

    @property
    def steps(self) -> int:
        """Number of optimizer steps seen, measured or not."""
        return self._watch.steps

    @property
    def discontinuities(self) -> int:
        """Number of measured steps that did not begin where the last one ended (`lca.tracking.RunFollower`)."""
        return self._watch.discontinuities

    @property
    def skipped_steps(self) -> int:
        """Number of steps that lacked what to measure them by (`lca.tracking.Session`)."""
        return self._measurement.skipped_steps

    @property
    def views(self) -> Mapping[str, View]:
        """The view of each measured loss, by name."""
        return self._measurement.views

    @property
    def error(self) -> Exception | None:
        """What ended the measuring, or ``None``."""
        return self._measurement.error

    def summary(self) -> dict[str, dict[str, Any]]:
        """`lca.summary.summarize` of each measured loss and each term of one, by name."""
        if not self._entered:
            raise LCAError("this tracker was never at work; put the training loop inside `with tracker:`.")
        return self._measurement.summary()

    def batches(self, loader: Iterable[PyTree]) -> Iterator[PyTree]:
        """The batches of ``loader`` one by one, so that the tracker knows which one makes the next step.

        Several batches to one step (gradient accumulation) are its parts; their losses weigh alike.

        >>> # for x, y in tracker.batches(loader): ...
        """
        return self._loop.batches(loader)

    def take(self, *batch: PyTree) -> None:
        """What `batches` does, one by one: this batch comes next, or one that is not shown (no argument)."""
        if batch:
            self._loop.take(*batch)
        else:
            self._loop.part()

    def micro_batches(self, batch: PyTree, n: int) -> Iterator[tuple[PyTree, float]]:
        """``batch`` cut into ``n`` parts, each with its share of the examples, to be its weight in the loss.

        >>> # for (x, y), share in tracker.micro_batches(batch, 2):
        >>> #     (share * loss_fn(model(x), y)).backward()

        The gradients of the parts add up to that of the batch, to rounding (a loop that cuts its batches is
        the user's own; the tracker changes nothing). Views, no copies.
        """
        return self._loop.micro_batches(batch, n)

    def ranks(self, group: Any = None) -> None:
        """Under `torch.nn.parallel.DistributedDataParallel`, each rank's share of a gradient is a part of it.

        Call it once on every rank, inside the ``with`` block and before the first backward pass; the tracker
        is made with the model inside (``model.module``) and ``on_error="raise"``, and every rank measures the
        same steps. There are as many parts as ranks, all of the same weight, and each step they exchange
        their gradients: as many vectors (K,) as there are ranks.

        Parameters
        ----------
        group
            The process group; default: all ranks.

        Raises
        ------
        LCAError
            If `torch.distributed` was not initialised, or an error would end the measuring on this rank
            alone, for which the others would wait.
        """
        if self._on_error != "raise":
            raise LCAError(
                "a rank that stopped measuring would let the others wait for its gradient for ever; make the "
                "tracker with on_error='raise'."
            )
        self._loop.ranks(group)

    def scores(self, index: Any, outputs: Tensor, labels: Tensor | None = None) -> None:
        """How wrong the forward pass of training has just been on single examples; for probes by error.

        Parameters
        ----------
        index
            Which examples of the measured data they are, integers (n,).
        outputs
            Logits (n, C), the error being ``1 - softmax(outputs)[label]``; or, without labels, the errors
            themselves (n,), any numbers ≥ 0 that grow with an example's gradient.
        labels
            Classes (n,).
        """
        with self._measurement.guarded(self._watch.steps):
            self._loop.scores(index, outputs, labels)

    def __enter__(self) -> "Tracker":
        if self._hooks:
            raise LCAError("this tracker is already at work; make another one for another run.")
        self._entered = True
        self._watch.begin()
        before = self._optimizer.register_step_pre_hook(self._before_step)
        self._hooks = [before, self._optimizer.register_step_post_hook(self._after_step)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._loop.leave()
        self._watch.end(complete=kind is None)

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        self._watch.before()
        given = args[1] if len(args) > 1 else kwargs.get("closure")
        if given is None:
            self._watch.hand_over()
        if given is None or not self._watch.asked:
            return None
        closure = _then_once(given, self._watch.hand_over)
        if len(args) > 1:
            return (args[0], closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure}

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        # A GradScaler leaves this mark on fused optimizers, which then run the hooks and move nothing.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is None or not bool(found_inf):
            self._watch.after()
        self._loop.forget()


class _Live:
    """`lca.tracking.LiveTheta` of these parameters, which stay of the kind that is measured."""

    def __init__(self, parameters: list[nn.Parameter], measured: list[TorchObjective]) -> None:
        self._parameters, self._measured = parameters, measured

    def read(self) -> Tensor:
        self._check()
        return flat(self._parameters)

    def now(self) -> ParameterVector:
        return ParameterVector(self._parameters)

    def kept(self, now: ParameterVector, memory: Tensor) -> Tensor:
        return now.keep(memory)

    def is_at(self, theta: Tensor) -> bool:
        self._check()
        return holds(theta, self._parameters)

    def equal(self, a: Tensor, b: Tensor) -> bool:
        return torch.equal(a, b)

    def _check(self) -> None:
        for objective in self._measured:
            objective.check_unconverted()


def _then_once(closure: Callable[[], Any], listener: Callable[[], None]) -> Callable[[], Any]:
    """``closure``; and after its first call, with the gradient at θ_t there, ``listener``."""
    told = False

    def listening() -> Any:
        nonlocal told
        result = closure()
        if not told:
            told = True
            listener()
        return result

    return listening


def _check_kinds(model: object, optimizer: object, objective: object) -> None:
    """Raise `LCAError` if arguments are of the wrong kind, above all in another order."""
    measured = objective.values() if isinstance(objective, Mapping) else [objective]
    wrong = [o for o in measured if isinstance(o, type) or not isinstance(o, Objective)]
    for what, given, right in (
        ("model", model, isinstance(model, nn.Module)),
        ("optimizer", optimizer, isinstance(optimizer, torch.optim.Optimizer)),
        ("objective", wrong[0] if wrong else None, not wrong),
    ):
        if not right:
            raise LCAError(
                f"the {what} is of type {type(given).__name__}; the order is Tracker(model, optimizer, "
                "objective), with a torch.nn.Module, one torch.optim.Optimizer (each of several gets a "
                "Tracker of its own), and an Objective or several by name."
            )


def unwrapped(optimizer: Any) -> Any:
    """The optimizer whose hooks fire: accelerate and others wrap it as ``optimizer.optimizer``."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer


def _parameters(
    model: nn.Module, optimizer: torch.optim.Optimizer, measurement: Session
) -> list[nn.Parameter]:
    """The model's parameters in the order of the layout that all objectives share."""
    named = dict(model.named_parameters())
    for what, objective in measurement.objectives.items():
        unknown = [name for name in objective.layout.names if name not in named]
        if unknown:
            raise LayoutError(
                f"the objective {what!r} is about {', '.join(map(repr, unknown))}, which the model has not; "
                "make it from the same model."
            )
    layout = check_same_layout((o.layout for o in measurement.objectives.values()), "the measured losses")
    for what, objective in measurement.objectives.items():
        for own in (o for o in leaves(objective) if isinstance(o, TorchObjective)):
            its = dict(own.model.named_parameters())
            other = [name for name in own.layout.names if its.get(name) is not named[name]]
            if other:
                raise LayoutError(
                    f"the objective {what!r} was made from another model of the same form: its {other[0]!r} "
                    "is not this model's; make it from the model that is trained, whose state it has to read."
                )
    parameters = [named[name] for name in layout.names]
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(parameter) in owned for parameter in parameters):
        raise LCAError(
            f"the optimizer owns none of the parameters of this {type(model).__name__}; was it made from "
            "another model, or before the model was replaced or wrapped?"
        )
    return parameters
