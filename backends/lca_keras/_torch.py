"""`lca_keras._engine.Engine` of PyTorch; gradients by `torch.autograd`, nothing is compiled."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import torch
from torch import Tensor

import lca_torch  # noqa: F401 - registers the operations of torch tensors
from lca.errors import LCAError
from lca_keras._engine import LossOf, Tensors
from lca_torch._reading import graph_leaves

KIND = Tensor
PASSED_ON = (torch.OutOfMemoryError,)


def attach(model: keras.Model) -> None:
    """Training updates the variables in place."""


def read(variable: keras.Variable) -> Tensor:
    value: Tensor = variable.value.detach()
    return value


def copy(tensor: Tensor) -> Tensor:
    return tensor.clone()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def compiles_training(model: keras.Model) -> bool:
    """`torch.compile` compiles anew where a Python value that it has read changes."""
    return False


def traced(function: Callable[[], Tensor]) -> None:
    with torch.no_grad():
        function()


def fingerprint(function: Callable[..., Any], *inputs: Any) -> None:
    """A loss is computed by the present Python code at every call."""


def value(function: Callable[[], Tensor], *, gradients: bool) -> Tensor:
    with torch.set_grad_enabled(gradients):
        return function().detach()


def differentiate(loss: LossOf, tensors: Tensors) -> tuple[Tensor, dict[int, Tensor | None]]:
    leaves, found = _differentiable(loss, tensors)
    none: tuple[Tensor | None, ...] = (None,) * len(leaves)
    wanted = list(leaves.values())
    reached = found.requires_grad and bool(leaves)
    grads = torch.autograd.grad(found, wanted, allow_unused=True) if reached else none
    return found.detach(), dict(zip(leaves, grads, strict=True))


def unreached(loss: LossOf, tensors: Tensors, live: Tensors) -> set[Hashable]:
    leaves, found = _differentiable(loss, tensors)
    given, parameters = set(map(id, leaves.values())), {tensor.data_ptr() for tensor in live.values()}
    read = {id(leaf): leaf for leaf in graph_leaves(found)}
    if others := [leaf for key, leaf in read.items() if key not in given]:
        what = "a weight of the model" if others[0].data_ptr() in parameters else "a parameter"
        raise LCAError(
            f"the loss reads {what} as a torch tensor, of shape {tuple(others[0].shape)}, so it cannot be "
            "evaluated at other weights; use the Keras variable itself, as in self.kernel, and Keras layers "
            "in place of torch modules with parameters."
        )
    return {key for key, leaf in leaves.items() if id(leaf) not in read}


def enable_float64() -> None:
    """PyTorch has it."""


@contextmanager
def private_generators() -> Iterator[Callable[[], bool]]:
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    before = torch.get_rng_state()
    with torch.random.fork_rng(devices):
        yield lambda: not torch.equal(torch.get_rng_state(), before)


def _differentiable(loss: LossOf, tensors: Tensors) -> tuple[dict[int, Tensor], Tensor]:
    """New leaves with these numbers, and the loss at them."""
    leaves = {key: tensor.detach().requires_grad_() for key, tensor in tensors.items()}
    with torch.enable_grad():
        return leaves, loss(leaves)
