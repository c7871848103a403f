"""Measured data and training loaders in torch: nothing is consumed, nothing is left out unsaid."""

# ruff: noqa: E731 - a named lambda keeps a case short

import random
from itertools import count, islice

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lca_torch import Objective
from validation.wild.nets_torch import mlp
from validation.wild.small_torch import torch_case, vectors


def from_loader(run, make, *, data=None, measured=None, epochs=1, loss=F.cross_entropy, also=(), whole=None):
    """Train on a loader and measure on the same one; the truth is of all the data behind it.

    Parameters
    ----------
    make
        From a data set to the loader.
    measured
        From the loader to what the objective gets; default: the loader itself.
    whole
        The data of the truth, if not ``data``.
    """
    x, y = vectors(30) if data is None else data
    loader = make(TensorDataset(x, y))
    model = mlp(x.shape[1], 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    xs, ys = (x, y) if whole is None else whole
    objective = lambda: Objective(model, loss, (measured or (lambda loader: loader))(loader))
    with run.measuring(model, optimizer, objective, lambda: loss(model(xs), ys)):
        for _ in range(epochs):
            for inputs, labels in islice(loader, 5):
                run.note(inputs, labels)
                optimizer.zero_grad()
                loss(model(inputs), labels).backward()
                optimizer.step()
    return model, optimizer, *also


@torch_case("the training loader, shuffled by the global generator")
def _(run):
    return from_loader(run, lambda data: DataLoader(data, 8, shuffle=True))


@torch_case("the training loader, shuffled by a generator of its own")
def _(run):
    generator = torch.Generator().manual_seed(3)
    return from_loader(
        run, lambda data: DataLoader(data, 8, shuffle=True, generator=generator), epochs=2, also=[generator]
    )


@torch_case("a sampler with a generator of its own")
def _(run):
    generator = torch.Generator().manual_seed(3)
    make = lambda data: DataLoader(data, 8, sampler=RandomSampler(data, generator=generator))
    return from_loader(run, make, also=[generator])


class NumPySampler(torch.utils.data.Sampler):
    """Draws its order from NumPy's global state, and counts its epochs."""

    def __init__(self, data):
        self.data, self.epoch = data, 0

    def __len__(self):
        return len(self.data)

    def __iter__(self):
        self.epoch += 1
        order = np.random.permutation(len(self.data)) + 0 * self.epoch  # noqa: NPY002
        return iter(np.roll(order, self.epoch).tolist())


@torch_case("a sampler that uses NumPy and counts epochs")
def _(run):
    kept = []

    def make(data):
        kept.append(NumPySampler(data))
        return DataLoader(data, 8, sampler=kept[0])

    return from_loader(run, make, epochs=2, also=[kept])


@torch_case("a sampler with a random.Random of its own")
def _(run):
    source = random.Random(5)

    class Sampler(torch.utils.data.Sampler):
        def __init__(self, data):
            self.data = data

        def __len__(self):
            return len(self.data)

        def __iter__(self):
            order = list(range(len(self.data)))
            source.shuffle(order)
            return iter(order)

    return from_loader(run, lambda data: DataLoader(data, 8, sampler=Sampler(data)), epochs=2, also=[source])


@torch_case("a loader with two workers")
def _(run):
    return from_loader(run, lambda data: DataLoader(data, 8, shuffle=True, num_workers=2))


@torch_case("a loader with persistent workers")
def _(run):
    make = lambda data: DataLoader(data, 8, shuffle=True, num_workers=1, persistent_workers=True)
    return from_loader(run, make, epochs=2)


@torch_case("weighted sampler: examples drawn with replacement")
def _(run):
    """One draw of the sampler is not the data set; what is meant must be said."""
    make = lambda data: DataLoader(data, 8, sampler=WeightedRandomSampler(torch.rand(30), 30))
    return from_loader(run, make)


@torch_case("drop_last on the training loader")
def _(run):
    return from_loader(run, lambda data: DataLoader(data, 8, shuffle=True, drop_last=True))


@torch_case("DistributedSampler: the shard of one rank")
def _(run):
    def make(data):
        return DataLoader(data, 4, sampler=DistributedSampler(data, num_replicas=2, rank=0))

    return from_loader(run, make)


@torch_case("measured on the data set behind the loader")
def _(run):
    make = lambda data: DataLoader(data, 8, shuffle=True)
    return from_loader(run, make, measured=lambda loader: loader.dataset)


class Stream(IterableDataset):
    """Rows one after the other; remembers how often it was read."""

    def __init__(self, rows, *, endless=False):
        self.rows, self.endless, self.passes = rows, endless, 0

    def __iter__(self):
        self.passes += 1
        for i in count():
            if i >= len(self.rows) and not self.endless:
                return
            yield self.rows[i % len(self.rows)]


def _stream(run, **options):
    x, y = vectors(30)
    stream = Stream(list(zip(x, y, strict=True)), endless=options.pop("endless", False))
    return from_loader(run, lambda data: DataLoader(stream, 8, **options), data=(x, y), also=[stream.passes])


@torch_case("IterableDataset")
def _(run):
    return _stream(run)


@torch_case("IterableDataset with drop_last")
def _(run):
    return _stream(run, drop_last=True)


@torch_case("endless stream")
def _(run):
    return _stream(run, endless=True)


@torch_case("a generator of batches, which can be read once")
def _(run):
    x, y = vectors(30)
    whole = TensorDataset(x, y)
    batches = (whole[i : i + 6] for i in range(0, 30, 6))
    return from_loader(run, lambda data: batches, data=(x, y))


@torch_case("random augmentation in the data set")
def _(run):
    """One draw is measured; the draws of training are not moved by reading it."""

    class Noisy(Dataset):
        def __len__(self):
            return 30

        def __getitem__(self, i):
            return x[i] + 0.1 * torch.randn(6), y[i]

    x, y = vectors(30)
    model = mlp(6, 8, 3)
    optimizer, loader = torch.optim.SGD(model.parameters(), 0.1), DataLoader(Noisy(), 10, shuffle=True)
    with torch.random.fork_rng():
        torch.manual_seed(9)
        drawn = [Noisy()[i] for i in range(30)]
    fixed = torch.stack([row for row, _ in drawn]), y
    objective = lambda: Objective(model, F.cross_entropy, fixed)
    with run.measuring(model, optimizer, objective, lambda: F.cross_entropy(model(fixed[0]), y)):
        for inputs, labels in loader:
            run.note(inputs)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model, optimizer


@torch_case("NaN among the labels beyond the first batch")
def _(run):
    x = torch.randn(2000, 6)
    y = torch.randn(2000, 3)
    y[1900] = float("nan")
    return _regression(run, x, y)


@torch_case("labels out of range beyond the first batch")
def _(run):
    x, y = vectors(2000)
    y[1900] = 7
    return _regression(run, x, y, F.cross_entropy)


def _regression(run, x, y, loss=F.mse_loss):
    model = mlp(6, 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    truth = lambda: loss(model(x[:1000]), y[:1000])
    with run.measuring(model, optimizer, lambda: Objective(model, loss, (x, y)), truth):
        for i in range(4):
            optimizer.zero_grad()
            loss(model(x[i + 1 :: 100]), y[i + 1 :: 100]).backward()
            optimizer.step()
    return model, optimizer


@torch_case("None in a batch")
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors(30)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    batches = [(x[i : i + 10], None, y[i : i + 10]) for i in range(0, 30, 10)]
    loss = lambda model, batch: F.cross_entropy(model(batch[0]), batch[2])
    measured = lambda: Objective(model, None, batches, batch_loss=loss)
    with run.measuring(model, optimizer, measured, lambda: F.cross_entropy(model(x), y)):
        for batch in batches:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
    return model, optimizer


@torch_case("a list of dictionaries, ragged rows")
def _(run):
    model = mlp(6, 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    rows = [{"x": torch.randn(n, 6), "y": torch.randint(3, ())} for n in (3, 1, 4, 2, 5, 2)]
    batches = [rows[:3], rows[3:]]

    def loss(model, batch):
        pooled = torch.stack([model(row["x"]).mean(0) for row in batch])
        return F.cross_entropy(pooled, torch.stack([row["y"] for row in batch]))

    measured = lambda: Objective(model, None, batches, batch_loss=loss)
    with run.measuring(model, optimizer, measured, lambda: loss(model, rows)):
        for batch in [*batches, *batches]:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
    return model, optimizer


@torch_case("a dictionary of lists of unequal meaning")
def _(run):
    """The lists hold one sentence and one label an example; the batches have 4 and 2 of them."""
    model = mlp(6, 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    rows = [(torch.randn(n, 6), torch.randint(3, ())) for n in (3, 1, 4, 2, 5, 2)]
    batches = [
        {"x": [x for x, _ in part], "y": torch.stack([y for _, y in part])} for part in (rows[:4], rows[4:])
    ]

    def loss(model, batch):
        return F.cross_entropy(torch.stack([model(x).mean(0) for x in batch["x"]]), batch["y"])

    whole = {"x": [x for x, _ in rows], "y": torch.stack([y for _, y in rows])}
    measured = lambda: Objective(model, None, batches, batch_loss=loss)
    with run.measuring(model, optimizer, measured, lambda: loss(model, whole)):
        for batch in [*batches, *batches]:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
    return model, optimizer


@torch_case("a batch whose tokens are all ignored")
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors(30)
    y[:10] = -100
    weight = lambda batch: float((batch[1] != -100).sum())
    loader = [(x[i : i + 10], y[i : i + 10]) for i in range(0, 30, 10)]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    measured = lambda: Objective(model, F.cross_entropy, loader, batch_weight=weight)
    with run.measuring(model, optimizer, measured, lambda: F.cross_entropy(model(x), y)):
        for inputs, labels in loader[1:] * 2:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model, optimizer


@torch_case("keep=False: the loader is read at every pass")
def _(run):
    x, y = vectors(30)
    model, loader = mlp(6, 8, 3), DataLoader(TensorDataset(x, y), 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    measured = lambda: Objective(model, F.cross_entropy, loader, keep=False)
    with run.measuring(model, optimizer, measured, lambda: F.cross_entropy(model(x), y)):
        for inputs, labels in loader:
            run.note(inputs)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model, optimizer


@torch_case("the measured tensors are changed in place by training")
def _(run):
    """Mixup written into the data set: the measured loss must stay that of the data as they were."""
    x, y = vectors(30)
    model, kept = mlp(6, 8, 3), x.clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    measured = lambda: Objective(model, F.cross_entropy, (x, y))
    with run.measuring(model, optimizer, measured, lambda: F.cross_entropy(model(kept), y)):
        for i in range(4):
            x[i::4] = 0.7 * x[i::4] + 0.3 * x[i::4].flip(0)
            optimizer.zero_grad()
            F.cross_entropy(model(x[i::4]), y[i::4]).backward()
            optimizer.step()
    return model, optimizer, x
