"""`JaxBackend`: what `lca demo --backend jax` and the conformance kit run on."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lca.frameworks import ModelObjective, PyTree, all_rows
from lca.objective import Objective as AnyObjective
from lca.objective import Sum
from lca.reference import Batch, Dtype, Network, Optimizer, train
from lca.step import Step
from lca_jax.loss import JaxLoss
from lca_jax.model import Model, Params
from lca_jax.network import loss_of, model_of
from lca_jax.objective import Penalty


@dataclass(frozen=True)
class JaxBackend:
    """JAX as an `lca.reference.Backend`, with the updates of `lca.reference`.

    Making one sets ``jax_enable_x64``, without which JAX has no float64; arrays that are float32 stay so.

    Examples
    --------
    >>> from lca.reference import SGD, logistic_regression
    >>> network, data = logistic_regression(2, 3), Batch(np.eye(2), np.array([0, 2]))
    >>> backend = JaxBackend()
    >>> objective = backend.objective(network, data, "float32")
    >>> [step] = backend.train(objective, network.init(seed=0, dtype="float32"), SGD(0.1), [data])
    >>> step.end.dtype, objective.loss(step.end) < objective.loss(step.start)
    (dtype('float32'), True)
    """

    name: ClassVar[str] = "jax"

    def __post_init__(self) -> None:
        jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]

    def vector(self, theta: np.ndarray) -> jax.Array:
        return jnp.array(theta)

    def objective(
        self, network: Network, data: Batch, dtype: Dtype, *, penalty: float = 0.0, batch_size: int = 1000
    ) -> AnyObjective:
        model = model_of(network, dtype)
        loss = NetworkLoss(model, network)
        measured = ModelObjective(model, loss, all_rows(loss.prepare(data)), batch_size=batch_size)
        if not penalty:
            return measured

        def ridge(params: Params) -> Any:
            free = [tensor for name, tensor in params.items() if name not in network.frozen]
            return 0.5 * penalty * sum((tensor**2).sum() for tensor in free)

        return Sum({"data": measured, "penalty": Penalty(model, ridge)})

    def train(
        self, objective: AnyObjective, theta: np.ndarray, optimizer: Optimizer, batches: Iterable[Batch]
    ) -> Iterator[Step]:
        return train(objective, self.vector(theta), optimizer, batches)


class NetworkLoss(JaxLoss):
    """A `JaxLoss` of a `Network`; batches are `lca.reference.Batch`."""

    def __init__(self, model: Model, network: Network) -> None:
        super().__init__(model, loss_of(network), batch_norm=network.batch_norm)
        self._network = network

    def prepare(self, batch: Batch) -> PyTree:
        self._network.check_batch(batch)
        arrays = (batch.x, batch.y) if batch.weight is None else (batch.x, batch.y, batch.weight)
        return super().prepare(arrays)
