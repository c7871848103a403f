"""`Tracker`: measures a training loop that somebody else wrote, through the hooks of its optimizer."""

import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from lca.allocation import Estimator
from lca.errors import LayoutError, LCAError, LCAWarning
from lca.layout import Layout, check_same_layout
from lca.objective import Objective, State
from lca.step import Step
from lca.summary import RunViews
from lca.tracking import Measurement, OnError, Schedule
from lca.views import View
from lca_torch.parameters import flat


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
    estimator, every, views, on_error
        As in `lca.tracking.Measurement`: default `lca.Adaptive`, every step, the views of `summary`, and a
        warning.

    Attributes
    ----------
    steps
        Number of optimizer steps seen, measured or not.
    jumps
        Number of measured steps that did not begin where the step before had ended: something else than this
        optimizer moved the parameters, and that part of the loss change belongs to no step.

    Notes
    -----
    Memory beyond the estimator's: θ at both ends of a step, on its own device.

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
        views: Callable[[Layout], View] = RunViews.of,
        on_error: OnError = "warn",
    ) -> None:
        self._measurement = Measurement(objective, estimator, every=every, views=views, on_error=on_error)
        self._optimizer = unwrapped(optimizer)
        self._parameters = _parameters(model, self._optimizer, self._measurement)
        self._hooks: list[Any] = []
        self.steps = 0
        self.jumps = 0
        self._wanted = False
        self._start: Tensor | None = None
        self._last: tuple[int, Tensor] | None = None
        self._state: State | None = None

    @property
    def views(self) -> Mapping[str, View]:
        """The view of each measured loss, by name."""
        return self._measurement.views

    @property
    def error(self) -> Exception | None:
        """What ended the measuring, or ``None``."""
        return self._measurement.error

    def summary(self) -> dict[str, dict[str, Any]]:
        """`lca.summary.summarize` of each measured loss, by name."""
        return self._measurement.summary()

    def __enter__(self) -> "Tracker":
        if self._hooks:
            raise LCAError("this tracker is already at work; make another one for another run.")
        self._look_ahead()
        before = self._optimizer.register_step_pre_hook(self._before_step)
        self._hooks = [before, self._optimizer.register_step_post_hook(self._after_step)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._start = self._last = self._state = None

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._start = None
        if self._wanted:
            with self._measurement.guarded(self.steps):
                self._start = self._theta_before()

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        # A GradScaler leaves this mark on fused optimizers, which then run the hooks and move nothing.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and bool(found_inf):
            return
        if self._start is not None:
            with self._measurement.guarded(self.steps):
                self._measure(self._start)
        self.steps += 1
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Decide, once, whether the next step is measured; if so it begins in the state that there is now."""
        self._wanted = False
        with self._measurement.guarded(self.steps):
            if self._measurement.wants(self.steps):
                self._remember_state()
                self._wanted = True

    def _measure(self, start: Tensor) -> None:
        end, before = flat(self._parameters), self._state
        after = self._remember_state()
        state = None if before is None or after is None else (before, after)
        self._start, self._last = None, (self.steps, end)
        self._measurement.measure(Step(start, end, self.steps, state=state))

    def _remember_state(self) -> State | None:
        """The buffers as they are now; the very object remembered before if none has moved since."""
        now = self._measurement.state()
        known = self._state
        if now is None or known is None or any(not torch.equal(now[name], known[name]) for name in now):
            self._state = now
        return self._state

    def _theta_before(self) -> Tensor:
        """θ as it is now; the end of the last step itself if nothing moved since, so that it is reused."""
        if self._last is None:
            return flat(self._parameters)
        index, end = self._last
        if self._is_at(end):
            return end
        if index == self.steps - 1:
            if not self.jumps:
                warnings.warn(
                    f"parameters changed between steps {index} and {self.steps}, outside this optimizer's "
                    "step; that part of the loss change is not allocated (see Tracker.jumps).",
                    LCAWarning,
                    stacklevel=2,
                )
            self.jumps += 1
        return flat(self._parameters)

    def _is_at(self, theta: Tensor) -> bool:
        sizes = [parameter.numel() for parameter in self._parameters]
        parts = theta.split(sizes)  # type: ignore[no-untyped-call]
        return all(
            part.device == parameter.device and torch.equal(part, parameter.detach().reshape(-1))
            for part, parameter in zip(parts, self._parameters, strict=True)
        )


def unwrapped(optimizer: Any) -> Any:
    """The optimizer whose hooks fire: accelerate and others wrap it as ``optimizer.optimizer``."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer


def _parameters(
    model: nn.Module, optimizer: torch.optim.Optimizer, measurement: Measurement
) -> list[nn.Parameter]:
    """The model's parameters in the order of the layout that all objectives share."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise LCAError(
            f"expected a torch.optim.Optimizer, got {type(optimizer).__name__}; give each of several "
            "optimizers a Tracker of its own."
        )
    named = dict(model.named_parameters())
    for what, objective in measurement.objectives.items():
        unknown = [name for name in objective.layout.names if name not in named]
        if unknown:
            raise LayoutError(
                f"the objective {what!r} is about {', '.join(map(repr, unknown))}, which the model has not; "
                "make it from the same model."
            )
    layout = check_same_layout((o.layout for o in measurement.objectives.values()), "the measured losses")
    parameters = [named[name] for name in layout.names]
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(parameter) in owned for parameter in parameters):
        raise LCAError(
            f"the optimizer owns none of the parameters of this {type(model).__name__}; was it made from "
            "another model, or before the model was replaced or wrapped?"
        )
    return parameters
