"""Which labels count in the loss of a model of `transformers`, and what the loss makes of their sum."""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lca.tracking._splitting import IGNORED

_TOLERANCE = 1e-3  # the model may compute its loss in half precision


class Rule(NamedTuple):
    """How a model computes its loss from the labels of a batch."""

    shifts: bool
    """Whether the loss passes over the first label of each row."""
    divides: bool
    """Whether the loss divides the sum over the labels by ``num_items_in_batch``; else it is their mean."""


class Labels(NamedTuple):
    """How many labels of a batch count, all and without the first of each row; and ``num_items_in_batch``."""

    numbers: tuple[float, ...]
    total: float | None

    def share(self, rule: Rule | None) -> float:
        """The loss by this rule, divided by the mean over the labels of the batch; NaN if that is unknown."""
        if self.total is None:
            return 1.0
        if rule is None or not self.numbers:
            return math.nan
        return self.numbers[rule.shifts] / self.total if rule.divides else 1.0


def labels_of(inputs: Mapping[str, Any]) -> Labels:
    """What the inputs of a forward pass say of the labels."""
    labels, total = inputs.get("shift_labels", inputs.get("labels")), inputs.get("num_items_in_batch")
    numbers: tuple[float, ...] = ()
    if isinstance(labels, Tensor) and labels.ndim:
        numbers = tuple(float((counted != IGNORED).sum()) for counted in (labels, _shifted(inputs)))
    return Labels(numbers, None if total is None else float(total))


def loss_of(outputs: Any) -> Tensor | None:
    """The model's own loss among its outputs, if it has computed one that can be trained."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
    if isinstance(outputs, tuple) and outputs:
        loss = outputs[0]
    return loss if isinstance(loss, Tensor) and loss.requires_grad and loss.numel() == 1 else None


def rule_of(inputs: Mapping[str, Any], outputs: Any, total: float) -> Rule | None:
    """The rule by which the loss of a forward pass follows from its logits; ``None`` if none does."""
    loss, logits = loss_of(outputs), _logits_of(outputs)
    labels = inputs.get("shift_labels", inputs.get("labels"))
    if loss is None or not (isinstance(labels, Tensor) and isinstance(logits, Tensor)):
        return None
    with torch.no_grad():
        value, logits = float(loss), logits.detach()
        if labels.is_floating_point():
            return Rule(False, False) if _is_mean_error(value, logits, labels) else None
        if logits.ndim != labels.ndim + 1:
            return None
        for shifts, divides in product((True, False), (True, False)):
            counted = _shifted(inputs) if shifts else labels
            if shifts and counted is labels:
                continue
            by = total if divides else float((counted != IGNORED).sum())
            if by and _close(_sum(logits, counted) / by, value):
                return Rule(shifts, divides)
    return None


def _shifted(inputs: Mapping[str, Any]) -> Tensor:
    """The labels without the first of each row, unless they are shifted already or one to a row."""
    labels: Tensor = inputs.get("shift_labels", inputs.get("labels"))
    return labels if "shift_labels" in inputs or labels.ndim == 1 else labels[..., 1:]


def _sum(logits: Tensor, labels: Tensor) -> float:
    """The sum of cross-entropies over the labels, row by row, so that it takes little memory."""
    if labels.ndim > 1:
        logits = logits[..., : labels.shape[-1], :]
    return sum(
        float(
            functional.cross_entropy(row.float().reshape(-1, row.shape[-1]), own.reshape(-1), reduction="sum")
        )
        for row, own in zip(logits, labels.to(logits.device), strict=True)
    )


def _is_mean_error(loss: float, logits: Tensor, labels: Tensor) -> bool:
    logits, labels = logits.float().squeeze(), labels.to(logits.device).float().squeeze()
    errors = functional.mse_loss, functional.binary_cross_entropy_with_logits
    return logits.shape == labels.shape and any(
        _close(float(error(logits, labels)), loss) for error in errors
    )


def _logits_of(outputs: Any) -> Any:
    if isinstance(outputs, Mapping):
        return outputs.get("logits")
    return outputs[1] if isinstance(outputs, tuple) and len(outputs) > 1 else None


def _close(value: float, loss: float) -> bool:
    return abs(value - loss) <= _TOLERANCE * abs(loss)
