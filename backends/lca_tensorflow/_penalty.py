"""`Penalty`: a term of the loss that depends on the parameters alone."""

from collections.abc import Callable, Mapping
from functools import partial

import keras
import tensorflow as tf

from lca.frameworks import Frozen, PyTree, check_loss, check_theta
from lca.layout import Layout
from lca_tensorflow._configuration import Configuration
from lca_tensorflow._model_loss import MEAN_HINT
from lca_tensorflow._parameters import flat_gradient, layout_of, tensors_of


class Penalty:
    """``R(θ)``, a function of the parameters alone: a term of its own in a `lca.Sum`; an `lca.Objective`.

    The regularizers of a model do not need it: `Objective.by_term` makes them a term.

    Parameters
    ----------
    model
        The model with these parameters, or a `lca.Layout`.
    function
        From a mapping of parameter tensors by name to a scalar tensor, built of TensorFlow operations, in the
        units of the loss.
    frozen
        As in `Objective`.

    Raises
    ------
    LCAError
        When it is evaluated, if the function does not return a floating-point scalar.

    Examples
    --------
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    >>> ridge = Penalty(model, lambda tensors: 0.5 * sum(tf.reduce_sum(t * t) for t in tensors.values()))
    >>> loss, grad = ridge.loss_and_grad(tf.constant([3.0, 4.0]))
    >>> loss, grad.numpy()
    (12.5, array([3., 4.], dtype=float32))
    """

    def __init__(
        self,
        model: keras.Model | Layout,
        function: Callable[[Mapping[str, tf.Tensor]], tf.Tensor],
        frozen: Frozen = "zero",
    ) -> None:
        self.layout: Layout = model if isinstance(model, Layout) else layout_of(model, frozen)
        self._function = function
        self._trace()

    def loss(self, theta: tf.Tensor, batch: PyTree | None = None) -> float:
        """R(θ), the same for every batch."""
        return self.loss_and_grad(theta)[0]

    def loss_and_grad(self, theta: tf.Tensor, batch: PyTree | None = None) -> tuple[float, tf.Tensor]:
        """R(θ) and ∂R/∂θ (K,), also of parameters that do not train."""
        check_theta(self.layout, theta, tf.Tensor)
        if not self._configuration.same():
            self._trace()
        value, grad = self._evaluate(theta)
        return float(value), grad

    def _trace(self) -> None:
        """Compile the function, with the Python values that it has baked in."""
        self._configuration = Configuration([("function", self._function)])
        self._evaluate = tf.function(partial(self._loss_and_grad), autograph=False)

    def _loss_and_grad(self, theta: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        tensors = tensors_of(self.layout, theta)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tensors)
            value = self._function(dict(zip(self.layout.names, tensors, strict=True)))
        check_loss(value, MEAN_HINT)
        return value, flat_gradient(tensors, tape.gradient(value, tensors))
