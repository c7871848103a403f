"""What is held still while a model is measured: training flags, buffers, random generators, autocast.

A forward pass in training mode drops units, moves running statistics and draws random numbers. Here is what
a measurement switches, and how everything is put back afterwards, also after an error.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from lca.errors import UnknownNameError

BatchNormPolicy: TypeAlias = Literal["batch", "frozen"]
"""Statistics a BatchNorm layer uses while measuring: those of the measuring batch, or its running ones."""


def normalisation_policies(
    model: nn.Module, policy: BatchNormPolicy | Mapping[str, BatchNormPolicy]
) -> dict[str, BatchNormPolicy]:
    """The policy of every BatchNorm and InstanceNorm module with running statistics, by module name.

    A mapping names modules (the others get ``"batch"``). Modules without running statistics always use
    those of the batch.
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _NormBase)}
    named = policy if isinstance(policy, Mapping) else dict.fromkeys(norms, policy)
    for name, chosen in named.items():
        if name not in norms:
            raise UnknownNameError("normalisation module", name, norms)
        _check_policy(chosen)
    if not isinstance(policy, Mapping):
        _check_policy(policy)
    return {
        name: named.get(name, "batch") if module.track_running_stats else "batch"
        for name, module in norms.items()
    }


def mixes_examples(model: nn.Module, norms: Mapping[str, BatchNormPolicy]) -> bool:
    """Whether the loss of an example depends on the batch it is in; not so with InstanceNorm.

    >>> mixes_examples(nn.BatchNorm1d(2), {"": "batch"}), mixes_examples(nn.InstanceNorm1d(2), {"": "batch"})
    (True, False)
    """
    return any(p == "batch" and isinstance(model.get_submodule(n), _BatchNorm) for n, p in norms.items())


def _check_policy(policy: str) -> None:
    if policy not in get_args(BatchNormPolicy):
        raise UnknownNameError("batch_norm policy", policy, get_args(BatchNormPolicy))


@contextmanager
def measuring_mode(model: nn.Module, norms: Mapping[str, BatchNormPolicy]) -> Iterator[None]:
    """Evaluation mode (dropout off), but BatchNorm as its policy says; every flag is put back."""
    switched = [
        (module, module.training)
        for name, module in model.named_modules()
        if module.training != (norms.get(name) == "batch")
    ]
    try:
        for module, training in switched:
            module.training = not training
        yield
    finally:
        for module, training in switched:
            module.training = training


@contextmanager
def random_state_kept(device: torch.device, seed: int = 0) -> Iterator[None]:
    """Whatever happens inside, the generators of torch, NumPy and Python go on as if it had not.

    Reading a `DataLoader` alone already draws a number. Inside, they start from ``seed``: were it the same
    for every measurement, a dropout layer that is left on would always drop the same units and pass for a
    deterministic one.
    """
    numbers, python = np.random.get_state(), random.getstate()  # noqa: NPY002 - the global one is what counts
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                torch.cuda.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numbers)  # noqa: NPY002
        random.setstate(python)


@contextmanager
def forward_mode(device: torch.device, autocast: torch.dtype | None, *, gradients: bool) -> Iterator[None]:
    """Gradients on or off, and autocast as asked for, whatever the caller's own mode is."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
        stack.enter_context(torch.autocast(device.type, dtype=autocast, enabled=autocast is not None))
        # Without gradients, attention would take another path with other rounding.
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        yield
