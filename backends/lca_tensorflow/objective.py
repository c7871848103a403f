"""`Objective`: the mean loss of a Keras model over a data set, at any θ, with the model left as it is."""

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lca.errors import LCAError, LCAWarning
from lca.layout import Layout
from lca.objective import Scaled, State, Sum
from lca.tolerances import summed
from lca_tensorflow.data import PyTree, Rows, as_tensors, examples_in, rows_of, weighted_by_class
from lca_tensorflow.examples import Drawn, drawn, labels_of, scores_of, weights_of
from lca_tensorflow.losses import check_loss_argument, data_loss, default_loss, default_weight, penalty_loss
from lca_tensorflow.model_loss import BatchLoss, ModelLoss
from lca_tensorflow.parameters import Frozen, flat
from lca_tensorflow.policies import BatchNormPolicy
from lca_tensorflow.tryout import choose_batch_size, try_out


class Objective:
    """``L(θ) = Σ_b w_b ℓ_b(θ) / Σ_b w_b`` over the measuring batches b of a data set; an `lca.Objective`.

    ``ℓ_b`` is the mean loss of a batch and ``w_b`` its number of examples, so a ragged last batch counts as
    what it is. The loss and the gradient of a batch are compiled (`tf.function`), once for all batch sizes.
    The model's variables are the same after a call as before, also after an error.

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
        How much a batch counts, a scalar tensor; default: its number of examples, or what its weights add up
        to where the loss has the reduction ``mean_with_sample_weight``.
    class_weight
        The weight of examples of a class, by label, as in `fit`.
    batch_size
        Examples a measuring batch, independent of training. ``None``: that of the data if they come in
        batches, else the fastest one, found by trying (`batch_size` then says which).
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
        If the loss is no scalar, not differentiable or a sum over the batch instead of a mean, if batches do
        not fit the model or hold NaN that reaches the loss, or if the loss draws random numbers.

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
        batch_weight: Callable[[PyTree], Any] | None = None,
        class_weight: Mapping[int, float] | None = None,
        batch_size: int | None = None,
        batch_norm: BatchNormPolicy | Mapping[str, BatchNormPolicy] = "batch",
        frozen: Frozen = "zero",
        jit_compile: bool = False,
        run_eagerly: bool = False,
    ) -> None:
        check_loss_argument(model, loss, batch_loss)
        self.model = model
        self._user_loss, self._own_batch_loss = loss, batch_loss is not None
        self._own_weight, self._supports_weights = batch_weight is not None, False
        self._class_weight = class_weight
        self._loss = ModelLoss(
            model,
            batch_loss or default_loss(loss),
            batch_weight=batch_weight or default_weight(model, loss),
            batch_norm=batch_norm,
            frozen=frozen,
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
        )
        self.layout: Layout = self._loss.layout
        rows, suggested = rows_of(data, self._loss.dtype)
        self._data = Rows(as_tensors(weighted_by_class(rows.tree, class_weight), self._loss.dtype))
        theta = self.theta()
        self.batch_size = choose_batch_size(self._loss, theta, self._data, batch_size, suggested)
        unused = try_out(self._loss, theta, self._data, self.batch_size)
        if unused:
            warnings.warn(
                f"no gradient reaches {', '.join(unused)}: the loss does not depend on it, so its allocation "
                "will be 0. Is a part of the model cut off, or unused on the first batch?",
                LCAWarning,
                stacklevel=2,
            )

    @property
    def traces(self) -> int:
        """How often the loss or the gradient was traced so far: once each for every form of batch."""
        return self._loss.traces

    @property
    def variables(self) -> list[keras.Variable]:
        """The model's own variables that θ is made of, in the order of `layout`."""
        return list(self._loss.variables)

    def theta(self) -> tf.Tensor:
        """The model's parameters as they are now: a new vector (K,)."""
        return flat(self._loss.variables)

    def loss(self, theta: tf.Tensor, batch: PyTree | None = None) -> float:
        """L(θ), in the units of the loss; one forward pass over the data, or over ``batch``."""
        return self._evaluate(theta, batch, None, gradient=False)[0]

    def loss_and_grad(self, theta: tf.Tensor, batch: PyTree | None = None) -> tuple[float, tf.Tensor]:
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

    @property
    def n_examples(self) -> int:
        """N; with `batch`, `labels` and `scores` what makes this an `lca.objective.Scored`.

        Raises
        ------
        LCAError
            If ``batch_weight`` is a function.
        """
        if self._own_weight:
            raise LCAError(
                "single examples can be drawn where each counts alike, or by its sample_weight (no "
                "batch_weight); use an estimator of the full loss, lca.Adaptive or lca.PathIntegral."
            )
        return len(self._data)

    @property
    def weight(self) -> np.ndarray | None:
        """Weights of the examples (N,) where the loss is divided by their sum; else ``None``."""
        weights = None if self._counts else weights_of(self._data.tree)
        return None if weights is None else weights.numpy()

    @property
    def labels(self) -> np.ndarray | None:
        """The class of each example, integers (N,); ``None`` if there are no classes."""
        labels = labels_of(self._data.tree)
        return None if labels is None else labels.numpy()

    def batch(self, index: np.ndarray, weight: np.ndarray | None = None) -> Drawn:
        """These examples (n,) as a batch, its loss their mean, weighted if a ``weight`` (n,) is given.

        Raises
        ------
        LCAError
            For a ``weight``, if the loss takes no `sample_weight`.
        """
        if weight is not None:
            self._check_supports_weights()
        return drawn(self._data.gather(index), weight, self._loss.dtype, weights_count=self._counts)

    def scores(self, theta: tf.Tensor, batch: PyTree | None = None) -> np.ndarray:
        """``½ Σ_j |∂ℓ_n/∂f_j|`` over the outputs f of each example: ``1 - p_model(label)`` of a classifier.

        Float64 (n,), for the examples of ``batch``, by default for all; costs one forward pass.
        """
        if self._own_batch_loss:
            raise LCAError(
                "the errors of single examples need a loss of y and output, not a batch_loss; use "
                "sampling='uniform'."
            )
        rows = self._data if batch is None else self._rows(batch)
        if not self._counts:
            rows = Rows(drawn(rows.tree, None, self._loss.dtype, weights_count=False).rows)
        found = self._loss.each(theta, rows.batches(self.batch_size), scores_of(self._user_loss))
        return np.asarray(tf.concat(found, 0), np.float64)

    @property
    def _counts(self) -> bool:
        """Whether a batch counts by its number of examples."""
        return self._loss.batch_weight is examples_in

    def _check_supports_weights(self) -> None:
        """An example with all the weight has the loss that it has alone; tried once."""
        if not (self._supports_weights or self._own_batch_loss):
            theta, pair = self.theta(), np.array([0, len(self._data) - 1])
            alone = self.loss(theta, self.batch(pair[:1]))
            weight, dtype = np.array([1.0, 0.0]), self._loss.dtype
            first = drawn(self._data.gather(pair), weight, dtype, weights_count=self._counts)
            try:
                gap = abs(self.loss(theta, first) - alone)
                self._supports_weights = gap <= summed(abs(alone), float(np.finfo(dtype).eps))
            except TypeError:  # the loss is a function of y and output alone
                pass
        if not self._supports_weights:
            raise LCAError(
                "examples drawn by their error are weighted, for which the loss has to take a sample_weight "
                "and be the mean over examples that do not mix (no batch statistics): pass a "
                "keras.losses.Loss, or use sampling='uniform'."
            )

    def by_term(self) -> Sum:
        """L(θ) as a `lca.Sum` of the terms ``data`` and ``penalty`` (`add_loss` and regularizers).

        Costs no more than L(θ) where the penalties are regularizers of weights.

        Raises
        ------
        LCAError
            If the loss of a batch is the user's own, or the model has a `compute_loss` of its own, whose
            terms cannot be told apart.
        """
        overridden = type(self.model).compute_loss is not keras.Model.compute_loss
        if self._own_batch_loss or (self._user_loss is None and overridden):
            raise LCAError(
                "the terms of a batch_loss, or of a model with its own compute_loss, cannot be told apart; "
                "make one Objective a term and put them in a lca.Sum."
            )
        losses = {"data": data_loss(self._user_loss), "penalty": penalty_loss}
        return Sum({name: self._with(self._loss.of(loss), self._data) for name, loss in losses.items()})

    def by_class(self) -> Sum:
        """L(θ) as a `lca.Sum` of one term a label, ``class 0``, ``class 1``, ..., that add up to L(θ).

        A term is the mean loss of the class times its share of the weight; all together cost one pass.

        Raises
        ------
        LCAError
            If the data have no integer labels, or the loss depends on the measuring batches.
        """
        if self._loss.mixes_examples:
            raise LCAError("with batch statistics a class cannot be measured alone; use batch_norm='frozen'.")
        labels = labels_of(self._data.tree)
        if labels is None:
            raise LCAError("only data of the form (inputs, integer labels) have classes.")
        return Sum({f"class {c}": self._share(labels == c) for c in np.unique(labels.numpy()).tolist()})

    def _share(self, mine: tf.Tensor) -> Scaled:
        """What the examples in ``mine`` contribute to the mean over all."""
        rows, weight = self._data.where(mine), self._loss.batch_weight
        return Scaled(self._with(self._loss, rows), float(weight(rows.tree)) / float(weight(self._data.tree)))

    def _with(self, loss: ModelLoss, rows: Rows) -> "Objective":
        other = copy.copy(self)
        other._loss, other._data = loss, rows
        return other

    def _evaluate(
        self, theta: tf.Tensor, batch: PyTree | None, state: State | None, *, gradient: bool
    ) -> tuple[float, tf.Tensor | None]:
        rows = self._data if batch is None else self._rows(batch)
        return self._loss.evaluate(theta, rows.batches(self.batch_size), state, gradient=gradient)

    def _rows(self, batch: PyTree) -> Rows:
        if isinstance(batch, Drawn):
            return Rows(batch.rows)
        weighted = weighted_by_class(as_tensors(batch, self._loss.dtype), self._class_weight)
        return Rows(as_tensors(weighted, self._loss.dtype))


@dataclass(frozen=True, eq=False)
class AtState:
    """An `Objective` with moving statistics that are given, not those the model has at the moment."""

    objective: Objective
    given: State

    @property
    def layout(self) -> Layout:
        return self.objective.layout

    def loss(self, theta: tf.Tensor, batch: PyTree | None = None) -> float:
        return self.objective._evaluate(theta, batch, self.given, gradient=False)[0]

    def loss_and_grad(self, theta: tf.Tensor, batch: PyTree | None = None) -> tuple[float, tf.Tensor]:
        loss, grad = self.objective._evaluate(theta, batch, self.given, gradient=True)
        assert grad is not None
        return loss, grad
