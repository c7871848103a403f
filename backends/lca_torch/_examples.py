"""The loss of a batch, from ``loss_fn`` or the model's own loss; the losses and scores of its examples."""

import inspect
from collections.abc import Callable, Mapping, MutableMapping
from copy import copy
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from lca.errors import DataError, LCAError
from lca.frameworks import PyTree, describe, tree_map
from lca.frameworks._trees import is_sequence

BatchLoss: TypeAlias = Callable[[nn.Module, PyTree], Tensor]
LossFn: TypeAlias = Callable[[Any, Any], Tensor]


class Weighted(NamedTuple):
    """A batch whose loss is ``Σ_j v_j ℓ_j / Σ_j v_j`` for weights v (n,)."""

    rows: PyTree
    weight: Tensor


def default_loss(loss_fn: LossFn | None) -> BatchLoss:
    """``loss_fn(model(inputs), target)`` of pairs; without a ``loss_fn``, ``model(**batch).loss``."""
    return _own_loss if loss_fn is None else partial(_of_pair, loss_fn)


def with_samples(batch_loss: BatchLoss, loss_fn: LossFn | None) -> BatchLoss:
    """``batch_loss``, extended to `Weighted` batches where ``loss_fn`` gives the loss of each example."""
    single_losses = reader_of_example_losses(loss_fn)

    def of_batch(model: nn.Module, batch: PyTree) -> Tensor:
        if not isinstance(batch, Weighted):
            return batch_loss(model, batch)
        losses = default_loss(single_losses())(model, batch.rows)
        if losses.shape[:1] != batch.weight.shape:
            raise DataError(
                f"loss_fn with reduction='none' gave shape {tuple(losses.shape)} for {len(batch.weight)} "
                "examples; it must give one loss per example."
            )
        losses = losses.reshape(len(losses), -1).mean(1)
        return (batch.weight * losses).sum() / batch.weight.sum()

    return of_batch


def error_scores(loss_fn: LossFn) -> BatchLoss:
    """``½ Σ_j |∂ℓ_n/∂f_j|`` (n,) of a batch, which under cross-entropy is ``1 - p_model(y_n)``.

    The f_j are all outputs that the loss reads: those in a tensor, a tuple or a dictionary.
    """

    def of_outputs(outputs: Any, target: Any) -> Tensor:
        leaves: list[Tensor] = []
        with torch.enable_grad():
            loss = loss_fn(_as_leaves(outputs, leaves), target)
            rows = [leaf for leaf in leaves if leaf.dim()]
            if not rows:
                raise DataError(
                    f"the errors of examples are derivatives of the loss by the outputs of the model, and a "
                    f"{type(outputs).__name__} holds no tensor of them; return a tensor, a tuple or a "
                    "dictionary."
                )
            n = len(rows[0])  # from the mean to the sum of the losses
            grads = torch.autograd.grad(loss * n, rows, allow_unused=True)
        parts = [grad.abs().reshape(n, -1).sum(1) for grad in grads if grad is not None]
        return torch.stack(parts).sum(0) / 2 if len(parts) > 1 else parts[0] / 2

    return default_loss(of_outputs)


def _as_leaves(outputs: Any, leaves: list[Tensor]) -> Any:
    """The outputs of a model as leaves of a graph, which are added to ``leaves``."""
    if isinstance(outputs, MutableMapping):  # of its own class, as those of Hugging Face, read by attributes
        found = copy(outputs)
        for name, output in outputs.items():
            found[name] = _as_leaves(output, leaves)
        return found

    def as_leaf(output: Tensor) -> Tensor:
        if not output.is_floating_point():
            return output
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    return tree_map(as_leaf, outputs)


def example_losses(loss_fn: LossFn | None) -> LossFn | None:
    """``loss_fn`` with one loss per example instead of their mean; ``None`` if it offers no such form.

    >>> example_losses(nn.functional.mse_loss)(torch.tensor([0.0, 3.0]), torch.zeros(2))
    tensor([0., 9.])
    """
    if isinstance(loss_fn, nn.Module):
        if getattr(loss_fn, "reduction", None) != "mean":
            return None
        single = copy(loss_fn)
        single.reduction = "none"  # type: ignore[assignment]
        return single
    try:
        takes = loss_fn is not None and "reduction" in inspect.signature(loss_fn).parameters
    except (TypeError, ValueError):  # no signature, as some functions written in C
        return None
    single_losses: Any = loss_fn
    return partial(single_losses, reduction="none") if takes else None


def reader_of_example_losses(loss_fn: LossFn | None) -> Callable[[], LossFn | None]:
    """`example_losses` for many calls: a module is read anew in each, the signature of a function once."""
    if isinstance(loss_fn, nn.Module):
        return partial(example_losses, loss_fn)
    single = example_losses(loss_fn)
    return lambda: single


def require_one_loss(loss_fn: LossFn | None, batch_loss: BatchLoss | None) -> None:
    """Raise `LCAError` if the loss is given twice."""
    if loss_fn is not None and batch_loss is not None:
        raise LCAError("pass loss_fn (of output and target) or batch_loss (of model and batch), not both.")


def _of_pair(loss_fn: LossFn, model: nn.Module, batch: PyTree) -> Tensor:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise DataError(
            f"loss_fn needs batches (inputs, target), got a {describe(batch)}; pass batch_loss=function of "
            "model and batch instead."
        )
    inputs, target = batch
    return loss_fn(_apply(model, inputs), target)


def _own_loss(model: nn.Module, batch: PyTree) -> Tensor:
    try:
        output = _apply(model, batch)
    except TypeError as error:
        raise DataError(
            f"the model raised TypeError: {error}. With loss_fn=None a {type(model).__name__} is called with "
            "the whole batch and must return its loss as output.loss, as the models of Hugging Face do; for "
            "any other model pass loss_fn, e.g. torch.nn.functional.cross_entropy, or batch_loss."
        ) from error
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is None:
        raise DataError(
            "without a loss_fn the model must return its loss as output.loss, got a "
            f"{type(output).__name__}; pass loss_fn or batch_loss, or give it labels."
        )
    result: Tensor = loss
    return result


def _apply(model: nn.Module, inputs: PyTree) -> Any:
    if isinstance(inputs, Tensor):  # most often, and asked sooner than the others
        return model(inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if is_sequence(inputs):
        return model(*inputs)
    return model(inputs)
