"""`Tracker`: measures a training loop in torch through the hooks of its optimizer."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lca.errors import LCAError
from lca.objective import Objective as AnyObjective
from lca.objective import leaves
from lca.tracking import ModelTracker
from lca_torch._live import ParameterVector, flat, holds
from lca_torch._loop import Loop
from lca_torch._objective import Objective
from lca_torch._optimizers import check_known


class Tracker(ModelTracker[Loop]):
    """Allocates the loss change of every ``optimizer.step()`` inside a ``with`` block.

    Each step is measured before the loop goes on. Parameters, buffers, gradients and random generators are
    not changed: training with and without a tracker gives the same numbers, bit for bit. Closures (LBFGS),
    gradient accumulation and clipping, parameter groups and learning-rate schedules need no extra code; an
    update that a `torch.amp.GradScaler` skips is not a step.

    Parameters
    ----------
    model, optimizer
        The model that is trained, and the optimizer that updates it.
    objective
        The measured loss (`lca_torch.Objective` of this model, or a `lca.Sum` with one), or several by name.
    estimator, every, views, on_error, record
        As in `lca.tracking.TrackerBase`: by default `lca.Adaptive`, every step, the views of `summary`, a
        warning, and no record.

    Raises
    ------
    LCAError
        If an argument has the wrong type or an invalid value, or the three do not belong together.

    Notes
    -----
    Estimators on training batches (`lca.estimators.CrossFit` and others) require step fields. The gradient is
    read as the optimizer sees it, unscaled and clipped. The rest comes from a loop over `batches` or
    `micro_batches`, and from calls of `scores`.

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

    _types = nn.Module, torch.optim.Optimizer
    _type_names = "torch.nn.Module", "torch.optim.Optimizer"
    _advice = {
        "batch": "loop over tracker.batches(loader)",
        "micro_batches": "loop over tracker.micro_batches(batch, M) before each update, or accumulate the "
        "gradients of several batches of tracker.batches(loader)",
        "scores": "call tracker.scores(index, outputs, labels) at every step, or give the estimator "
        "refresh=n",
    }
    _hooks: Sequence[Any] = ()

    def ranks(self, group: Any = None) -> None:
        """Under `torch.nn.parallel.DistributedDataParallel`: the batch of each rank is a micro-batch.

        Call it once on every rank, inside the ``with`` block and before the first backward pass. The tracker
        gets the model inside (``model.module``) and ``on_error="raise"``, and every rank measures the same
        steps. All micro-batches have the same weight. At each step the ranks exchange their gradients, which
        takes as many vectors (K,) as there are ranks.

        Parameters
        ----------
        group
            The process group; default: all ranks.

        Raises
        ------
        LCAError
            If `torch.distributed` is not initialised, or ``on_error`` is not ``"raise"``.
        """
        if not self._session.raises:
            raise LCAError(
                "if one rank stopped measuring, the others would wait for its gradient forever; make the "
                "tracker with on_error='raise'."
            )
        self._context.ranks(group)

    def _attach(self) -> None:
        self._hooks = [
            self._optimizer.register_step_pre_hook(self._before_step),
            self._optimizer.register_step_post_hook(self._after_step),
        ]

    def _detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = ()
        self._context.close()

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        self._follower.before()
        given = args[1] if len(args) > 1 else kwargs.get("closure")
        if given is None:
            self._follower.collect_fields()
        if given is None or not self._follower.requested:
            return None
        closure = _calling_once(given, self._follower.collect_fields)
        if len(args) > 1:
            return (args[0], closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure}

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        # A GradScaler sets this attribute of fused optimizers, which then run the hooks without an update.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is None or not bool(found_inf):
            self._follower.after()
        self._context.clear()

    def _unwrapped(self, optimizer: Any) -> Any:
        """The optimizer whose hooks are called: accelerate and others wrap it as ``optimizer.optimizer``."""
        while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
            optimizer = inner
        return optimizer

    def _named_parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return dict(model.named_parameters())

    def _parameters_of(self, objective: AnyObjective) -> dict[str, nn.Parameter]:
        return dict(objective.model.named_parameters()) if isinstance(objective, Objective) else {}

    def _owned(self) -> Iterator[nn.Parameter]:
        return (parameter for group in self._optimizer.param_groups for parameter in group["params"])

    def _make_context(self, parameters: Sequence[nn.Parameter]) -> Loop:
        if "micro_batches" in self._session.required_fields:
            check_known(self._optimizer)
        return Loop(parameters, self._optimizer, self._requested)

    def _live_theta(self, parameters: Sequence[nn.Parameter]) -> "_LiveTheta":
        measured = [own for own in leaves(self._session.objectives) if isinstance(own, Objective)]
        return _LiveTheta(parameters, measured)


class _LiveTheta:
    """`lca.tracking.LiveTheta` of parameters whose dtype and device must not change."""

    def __init__(self, parameters: Sequence[nn.Parameter], measured: Sequence[Objective]) -> None:
        self._parameters, self._measured = parameters, measured

    def copy(self) -> Tensor:
        self._check()
        return flat(self._parameters)

    def borrow(self) -> ParameterVector:
        return ParameterVector(self._parameters)

    def persist(self, borrowed: ParameterVector, memory: Tensor) -> Tensor:
        return borrowed.persist(memory)

    def is_at(self, theta: Tensor) -> bool:
        self._check()
        return holds(theta, self._parameters)

    def equal(self, a: Tensor, b: Tensor) -> bool:
        return a is b or (torch.equal(a, b) if isinstance(a, Tensor) else bool((a == b).all()))

    def _check(self) -> None:
        for objective in self._measured:
            objective.check()


def _calling_once(closure: Callable[[], Any], listener: Callable[[], None]) -> Callable[[], Any]:
    """``closure``, which calls ``listener`` after its first call, when the gradient at θ_t is there."""
    called = False

    def listening() -> Any:
        nonlocal called
        result = closure()
        if not called:
            called = True
            listener()
        return result

    return listening
