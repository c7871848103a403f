"""The loss of a batch on any engine of Keras, from ``loss_fn`` or a compiled model; and its penalties."""

import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import keras

from lca.errors import DataError, LCAError, LCAWarning
from lca.frameworks import PyTree, check_order
from lca_keras._added_terms import added_to_compiled_loss
from lca_keras._examples import weight_of_losses
from lca_keras._train_step import trains_compiled_loss

Tensor: TypeAlias = Any
"""A tensor of the engine that Keras runs on."""
BatchLoss: TypeAlias = Callable[[keras.Model, PyTree], Tensor]

MEAN_HINT = "use reduction='sum_over_batch_size'"
"""How a Keras loss becomes a mean."""
SCALAR_HINT = (
    f"{MEAN_HINT}. As long as the compiled loss is such a vector, Keras on TensorFlow trains on its sum, "
    "whose gradient is that of the mean times the number of entries: multiply the learning rate of SGD "
    "by it, or train as now and measure the mean by batch_loss=function of model and batch"
)
"""How a loss with several values becomes a scalar, and what this does to training."""
_SHOWN = 80
"""Characters of the user's code in a message."""
GRADIENT_HINT = "is it computed with stop_gradient, or converted to NumPy on the way?"
SAMPLE_HINT = (
    "pass a loss_fn that takes a sample_weight, as a keras.losses.Loss does; for add_loss, batch_loss or "
    "the model's own compute_loss the losses of single examples are not known"
)


def default_loss(loss_fn: Any) -> BatchLoss:
    """``loss_fn(y, model(x))``, or what the model was compiled with; plus ``add_loss`` and regularizers."""
    data = data_loss(loss_fn)

    def of_batch(model: keras.Model, batch: PyTree) -> Tensor:
        if loss_fn is None:  # the model may have a compute_loss of its own
            x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
            outputs = model(x, training=False)
            weight = weight_of_losses(batch, loss_fn, model, outputs)
            return model._compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weight, training=False)
        total = data(model, batch)
        return total + _penalties(model, total.dtype) if model.losses else total

    return of_batch


def data_loss(loss_fn: Any) -> BatchLoss:
    """`default_loss` without ``add_loss`` and regularizers."""

    def of_batch(model: keras.Model, batch: PyTree) -> Tensor:
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        outputs = model(x, training=False)
        weight = weight_of_losses(batch, loss_fn, model, outputs)
        return of_outputs(loss_fn, model, y, outputs, weight)

    return of_batch


def penalty_loss(model: keras.Model, batch: PyTree) -> Tensor:
    """``add_loss`` and regularizers; the compiler removes the forward pass where they do not need it."""
    x, *_ = keras.utils.unpack_x_y_sample_weight(batch)
    outputs = model(x, training=False)
    return _penalties(model, keras.tree.flatten(outputs)[0].dtype)


def number_of_examples(batch: PyTree) -> Any:
    """The length of the first tensor of a batch; unlike `examples_in` it can be compiled."""
    return keras.ops.shape(keras.tree.flatten(batch)[0])[0]


def averages_by_weight(model: keras.Model, loss_fn: Any) -> bool:
    """Whether the loss of a batch is divided by the sum of its ``sample_weight``, not by its length."""
    used = loss_fn
    if loss_fn is None and model.compiled and model._compile_loss is not None:
        used = model._compile_loss._user_loss
    return getattr(used, "reduction", None) == "mean_with_sample_weight"


def weight_hint(model: keras.Model, loss_fn: Any) -> str:
    """What the loss of a batch may be divided by instead of its number of examples, and what to pass then."""
    masks = [layer.name for layer in model._flatten_layers() if _masks(layer)]
    if masks:
        return (
            f"the layer {masks[0]!r} masks, so the loss is a mean over what is not masked; pass batch_weight="
            "function of a batch: the number of its entries that are not masked"
        )
    compiled = model._compile_loss if loss_fn is None and model.compiled else None
    used = None if compiled is None else compiled._user_loss
    if any(getattr(loss, "ignore_class", None) is not None for loss in keras.tree.flatten((loss_fn, used))):
        return (
            "a loss with ignore_class is a mean over the labels that are not ignored; pass "
            "batch_weight=function of a batch: their number"
        )
    return ""


def batch_hint(model: keras.Model) -> str:
    """What to do where one of several compiled losses is divided by the weights of its own output."""
    used = keras.tree.flatten(model._compile_loss._user_loss if model._compile_loss is not None else None)
    if not any(getattr(loss, "reduction", None) == "mean_with_sample_weight" for loss in used):
        return ""
    return (
        "a loss with reduction='mean_with_sample_weight' is divided by the sum of the weights of its own "
        "output; use reduction='sum_over_batch_size', or, if this sum is the same for all outputs, pass "
        "batch_weight=function of a batch: the sum"
    )


def _masks(layer: keras.Layer) -> bool:
    return bool(getattr(layer, "mask_zero", False)) or isinstance(layer, keras.layers.Masking)


def sum_of_weights(batch: PyTree) -> Tensor:
    """The sum of the ``sample_weight`` of a batch; its number of examples without one."""
    *_, weight = keras.utils.unpack_x_y_sample_weight(batch)
    return number_of_examples(batch) if weight is None else keras.ops.sum(weight)


def check_loss_arguments(
    model: keras.Model, loss_fn: Any, data: object, batch_loss: BatchLoss | None
) -> None:
    """Raise `LCAError` unless there is exactly one loss, and one that can be called, in its place.

    Warns
    -----
    LCAWarning
        If the compiled loss is measured, and ``train_step`` adds to it.
    """
    if isinstance(loss_fn, str):
        raise LCAError(
            f"loss_fn must be callable, got {loss_fn!r}; pass the loss itself, e.g. "
            "keras.losses.MeanSquaredError(), or None for what the model was compiled with."
        )
    check_order(model, loss_fn, data, keras.layers.Layer, "a keras.Model")  # a layer is refused later
    if loss_fn is not None and batch_loss is not None:
        raise LCAError("pass loss_fn (of y and output) or batch_loss (of model and batch), not both.")
    if loss_fn is not None or batch_loss is not None:
        return
    if not isinstance(model, keras.Model) or not model.compiled:
        raise LCAError(
            f"the model {model.name!r} is not compiled; pass loss_fn=..., or call model.compile first."
        )
    if not trains_compiled_loss(model):
        raise LCAError(
            f"{type(model).__name__}.train_step computes a loss of its own and not the one that the model "
            "was compiled with; pass what it minimises: Objective(model, None, data, batch_loss=function of "
            "model and batch), or loss_fn if it is a function of y and output."
        )
    if added := added_to_compiled_loss(model):
        shown = added if len(added) <= _SHOWN else f"{added[:_SHOWN]} ..."
        warnings.warn(
            f"{type(model).__name__} trains another loss than is measured: its train_step adds to the loss "
            f"that compute_loss returns ({shown}), and the measured loss is the compiled one alone. Make the "
            "sum in a compute_loss of the model, or pass it: Objective(model, None, data, batch_loss="
            "function of model and batch).",
            LCAWarning,
            stacklevel=3,
        )


def of_outputs(loss_fn: Any, model: keras.Model, y: PyTree, outputs: PyTree, weight: PyTree) -> Tensor:
    if loss_fn is None:
        return model._compile_loss(y, outputs, weight)
    if y is None:
        return _without_targets(loss_fn, outputs)
    return loss_fn(y, outputs) if weight is None else loss_fn(y, outputs, sample_weight=weight)


def _without_targets(loss_fn: Any, outputs: PyTree) -> Tensor:
    try:
        return loss_fn(None, outputs)
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            "the measured data hold no targets, which the loss needs; pass (x, y), or a batch_loss of model "
            "and batch that does without."
        ) from error


def _penalties(model: keras.Model, dtype: Any) -> Tensor:
    ops = keras.ops
    return sum((ops.cast(ops.sum(one), dtype) for one in model.losses), start=ops.zeros([], dtype))
