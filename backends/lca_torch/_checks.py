"""Checks that a loss is a differentiable function of θ, and running it without its compiled parts."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lca.errors import LCAError
from lca.frameworks import check_loss, no_gradient

MEAN_HINT = "use reduction='mean'"
GRADIENT_HINT = "is it computed under torch.no_grad, detached, or converted to a number on the way?"


def interpreted() -> AbstractContextManager[object]:
    """Inside, compiled parts of a model run as they are written."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def backward_errors() -> Iterator[None]:
    """Say that it was the backward pass which raised, whatever it was; out of memory is passed on."""
    try:
        yield
    except (LCAError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise LCAError(
            f"the backward pass of the measured loss raised {type(error).__name__}: {error} (The gradient is "
            "taken by torch.autograd.grad.)"
        ) from error


def check_differentiable(loss: Tensor) -> None:
    """Raise `LCAError` unless ``loss`` is a scalar that autograd can differentiate."""
    check_loss(loss, MEAN_HINT)
    if not loss.requires_grad:
        raise no_gradient(GRADIENT_HINT)


def graph_nodes(tensor: Tensor) -> Iterator[Any]:
    """The nodes of the graph in which a tensor was computed, each once."""
    waiting, seen = [tensor.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [following for following, _ in node.next_functions]


def refuse_reentrant(loss: Tensor) -> None:
    """Refuse a loss with reentrant activation checkpointing, whose gradients do not reach θ."""
    if any(type(node).__name__ == _REENTRANT for node in graph_nodes(loss)):
        raise LCAError(
            "the model uses reentrant activation checkpointing (torch.utils.checkpoint.checkpoint with "
            "use_reentrant=True), which gives gradients to .backward() without arguments only, and none "
            "to what is measured; pass use_reentrant=False (in Hugging Face's transformers: "
            'gradient_checkpointing_kwargs={"use_reentrant": False}).'
        )


_REENTRANT = "CheckpointFunctionBackward"
"""The name of the node of `torch.utils.checkpoint.CheckpointFunction` in a graph."""


def require_theta_alone(loss: Tensor, own: Mapping[str, Tensor]) -> None:
    """Refuse a loss that holds on to the model's ``own`` tensors and would not notice that θ moves."""
    trained = {name: tensor for name, tensor in own.items() if tensor.requires_grad}
    if not trained:
        return
    grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, retain_graph=True)
    held = [name for name, grad in zip(trained, grads, strict=True) if grad is not None]
    if held:
        raise LCAError(
            f"the loss uses the model's own {', '.join(held)}, so it is not a function of theta; inside the "
            "loss, take parameters from the model (model.named_parameters()), not from a list made before."
        )
