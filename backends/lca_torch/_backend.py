"""`TorchBackend`: what `lca demo --backend torch` and the conformance kit run on."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lca.errors import LCAError, NonFiniteError
from lca.layout import Layout
from lca.objective import Objective as AnyObjective
from lca.objective import Sum
from lca.reference import _optimizers as optimizers
from lca.reference._backend import Dtype
from lca.reference._data import Batch
from lca.reference._models import Network
from lca.reference._optimizers import Optimizer
from lca.reference._training import frozen_entries
from lca.step import Step
from lca_torch._network import losses_of, module_of
from lca_torch._objective import Objective
from lca_torch._penalty import Penalty

Example = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class TorchBackend:
    """PyTorch as an `lca.reference.Backend`; ``device`` is where everything is computed.

    Examples
    --------
    >>> from lca.reference import logistic_regression
    >>> network, data = logistic_regression(2, 3), Batch(np.eye(2), np.array([0, 2]))
    >>> backend = TorchBackend()
    >>> objective = backend.objective(network, data, "float32")
    >>> [step] = backend.train(objective, network.init(seed=0, dtype="float32"), optimizers.SGD(0.1), [data])
    >>> step.end.dtype, objective.loss(step.end) < objective.loss(step.start)
    (torch.float32, True)
    """

    device: str = "cpu"
    name: ClassVar[str] = "torch"

    def vector(self, theta: np.ndarray) -> Tensor:
        return torch.tensor(theta, device=self.device)

    def objective(
        self, network: Network, data: Batch, dtype: Dtype, *, penalty: float = 0.0, batch_size: int = 1000
    ) -> AnyObjective:
        model = module_of(network).to(self.device, getattr(torch, dtype))
        network.check_batch(data)
        loss = NetworkLoss(model, network, data, batch_size)
        if not penalty:
            return loss
        free = [name for name in network.layout.names if name not in network.frozen]

        def ridge(tensors: Mapping[str, Tensor]) -> Tensor:
            return 0.5 * penalty * torch.stack([tensors[name].square().sum() for name in free]).sum()

        return Sum({"data": loss, "penalty": Penalty(model, ridge)})

    def train(
        self, objective: AnyObjective, theta: np.ndarray, optimizer: Optimizer, batches: Iterable[Batch]
    ) -> Iterator[Step]:
        # Every optimizer here works entry by entry, so θ may be one parameter.
        parameter = nn.Parameter(self.vector(theta))
        torchs = torch_optimizer(optimizer, parameter)
        start = parameter.detach().clone()
        frozen = frozen_entries(objective)
        for index, batch in enumerate(batches):
            loss, parameter.grad = objective.loss_and_grad(start, batch)
            torchs.step()
            if frozen is not None:
                parameter.data[frozen] = start[frozen]  # weight decay moves what has no gradient
            end = parameter.detach().clone()
            if not np.isfinite(loss) or not bool(torch.isfinite(end).all()):
                raise NonFiniteError(
                    f"step {index}: the loss on the training batch is {loss} and θ after the update "
                    f"{'finite' if torch.isfinite(end).all() else 'not finite'}; a smaller learning rate is "
                    "the usual fix."
                )
            yield Step(start, end, index, batch)
            start = end


class NetworkLoss:
    """An `lca_torch.Objective` of a NumPy `Network` and its data; batches are `lca.reference.Batch`."""

    def __init__(self, model: nn.Module, network: Network, data: Batch, batch_size: int) -> None:
        self._network = network
        losses = losses_of(network)

        def weighted_mean(model: nn.Module, batch: Example) -> Tensor:
            x, y, weight = batch
            return (losses(model(x), y) * weight).sum() / weight.sum()

        self._objective = Objective(
            model,
            None,
            _tensors(data),
            batch_loss=weighted_mean,
            batch_weight=lambda batch: float(batch[2].sum(dtype=torch.float64)),
            batch_size=batch_size,
            batch_norm=network.batch_norm,
        )

    @property
    def layout(self) -> Layout:
        return self._objective.layout

    @property
    def differentiated(self) -> frozenset[str]:
        return self._objective.differentiated

    def loss(self, theta: Tensor, batch: Batch | None = None) -> float:
        return self._objective.loss(theta, self._own(batch))

    def loss_and_grad(self, theta: Tensor, batch: Batch | None = None) -> tuple[float, Tensor]:
        return self._objective.loss_and_grad(theta, self._own(batch))

    def _own(self, batch: Batch | None) -> Example | None:
        if batch is None:
            return None
        self._network.check_batch(batch)
        return _tensors(batch)


def _tensors(batch: Batch) -> Example:
    weight = np.ones(len(batch)) if batch.weight is None else batch.weight
    return torch.tensor(batch.x), torch.tensor(batch.y), torch.tensor(weight)


def torch_optimizer(optimizer: Optimizer, parameter: nn.Parameter) -> torch.optim.Optimizer:
    """The optimizer of `torch.optim` that an `lca.reference` description stands for.

    >>> torch_optimizer(optimizers.Adam(lr=0.5), nn.Parameter(torch.zeros(1))).defaults["lr"]
    0.5
    """
    settings: dict[str, Any] = {"lr": getattr(optimizer, "lr", None)}
    match optimizer:
        case optimizers.SGD():
            return torch.optim.SGD(
                [parameter], **settings, momentum=optimizer.momentum, nesterov=optimizer.nesterov
            )
        case optimizers.RMSProp():
            return torch.optim.RMSprop([parameter], **settings, alpha=optimizer.alpha, eps=optimizer.eps)
        case optimizers.AdamW():
            return torch.optim.AdamW(
                [parameter],
                **settings,
                betas=(optimizer.beta1, optimizer.beta2),
                eps=optimizer.eps,
                weight_decay=optimizer.weight_decay,
            )
        case optimizers.Adam():
            return torch.optim.Adam(
                [parameter], **settings, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.eps
            )
    raise LCAError(f"torch.optim has no optimizer of the form {optimizer!r}.")
