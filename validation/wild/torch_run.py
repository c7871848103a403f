"""`TorchRun`: a case in torch. The truth is found in forked copies of the process.

Before every update the process is forked. The copy holds the world as the update found it: flags, counters,
loss modules, other models; but the model's own buffers as its forward pass of the batch found them, except
for the vectors of spectral norms, which that pass moves before it reads them. After the update it gets θ
before and after, and answers with the true allocation. It may write whatever it likes: nothing of it
reaches the training.
"""

import multiprocessing as mp
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from lca_torch import Tracker
from validation.wild.case import Mode
from validation.wild.loop import SHARP, NoTracker, Run
from validation.wild.oracle import StepTruth, Tensors, Truth, allocate, between


class TorchRun(Run):
    """See `Run`."""

    def __init__(self, mode: Mode, estimator: Any = SHARP) -> None:
        super().__init__(mode, estimator)
        torch.manual_seed(0)
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)

    @contextmanager
    def measuring(
        self,
        model: torch.nn.Module,
        optimizer: Any,
        objective: Callable[[], Any],
        loss: Callable[[], torch.Tensor],
        left_out: Collection[str] = (),
        **options: Any,
    ) -> Iterator[Any]:
        """``with Tracker(model, optimizer, objective())``, or what the part of this run needs instead.

        Parameters
        ----------
        model, optimizer, options
            As in `lca_torch.Tracker`.
        objective
            Makes the objective.
        loss
            The measured loss, by calling the user's own model in evaluation mode on all data.
        left_out
            Parameters that the case leaves out of θ: they are state, which a step is taken in as it begins.
        """
        if self.mode == "plain":
            yield NoTracker()
        elif self.mode == "oracle":
            with _Oracle(model, _several(optimizer), loss, left_out) as oracle:
                self.outcome.truth = oracle.truth
                yield NoTracker()
        else:
            options.setdefault("estimator", self.estimator)
            made = objective()
            self.outcome.tracker = tracker = Tracker(model, optimizer, made, **options)
            self.plant(made, lambda: tracker.steps)
            with tracker:
                yield tracker

    def lightning(
        self, objective: Callable[[Any], Any], loss: Callable[[Any], torch.Tensor], **options: Any
    ) -> list[Any]:
        """Callbacks for a Lightning trainer; ``objective`` and ``loss`` are functions of the module."""
        from lightning.pytorch import Callback  # noqa: PLC0415 - slow to import

        from lca_torch.lightning import LightningCallback  # noqa: PLC0415

        run = self

        class OracleCallback(Callback):
            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                run._begin(pl_module, trainer.optimizers, lambda: loss(pl_module))

            def on_train_end(self, trainer: Any, pl_module: Any) -> None:
                run._end()

        return self._callbacks(OracleCallback, LightningCallback, objective, options)

    def huggingface(
        self, objective: Callable[[Any], Any], loss: Callable[[Any], torch.Tensor], **options: Any
    ) -> list[Any]:
        """Callbacks for a `transformers.Trainer`; ``objective`` and ``loss`` are functions of the model."""
        from transformers import TrainerCallback  # noqa: PLC0415 - slow to import

        from lca_torch.huggingface import TrainerCallback as LCATrainerCallback  # noqa: PLC0415

        run = self

        class OracleCallback(TrainerCallback):
            def on_train_begin(
                self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any
            ) -> None:
                run._begin(model, [getattr(optimizer, "optimizer", optimizer)], lambda: loss(model))

            def on_train_end(self, *args: Any, **_: Any) -> None:
                run._end()

        return self._callbacks(OracleCallback, LCATrainerCallback, objective, options)

    def _callbacks(self, oracle: Any, package: Any, objective: Any, options: dict[str, Any]) -> list[Any]:
        if self.mode == "plain":
            return []
        if self.mode == "oracle":
            return [oracle()]
        options.setdefault("estimator", self.estimator)

        def make(model: Any) -> Any:
            made = objective(model)
            self.plant(made, lambda: callback.steps)
            return made

        self.outcome.tracker = callback = package(make, **options)
        return [callback]

    def _begin(self, model: Any, optimizers: Any, loss: Callable[[], torch.Tensor]) -> None:
        self._oracle = _Oracle(model, list(optimizers), loss).__enter__()
        self.outcome.truth = self._oracle.truth

    def _end(self) -> None:
        self._oracle.__exit__()


_NORMS = ("._u", "._v", "weight_u", "weight_v")
"""How the names of the vectors of spectral norms end."""


class _Oracle:
    """Follows the updates of the model's parameters by all optimizers."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[Any],
        loss: Callable[[], torch.Tensor],
        left_out: Collection[str] = (),
    ) -> None:
        self._model, self._loss, self._left_out = model, loss, left_out
        self._tracked = {id(_inner(optimizer)) for optimizer in optimizers}
        self._inside: list[Any] = []
        self.truth = Truth()

    def __enter__(self) -> "_Oracle":
        self.truth.loss_start = self._loss_now()
        self._world: _World | None = None
        self._buffers, self._passed = _copied(self._model.named_buffers()), False
        self._hooks = [
            *_pre_hook(self._model, self._look),
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._close()
        self.truth.loss_end = self._loss_now()

    def _loss_now(self) -> float:
        world = _World(self._model, self._loss)
        loss = world.loss()
        world.close()
        return loss

    def _look(self, *_: Any) -> None:
        """The first forward pass for the coming update begins."""
        if self._model.training and not self._passed:
            self._buffers, self._passed = _copied(self._model.named_buffers()), True

    def _before(self, optimizer: Any, *_: Any) -> None:
        self._inside.append(optimizer)
        if len(self._inside) > 1:
            return  # a part of the update around it
        self._close()
        self._start = _theta(self._model)
        self._world = _World(self._model, self._loss, self._buffers)
        return

    def _after(self, optimizer: Any, *_: Any) -> None:
        self._inside.pop()
        if self._inside:
            return
        end = _theta(self._model)
        if all(np.array_equal(end[n], self._start[n], equal_nan=True) for n in end):
            return  # of another model, or skipped by a GradScaler
        assert self._world is not None
        end |= {name: self._start[name] for name in self._left_out}
        step = self._world.allocate(self._start, end)
        self.truth.steps.append(replace(step, tracked=id(optimizer) in self._tracked))
        self._close()
        self._buffers, self._passed = _copied(self._model.named_buffers()), False

    def _close(self) -> None:
        if self._world is not None:
            self._world.close()
        self._world = None


class _World:
    """A copy of the process as it was when this was made; answers one question."""

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Callable[[], torch.Tensor],
        buffers: Mapping[str, torch.Tensor] = MappingProxyType({}),
    ) -> None:
        self._pipe, theirs = mp.Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of threads; the copy starts and needs none
            self._child = os.fork()
        if not self._child:
            self._pipe.close()
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    if name.endswith(_NORMS):
                        continue
                    if name in buffers and buffers[name].shape == buffer.shape:
                        buffer.copy_(buffers[name])
            _serve(theirs, model, loss)
        theirs.close()

    def allocate(self, start: Tensors, end: Tensors) -> StepTruth:
        return self._ask((start, end))

    def loss(self) -> float:
        return self._ask(None)

    def close(self) -> None:
        self._pipe.close()
        os.waitpid(self._child, 0)

    def _ask(self, question: Any) -> Any:
        self._pipe.send(question)
        answer = self._pipe.recv()
        if isinstance(answer, str):
            raise RuntimeError(f"the oracle failed: {answer}")
        return answer


def _serve(pipe: Any, model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> None:
    try:
        question = pipe.recv()
        pipe.send(_answer(question, model, loss))
    except EOFError:
        pass
    except BaseException as error:  # the parent raises it
        pipe.send(f"{type(error).__name__}: {error}")
    finally:
        os._exit(0)


def _answer(question: Any, model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Any:
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(True)
    model.eval()
    if question is None:
        return float(loss().detach())
    start, end = question
    named = dict(model.named_parameters())
    moved = [name for name in start if not np.array_equal(start[name], end[name], equal_nan=True)]
    for name, parameter in named.items():
        parameter.requires_grad_(name in moved)
        parameter.grad = None
        if parameter._backward_hooks:
            parameter._backward_hooks.clear()  # such hooks change gradients, not the loss

    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    attributes = [(module, _attributes(module)) for module in model.modules()]

    def evaluate(s: float) -> tuple[float, Tensors]:
        with torch.no_grad():
            for buffer, value in buffers:  # some move in evaluation too
                buffer.copy_(value)
            for module, values in attributes:
                module.__dict__.update(values)
            for name, parameter in named.items():
                parameter.copy_(torch.from_numpy(between(start[name], end[name], s)))
        value = loss()
        grads = torch.autograd.grad(value, [named[name] for name in moved], allow_unused=True)
        return float(value.detach()), {
            name: np.zeros_like(end[name]) if grad is None else _wide(grad)
            for name, grad in zip(moved, grads, strict=True)
        }

    return allocate(start, end, evaluate)


def _theta(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: _wide(parameter) for name, parameter in model.named_parameters()}


def _wide(tensor: torch.Tensor) -> np.ndarray:
    """A copy in double precision."""
    dtype = torch.complex128 if tensor.is_complex() else torch.float64
    return tensor.detach().to_dense().to(dtype, copy=True).resolve_conj().numpy()


def _attributes(module: torch.nn.Module) -> dict[str, Any]:
    """Its plain attributes, which a forward pass may set."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def _pre_hook(model: torch.nn.Module, hook: Callable[..., None]) -> list[Any]:
    """None for a compiled script, whose parameters would be other objects with a hook."""
    return [] if isinstance(model, torch.jit.ScriptModule) else [model.register_forward_pre_hook(hook)]


def _copied(buffers: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: buffer.detach().clone() for name, buffer in buffers}


def _inner(optimizer: Any) -> Any:
    """The optimizer inside the wrappers of accelerate and Fabric, which call its `step`."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer


def _several(optimizer: Any) -> list[Any]:
    return list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
