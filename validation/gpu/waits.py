"""How often host and device are synchronised in a measured training step, and at which places.

On a GPU, torch reports every call that synchronises. On a CPU nothing waits, so the operations for devices
are run there in place of those for the CPU, and the calls of the library that would wait are counted.
"""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

import lca
import lca_torch._arrays
import lca_torch._live
from lca.allocation import Estimator
from lca.estimators import CrossFit, NextBatch, SampledPathIntegral
from lca_torch import Objective, Tracker

ROOT = Path(__file__).resolve().parents[2]
WAITING = ("item", "tolist", "cpu", "__bool__", "__float__", "__int__")
"""Methods of a tensor that copy its values to the host."""
ESTIMATORS = {
    "Adaptive": lca.Adaptive(audit=None),
    "PathIntegral(TRAPEZOID)": lca.PathIntegral(lca.TRAPEZOID),
    "PathIntegral(RK4)": lca.PathIntegral(lca.RK4),
    "NextBatch(RIGHT)": NextBatch(lca.RIGHT),
    "CrossFit(2)": CrossFit(2),
    "SampledPathIntegral(size=8)": SampledPathIntegral(size=8),
}
EVENTS = ("Synchronize", "Memcpy DtoH", "aten::_local_scalar_dense")
"""Events of the profiler in which the host waits for the device."""
STEPS = 4
"""Steps that are counted; each has an update before it and after it."""


@contextmanager
def operations_of_a_device() -> Iterator[None]:
    """Reductions and comparisons of CPU tensors as those of a GPU's, inside the block."""
    with (
        mock.patch.object(lca_torch._arrays, "_CPU", lca_torch._arrays._DEVICE),
        mock.patch.object(lca_torch._live, "_MEMCMP", None),
    ):
        yield


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """The places in the library at which values of tensors are copied to the host, with counts."""
    found: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., object]:
        original = getattr(Tensor, name)

        def method(self: Tensor) -> object:
            place = _place(sys._getframe(1))
            if place:
                found[place] += 1
            return original(self)

        return method

    patches = [mock.patch.object(Tensor, name, counting(name)) for name in WAITING]
    for patch in patches:
        patch.start()
    try:
        yield found
    finally:
        for patch in patches:
            patch.stop()


def _place(frame: object) -> str:
    """``file:function`` of a frame of the library, with the one that called it; empty for other frames."""
    names = []
    while frame is not None and len(names) < 3:
        code = frame.f_code  # type: ignore[attr-defined]
        path = Path(code.co_filename)
        if not (path.is_relative_to(ROOT / "lca") or path.is_relative_to(ROOT / "backends")):
            break
        names.append(f"{path.stem}.{code.co_name}")
        frame = frame.f_back  # type: ignore[attr-defined]
    return " < ".join(names)


@contextmanager
def reported_synchronisations() -> Iterator[Counter[str]]:
    """On a GPU: the synchronisations that torch reports, by place, with counts."""
    found: Counter[str] = Counter()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        if "synchroniz" in str(warning.message):
            found[f"{Path(warning.filename).stem}:{warning.lineno}"] += 1


@contextmanager
def profiled() -> Iterator[Counter[str]]:
    """The number of synchronisations in the profile, by the name of the event."""
    found: Counter[str] = Counter()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        yield found
    for event in profile.key_averages():
        if any(name in event.key for name in EVENTS):
            found[event.key] += event.count


def waits(estimator: Estimator, device: str, *, profile: bool = False) -> dict[str, float]:
    """Waits of a step by place, over `STEPS` steps of a small network, with the default views.

    ``profile``: by the name of the event that the profiler saw.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).to(device)
    x, y = torch.randn(64, 8, device=device), torch.randint(3, (64,), device=device)
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    objective = Objective(model, loss_fn, (x, y), batch_size=32)
    tracker = Tracker(model, optimizer, objective, estimator, check_every=None, on_error="raise")

    def update() -> None:
        optimizer.zero_grad()
        batch = x[:16], y[:16]
        tracker.begin_batch(batch)
        for (inputs, labels), weight in tracker.micro_batches(batch, 2):
            (weight * loss_fn(model(inputs), labels)).backward()
        optimizer.step()

    with tracker:
        for _ in range(9):  # the audited repetitions of a loss are then far apart
            update()
        seen = counted_calls if device == "cpu" else reported_synchronisations
        with profiled() if profile else seen() as found:
            for _ in range(STEPS):
                update()
    return {place: count / STEPS for place, count in found.items()}


def all_waits(device: str) -> dict[str, dict[str, float]]:
    """Waits of a step by estimator and place."""
    with operations_of_a_device():
        return {name: waits(estimator, device) for name, estimator in ESTIMATORS.items()}
