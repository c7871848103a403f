"""Images in a training loop of torch, watched by `lca_torch.Tracker` as a user's is."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lca.allocation import Estimator
from lca.reference import load_split, minibatches
from lca_torch import Objective, Tracker
from validation.bench_torch.resnet20 import resnet20
from validation.cost_frontier.case import Case, Options, Seconds, SuppliedFields, layer_totals
from validation.cost_frontier.rows import FEW, LEAST, REFINED_SAMPLE, REFINED_THREE, SEEN
from validation.evidence import data_folder, mnist_path
from validation.gpu.cifar import decoded

FULLY_CONNECTED = "MNIST, 784-100-50-10"
LENET_RATES = {"momentum": 0.01, "adam": 0.0005}
"""At five and four times these, rk4 itself misses the loss change of the first steps (truth.py)."""


def mnist(model: nn.Module, name: str, *, examples: int, **options: Any) -> Case:
    """The first ``examples`` training images of MNIST."""
    data = load_split(mnist_path(), dtype=np.float32)
    x = torch.from_numpy(data.x_train[:examples].reshape(examples, -1))
    return images(model, (x, torch.from_numpy(data.y_train[:examples].astype(np.int64))), name, **options)


def images(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    name: str,
    *,
    batch_size: int,
    measured: int = 1000,
    **options: Any,
) -> Case:
    """Images and labels; the loss of ``measured`` of them is computed at once."""
    (x, y), examples = data, len(data[0])

    def follow(
        objective: Objective, options: Options, estimator: Estimator | None, supplied: SuppliedFields
    ) -> Seconds:
        he_normal(model, options.seed)
        optimizer = make_optimizer(model, options.optimizer, case.rates[options.optimizer])
        batches = minibatches(
            np.zeros((examples, 1)),
            y.numpy(),
            batch_size,
            options.steps + 1,
            options.seed,
            independent=options.independent,
        )
        began = Seconds.now()
        with (
            Tracker(
                *(model, optimizer, objective, estimator),
                views=layer_totals,
                on_error="raise",
                check_every=None,
            )
            if estimator
            else nullcontext()
        ) as tracker:
            for drawn in batches:
                index = torch.from_numpy(drawn.index)
                batch = x[index], y[index]
                optimizer.zero_grad()
                if tracker is None:
                    _gradient(model, batch, supplied.micro_batches)
                else:
                    _watched_gradient(tracker, model, index, batch, supplied)
                optimizer.step()
        return began.until_now()

    def objective() -> Objective:
        return Objective(model, cross_entropy, (x, y), batch_size=measured)

    case = Case(name, examples, batch_size, True, objective, follow, **options)
    return case


def make_optimizer(model: nn.Module, name: str, rate: float) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or Adam."""
    if name == "momentum":
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    return torch.optim.Adam(model.parameters(), lr=rate)


def _gradient(model: nn.Module, batch: tuple[Tensor, Tensor], parts: int = 1) -> None:
    for x, y in zip(*(tensor.chunk(parts) for tensor in batch), strict=True):
        loss = cross_entropy(model(x), y)
        (loss if parts == 1 else len(y) / len(batch[1]) * loss).backward()


def _watched_gradient(
    tracker: Tracker, model: nn.Module, index: Tensor, batch: tuple[Tensor, Tensor], supplied: SuppliedFields
) -> None:
    """The same gradient, with what the estimators need told to the tracker."""
    tracker.begin_batch(batch)
    if supplied.halves:
        _gradient(model, batch)
        return
    at = 0
    for (x, y), share in tracker.micro_batches(batch, supplied.micro_batches):
        outputs = model(x)
        if supplied.scores:
            tracker.scores(index[at : at + len(y)], outputs, y)
        (share * cross_entropy(outputs, y)).backward()
        at += len(y)


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
    """Weights He-normal, biases 0; the scales of normalisation layers 1."""
    torch.manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.GroupNorm):
            layer.reset_parameters()


def mnist_fc() -> Case:
    return mnist(fully_connected(), FULLY_CONNECTED, examples=10_000, batch_size=250, cross_fit_time=1.5)


def mnist_fc_1000() -> Case:
    return mnist(fully_connected(), FULLY_CONNECTED, examples=10_000, batch_size=1000, rows=FEW)


def mnist_lenet(rates: Mapping[str, float] = LENET_RATES) -> Case:
    options = {"measured": 100, "rates": rates, "rows": LEAST}
    return mnist(lenet(), "MNIST, LeNet", examples=1_000, batch_size=250, **options)


def resnet(rate: float = 0.005) -> Case:
    """ResNet-20 with GroupNorm: with BatchNorm its loss is no mean over examples, and nothing is sampled."""
    model = with_group_norm(resnet20())
    return images(
        model,
        decoded(data_folder() / "cifar10_jpeg.npz", 250),
        "CIFAR-10, ResNet-20 with GroupNorm",
        batch_size=25,
        measured=250,
        rates={"momentum": rate},
        rows=(*SEEN, REFINED_SAMPLE, REFINED_THREE),
        optimizers=("momentum",),
        steps=100,
    )


def with_group_norm(model: nn.Module) -> nn.Module:
    """The model with groups of eight channels normalised in place of its BatchNorm layers."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(child.num_features // 8, child.num_features))
    return model
