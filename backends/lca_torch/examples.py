"""Single examples of a measured data set: weighted batches of them, and how wrong the model is on each.

Both travel as batches of their own kind through the one way in which `lca_torch.model_loss.ModelLoss` puts θ
in place of the model's parameters.
"""

import inspect
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lca.errors import LCAError
from lca_torch.data import PyTree
from lca_torch.model_loss import BatchLoss, default_loss


class Weighted(NamedTuple):
    """A batch whose loss is ``Σ_j v_j ℓ_j / Σ_j v_j``."""

    rows: PyTree
    weight: Tensor


class Scored(NamedTuple):
    """A batch whose "loss" is the score of every example."""

    rows: PyTree


class ExampleLoss:
    """A `BatchLoss` for ordinary batches as ``usual``, and for `Weighted` and `Scored` ones of pairs."""

    def __init__(self, usual: BatchLoss, loss_fn: Callable[[Any, Any], Tensor] | None) -> None:
        self._usual, self._loss_fn = usual, loss_fn

    def __call__(self, model: nn.Module, batch: PyTree) -> Tensor:
        if isinstance(batch, Weighted):
            return self._weighted(model, batch)
        if isinstance(batch, Scored):
            return self._scores(model, batch)
        return self._usual(model, batch)

    @property
    def supports_weights(self) -> bool:
        """Whether the loss of each example is to be had."""
        return example_losses(self._loss_fn) is not None

    def check_scores(self) -> None:
        """Raise `LCAError` unless examples can be scored."""
        if self._loss_fn is None:
            raise LCAError(
                "the errors of single examples need a loss_fn of output and target; let training hand them "
                "over (tracker.scores(index, errors)), or use sampling='uniform'."
            )

    def _weighted(self, model: nn.Module, batch: Weighted) -> Tensor:
        losses = default_loss(example_losses(self._loss_fn))(model, batch.rows)
        if losses.shape[:1] != batch.weight.shape:
            raise LCAError(f"a loss an example is needed, got {tuple(losses.shape)} for {len(batch.weight)}.")
        losses = losses.reshape(len(losses), -1).mean(1)
        return (batch.weight * losses).sum() / batch.weight.sum()

    def _scores(self, model: nn.Module, batch: Scored) -> Tensor:
        """``½ Σ_j |∂ℓ_n/∂f_j|`` (n,), which under cross-entropy is ``1 - p_model(y_n)``."""

        def of_outputs(outputs: Tensor, target: Any) -> Tensor:
            assert self._loss_fn is not None
            with torch.enable_grad():
                outputs = outputs.detach().requires_grad_()
                loss = self._loss_fn(outputs, target) * len(outputs)  # the mean over examples: each counts 1
                (grad,) = torch.autograd.grad(loss, outputs)
            return grad.abs().reshape(len(grad), -1).sum(1) / 2

        return default_loss(of_outputs)(model, batch.rows)


def example_losses(loss_fn: Callable[[Any, Any], Tensor] | None) -> Callable[[Any, Any], Tensor] | None:
    """``loss_fn`` without its mean; ``None`` if that is not to be had.

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
