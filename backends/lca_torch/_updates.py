"""`Updates`: reports the updates of parameters, whichever optimizers make them."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from types import FrameType, MethodType
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from lca.tracking._optimizers import within

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Listener(Protocol):
    """Receives the updates that are made."""

    def met(self, optimizer: Optimizer) -> None:
        """An optimizer of other parameters makes its first step."""

    def before(self, optimizer: Optimizer) -> bool:
        """``optimizer`` begins what may be an update. Returns whether `collect` is to be called."""

    def collect(self, optimizer: Optimizer) -> None:
        """The gradients are as ``optimizer`` sees them, at the parameters where the update begins."""

    def after(self, *, made: bool) -> None:
        """An update was made, or none was (a GradScaler skipped it, there is no gradient, or not yet)."""


class Updates:
    """Follows the steps of all optimizers that own one of some parameters.

    torch calls its global hooks for every optimizer, so one that is made in mid-run is seen too. A step
    inside another (``super().step()``, the optimizer inside a wrapper) is part of it: an update is the
    outermost step on the call stack. The step of a wrapper that torch does not hook (those of accelerate and
    Fabric) is intercepted on the object.

    Parameters
    ----------
    parameters
        Whose updates are followed.
    optimizers
        Those that are expected, whose wrappers are known.
    listener
        Is told.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], optimizers: Sequence[Optimizer], listener: Listener
    ) -> None:
        self._owned = {id(parameter) for parameter in parameters}
        self._optimizers, self._listener = optimizers, listener
        self._others: set[int] = set()
        self._owners: dict[int, Optimizer] = {}
        self._handles: list[Any] = []
        self._intercepted: list[_Intercepted] = []
        self._running: list[FrameType] = []
        self._made = self._collects = self._moves = self._awaits = False
        self._collect = untraced(self._collect_fields)
        self._collector: Any = None

    def follow(self) -> None:
        """Begin to report updates."""
        self._handles = [
            register_optimizer_step_pre_hook(untraced(self._begins)),
            register_optimizer_step_post_hook(untraced(self._ends)),
        ]
        wrappers = [one for one in within(self._optimizers, held) if not _hooked(one)]
        self._intercepted = [_Intercepted(one, self) for one in wrappers]

    def leave(self) -> None:
        """Follow no longer; every optimizer is as it was."""
        for handle in [*self._handles, *self._intercepted]:
            handle.remove()
        self._forget_collector()
        self._handles, self._intercepted, self._running, self._owners = [], [], [], {}

    def enter(self, optimizer: Optimizer, frame: FrameType) -> None:
        """The step of an optimizer begins, in this frame of the call stack."""
        if self._running:  # steps that ended with an error call no hook
            stack = set(_stack())
            self._running = [running for running in self._running if running in stack]
        if not self._running:
            self._forget_collector()
            self._made = self._moves = self._awaits = False
            self._collects = self._listener.before(optimizer)
        self._running.append(frame)

    def exit(self, frame: FrameType, *, made: bool) -> None:
        """The step in this frame has ended, with an update or without."""
        if frame not in self._running:
            return
        del self._running[self._running.index(frame) :]
        self._made |= made
        if not self._running:
            self._forget_collector()
            self._listener.after(made=self._made)

    def _begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Arguments | None:
        """A step begins; returns its arguments if they are to be others."""
        if not self._owns(optimizer):
            if id(optimizer) not in self._others:
                self._others.add(id(optimizer))
                self._listener.met(optimizer)
            return None
        self.enter(optimizer, _caller())
        collects = self._collects and not _skips(optimizer)
        self._collects &= not collects
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._moves |= may_move(optimizer)
            if collects:
                # By a hook that runs after those of the user, which may change the gradient; once, as torch
                # calls it again for ``super().step()``.
                self._collector = optimizer.register_step_pre_hook(self._collect)
                self._awaits = True
            return None
        closure = self._followed(closure, optimizer, collects=collects)
        if len(args) > 1:
            return (args[0], closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure}

    def _ends(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._owns(optimizer):
            moves = self._moves or may_move(optimizer)  # a hook may have assigned or removed gradients
            self.exit(_caller(), made=moves and not _skips(optimizer))

    def _followed(
        self, closure: Callable[[], Any], optimizer: Optimizer, *, collects: bool
    ) -> Callable[[], Any]:
        """A closure that looks at the gradients after each call; only those of the first are taken at θ_t."""

        def followed() -> Any:
            nonlocal collects
            result = closure()
            self._moves |= may_move(optimizer)
            if collects:
                collects = False
                self._awaits = True
                self._collect(optimizer)
            return result

        return followed

    def _collect_fields(self, optimizer: Optimizer, *arguments: Any) -> None:
        if self._awaits and may_move(optimizer):
            self._awaits = False
            self._listener.collect(optimizer)

    def _owns(self, optimizer: Optimizer) -> bool:
        if id(optimizer) in self._owners:
            return True
        owned = self._owned
        owns = any(
            id(parameter) in owned for group in optimizer.param_groups for parameter in group["params"]
        )
        if owns:
            self._owners[id(optimizer)] = optimizer  # kept, so that no other optimizer gets its id
        return owns

    def _forget_collector(self) -> None:
        if self._collector is not None:
            self._collector.remove()
            self._collector = None


class _Intercepted:
    """The step of a wrapper, replaced on the object until `remove`."""

    def __init__(self, optimizer: Optimizer, updates: Updates) -> None:
        self._optimizer, self._before = optimizer, vars(optimizer).get("step")
        self._active = True
        step, makes_updates = optimizer.step, not any(map(_hooked, within([optimizer], held)))

        @wraps(step)
        def followed(this: Optimizer, *args: Any, **kwargs: Any) -> Any:
            if not self._active:
                return step(*args, **kwargs)
            frame = sys._getframe()
            updates.enter(optimizer, frame)
            result = step(*args, **kwargs)
            updates.exit(frame, made=makes_updates)
            return result

        self._step = MethodType(followed, optimizer)  # schedulers ask for the function of a method
        vars(optimizer)["step"] = self._step

    def remove(self) -> None:
        """Put back what was there, unless somebody else has wrapped the step since."""
        self._active = False
        if vars(self._optimizer).get("step") is self._step:
            del vars(self._optimizer)["step"]
            if self._before is not None:
                vars(self._optimizer)["step"] = self._before


def held(optimizer: Optimizer) -> Iterable[Optimizer]:
    """The optimizers that a wrapper holds as attributes."""
    return (value for value in vars(optimizer).values() if isinstance(value, Optimizer))


def stepping(optimizers: Iterable[Optimizer]) -> Iterator[Optimizer]:
    """The optimizers whose steps torch hooks: an optimizer itself, or those inside a wrapper."""
    for one in optimizers:
        if _hooked(one):
            yield one
        else:
            yield from stepping(held(one))


def parameters_of(optimizers: Iterable[Optimizer]) -> Iterator[nn.Parameter]:
    """The parameters of optimizers, also of those inside wrappers."""
    groups = (group for one in stepping(optimizers) for group in one.param_groups)
    return (parameter for group in groups for parameter in group["params"])


def owned_by(optimizers: Iterable[Optimizer]) -> set[int]:
    """The ids of `parameters_of` these optimizers."""
    return set(map(id, parameters_of(optimizers)))


def may_move(optimizer: Optimizer) -> bool:
    """Whether a step may move parameters; optimizers of torch move only those that have a gradient.

    >>> may_move(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1))
    False
    """
    if not type(optimizer).__module__.startswith("torch.optim."):
        return True
    return any(own.grad is not None for group in optimizer.param_groups for own in group["params"])


def calling(kind: type) -> Any:
    """The object of this class whose method has called, at any distance; ``None`` if there is none."""
    for frame in _stack():
        this = frame.f_locals.get("self")
        if isinstance(this, kind):
            return this
    return None


def _hooked(optimizer: Optimizer) -> bool:
    """Whether torch calls hooks around the optimizer's step, as `Optimizer.__init__` arranges."""
    return bool(getattr(type(optimizer).step, "hooked", False))


def _skips(optimizer: Optimizer) -> bool:
    """Whether a GradScaler has found an overflow, so that a fused optimizer calls hooks without an update."""
    return bool(getattr(optimizer, "found_inf", None))


untraced: Callable[[Any], Any] = torch.compiler.disable
"""Keeps `torch.compile` of a step from compiling the hooks, too."""


def _caller() -> FrameType:
    """The frame that has called an untraced hook."""
    return sys._getframe(3)  # after that of the hook, and that of torch around it


def _stack() -> Iterator[FrameType]:
    """The frames of the call stack, from the innermost."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
