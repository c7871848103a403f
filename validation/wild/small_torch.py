"""Small data, look-alikes of well-known architectures, and the plain loop that most cases in torch share."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lca_torch import Objective
from validation.wild.case import case
from validation.wild.torch_run import TorchRun

torch_case = partial(case, framework="torch")


def vectors(n: int = 24, features: int = 6, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Gaussian rows (n, features) and labels."""
    return torch.randn(n, features), torch.randint(classes, (n,))


def images(n: int = 16, channels: int = 3, size: int = 8, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Images (n, channels, size, size) and labels."""
    return torch.randn(n, channels, size, size), torch.randint(classes, (n,))


def tokens(n: int = 16, length: int = 7, vocabulary: int = 11) -> Tensor:
    """Token numbers (n, length), none of them 0."""
    return torch.randint(1, vocabulary, (n, length))


def batch_statistics(model: nn.Module) -> None:
    """Let the normalisation layers use the batch; in a copy of the process, so buffers may move."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()


def supervised(
    run: TorchRun,
    model: nn.Module,
    data: tuple[Tensor, Tensor] | None = None,
    loss_fn: Callable[[Any, Any], Tensor] = F.cross_entropy,
    *,
    optimizer: Any = None,
    lr: float = 0.1,
    steps: int = 5,
    batch: int = 8,
    truth: Callable[[], Tensor] | None = None,
    measured: Callable[[], Any] | None = None,
    tracker: dict[str, Any] | None = None,
    also: Sequence[Any] = (),
    **options: Any,
) -> Sequence[Any]:
    """Train on batches drawn at random; what has been trained.

    Parameters
    ----------
    truth
        The measured loss; default: of the user's model on all data at once.
    measured, options
        Makes the objective; default: `Objective` of model, loss and data with these options.
    tracker
        Options of the tracker.
    also
        What else training changes.
    """
    x, y = vectors() if data is None else data
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=lr)
    truth = truth or (lambda: loss_fn(model(x), y))
    measured = measured or (lambda: Objective(model, loss_fn, (x, y), **options))
    with run.measuring(model, optimizer, measured, truth, **(tracker or {})):
        for _ in range(steps):
            model.train()
            index = torch.randperm(len(y))[:batch]
            run.note(index)
            optimizer.zero_grad()
            loss_fn(model(x[index]), y[index]).backward()
            optimizer.step()
    return model, optimizer, *also
