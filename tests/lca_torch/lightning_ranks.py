"""Data-parallel training by Lightning on several ranks; a child of test_lightning_ranks.py.

torchrun --nproc-per-node 2 -m tests.lca_torch.lightning_ranks FOLDER
"""

import sys
import warnings
from pathlib import Path

import lightning
import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lca_torch import Objective
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


def fitted(folder):
    """Allocations of a fit whose batches are 12 examples of all ranks together."""
    count = world()[0]
    loader = DataLoader(TensorDataset(DATA[0][:12], Y[:12]), batch_size=12 // count)
    callback = LightningCallback(
        lambda module: Objective(module.net, cross_entropy, DATA, batch_size=4),
        views=Values,
        on_error="raise",
        record=Path(folder) / "run.zarr",
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=count,
        strategy="ddp" if count > 1 else "auto",
        max_epochs=STEPS,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=folder,
    )
    trainer.fit(Module(), loader)
    return np.array(callback.views["train"].rows)


def main(folder):
    warnings.simplefilter("ignore")
    begin()
    np.save(Path(folder) / f"{world()[1]}.npy", fitted(folder))
    end()


if __name__ == "__main__":
    main(*sys.argv[1:])
