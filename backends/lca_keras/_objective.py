"""`Objective`: the mean loss of a Keras model over a data set, on PyTorch and JAX."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from lca.arrays import Vector
from lca.errors import LayoutError
from lca.frameworks import BatchNorm, Frozen, ModelObjective, PyTree, Rows
from lca.frameworks._arguments import refuse_more
from lca_keras._class_weight import refuse_unused_weights
from lca_keras._data import measured
from lca_keras._engine import engine
from lca_keras._losses import BatchLoss, check_loss_arguments
from lca_keras._model_loss import KerasLoss
from lca_keras._vectors import flat


class Objective(ModelObjective):
    """``L(θ) = Σ_b w_b ℓ_b(θ) / Σ_b w_b`` over the measuring batches b of a data set; an `lca.Objective`.

    ``ℓ_b`` is the mean loss of a batch and ``w_b`` its number of examples, so a ragged last batch counts by
    its size. Gradients are those of `torch.autograd`, or of `jax.grad`, compiled once for each size of batch.
    The model's variables are the same after a call as before, also after an error.

    Parameters
    ----------
    model
        A built functional, sequential or subclassed `keras.Model`.
    loss_fn
        ``loss_fn(y, model(x))``, the *mean* over the batch, e.g. a `keras.losses.Loss`. ``None``: the loss
        that the model was compiled with. ``add_loss`` and regularizers of the model count either way.
    data
        The measured data: ``(x, y)`` or ``(x, y, sample_weight)``, or a list of such batches.
    batch_loss
        Instead of ``loss_fn``: any function ``(model, batch) -> mean loss``, built of `keras.ops` or of
        operations of the engine.
    batch_weight
        How much a batch counts, a function of it; default: its number of examples, or the sum of its weights
        where the loss has the reduction ``mean_with_sample_weight``.
    batch_size
        Examples in a measuring batch, independent of training. ``None``: the size of the batches that the
        data come in, else ``min(N, 1000)``. Required with batch statistics, unless the data are batches.
    batch_norm
        ``"batch"`` (statistics of the measuring batch, gradient through them: the paper's choice) or
        ``"frozen"`` (moving statistics); or a mapping from layer names to these. Layers that are not
        trainable use their moving statistics, as in training.
    frozen
        What happens to weights that do not train: ``"zero"`` keeps them in θ with gradient 0, ``"omit"``
        leaves them out.
    keep
        Keep the batches of a list as one. ``False`` converts them at every pass.
    class_weight
        Only in Keras: the weight of the examples of each class, by label, as in ``fit``: every class of the
        data needs one, and no other label may have one.

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
    θ is a (K,) tensor of the engine, of the model's own dtype and on its device. The model is called with
    ``training=False``: dropout is off. The loss is summed in float64. JAX computes in float64 only after
    ``jax.config.update("jax_enable_x64", True)``.

    Raises
    ------
    LCAError
        If Keras runs on another engine, if the loss is not a differentiable scalar or is a sum over the batch
        instead of a mean, if batches do not fit the model or hold NaN that reaches the loss, or if the loss
        draws random numbers.

    Examples
    --------
    With ``KERAS_BACKEND=torch`` or ``KERAS_BACKEND=jax``; docs/keras.md has such examples, which are run.

    >>> # model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> # cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> # objective = Objective(model, cross_entropy, (np.eye(2), np.array([0, 2])))
    >>> # loss, grad = objective.loss_and_grad(objective.theta())
    """

    model: keras.Model
    _loss: KerasLoss

    def __init__(
        self,
        model: keras.Model,
        loss_fn: Callable[..., Any] | None,
        data: object,
        *more: Any,
        batch_loss: BatchLoss | None = None,
        batch_weight: Callable[[PyTree], Any] | None = None,
        batch_size: int | None = None,
        batch_norm: BatchNorm = "batch",
        frozen: Frozen = "zero",
        keep: bool = True,
        class_weight: Mapping[int, float] | None = None,
    ) -> None:
        refuse_more(more)
        engine()  # whose tensors the checks of the arguments have to know
        check_loss_arguments(model, loss_fn, data, batch_loss)
        loss = KerasLoss(
            model,
            loss_fn,
            batch_loss=batch_loss,
            batch_weight=batch_weight,
            class_weight=class_weight,
            batch_norm=batch_norm,
            frozen=frozen,
        )
        found = measured(data, loss.prepare, keep=keep)
        refuse_unused_weights(found, class_weight)
        loss.begin(next(iter(found.batches(1 if isinstance(found, Rows) else None))))
        super().__init__(model, loss, found, batch_size=batch_size)

    def pack(self, trainable: Sequence[Any]) -> Vector:
        """θ (K,) of a loop that passes values: those of the trainable variables, in the order of Keras.

        What `lca.tracking.FunctionalTracker` takes as ``pack``; gradients and updates have the same form.
        Parameters in θ that do not train have the values of the model.

        Raises
        ------
        LayoutError
            If there are more or fewer values than trainable variables.
        """
        variables = self.model.trainable_variables
        if len(trainable) != len(variables):
            raise LayoutError(
                f"expected the values of the {len(variables)} variables in model.trainable_variables, got "
                f"{len(trainable)}."
            )
        values = {id(variable): value for variable, value in zip(variables, trainable, strict=True)}
        return flat(values.get(id(own), own.value) for own in self._loss.variables)

    @property
    def variables(self) -> list[keras.Variable]:
        """The model's own variables in θ, in the order of ``layout``."""
        return list(self._loss.variables)
