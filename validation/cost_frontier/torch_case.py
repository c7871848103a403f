"""MNIST through `lca_torch`: the same steps and the same figures, from a torch model's objective."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lca.data import Batch, load
from lca.objective import Objective
from lca.step import Step
from lca.training import minibatches, train, with_next
from lca_torch import Objective as TorchObjective
from validation.cost_frontier.cases import OPTIMIZERS, Case, Options
from validation.evidence import mnist_path

Array = np.ndarray


class Examples:
    """A `lca_torch.Objective` whose examples can be drawn and scored (`lca.objective.Scored`), on the CPU.

    Batches are `lca.data.Batch`; each example counts with its weight in the mean over a batch.
    """

    weight = None

    def __init__(self, model: nn.Module, x: Array, y: Array) -> None:
        self.model, self.x, self.labels = model, x, y
        self._objective = TorchObjective(
            model,
            None,
            _tensors(Batch(x, y)),
            batch_loss=_weighted_loss,
            batch_weight=lambda batch: float(batch[2].sum()),
            batch_size=1000,
        )
        self.layout, self.theta = self._objective.layout, self._objective.theta

    @property
    def n_examples(self) -> int:
        return len(self.x)

    def batch(self, index: Array, weight: Array | None = None) -> Batch:
        return Batch(self.x[index], self.labels[index], weight)

    def loss(self, theta: Tensor, batch: Batch | None = None) -> float:
        return self._objective.loss(theta, batch and _tensors(batch))

    def loss_and_grad(self, theta: Tensor, batch: Batch | None = None) -> tuple[float, Tensor]:
        return self._objective.loss_and_grad(theta, batch and _tensors(batch))

    def scores(self, theta: Tensor, batch: Batch | None = None) -> Array:
        x, y, _ = _tensors(batch or Batch(self.x, self.labels))
        parameters = self.layout.unflatten(theta)
        with torch.inference_mode():
            outputs = [torch.func.functional_call(self.model, parameters, (part,)) for part in x.split(1000)]
            p = torch.cat(outputs).softmax(1).gather(1, y[:, None])[:, 0]
        return (1 - p).clamp(min=0).double().numpy()


def _tensors(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    weight = np.ones(len(batch)) if batch.weight is None else batch.weight
    return torch.from_numpy(batch.x), torch.from_numpy(batch.y), torch.from_numpy(weight).float()


def _weighted_loss(model: nn.Module, batch: Any) -> Tensor:
    x, y, weight = batch
    return (cross_entropy(model(x), y, reduction="none") * weight).sum() / weight.sum()


def fully_connected() -> nn.Sequential:
    """784-100-50-10 with ReLU."""
    return nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))


def lenet() -> nn.Sequential:
    """LeNet as in the paper, without its dropout; takes rows of 784 pixels."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        *(nn.Conv2d(1, 20, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 40, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1960, 400), nn.ReLU(), nn.Linear(400, 10)),
    )


def he_normal(model: nn.Module, seed: int) -> None:
    """Weights He-normal, biases 0."""
    torch.manual_seed(seed)
    for layer in model:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)


def mnist(model: nn.Module, name: str, *, examples: int, batch_size: int) -> Case:
    """The first ``examples`` training images of MNIST."""
    data = load(mnist_path(), dtype=np.float32)
    x, y = data.x_train[:examples].reshape(examples, -1), data.y_train[:examples].astype(np.int64)

    def steps(objective: Objective, options: Options, **hand_over: Any) -> Iterator[Step]:
        he_normal(model, options.seed)
        batches = minibatches(
            x, y, batch_size, options.steps + 1, options.seed, independent=options.independent
        )
        theta = objective.theta()  # type: ignore[attr-defined]
        return with_next(train(objective, theta, OPTIMIZERS[options.optimizer], batches, **hand_over))

    return Case(name, examples, batch_size, True, lambda: Examples(model, x, y), steps)


def mnist_fc() -> Case:
    return mnist(fully_connected(), "MNIST, 784-100-50-10", examples=10_000, batch_size=250)


def mnist_lenet() -> Case:
    return mnist(lenet(), "MNIST, LeNet", examples=5_000, batch_size=250)
