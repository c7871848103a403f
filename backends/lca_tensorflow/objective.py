"""`Objective`: the mean loss of a Keras model over a data set, at any θ, with the model left as it is."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from lca.errors import DataError, LCAError, LCAWarning
from lca.layout import Layout
from lca.objective import State
from lca_tensorflow.data import Rows, Tree, as_tensors, examples_in, rows_of
from lca_tensorflow.model_loss import BatchLoss, ModelLoss, usual_loss
from lca_tensorflow.parameters import Frozen, flat
from lca_tensorflow.policies import BatchNormPolicy

BATCH_SIZE = 1024
"""Examples a measuring batch where nothing depends on it but speed."""


class Objective:
    """``L(θ) = Σ_b w_b ℓ_b(θ) / Σ_b w_b`` over the measuring batches b of a data set; an `lca.Objective`.

    ``ℓ_b`` is the mean loss of a batch and ``w_b`` its number of examples, so a ragged last batch counts as
    what it is. The loss and the gradient of a batch are compiled (`tf.function`), once for a full and once
    for all other batch sizes. The model's variables are the same after a call as before, also after an error.

    Parameters
    ----------
    model
        A built functional, sequential or subclassed `keras.Model`.
    loss
        ``loss(y, model(x))``, the *mean* over the batch, e.g. a `keras.losses.Loss`. ``None``: what the model
        was compiled with. `add_loss` and regularizers of the model count either way.
    data
        The measured data: ``(x, y)`` or ``(x, y, sample_weight)``, a batched `tf.data.Dataset`, a
        `keras.utils.PyDataset`, or an iterable of batches; read once and kept.
    batch_loss
        Instead of ``loss``: any function ``(model, batch) -> mean loss``, built of TensorFlow operations.
    batch_weight
        How much a batch counts, a scalar tensor; default: its number of examples.
    batch_size
        Examples a measuring batch. ``None``: that of the data if they come in batches, else 1024.
    batch_norm
        ``"batch"`` (statistics of the measuring batch, gradient through them: the paper's choice) or
        ``"frozen"`` (moving statistics). Layers that are not trainable are frozen, as in training.
    frozen
        What happens to weights that do not train: ``"zero"`` keeps them in θ with gradient 0, ``"omit"``
        leaves them out.
    jit_compile, run_eagerly
        Compile with XLA; do not compile at all. As in `keras.Model.compile`.

    Notes
    -----
    θ is a (K,) tensor of the model's own dtype. The model is called with ``training=False``: dropout is off.
    The loss is summed in float64.

    Raises
    ------
    LCAError
        If the loss is no scalar or a sum over the batch, or batches do not fit the model.

    Examples
    --------
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> objective = Objective(model, cross_entropy, (tf.eye(2), tf.constant([0, 2])))
    >>> loss, grad = objective.loss_and_grad(objective.theta())
    >>> grad.shape
    TensorShape([9])
    """

    def __init__(
        self,
        model: keras.Model,
        loss: Callable[..., tf.Tensor] | None,
        data: object,
        *,
        batch_loss: BatchLoss | None = None,
        batch_weight: Callable[[Tree], Any] = examples_in,
        batch_size: int | None = None,
        batch_norm: BatchNormPolicy | Mapping[str, BatchNormPolicy] = "batch",
        frozen: Frozen = "zero",
        jit_compile: bool = False,
        run_eagerly: bool = False,
    ) -> None:
        if loss is not None and batch_loss is not None:
            raise LCAError("pass loss (of y and output) or batch_loss (of model and batch), not both.")
        self.model = model
        self._loss = ModelLoss(
            model,
            batch_loss or usual_loss(loss),
            batch_weight=batch_weight,
            batch_norm=batch_norm,
            frozen=frozen,
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
        )
        if loss is None and batch_loss is None and not model.compiled:
            raise LCAError(
                f"the model {model.name!r} is not compiled; pass loss=..., or call model.compile first."
            )
        self.layout: Layout = self._loss.layout
        self._data, suggested = rows_of(data, self._loss.dtype)
        self.batch_size = self._choose_batch_size(batch_size, suggested)
        self._try_out(self._data.take(0, self.batch_size))

    def theta(self) -> tf.Tensor:
        """The model's parameters as they are now: a new vector (K,)."""
        return flat(self._loss.variables)

    def loss(self, theta: tf.Tensor, batch: Tree | None = None) -> float:
        """L(θ), in the units of the loss; one forward pass over the data, or over ``batch``."""
        return self._evaluate(theta, batch, None, gradient=False)[0]

    def loss_and_grad(self, theta: tf.Tensor, batch: Tree | None = None) -> tuple[float, tf.Tensor]:
        """L(θ) and ∂L/∂θ (K,); one forward and one backward pass over the data, or over ``batch``."""
        loss, grad = self._evaluate(theta, batch, None, gradient=True)
        assert grad is not None
        return loss, grad

    def state(self) -> State | None:
        """A copy of the variables besides θ the measured loss depends on; ``None`` if there are none."""
        return self._loss.state()

    def at_state(self, state: State) -> "AtState":
        """The same loss with these variables instead of the model's own."""
        return AtState(self, state)

    def _evaluate(
        self, theta: tf.Tensor, batch: Tree | None, state: State | None, *, gradient: bool
    ) -> tuple[float, tf.Tensor | None]:
        rows = self._data if batch is None else Rows(as_tensors(batch, self._loss.dtype))
        return self._loss.evaluate(theta, rows.batches(self.batch_size), state, gradient=gradient)

    def _choose_batch_size(self, wanted: int | None, suggested: int | None) -> int:
        if wanted is not None and (not isinstance(wanted, int) or wanted < 1):
            raise DataError(f"batch_size must be a positive integer, got {wanted!r}.")
        if wanted is None and suggested is None and self._loss.mixes_examples:
            raise DataError(
                "the loss depends on the measuring batches (batch statistics), so their size has to be "
                "stated: pass batch_size=..., e.g. that of training, or batch_norm='frozen'."
            )
        return wanted or suggested or BATCH_SIZE

    def _try_out(self, batch: Tree) -> None:
        """The first measuring batch, so that what does not fit is said here and not during training."""
        unused = self._loss.try_out(self.theta(), batch)
        if unused:
            warnings.warn(
                f"no gradient reaches {', '.join(unused)}: the loss does not depend on it, so its allocation "
                "will be 0. Is a part of the model cut off, or unused on the first batch?",
                LCAWarning,
                stacklevel=3,
            )
        if not self._loss.mixes_examples:
            self._refuse_sums(Rows(batch))

    def _refuse_sums(self, rows: Rows) -> None:
        theta, n, half = self.theta(), len(rows), len(rows) // 2
        if not half:
            return
        parts = ((0, n), (0, half), (half, n))
        whole, first, second = (self.loss(theta, rows.take(*part)) for part in parts)
        mean = (half * first + (n - half) * second) / n
        if abs(whole - (first + second)) < 1e-3 * abs(whole) < abs(whole - mean):
            raise LCAError(
                f"the loss of {n} examples ({whole:.6g}) is the sum of those of its halves ({first:.6g} and "
                f"{second:.6g}), not their mean; use reduction='sum_over_batch_size'."
            )


@dataclass(frozen=True, eq=False)
class AtState:
    """An `Objective` with moving statistics that are given, not those the model has at the moment."""

    objective: Objective
    given: State

    @property
    def layout(self) -> Layout:
        return self.objective.layout

    def loss(self, theta: tf.Tensor, batch: Tree | None = None) -> float:
        return self.objective._evaluate(theta, batch, self.given, gradient=False)[0]

    def loss_and_grad(self, theta: tf.Tensor, batch: Tree | None = None) -> tuple[float, tf.Tensor]:
        loss, grad = self.objective._evaluate(theta, batch, self.given, gradient=True)
        assert grad is not None
        return loss, grad
