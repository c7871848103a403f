"""Taking a model apart from the way in which it is distributed: FSDP2, tensor parallelism and Fabric."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

_HOOKS = frozenset(key for key in nn.Module().__dict__ if key.endswith("hooks"))
_MARKS = "__composable_api_state_key_"
"""Begins the names of attributes in which torch keeps how a module is distributed."""
_FSDP = "torch.distributed.fsdp."
_FABRIC, _GUARD = "_fabric_module_initialized", "_register_backward_hook"
"""An attribute of the wrapper that ``fabric.setup`` makes, and the method by which it sees to it that its
outputs get their gradients from ``fabric.backward``."""
_RANKS = "torch.distributed.device_mesh", "torch._C._distributed_c10d", "torch.distributed.distributed_c10d"


def unsharded_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a module before `fully_shard` has replaced it by one of its own.

    >>> unsharded_class(nn.Linear)
    <class 'torch.nn.modules.linear.Linear'>
    """
    own = [base for base in kind.__mro__ if not base.__module__.startswith("torch.distributed.")]
    return own[0]


def sharded_modules(model: nn.Module) -> list[Any]:
    """The modules under `fully_shard`."""
    return [module for module in model.modules() if unsharded_class(type(module)) is not type(module)]


def gathered(model: nn.Module) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """Each parameter that FSDP2 shards, and what the layers take in place of it while it is gathered.

    The modules are gathered one after another, which is a collective operation.
    """
    for module in sharded_modules(model):
        before = list(module.parameters())
        module.unshard()
        pairs = zip(before, module.parameters(), strict=True)
        yield from ((own, taken) for own, taken in pairs if taken is not own)
        module.reshard()


def reshard(modules: Iterable[Any]) -> None:
    """Let FSDP free the whole parameters that it still has after a forward pass without a backward pass."""
    for module in modules:
        module.reshard()


def without_distribution(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a module without the hooks and marks of FSDP, and the guard of Fabric."""
    found = {key: value for key, value in attributes.items() if not str(key).startswith(_MARKS)}
    for key in _HOOKS & found.keys():
        hooks = found[key]
        if hooks and any(_is_from(_FSDP, hook) for hook in hooks.values()):
            found[key] = type(hooks)((k, hook) for k, hook in hooks.items() if not _is_from(_FSDP, hook))
    return found | {_GUARD: _unguarded} if _FABRIC in found else found


def is_mesh(value: object) -> bool:
    """Whether an object stands for ranks: a `DeviceMesh` or process group, which private copies share."""
    return type(value).__module__.startswith(_RANKS)


def _unguarded(output: Tensor) -> Tensor:
    return output


def _is_from(package: str, hook: Callable[..., Any]) -> bool:
    return (getattr(hook, "__module__", None) or "").startswith(package)
