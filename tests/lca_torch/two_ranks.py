"""Two ranks of data-parallel training with a tracker each, run as a child by test_ranks.py.

torchrun --nproc-per-node 2 -m tests.lca_torch.two_ranks FOLDER
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from lca.errors import LCAError
from lca.estimators import CrossFit
from lca_torch import Objective, Tracker
from tests.lca_torch.networks import X, Y, mlp
from tests.lca_torch.torchrun import begin, end, world

STEPS, HALF = 4, 4
OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "clipped": lambda p: torch.optim.SGD(p, lr=0.1),
    "skipped": lambda p: torch.optim.SGD(p, lr=0.1),
    "skipped, zeros": lambda p: torch.optim.SGD(p, lr=0.1),
    "accumulated": lambda p: torch.optim.SGD(p, lr=0.1),
}


class Values:
    """A view that keeps the allocations."""

    def __init__(self, layout):
        self.rows = []

    def update(self, allocation):
        self.rows.append(allocation.values.numpy())


def batch(step):
    """8 examples: the first half is for rank 0."""
    index = torch.randperm(len(X), generator=torch.Generator().manual_seed(step))[: 2 * HALF]
    return X[index].double(), Y[index]


def made(name):
    torch.manual_seed(0)
    model = mlp().double()
    optimizer = OPTIMIZERS[name](model.parameters())
    return model, optimizer, Objective(model, cross_entropy, (X.double(), Y), batch_size=17)


def clip(name, model):
    if name == "clipped":
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)


def accumulate(parallel, x, y):
    """Take the gradient in two passes, of which only the second is reduced over the ranks."""
    with parallel.no_sync():
        (cross_entropy(parallel(x[::2]), y[::2]) / 2).backward()
    (cross_entropy(parallel(x[1::2]), y[1::2]) / 2).backward()


def refused(rank):
    """What is said if the gradients of a rank that accumulates are taken for those of micro-batches."""
    model, optimizer, objective = made("adam")
    parallel = DistributedDataParallel(model)
    with Tracker(model, optimizer, objective, CrossFit(2), on_error="raise") as tracker:
        x, y = batch(0)
        pieces = tracker.batches([(x[rank::4], y[rank::4]), (x[rank + 2 :: 4], y[rank + 2 :: 4])])
        with parallel.no_sync():
            (cross_entropy(parallel(next(pieces)[0]), y[rank::4]) / 2).backward()
        (cross_entropy(parallel(next(pieces)[0]), y[rank + 2 :: 4]) / 2).backward()
        try:
            optimizer.step()
        except LCAError as error:
            return str(error)
    return ""


def ranked(rank, name):
    """What rank ``rank`` allocates."""
    model, optimizer, objective = made(name)
    parallel = DistributedDataParallel(model)
    with Tracker(model, optimizer, objective, CrossFit(2), views=Values, on_error="raise") as tracker:
        tracker.ranks()
        for step in range(STEPS):
            x, y = (part[HALF * rank : HALF * (rank + 1)] for part in batch(step))
            optimizer.zero_grad()
            if name.startswith("skipped"):  # as a GradScaler does when gradients overflow
                (torch.inf * cross_entropy(parallel(x), y)).backward()
                optimizer.zero_grad(set_to_none=name == "skipped")
            if name == "accumulated":
                accumulate(parallel, x, y)
            else:
                cross_entropy(parallel(x), y).backward()
            clip(name, model)
            optimizer.step()
    assert all(not parameter._backward_hooks for parameter in model.parameters())
    return np.array(tracker.views["train"].rows)


class TwoDomains(torch.nn.Module):
    """A layer for all, and a last one for each domain."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = torch.nn.Linear(X.shape[1], 4)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(4, int(Y.max()) + 1) for _ in range(2))
        self.double()

    def forward(self, x, domain):
        return self.heads[domain](self.trunk(x).tanh())


def warned_of_domains(rank, *, apart):
    """What is warned of if each rank has a domain of its own, or both take both in turn by chance."""
    model = TwoDomains()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    objective = Objective(
        model, None, (X.double(), Y), batch_loss=lambda m, b: cross_entropy(m(b[0], 0), b[1])
    )
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    chance = torch.Generator().manual_seed(rank)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Tracker(model, optimizer, objective, CrossFit(2), check_every=None, on_error="raise") as tracker:
            tracker.ranks()
            for step in range(16):
                x, y = (part[HALF * rank : HALF * (rank + 1)] for part in batch(step))
                domain = rank if apart else int(torch.randint(2, (1,), generator=chance))
                optimizer.zero_grad()
                cross_entropy(parallel(x, domain), y).backward()
                optimizer.step()
    return "\n".join(str(one.message) for one in caught)


def main(folder):
    begin()
    rank = world()[1]
    for name in OPTIMIZERS:
        np.save(Path(folder) / f"{name}.{rank}.npy", ranked(rank, name))
    (Path(folder) / f"refused.{rank}.txt").write_text(refused(rank))
    for apart in (False, True):
        (Path(folder) / f"domains.{apart}.{rank}.txt").write_text(warned_of_domains(rank, apart=apart))
    end()


if __name__ == "__main__":
    main(*sys.argv[1:])
