"""`FitFields`: what the training step of ``fit`` passes to its optimizer, compiled or not."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from lca.errors import LCAError
from lca_tensorflow._loop import Loop
from lca_tensorflow._optimizers import update_slope


class FitFields(Loop):
    """The gradient of each update of ``fit``, which the training step itself assigns to a variable.

    ``apply`` of the optimizer is wrapped while the run lasts, and the training step is compiled anew, so that
    the assignments are part of it. What training computes is the same, bit for bit (tested with XLA and
    without). Costs one vector (K,) for each field, and one copy of it at each update.
    """

    def open(self, model: keras.Model, *, slopes: bool) -> None:
        """The run begins; ``slopes``: keep `lca.Step.update_slope`, too.

        Raises
        ------
        LCAError
            If each replica of a distributed run has a gradient of its own, or ``apply`` of the optimizer is
            wrapped already.
        """
        if model.distribute_strategy.num_replicas_in_sync > 1:
            raise LCAError(
                "each replica applies a gradient of its own, and fit shows only one of them; train on one "
                "device, or use an estimator that requires no gradient of training "
                "(lca.estimators.SampledPathIntegral)."
            )
        if "apply" in vars(model.optimizer):
            raise LCAError(
                "`apply` of the optimizer is wrapped already: by another callback with such an estimator, or "
                "by one whose fit has failed. Use one of them in a fit, and compile the model with a new "
                "optimizer after a failure."
            )
        self._model, self._optimizer = model, model.optimizer
        size = sum(int(v.value.shape.num_elements()) for v in self._variables)
        dtype = self._variables[0].dtype
        names = ("gradient", "update_slope") if slopes else ("gradient",)
        self._kept = {name: tf.Variable(tf.zeros(size, dtype), trainable=False) for name in names}
        inner = self._optimizer.apply

        def apply(grads: Any, trainable_variables: Any = None, **kwargs: Any) -> Any:
            grads = list(grads)
            self._keep(grads, self._trained(trainable_variables))
            return inner(grads, trainable_variables, **kwargs)

        self._optimizer.apply = apply
        model.make_train_function(force=True)

    def close(self) -> None:
        """The run is over; the next ``fit`` compiles its step anew."""
        del self._optimizer.apply
        self._model.train_function = None
        self.clear()

    def supply(self, fields: Collection[str]) -> Mapping[str, Any]:
        return {name: tf.identity(kept) for name, kept in self._kept.items() if name in fields}

    def _trained(self, variables: Any) -> Sequence[keras.Variable]:
        return self._optimizer._trainable_variables if variables is None else list(variables)

    def _keep(self, gradients: Sequence[Any], trained: Sequence[keras.Variable]) -> None:
        """Assign the gradient of an update that is about to be made, and how the update depends on it."""
        self.apply(self._optimizer, gradients, trained)
        self._kept["gradient"].assign(self._flat(gradients))
        if "update_slope" in self._kept:
            slope = update_slope(self._optimizer, trained, self._variables, gradients)
            self._kept["update_slope"].assign(slope)
        self._applied = None  # tensors of the traced function
