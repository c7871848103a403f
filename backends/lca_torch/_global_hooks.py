"""`GlobalHooks`: hooks of all modules, of which measuring runs private copies."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.modules import module as torch_module

from lca_torch._copies import Pair
from lca_torch._copying import Copier

_FORWARD = {"_forward_hooks": "_global_forward_hooks", "_forward_pre_hooks": "_global_forward_pre_hooks"}
_BACKWARD = ("_global_backward_hooks", "_global_backward_pre_hooks")


class GlobalHooks:
    """Private copies of the hooks of `torch.nn.modules.module.register_module_forward_hook` and its kind.

    Backward hooks do not run while measuring, because gradients must be true.
    """

    def __init__(self, copier: Copier) -> None:
        self._own: dict[str, Any] = {key: getattr(torch_module, name) for key, name in _FORWARD.items()}
        copies: dict[str, Any] = {key: copier.copy(hooks, "global") for key, hooks in self._own.items()}
        copier.pairs.append(Pair("global", self._own, copies))
        self._copies = copies
        self.private: list[dict[int, Any]] = list(copies.values())

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, modules call the private hooks instead of the user's."""
        backward = [getattr(torch_module, name) for name in _BACKWARD]
        kept = [(hooks, dict(hooks)) for hooks in (*self._own.values(), *backward)]
        for hooks, _ in kept:
            hooks.clear()
        for key, hooks in self._own.items():
            hooks.update(self._copies[key])
        try:
            yield
        finally:
            for hooks, content in kept:
                hooks.clear()
                hooks.update(content)
