"""The networks of the findings, with their data: MNIST-FC, LeNet, ResNet-20."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lca.reference import load_split
from validation.bench_torch.resnet20 import resnet20
from validation.evidence import data_folder, mnist_path


@dataclass(frozen=True)
class Task:
    """What is trained: ``data(n)`` gives n images and labels, and the images held out.

    ``sets`` is the size of the training and of the held-out set, ``by_class`` whether the training loss is
    measured as the sum of its classes: not with batch statistics, which depend on what is in a batch.
    """

    model: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]]
    sets: tuple[int, int]
    lr: dict[str, float]
    steps: int = 880
    by_class: bool = True


def mnist() -> tuple[Tensor, Tensor]:
    """The 60,000 images of the training file, (n, 1, 28, 28), pixels in [0, 1]."""
    data = load_split(mnist_path(), dtype=np.float32)
    return torch.from_numpy(data.x_train.reshape(-1, 1, 28, 28)), torch.from_numpy(data.y_train)


def cifar_10() -> tuple[Tensor, Tensor]:
    """The 50,000 training images, (n, 3, 32, 32), normalised; re-encoded as JPEG."""
    from validation.gpu.cifar import decoded  # noqa: PLC0415  # needs Pillow

    return decoded(data_folder() / "cifar10_jpeg.npz", 50_000)


def mnist_fc() -> nn.Sequential:
    """784-100-50-10 with ReLU: 84,060 parameters."""
    layers = {
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(784, 100),
        "relu1": nn.ReLU(),
        "fc2": nn.Linear(100, 50),
        "relu2": nn.ReLU(),
        "fc3": nn.Linear(50, 10),
    }
    return he_normal(_named(layers))


def lenet() -> nn.Sequential:
    """Two 5x5 convolutions with pooling, two dense layers, dropout .25 and .5: 808,970 parameters."""
    layers = {
        "conv1": nn.Conv2d(1, 20, 5, padding=2),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(20, 40, 5, padding=2),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(2),
        "drop2": nn.Dropout(0.25),
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(40 * 7 * 7, 400),
        "relu3": nn.ReLU(),
        "drop3": nn.Dropout(0.5),
        "fc2": nn.Linear(400, 10),
    }
    return he_normal(_named(layers))


def he_normal(model: nn.Sequential) -> nn.Sequential:
    """Weights He-normal, biases 0."""
    for name, tensor in model.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(tensor, nonlinearity="relu")
        else:
            nn.init.zeros_(tensor)
    return model


def _named(layers: dict[str, nn.Module]) -> nn.Sequential:
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


TASKS = {
    "mnist-fc": Task(mnist_fc, mnist, (55_000, 5_000), {"adam": 0.002, "momentum": 0.05}),
    "lenet": Task(lenet, mnist, (55_000, 5_000), {"adam": 0.001, "momentum": 0.05}),
    "resnet20": Task(
        resnet20,
        cifar_10,
        (45_000, 5_000),
        {"adam": 0.001, "momentum": 0.1},
        steps=900,
        by_class=False,
    ),
}
