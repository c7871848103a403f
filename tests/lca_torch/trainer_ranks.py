"""Training on several ranks by other libraries; a child of test_trainer_ranks.py.

torchrun --nproc-per-node 2 -m tests.lca_torch.trainer_ranks FOLDER
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lca.estimators import CrossFit
from lca_torch import Objective, Tracker
from lca_torch._kinds import is_sharded
from tests.lca_torch.networks import Y, mlp
from tests.lca_torch.shared_measuring import DATA, STEPS, Values
from tests.lca_torch.torchrun import begin, end, world

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of transformers and its dependencies about each other, at import
    from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
    from transformers import Trainer, TrainingArguments

    from lca_torch.huggingface import TrainerCallback

EXAMPLES = [{"x": x, "labels": y} for x, y in zip(DATA[0][:12], Y[:12], strict=True)]


class WithLoss(torch.nn.Module):
    """A model that returns its loss, as those of transformers do."""

    accepts_loss_kwargs = False

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = mlp().double()

    def forward(self, x, labels):
        return {"loss": cross_entropy(self.net(x), labels)}


class WithTokenLoss(WithLoss):
    """A model that divides its loss by ``num_items_in_batch``, if the trainer passes it."""

    accepts_loss_kwargs = True

    def forward(self, x, labels, num_items_in_batch=None):
        number = count({"labels": labels}) if num_items_in_batch is None else num_items_in_batch
        return {"loss": cross_entropy(self.net(x), labels, reduction="sum") / number, "logits": self.net(x)}


def count(batch):
    return (batch["labels"] >= 0).sum()


def objective(net):
    return Objective(net, cross_entropy, DATA, batch_size=4)


def trained(model, examples, callback, **options):
    """What the callback sees of `transformers.Trainer` with batches of 12 examples of all ranks together."""
    arguments = TrainingArguments(
        output_dir=sys.argv[1],
        num_train_epochs=STEPS,
        learning_rate=0.2,
        optim="sgd",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        seed=3,
        **options,
    )
    Trainer(model, arguments, train_dataset=examples, callbacks=[callback]).train()
    return np.array(callback.views["train"].rows)


def trainer():
    callback = TrainerCallback(lambda model: objective(model.net), views=Values, on_error="raise")
    return trained(WithLoss(), EXAMPLES, callback, per_device_train_batch_size=12 // world()[0])


class RanksCallback(TrainerCallback):
    """The batches of the ranks are micro-batches."""

    def on_train_begin(self, *args, **options):
        super().on_train_begin(*args, **options)
        if world()[0] > 1:
            self.tracker.ranks()


def tokens():
    """Two micro-batches with different numbers of labels, of one rank or of two."""
    labels = Y[:12].masked_fill(torch.arange(12) % 5 < 2, -100)
    data = {"x": DATA[0][:12], "labels": labels}
    callback = RanksCallback(
        lambda model: Objective(model, None, data, batch_size=6, batch_weight=count),
        CrossFit(2),
        views=Values,
        on_error="raise",
    )
    examples = [{name: column[i] for name, column in data.items()} for i in range(12)]
    sizes = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2 // world()[0]}
    return trained(WithTokenLoss(), examples, callback, **sizes)


def accelerated(plugin=None):
    """A loop of accelerate; with a plugin the model is sharded."""
    accelerator = Accelerator(cpu=True)
    if plugin is not None:  # on CPUs accelerate ignores `fsdp_plugin`, but shards if its state says so
        accelerator.state.distributed_type, accelerator.state.fsdp_plugin = DistributedType.FSDP, plugin
    torch.manual_seed(0)
    net = mlp().double()
    loader = DataLoader(TensorDataset(DATA[0][:12], Y[:12]), batch_size=12 // world()[0])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    prepared, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    inside = accelerator.unwrap_model(prepared)
    assert is_sharded(next(inside.parameters())) == (plugin is not None)
    with Tracker(inside, optimizer, objective(inside), views=Values, on_error="raise") as tracker:
        for _ in range(STEPS):
            for x, y in loader:
                optimizer.zero_grad()
                accelerator.backward(cross_entropy(prepared(x), y))
                optimizer.step()
    return np.array(tracker.views["train"].rows)


def sharded():
    return accelerated(FullyShardedDataParallelPlugin(fsdp_version=2) if world()[0] > 1 else None)


CASES = [trainer, tokens, accelerated, sharded]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    begin()
    for case in CASES:
        np.save(Path(sys.argv[1]) / f"{case.__name__}.{world()[1]}.npy", case())
    end()
