"""Hooks of the user's that can alter the gradients of training; they do not run while a loss is measured."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

from lca_torch._libraries import in_library


def with_gradient_hooks(model: nn.Module) -> Iterator[str]:
    """The names of the parameters and modules that have hooks on gradients.

    >>> import torch
    >>> model = nn.Linear(2, 1)
    >>> handle = model.bias.register_hook(torch.neg)
    >>> list(with_gradient_hooks(model))
    ['bias']
    """
    for name, parameter in model.named_parameters():
        if _any_of_the_user((parameter._backward_hooks, parameter._post_accumulate_grad_hooks)):
            yield name
    for name, module in model.named_modules():
        if _any_of_the_user((module._backward_hooks, module._backward_pre_hooks)):
            yield name or type(module).__name__
    if _any_of_the_user((torch_module._global_backward_hooks, torch_module._global_backward_pre_hooks)):
        yield "all modules"


def _any_of_the_user(registers: Iterable[dict[int, Callable[..., Any]] | None]) -> bool:
    return any(not _is_of_library(hook) for hooks in registers for hook in (hooks or {}).values())


def _is_of_library(hook: Callable[..., Any]) -> bool:
    """Whether a hook is a function of a library such as torch.distributed, and not an operation of torch."""
    while isinstance(hook, partial):
        hook = hook.func
    return isinstance(hook, FunctionType | MethodType) and in_library(hook.__module__ or "")
