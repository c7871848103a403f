"""`Objective`: the mean loss of a Keras model over a data set, at any θ, with the model left as it is."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from lca.errors import DataError
from lca.frameworks import BatchNorm, Frozen, ModelObjective, PyTree, Rows
from lca.frameworks._arguments import refuse_more
from lca_keras._class_weight import refuse_unused_weights
from lca_keras._losses import BatchLoss, check_loss_arguments
from lca_tensorflow._data import measured
from lca_tensorflow._model_loss import KerasLoss


class Objective(ModelObjective):
    """``L(θ) = Σ_b w_b ℓ_b(θ) / Σ_b w_b`` over the measuring batches b of a data set; an `lca.Objective`.

    ``ℓ_b`` is the mean loss of a batch and ``w_b`` its number of examples, so a ragged last batch counts by
    its size. The loss and the gradient of a batch are compiled (`tf.function`), once for all batch sizes.
    The model's variables are the same after a call as before, also after an error.

    Parameters
    ----------
    model
        A built functional, sequential or subclassed `keras.Model`.
    loss_fn
        ``loss_fn(y, model(x))``, the *mean* over the batch, e.g. a `keras.losses.Loss`. ``None``: the loss
        that the model was compiled with. ``add_loss`` and regularizers of the model count either way.
    data
        The measured data: ``(x, y)`` or ``(x, y, sample_weight)``, a batched `tf.data.Dataset`, a
        `keras.utils.PyDataset`, or an iterable of batches.
    batch_loss
        Instead of ``loss_fn``: any function ``(model, batch) -> mean loss``, built of TensorFlow operations.
    batch_weight
        How much a batch counts, a function of it that returns a scalar tensor; default: its number of
        examples, or the sum of its weights where the loss has the reduction ``mean_with_sample_weight``.
    batch_size
        Examples in a measuring batch, independent of training. ``None``: the batch size of the data set that
        the data come in, else ``min(N, 1000)``. Required with batch statistics, unless the data are batched.
    batch_norm
        ``"batch"`` (statistics of the measuring batch, gradient through them: the paper's choice) or
        ``"frozen"`` (moving statistics; where they move during a run, the tracker reports what that did as
        ``state_change``); or a mapping from layer names to these. Layers that are not trainable use their
        moving statistics, as in training.
    frozen
        What happens to weights that do not train: ``"zero"`` keeps them in θ with gradient 0, ``"omit"``
        leaves them out (adapters on a large frozen model).
    keep
        Keep the batches of a data set in memory. ``False`` reads them again at every pass; they must then be
        the same every time.
    class_weight
        Only in Keras: the weight of the examples of each class, by label, as in ``fit``: every class of the
        data needs one, and no other label may have one.
    jit_compile, run_eagerly
        Only in Keras: compile with XLA; do not compile at all. As in `keras.Model.compile`.

    Attributes
    ----------
    model
        The model that is measured.
    layout
        Names and shapes of the parameters; shared ones once.
    batch_size
        Examples in a measuring batch; ``None`` where batches are measured as they come.

    Notes
    -----
    θ is a (K,) tensor of the model's own dtype. The model is called with ``training=False``: dropout is off.
    The loss is summed in float64.

    Raises
    ------
    LCAError
        If the loss is not a differentiable scalar or is a sum over the batch instead of a mean, if batches do
        not fit the model or hold NaN that reaches the loss, or if the loss draws random numbers.

    Examples
    --------
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> objective = Objective(model, cross_entropy, (tf.eye(2), tf.constant([0, 2])))
    >>> loss, grad = objective.loss_and_grad(objective.theta())
    >>> grad.shape, objective.batch_size
    (TensorShape([9]), 2)
    """

    model: keras.Model
    _loss: KerasLoss

    def __init__(
        self,
        model: keras.Model,
        loss_fn: Callable[..., tf.Tensor] | None,
        data: object,
        *more: Any,
        batch_loss: BatchLoss | None = None,
        batch_weight: Callable[[PyTree], Any] | None = None,
        batch_size: int | None = None,
        batch_norm: BatchNorm = "batch",
        frozen: Frozen = "zero",
        keep: bool = True,
        class_weight: Mapping[int, float] | None = None,
        jit_compile: bool = False,
        run_eagerly: bool = False,
    ) -> None:
        refuse_more(more)
        check_loss_arguments(model, loss_fn, data, batch_loss)
        loss = KerasLoss(
            model,
            loss_fn,
            batch_loss=batch_loss,
            batch_weight=batch_weight,
            class_weight=class_weight,
            batch_norm=batch_norm,
            frozen=frozen,
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
        )
        found = measured(data, loss.prepare, keep=keep)
        refuse_unused_weights(found, class_weight)
        loss.begin(next(iter(found.batches(1 if isinstance(found, Rows) else None))))
        try:
            super().__init__(model, loss, found, batch_size=batch_size)
        except DataError as error:
            if "depends on the measuring batches" not in str(error):
                raise
            whole = found.tree if isinstance(found, Rows) else next(iter(found.batches(None)))
            raise DataError(f"{error}{loss.why_batches_matter(whole)}") from error.__cause__

    @property
    def traces(self) -> int:
        """How often the loss or the gradient was traced so far: once each for every form of batch."""
        return self._loss.traces

    @property
    def variables(self) -> list[keras.Variable]:
        """The model's own variables in θ, in the order of ``layout``."""
        return list(self._loss.variables)
