"""`Objective`: the mean loss of a JAX model over a data set; and `Penalty`, a term of θ alone."""

from collections.abc import Callable
from typing import Any

import jax

from lca import frameworks
from lca.frameworks import PyTree
from lca.layout import Layout
from lca_jax.formula import LossFn
from lca_jax.loss import JaxLoss
from lca_jax.model import Model, Packing, Params, tensors_of


class Objective(frameworks.ModelObjective):
    """``L(θ)``, the mean loss of a model over data.

    Methods, and the errors that are raised, are those of `lca.frameworks.ModelObjective`.

    Parameters
    ----------
    model
        The `Model`.
    loss_fn
        From outputs and targets of a batch to their mean loss, a scalar.
    data
        Arrays (inputs, targets) or (inputs, targets, weights), one row per example; or an iterable of such
        batches. With weights, the loss is divided by their sum.
    batch_weight, batch_size, batch_norm, frozen, keep
        As in `lca.frameworks.ModelObjective`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> model = Model(lambda params, x: x @ params["w"], {"w": jnp.array([1.0, -1.0])})
    >>> objective = Objective(model, lambda f, y: ((f - y) ** 2).mean() / 2, (jnp.eye(2), jnp.zeros(2)))
    >>> loss, grad = objective.loss_and_grad(objective.theta())
    >>> loss, grad.tolist()
    (0.5, [0.5, -0.5])
    """

    _loss: JaxLoss

    def __init__(
        self,
        model: Model,
        loss_fn: LossFn,
        data: PyTree,
        *,
        batch_weight: Callable[[PyTree], float] | None = None,
        batch_size: int | None = None,
        batch_norm: frameworks.BatchNorm = "batch",
        frozen: frameworks.Frozen = "zero",
        keep: bool = True,
    ) -> None:
        frameworks.check_order(model, loss_fn, data, Model, "an lca_jax.Model")
        loss = JaxLoss(model, loss_fn, batch_weight=batch_weight, batch_norm=batch_norm, frozen=frozen)
        prepare, rows = loss.prepare, isinstance(data, tuple)
        read = (
            frameworks.all_rows(prepare(data)) if rows else frameworks.read_batches(data, prepare, keep=keep)
        )
        super().__init__(model, loss, read, batch_size=batch_size)

    def pack(self, params: Params) -> jax.Array:
        """A tree of parameters, gradients or updates as a vector (K,); what a tracker takes as ``pack``."""
        return self._loss.packing.pack(params)

    def params(self, theta: jax.Array) -> Params:
        """θ (K,) as a tree of parameters, for ``apply``."""
        return self._loss.packing.params({**self._loss.others(), **self.layout.unflatten(theta)})


class Penalty:
    """``R(θ)``, a function of the parameters alone: a term of its own in a `lca.Sum`.

    Parameters
    ----------
    model, frozen
        As in `Objective`.
    function
        From parameters in the form of ``model.params`` to a scalar, in the units of the loss.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> model = Model(lambda params, x: x @ params["w"], {"w": jnp.array([3.0, 4.0])})
    >>> loss, grad = Penalty(model, lambda params: (params["w"] ** 2).sum() / 2).loss_and_grad(jnp.ones(2))
    >>> loss, grad.tolist()
    (1.0, [1.0, 1.0])
    """

    def __init__(
        self, model: Model, function: Callable[[Params], Any], frozen: frameworks.Frozen = "zero"
    ) -> None:
        packing = Packing.of(model, frozen)
        self.layout: Layout = packing.layout

        def value(theta: jax.Array) -> Any:
            tensors = {**tensors_of(model.params), **packing.layout.unflatten(theta)}
            found = function(packing.params(tensors))
            frameworks.check_loss(found, "add up its terms")
            return found

        self._value_and_grad = jax.jit(jax.value_and_grad(value))

    def loss(self, theta: jax.Array, batch: PyTree | None = None) -> float:
        """R(θ), the same for every batch."""
        return self.loss_and_grad(theta)[0]

    def loss_and_grad(self, theta: jax.Array, batch: PyTree | None = None) -> tuple[float, jax.Array]:
        """R(θ) and ∂R/∂θ (K,), which is 0 for frozen parameters."""
        frameworks.check_theta(self.layout, theta, jax.Array)
        loss, grad = self._value_and_grad(theta)
        return float(loss), grad
