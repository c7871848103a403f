"""Hooks and modes that see everything torch computes: measuring runs private copies of them, or none."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules import module as torch_module
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from lca.errors import LCAError
from lca_torch._copies import Pair
from lca_torch._copying import Copier
from lca_torch._libraries import in_library

_FORWARD = {"_forward_hooks": "_global_forward_hooks", "_forward_pre_hooks": "_global_forward_pre_hooks"}
_BACKWARD = ("_global_backward_hooks", "_global_backward_pre_hooks")


class GlobalHooks:
    """Private copies of the hooks of `torch.nn.modules.module.register_module_forward_hook` and its kind.

    As a context: inside, modules call the private hooks instead of the user's, and those on tensors that
    autograd saves see nothing. Backward hooks do not run while measuring, because gradients must be true.
    """

    def __init__(self, copier: Copier) -> None:
        own: dict[str, Any] = {key: getattr(torch_module, name) for key, name in _FORWARD.items()}
        copies: dict[str, Any] = {key: copier.copy(hooks, "global") for key, hooks in own.items()}
        copier.pairs.append(Pair("global", own, copies))
        self.private: list[dict[int, Any]] = list(copies.values())
        backward: list[dict[int, Any]] = [getattr(torch_module, name) for name in _BACKWARD]
        self._places = [*zip(own.values(), self.private, strict=True), *((hooks, {}) for hooks in backward)]
        self._all = [hooks for place in self._places for hooks in place]
        self._none: list[dict[int, Any]] = [{} for _ in self._places]
        self._users: list[tuple[list[dict[int, Any]], saved_tensors_hooks | None]] = []

    def __enter__(self) -> None:
        users, saving = self._none, _without_saving_hooks()
        if saving is not None:
            saving.__enter__()
        if any(self._all):
            users = [dict(hooks) for hooks, _ in self._places]
            self._fill([private for _, private in self._places])
        self._users.append((users, saving))

    def __exit__(self, *error: object) -> None:
        users, saving = self._users.pop()
        if users is not self._none or any(self._all):
            self._fill(users)
        if saving is not None:
            saving.__exit__(*error)

    def _fill(self, contents: Iterable[dict[int, Any]]) -> None:
        for (hooks, _), content in zip(self._places, contents, strict=True):
            hooks.clear()
            hooks.update(content)


def _without_saving_hooks() -> saved_tensors_hooks | None:
    """Hooks that do nothing, in place of the user's saved-tensor hooks; ``None`` if the user has none."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if hooks is None or in_library(getattr(hooks[0], "__module__", None) or ""):
        return None
    return saved_tensors_hooks(_same, _same)


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def require_no_modes() -> None:
    """Refuse to measure inside a mode of the user's, which would see and may change what is measured."""
    if not (torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack()):
        return
    functions = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    for mode in (*functions, *_get_current_dispatch_mode_stack()):
        kind = type(mode)
        if not in_library(kind.__module__):
            raise LCAError(
                f"{kind.__name__}, a TorchFunctionMode or TorchDispatchMode, is active where the loss is "
                "measured, and would take that for training; enter it around the forward and backward pass "
                "only, not around the optimizer's step and the objective."
            )
