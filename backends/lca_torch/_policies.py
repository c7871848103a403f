"""The modes a model is measured in: training flags, random generators, gradients, autocast.

A forward pass in training mode drops units, moves running statistics and draws random numbers. Each function
here switches one of these for the time of a measurement and restores it afterwards, also after an error.
"""

import ctypes
import random
import struct
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.backends import mha
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.utils import parametrize

from lca.frameworks import BatchNorm, BatchNormPolicy, batch_norm_policies

_CACHE: dict[str, Any] = {"_cache_enabled": 0, "_cache": {}}
"""Variables of `torch.nn.utils.parametrize`, with the values that turn its cache of weights off."""


def normalisation_policies(
    model: nn.Module, policy: BatchNorm, kept: Collection[str] = ()
) -> dict[str, BatchNormPolicy]:
    """The policy of every BatchNorm and InstanceNorm module, by module name.

    Modules without running statistics always use those of the batch. Those that are ``kept`` in evaluation
    mode while the model trains are frozen, unless the policy names them.
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _NormBase)}
    chosen = batch_norm_policies(policy, norms)
    named = policy if isinstance(policy, Mapping) else {}
    for name, module in norms.items():
        if not module.track_running_stats:
            chosen[name] = "batch"
        elif name in kept and name not in named:
            chosen[name] = "frozen"
    return chosen


def kept_in_evaluation(model: nn.Module) -> frozenset[str] | None:
    """Normalisation layers in evaluation mode within a model that trains; ``None`` if it does not."""
    if not model.training:
        return None
    norms = ((name, module) for name, module in model.named_modules() if isinstance(module, _NormBase))
    return frozenset(name for name, module in norms if not module.training)


def mixes_examples(model: nn.Module, norms: Mapping[str, BatchNormPolicy]) -> bool:
    """Whether the loss of an example depends on the batch it is in; not so with InstanceNorm.

    >>> mixes_examples(nn.BatchNorm1d(2), {"": "batch"}), mixes_examples(nn.InstanceNorm1d(2), {"": "batch"})
    (True, False)
    """
    return any(p == "batch" and isinstance(model.get_submodule(n), _BatchNorm) for n, p in norms.items())


def dropout_rates(module: nn.Module) -> list[str]:
    """The attributes of a module by which it drops units or adds noise in training, if they are not 0.

    >>> dropout_rates(nn.Dropout(0.1)), dropout_rates(nn.Dropout(0.0))
    (['p'], [])
    """
    return [name for kind, name in _RATES if isinstance(module, kind) and getattr(module, name, None)]


_RATES = (
    (nn.modules.dropout._DropoutNd, "p"),
    (nn.MultiheadAttention, "dropout"),
    (nn.RNNBase, "dropout"),
    (nn.Module, "neftune_noise_alpha"),  # as Hugging Face's Trainer sets it
)


class RandomStates:
    """Keeps the random generators of torch, NumPy and Python for evaluations of one loss.

    To read, seed and write them takes half of the time of an evaluation of a small model. A loss that has
    never drawn a number finds them as they are. Whether it draws, or somebody else has, is seen from the bits
    of the generators: every draw changes them but that of the second of two normal numbers of NumPy or
    Python, and there is no second one in the states that are known here.

    >>> states = RandomStates(torch.device("cpu"))
    >>> with states.kept(seed=1):
    ...     first = torch.rand(1)
    >>> with states.kept(seed=1):
    ...     bool(torch.rand(1) == first)
    True
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._draws = False
        self._known: tuple[bytes, Any] | None = None  # the bits and the whole state of NumPy's generator

    def kept(self, seed: int) -> AbstractContextManager[None]:
        """As `random_state_kept`."""
        before = _bits()
        if self._draws or before is None or self._known is None or self._known[0] != before[1]:
            return self._seeded(seed, before)
        watched = _Untouched(self, before, self._known[1])
        # The bits of a GPU are not looked at.
        return watched if self._device.type != "cuda" else self._seeded_device(seed, watched)

    @contextmanager
    def _seeded(self, seed: int, before: "_Bits | None") -> Iterator[None]:
        state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one is what counts
        with random_state_kept(self._device, seed):
            begun = _bits()
            yield
            self._draws |= begun is None or begun != _bits()
        self._known = None if before is None or state["has_gauss"] else (before[1], state)

    @contextmanager
    def _seeded_device(self, seed: int, watched: "_Untouched") -> Iterator[None]:
        with watched, _torch_state_kept(self._device, seed):
            yield

    def draws(self) -> None:
        """Seed the generators from now on."""
        self._draws = True


class _Untouched:
    """A context after which the generators are as before: untouched, or put back and the draw reported.

    A class, because a context made by a generator takes three times as long.
    """

    __slots__ = "_before", "_numpy", "_states"

    def __init__(self, states: RandomStates, before: "_Bits", numpy: Any) -> None:
        self._states, self._before, self._numpy = states, before, numpy

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        if _bits() != self._before:
            self._states.draws()
            of_torch, _, of_python = self._before
            torch.default_generator.set_state(torch.frombuffer(bytearray(of_torch), dtype=torch.uint8))
            random.setstate(_python_state(of_python))
            np.random.set_state(self._numpy)  # noqa: NPY002


_Bits: TypeAlias = tuple[bytes, bytes, bytes]
"""The bits of the generators of torch (of the CPU), NumPy and Python."""


def _bits() -> _Bits | None:
    """The states now; ``None`` if a generator is not of the usual type, or Python's holds a spare number."""
    numpy = _memory_of_numpy(np.random.get_bit_generator())  # type: ignore[attr-defined]
    if numpy is None or _MEMORY_OF_PYTHON is None or _PYTHON.gauss_next is not None:
        return None
    state = torch.default_generator.get_state()
    return ctypes.string_at(state.data_ptr(), len(state)), numpy.raw, _MEMORY_OF_PYTHON.raw


@contextmanager
def random_state_kept(device: torch.device, seed: int = 0) -> Iterator[None]:
    """Restore the generators of torch, NumPy and Python afterwards; inside, they start from ``seed``.

    Reading a ``DataLoader`` alone already draws a number. Every measurement needs another seed: with the same
    one, a dropout layer that is left on would always drop the same units and pass for a deterministic one.
    """
    numbers, python = np.random.get_state(), random.getstate()  # noqa: NPY002 - the global one is what counts
    try:
        with _torch_state_kept(device, seed):
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numbers)  # noqa: NPY002
        random.setstate(python)


@contextmanager
def _torch_state_kept(device: torch.device, seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


_MT19937 = ctypes.c_char * (4 * 624 + 4)
"""The memory of a generator of this kind: its key, and a position in it."""


@lru_cache(maxsize=1)
def _memory_of_numpy(generator: Any) -> Any:
    """The memory of NumPy's global generator; ``None`` if it is not the usual one."""
    usual = type(generator) is np.random.MT19937
    return _MT19937.from_address(generator.ctypes.state_address) if usual else None


def _python_state(bits: bytes) -> tuple[Any, ...]:
    """The state that `random.getstate` returns, from the bits: a position, then the key."""
    position, *key = struct.unpack("=625I", bits)
    return 3, (*key, position), None


def _memory_of_python() -> Any:
    """The memory of Python's global generator; ``None`` if it is not where CPython has it."""
    if sys.implementation.name != "cpython":
        return None
    memory = _MT19937.from_address(id(_PYTHON) + object.__basicsize__)
    return memory if _python_state(memory.raw)[:2] == random.getstate()[:2] else None


_PYTHON: Any = random._inst
_MEMORY_OF_PYTHON = _memory_of_python()


def forward_mode(
    device: torch.device, autocast: torch.dtype | None, *, gradients: bool
) -> AbstractContextManager[None]:
    """Gradients on or off, and autocast in this dtype or off, whatever the caller's own mode is.

    No weights are used that `torch.nn.utils.parametrize.cached` keeps.
    """
    as_wanted = torch.is_grad_enabled() is gradients and autocast is None
    if as_wanted and not (
        torch.is_inference_mode_enabled()
        or torch.is_autocast_enabled(device.type)
        or parametrize._cache_enabled
    ):
        return _ExactAttention()
    return _switched(device, autocast, gradients)


@contextmanager
def _switched(device: torch.device, autocast: torch.dtype | None, gradients: bool) -> Iterator[None]:
    casts = autocast is not None or torch.is_autocast_enabled(device.type)
    with (
        torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext(),
        torch.set_grad_enabled(gradients),
        torch.autocast(device.type, dtype=autocast, enabled=autocast is not None) if casts else nullcontext(),
        _ExactAttention(),
    ):
        before = {name: getattr(parametrize, name) for name in _CACHE}
        vars(parametrize).update(_CACHE | {"_cache": {}})
        try:
            yield
        finally:
            vars(parametrize).update(before)


class _ExactAttention:
    """A context in which attention rounds without gradients as it does with them: on no faster path."""

    __slots__ = ("_fast_path",)

    def __enter__(self) -> None:
        self._fast_path = mha.get_fastpath_enabled()
        mha.set_fastpath_enabled(False)

    def __exit__(self, *error: object) -> None:
        mha.set_fastpath_enabled(self._fast_path)
