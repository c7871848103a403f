"""Data-parallel training by Lightning on several ranks; a child of test_lightning_ranks.py.

torchrun --nproc-per-node 2 -m tests.lca_torch.lightning_ranks FOLDER
"""

import sys
import warnings
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lca_torch import Objective
from lca_torch._kinds import is_sharded
from lca_torch.lightning import LightningCallback
from tests.lca_torch.networks import Y, mlp
from tests.lca_torch.shared_measuring import DATA, STEPS, Values
from tests.lca_torch.torchrun import begin, end, world


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = mlp().double()

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2)


class ShardedModule(Module):
    def configure_model(self):
        from torch.distributed.fsdp import fully_shard  # noqa: PLC0415 - not in every torch

        if not is_sharded(next(self.parameters())):
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


def sharded(count):
    """The strategy that shards the model of a `ShardedModule` over all ranks."""
    return ModelParallelStrategy(data_parallel_size=count, tensor_parallel_size=1)


def fitted(folder, *, shards=False):
    """Allocations of a fit whose batches are 12 examples of all ranks together."""
    count = world()[0]
    loader = DataLoader(TensorDataset(DATA[0][:12], Y[:12]), batch_size=12 // count)
    callback = LightningCallback(
        lambda module: Objective(module.net, cross_entropy, DATA, batch_size=4),
        views=Values,
        on_error="raise",
        record=Path(folder) / f"run{shards:d}.zarr",
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=count,
        strategy=sharded(count) if shards else "ddp" if count > 1 else "auto",
        max_epochs=STEPS,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=folder,
    )
    module = ShardedModule() if shards else Module()
    trainer.fit(module, loader)
    assert is_sharded(next(module.parameters())) == shards
    return np.array(callback.views["train"].rows)


def main(folder):
    warnings.simplefilter("ignore")
    begin()
    for shards in (False, True):
        np.save(Path(folder) / f"{shards:d}.{world()[1]}.npy", fitted(folder, shards=shards))
    end()


if __name__ == "__main__":
    main(*sys.argv[1:])
