"""`Formula`: how the loss of a batch is computed from θ, as pure functions that JAX compiles."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from lca import frameworks
from lca.errors import DataError
from lca_jax.model import Packing, Tensors

LossFn: TypeAlias = Callable[[Any, Any], Any]
"""From outputs and targets of a batch to their mean loss."""
Constants: TypeAlias = tuple[Tensors, Any]
"""The parameters that are not in θ, and the running statistics; ``None`` for a model without them."""
MEAN_HINT = "return the mean over the examples, e.g. losses.mean()"


@dataclass(frozen=True)
class Formula:
    """The functions that make up a loss, without any numbers.

    Formulas are compared by value: objectives of the same functions share what JAX has compiled for them,
    once for each size of batch.
    """

    apply: Callable[..., Any]
    loss_fn: LossFn
    packing: Packing

    def of_vector(self, theta: jax.Array, constants: Constants, batch: Any) -> Any:
        """As `of_tensors`, from θ (K,)."""
        return self.of_tensors(self.packing.layout.unflatten(theta), constants, batch)

    def of_tensors(self, tensors: Tensors, constants: Constants, batch: Any) -> Any:
        """The mean loss of a batch (x, y), or the weighted mean of a batch (x, y, weights)."""
        outputs, y, weight = self._outputs(tensors, constants, batch)
        if weight is None:
            loss = self.loss_fn(outputs, y)
            frameworks.check_loss(loss, MEAN_HINT)
            return loss
        total = weight.sum()  # a batch of weight 0 has the loss 0
        return (weight * jax.vmap(self._of_example)(outputs, y)).sum() / jnp.where(total > 0, total, 1)

    def scores(self, theta: jax.Array, constants: Constants, batch: Any) -> jax.Array:
        """``½ Σ_j |∂ℓ_n/∂f_j|`` (n,)."""
        outputs, y, _ = self._outputs(self.packing.layout.unflatten(theta), constants, batch)
        grads = jax.vmap(jax.grad(self._of_example))(outputs, y)
        return jnp.abs(grads).reshape(len(grads), -1).sum(1) / 2

    def _of_example(self, output: Any, y: Any) -> Any:
        """The loss of one example: the mean loss of a batch of one."""
        return self.loss_fn(*jax.tree.map(lambda array: array[None], (output, y)))

    def _outputs(self, tensors: Tensors, constants: Constants, batch: Any) -> tuple[Any, Any, Any]:
        """Outputs, targets and weights; all floating-point numbers follow the dtype of θ."""
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            raise DataError(
                "a batch must be (inputs, targets) or (inputs, targets, weights), got a "
                f"{frameworks.describe(batch)}."
            )
        dtype = next(iter(tensors.values())).dtype
        (others, statistics), (x, y, *weight) = jax.tree.map(
            lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, (constants, batch)
        )
        params = self.packing.params({**others, **tensors})
        outputs = self.apply(params, x) if statistics is None else self.apply(params, x, statistics)
        return outputs, y, weight[0] if weight else None


value = jax.jit(Formula.of_vector, static_argnums=0)
value_and_grad = jax.jit(jax.value_and_grad(Formula.of_vector, argnums=1), static_argnums=0)
scores = jax.jit(Formula.scores, static_argnums=0)


def gradient_reaches(function: Callable[..., Any], shapes: list[Any]) -> list[bool]:
    """For each argument, whether the derivative of ``function`` depends on it; nothing is computed.

    >>> gradient_reaches(lambda a, b, c: a * jax.lax.stop_gradient(b), [jnp.ones(())] * 3)
    [True, False, False]
    """
    derivative = jax.make_jaxpr(lambda at, along: jax.jvp(function, at, along)[1])(shapes, shapes).jaxpr
    used = {id(variable) for variable in derivative.outvars}
    for equation in reversed(derivative.eqns):
        if any(id(variable) in used for variable in equation.outvars):
            used |= {id(variable) for variable in equation.invars}
    return [id(variable) in used for variable in derivative.invars[len(shapes) :]]
