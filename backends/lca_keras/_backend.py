"""`KerasBackend`: what `lca demo --backend keras` and the conformance kit run on, on PyTorch and JAX."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import keras
import numpy as np

from lca.arrays import Vector, array_ops
from lca.layout import Layout
from lca.objective import Objective as AnyObjective
from lca.objective import Sum
from lca.reference._backend import Dtype
from lca.reference._data import Batch
from lca.reference._models import Network
from lca.reference._optimizers import Optimizer
from lca.reference._training import train, trained_tensors
from lca.step import Step
from lca_keras._engine import engine
from lca_keras._network import NetworkLoss, losses_of, model_of, penalise
from lca_keras._objective import Objective


@dataclass(frozen=True)
class KerasBackend:
    """Keras on PyTorch or JAX as an `lca.reference.Backend`: Keras layers, updates of `lca.reference`.

    On JAX, its first use sets ``jax_enable_x64``, without which JAX has no float64.

    Raises
    ------
    LCAError
        If Keras runs on another engine.

    Examples
    --------
    >>> KerasBackend.name
    'keras'
    """

    name: ClassVar[str] = "keras"

    def __post_init__(self) -> None:
        engine()

    def vector(self, theta: np.ndarray) -> Vector:
        engine().enable_float64()
        return keras.ops.convert_to_tensor(np.array(theta))

    def objective(
        self, network: Network, data: Batch, dtype: Dtype, *, penalty: float = 0.0, batch_size: int = 1000
    ) -> AnyObjective:
        engine().enable_float64()
        network.check_batch(data)
        model = model_of(network, dtype)
        penalise(model, network, penalty)
        measured = Objective(
            model,
            _WeightedMean(losses_of(network)),
            _tuple(data),
            batch_size=batch_size,
            batch_norm=network.batch_norm,
        )
        if not penalty:
            return NetworkLoss(network, measured, _tuple)
        terms = measured.by_term().terms
        return Sum({name: NetworkLoss(network, term, _tuple) for name, term in terms.items()})

    def train(
        self, objective: AnyObjective, theta: np.ndarray, optimizer: Optimizer, batches: Iterable[Batch]
    ) -> Iterator[Step]:
        end = None
        for step in train(_InNumpy(objective, self.vector), theta, optimizer, batches):
            start = self.vector(step.start) if end is None else end
            end = self.vector(step.end)
            gradient = None if step.gradient is None else self.vector(step.gradient)
            yield replace(step, start=start, end=end, gradient=gradient)


@dataclass(frozen=True)
class _InNumpy:
    """An objective at NumPy vectors, on which the optimizers of `lca.reference` work."""

    objective: AnyObjective
    vector: Callable[[np.ndarray], Vector]

    @property
    def layout(self) -> Layout:
        return self.objective.layout

    @property
    def differentiated(self) -> frozenset[str]:
        return trained_tensors(self.objective)

    def loss(self, theta: np.ndarray, batch: Batch | None = None) -> float:
        return self.objective.loss(self.vector(theta), batch)

    def loss_and_grad(self, theta: np.ndarray, batch: Batch | None = None) -> tuple[float, np.ndarray]:
        loss, grad = self.objective.loss_and_grad(self.vector(theta), batch)
        return loss, np.array(array_ops(grad).to_numpy(grad))


class _WeightedMean:
    """``Σ_n w_n ℓ_n / Σ_n w_n``; the losses of Keras compute it in the dtype of its configuration."""

    reduction = "mean_with_sample_weight"

    def __init__(self, each: Callable[[Any, Any], Any]) -> None:
        self._each = each

    def __call__(self, y: Any, outputs: Any, sample_weight: Any) -> Any:
        return keras.ops.sum(self._each(y, outputs) * sample_weight) / keras.ops.sum(sample_weight)


def _tuple(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return batch.x, batch.y, np.ones(len(batch)) if batch.weight is None else batch.weight
