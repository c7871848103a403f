"""What three ranks that measure together do when one fails; a child of test_failing_ranks.py.

torchrun --nproc-per-node 3 -m tests.lca_torch.failing_ranks FOLDER
"""

import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from lca.estimators import CrossFit
from lca_torch import Objective, Tracker
from tests.lca_torch.networks import X, Y, mlp

LIMIT = 3.0
"""Seconds that the ranks wait for each other, where one of them does not come in time."""
STEPS = 4


def objective(data=(X, Y), **options):
    torch.manual_seed(0)
    return Objective(mlp(), cross_entropy, data, batch_size=4, **options)


def other_values(rank):
    objective(data=(X + (rank == 1), Y))


def part_of_the_data(rank):
    objective(data=(X[rank:], Y[rank:]))


def error_when_made(rank):
    objective(data=(X.numpy(), Y) if rank == 2 else (X, Y))


def error_in_one_batch(rank):
    """The loss raises on rank 1 alone."""
    where = torch.tensor(0)

    def loss(model, batch):
        if where and rank == 1:
            raise RuntimeError("out of pixels")
        return cross_entropy(model(batch[0]), batch[1])

    made = Objective(mlp(), None, (X, Y), batch_loss=loss, batch_size=4)
    theta = made.theta()
    where.fill_(1)
    made.loss_and_grad(theta)


def other_parameters(rank):
    made = objective()
    made.loss(made.theta() + (rank == 2))


def other_calls(rank):
    made = objective()
    (made.loss_and_grad if rank else made.loss)(made.theta())


def only_on_rank_0(rank):
    made = objective(rank_timeout=LIMIT)
    if rank:
        time.sleep(LIMIT + 2)
    made.loss(made.theta())


def rank_0_is_late(rank):
    made = objective(rank_timeout=LIMIT)
    if rank == 0:
        time.sleep(LIMIT + 7)
    made.loss(made.theta())


def works_again(rank):
    made = objective()
    return made.loss(made.theta())


class Failing:
    """A view that fails on one rank, in the second step."""

    def __init__(self, layout, rank):
        self.seen, self.rank = 0, rank

    def update(self, allocation):
        self.seen += 1
        if self.rank == 0 and self.seen == 2:
            raise OSError("no space left on device")


def trained(rank, **options):
    """Data-parallel training, which goes on whatever happens to measuring; the tracker."""
    torch.manual_seed(0)
    model = mlp()
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    measured = Objective(model, cross_entropy, (X, Y), batch_size=4)
    with Tracker(model, optimizer, measured, **options) as tracker:
        for _ in range(STEPS):
            optimizer.zero_grad()
            cross_entropy(parallel(X[rank::3]), Y[rank::3]).backward()
            optimizer.step()
    return tracker


def view_fails(rank):
    tracker = trained(rank, views=lambda layout: Failing(layout, rank))
    assert tracker.steps == STEPS
    raise tracker.error


def fewer_batches(rank):
    """Rank 1 has one batch less; inside `join` it takes part in the training of the others alone."""
    torch.manual_seed(0)
    model = mlp()
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    measured = Objective(model, cross_entropy, (X, Y), batch_size=4, rank_timeout=LIMIT)
    with Tracker(model, optimizer, measured, CrossFit(3)) as tracker:
        tracker.ranks()
        with parallel.join():
            for _ in range(STEPS - (rank == 1)):
                optimizer.zero_grad()
                cross_entropy(parallel(X[rank::3]), Y[rank::3]).backward()
                optimizer.step()
    assert tracker.steps == STEPS - (rank == 1)
    assert tracker.summary()["train"]["steps"] == STEPS - 2  # the last gradient is required for one more
    raise tracker.error


def other_schedule(rank):
    tracker = trained(rank, every=1 + (rank == 1))
    assert tracker.steps == STEPS
    raise tracker.error


def ends_early(rank):
    """Rank 2 leaves its loop; the others, which train alone here, are told when they measure next."""
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    measured = Objective(model, cross_entropy, (X, Y), batch_size=4)
    with Tracker(model, optimizer, measured, on_error="raise") as tracker:
        for _ in range(STEPS - (rank == 2)):
            optimizer.zero_grad()
            cross_entropy(model(X), Y).backward()
            optimizer.step()
    assert rank == 2
    raise LookupError(f"{tracker.steps} steps")


SCENES = [
    other_values,
    part_of_the_data,
    error_when_made,
    error_in_one_batch,
    other_parameters,
    other_calls,
    only_on_rank_0,
    works_again,
    rank_0_is_late,
    view_fails,
    fewer_batches,
    other_schedule,
    ends_early,
    works_again,
]


def main(folder):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    told = {}
    for scene in SCENES:
        begin = time.monotonic()
        try:
            scene(rank)
            said = ["", ""]
        except Exception as error:
            said = [type(error).__name__, str(error)]
        told[scene.__name__] = [*said, time.monotonic() - begin]
    last = objective()
    (Path(folder) / f"{rank}.json").write_text(json.dumps(told))
    torch.distributed.barrier()
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    last.loss(last.theta())  # until the launcher ends the others


if __name__ == "__main__":
    main(*sys.argv[1:])
