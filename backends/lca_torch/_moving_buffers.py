"""Which buffers of a model its forward pass moves in training, and whether after it has used them."""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm


def moved_after_use(model: nn.Module) -> frozenset[str]:
    """The names of all buffers that may be moved so, as running statistics are; not those of spectral norms.

    A forward pass of training moves the vectors of a spectral norm first, and divides by the norm that the
    new ones give.

    >>> norm = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))
    >>> sorted(moved_after_use(nn.Sequential(norm, nn.BatchNorm1d(2))))
    ['1.num_batches_tracked', '1.running_mean', '1.running_var']
    """
    before = {
        f"{name}.{buffer}".removeprefix(".")
        for name, module in model.named_modules()
        for buffer in moved_before_use(module)
    }
    return frozenset(name for name, _ in model.named_buffers() if name not in before)


def running_statistics(model: nn.Module) -> frozenset[str]:
    """The names of the buffers of normalisation layers, which a forward pass of training writes.

    >>> sorted(running_statistics(nn.Sequential(nn.BatchNorm1d(2))))
    ['0.num_batches_tracked', '0.running_mean', '0.running_var']
    """
    return frozenset(
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, _NormBase)
        for name in module._buffers
    )


def moved_before_use(module: nn.Module) -> set[str]:
    """The names of the buffers of a module that its forward pass moves in training, and then uses."""
    if isinstance(module, _SpectralNorm):
        return {"_u", "_v"}
    hooks = module._forward_pre_hooks.values()  # of the older function, which keeps them in the layer
    return {f"{hook.name}_{which}" for hook in hooks if isinstance(hook, SpectralNorm) for which in "uv"}
