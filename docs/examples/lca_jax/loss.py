"""`JaxLoss`: the loss and gradient of batches of a JAX model at any θ."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lca import frameworks
from lca.frameworks import PyTree
from lca.objective import State
from lca_jax import formula
from lca_jax.formula import Formula, LossFn
from lca_jax.model import Model, Packing, Tensors, tensors_of


class JaxLoss(frameworks.BatchwiseLoss):
    """`lca.frameworks.ModelLoss` of a JAX model; the options are those of `lca_jax.Objective`."""

    mean_hint = formula.MEAN_HINT
    gradient_hint = "is it computed with stop_gradient, or converted to NumPy on the way?"
    sample_hint = "pass a loss_fn that is the mean of the losses of the examples"

    def __init__(
        self,
        model: Model,
        loss_fn: LossFn,
        *,
        batch_weight: Callable[[PyTree], float] | None = None,
        batch_norm: frameworks.BatchNorm = "batch",
        frozen: frameworks.Frozen = "zero",
    ) -> None:
        self.packing = Packing.of(model, frozen)
        self.layout = self.packing.layout
        self._model, self._formula = model, Formula(model.apply, loss_fn, self.packing)
        policies = frameworks.batch_norm_policies(batch_norm, list(model.statistics))
        self._running = [layer for layer, policy in policies.items() if policy == "frozen"]
        self.mixes_examples = "batch" in policies.values()
        self.counts_examples, self._batch_weight = batch_weight is None, batch_weight

    def theta(self) -> jax.Array:
        return self.packing.pack(self._model.params)

    def trainable(self) -> list[str]:
        return [name for name in self.layout.names if name not in self.packing.frozen]

    def state(self) -> State | None:
        """The running statistics that are used: a name for each array, such as ``bn1.mean``."""
        return tensors_of({layer: self._model.statistics[layer] for layer in self._running}) or None

    def evaluate_batch(
        self, theta: jax.Array, batch: PyTree, state: State | None, *, gradient: bool
    ) -> tuple[float, jax.Array | None]:
        arguments = self._arguments(theta, state)
        if gradient:
            loss, grad = formula.value_and_grad(*arguments, batch)
            return float(loss), grad
        return float(formula.value(*arguments, batch)), None

    def try_out(self, theta: jax.Array, batch: PyTree) -> list[str]:
        _, _, constants = self._arguments(theta, None)
        names, shapes = self.layout.names, jax.eval_shape(self.layout.unflatten, theta)

        def loss(*values: jax.Array) -> Any:
            return self._formula.of_tensors(dict(zip(names, values, strict=True)), constants, batch)

        with frameworks.loss_errors(batch):
            reached = formula.gradient_reaches(loss, [shapes[name] for name in names])
        if not any(reached):
            raise frameworks.no_gradient(self.gradient_hint)
        missed = [name for name, found in zip(names, reached, strict=True) if not found]
        return [name for name in missed if name not in self.packing.frozen]

    def prepare(self, batch: PyTree) -> PyTree:
        """NumPy arrays become JAX arrays, float32 ones unless ``jax_enable_x64`` is set."""
        return frameworks.tree_map(jnp.asarray, batch)

    def batch_weight(self, batch: PyTree) -> float:
        if self._batch_weight is not None:
            return float(self._batch_weight(batch))
        weight = self.example_weights(batch)
        return super().batch_weight(batch) if weight is None else float(weight.sum())

    def example_weights(self, rows: PyTree) -> np.ndarray | None:
        return np.asarray(rows[2], np.float64) if len(rows) == 3 else None

    def sample(self, rows: PyTree, weight: np.ndarray | None) -> PyTree:
        return rows[:2] if weight is None else (*rows[:2], jnp.asarray(weight))

    def scores(self, theta: jax.Array, batches: Iterable[PyTree]) -> np.ndarray:
        arguments = self._arguments(theta, None)
        return np.concatenate([np.asarray(formula.scores(*arguments, b), np.float64) for b in batches])

    def others(self) -> Tensors:
        """The parameters that are not in θ."""
        every = tensors_of(self._model.params)
        return {name: tensor for name, tensor in every.items() if name not in self.layout.names}

    def _arguments(self, theta: jax.Array, state: State | None) -> tuple[Any, ...]:
        """What the compiled functions take before the batch: formula, θ and constants."""
        frameworks.check_theta(self.layout, theta, jax.Array)
        own, given = self._model.statistics, state or self.state() or {}
        used = {layer: {name: given[f"{layer}.{name}"] for name in own[layer]} for layer in self._running}
        return self._formula, theta, (self.others(), used if own else None)
