"""Trainings of models that are spread over the ranks; a child of test_sharded_models.py.

torchrun --nproc-per-node 2 -m tests.lca_torch.sharded_models FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lca.errors import LCAError
from lca.estimators import CrossFit
from lca_torch import Objective, Tracker, replay
from tests.lca_torch.networks import Y
from tests.lca_torch.shared_measuring import DATA, STEPS, Values
from tests.lca_torch.torchrun import run, world


def network():
    """Layers of 4, 6 and 3 neurons: uneven shards on 2 ranks, an empty one on 3."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4, eps=0.125)
    return nn.Sequential(
        nn.Linear(6, 4), norm, nn.Tanh(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)
    ).double()


def whole(model):
    return model


def layer_by_layer(model):
    """FSDP2 on two of the layers, and on the rest."""
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415 - not in every torch

    mesh = torch.distributed.init_device_mesh("cpu", (world()[0],))
    for layer in (model[0], model[3], model):
        fully_shard(layer, mesh=mesh)
    return model


def by_columns_and_rows(model):
    """Tensor parallelism: the first layer by its outputs, the second by its inputs; the rest is plain."""
    from torch.distributed.tensor.parallel import (  # noqa: PLC0415
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    mesh = torch.distributed.init_device_mesh("cpu", (world()[0],))
    plan = {"3": ColwiseParallel(), "5": RowwiseParallel()}
    return parallelize_module(model, mesh, plan)


def trained(spread, parts=1, *, accumulate=False):
    """Allocations of a training; each of ``parts`` ranks has a part of the batch."""
    model = spread(network())
    copied = model if spread is whole else network()
    objective = Objective(copied, cross_entropy, DATA, batch_size=4, batch_norm="frozen")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    rank = world()[1] if parts > 1 else 0
    model.eval()  # the statistics of a part of the batch would differ from those of the whole one
    with Tracker(model, optimizer, objective, views=Values, on_error="raise") as tracker:
        for step in range(STEPS):
            optimizer.zero_grad()
            pieces = torch.arange(step, step + 12)[rank::parts].chunk(2 if accumulate else 1)
            for i, piece in enumerate(pieces):
                if accumulate:
                    model.set_requires_gradient_sync(i == len(pieces) - 1)
                (cross_entropy(model(DATA[0][piece]), Y[piece]) / len(pieces)).backward()
            model[1].running_mean += 0.1  # a buffer moves, and that of the copy follows
            optimizer.step()
    return {"values": np.array(tracker.views["train"].rows)}


def one_process():
    return trained(whole)


def fsdp():
    return trained(layer_by_layer, world()[0])


def fsdp_accumulating():
    return trained(layer_by_layer, world()[0], accumulate=True)


def tensor_parallel():
    return trained(by_columns_and_rows)


def checkpoints():
    """What a single process reads of checkpoints that all ranks have written, and θ as it was."""
    from torch.distributed import checkpoint  # noqa: PLC0415

    model, thetas = layer_by_layer(network()), []
    folder = Path(sys.argv[1]) / "checkpoints"
    for step in range(2):
        nn.init.constant_(model[3].bias, step)
        checkpoint.save({"model": model.state_dict()}, checkpoint_id=folder / f"step-{step}")
        thetas.append(torch.cat([parameter.full_tensor().reshape(-1) for parameter in model.parameters()]))
    copied = network()
    objective = Objective(copied, cross_entropy, DATA, batch_size=4, batch_norm="frozen", process_group=None)
    [step] = replay(folder, objective, key="model")
    return {"found": torch.stack([step.start, step.end]), "expected": torch.stack(thetas).detach()}


def said(call):
    try:
        call()
    except LCAError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refusals():
    """What is said where a sharded model cannot be measured as it was asked."""
    model = layer_by_layer(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).double()

    def tracker(copied, *estimator):
        objective = Objective(copied, cross_entropy, DATA, batch_size=4, batch_norm="frozen")
        return Tracker(model, optimizer, objective, *estimator)

    return {
        "objective": np.array(said(lambda: Objective(model, cross_entropy, DATA, batch_size=4))),
        "estimator": np.array(said(lambda: tracker(network(), CrossFit(2)))),
        "other": np.array(said(lambda: tracker(other))),
    }


CASES = [fsdp, fsdp_accumulating, tensor_parallel]


if __name__ == "__main__":
    run([*CASES, checkpoints, refusals], sys.argv[1])
