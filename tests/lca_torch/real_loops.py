"""Training loops with accumulated and clipped gradients, in which `CrossFit` is compared with the exact path.

Each loop makes one pass over fresh data, ``m`` micro-batches to an update. What is exact comes from `exact`,
by plain autograd after every update. `validation/wild` uses the loops too.
"""

import warnings
from itertools import chain, islice

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies about each other, at import
    from accelerate import Accelerator
    from lightning.fabric import Fabric

from lca.estimators import CrossFit
from lca_torch import Objective, Tracker

BATCH, BATCHES, CLASSES = 16, 240, 4


def data(seed=0):
    """Training and measured examples of one distribution, float64: inputs and noisy labels."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    direction, (trained, measured) = normal(12, CLASSES), (BATCH * BATCHES, 2000)
    x = normal(trained + measured, 12)
    y = (x @ direction + normal(trained + measured, CLASSES)).argmax(1)
    return (x[:trained], y[:trained]), (x[trained:], y[trained:])


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, CLASSES)).double()


def optimizer_of(model, kind):
    if kind == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=0.003)
    return torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)


def exact(optimizer, model, x, y):
    """A list to which every update adds the allocation of each tensor, by the trapezoid on its segment."""
    parameters, found = list(model.parameters()), []

    def now():
        with torch.enable_grad():
            gradients = torch.autograd.grad(cross_entropy(model(x), y), parameters)
        return [p.detach().clone() for p in parameters], gradients

    last = [now()]

    def after(*_):
        (start, before), (end, behind) = last[0], now()
        last[0] = end, behind
        pairs = zip(start, end, before, behind, strict=True)
        found.append(np.array([float(((g + h) / 2 * (b - a)).sum()) for a, b, g, h in pairs]))

    optimizer.register_step_post_hook(after)
    return found


def _clip(model, clip):
    if clip:
        nn.utils.clip_grad_norm_(model.parameters(), clip)


def plain(model, optimizer, tracker, loader, *, clip, m):
    for group in _groups(tracker.batches(loader), m):
        for x, y in group:
            (cross_entropy(model(x), y) / m).backward()
        _clip(model, clip)
        optimizer.step()
        optimizer.zero_grad()


def split(model, optimizer, tracker, loader, *, clip, m):
    for batch in tracker.batches(loader):
        optimizer.zero_grad(set_to_none=False)
        for (x, y), weight in tracker.micro_batches(batch, m):
            (weight * cross_entropy(model(x), y)).backward()
        _clip(model, clip)
        optimizer.step()


def uneven(model, optimizer, tracker, loader, *, clip, m):
    """Every other batch is half as long, and weighs half as much."""
    pieces = ((x[: BATCH // (1 + i % 2)], y[: BATCH // (1 + i % 2)]) for i, (x, y) in enumerate(loader))
    for group in _groups(tracker.batches(pieces, weight=lambda batch: len(batch[0])), m):
        for x, y in group:
            (cross_entropy(model(x), y, reduction="sum") / (0.75 * m * BATCH)).backward()
        _clip(model, clip)
        optimizer.step()
        optimizer.zero_grad()


def scaled(model, optimizer, tracker, loader, *, clip, m):
    """A `torch.amp.GradScaler`, which unscales before the gradient is clipped."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=50)
    for group in _groups(tracker.batches(loader), m):
        for x, y in group:
            scaler.scale(cross_entropy(model(x), y) / m).backward()
        if clip:
            scaler.unscale_(optimizer)
        _clip(model, clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


def accelerated(model, optimizer, tracker, loader, *, clip, m):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=m)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for x, y in tracker.batches(loader):
        with accelerator.accumulate(wrapped):
            accelerator.backward(cross_entropy(wrapped(x), y))
            if clip and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(wrapped.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()


def fabric(model, optimizer, tracker, loader, *, clip, m):
    runner = Fabric(accelerator="cpu", devices=1)
    wrapped, optimizer = runner.setup(model, optimizer)
    for group in _groups(tracker.batches(loader), m):
        for x, y in group:
            runner.backward(cross_entropy(wrapped(x), y) / m)
        if clip:
            runner.clip_gradients(wrapped, optimizer, max_norm=clip)
        optimizer.step()
        optimizer.zero_grad()


LOOPS = [plain, split, uneven, scaled, accelerated, fabric]


def prepared(optimizer, loop):
    """The optimizer as the tracker gets it: that of accelerate is a wrapper."""
    return Accelerator(cpu=True).prepare(optimizer) if loop is accelerated else optimizer


def _groups(batches, m):
    """The batches in groups of ``m``, read one by one."""
    for first in batches:
        yield chain([first], islice(batches, m - 1))


class Silent:
    """In place of a tracker."""

    def batches(self, loader, weight=None):
        yield from loader

    def micro_batches(self, batch, m):
        return ((piece, 1 / m) for piece in zip(*(part.chunk(m) for part in batch), strict=True))


def run(loop, kind, clip, m, *, seed=0, tracked=True):
    """One run: what `CrossFit` allocates to each tensor, what is exact, and the parameters it leaves."""
    train, measured = data(seed)
    model = network(seed)
    optimizer = optimizer_of(model, kind)
    size = BATCH * m if loop is split else BATCH
    loader = DataLoader(TensorDataset(*train), batch_size=size)
    if tracked:
        allocations = exact(optimizer, model, *measured)
        objective = Objective(model, cross_entropy, measured, batch_size=2000)
        optimizer = prepared(optimizer, loop)
        with Tracker(model, optimizer, objective, CrossFit(m), on_error="raise") as tracker:
            loop(model, optimizer, tracker, loader, clip=clip, m=m)
        found = np.array([*tracker.summary()["train"]["per_tensor"].values()])
    else:
        found, allocations = np.zeros(0), []
        loop(model, optimizer, Silent(), loader, clip=clip, m=m)
    left = [*model.parameters(), *(v for s in optimizer.state.values() for v in s.values())]
    return found, sum(allocations[:-1]), [torch.as_tensor(v).detach().clone() for v in left]
