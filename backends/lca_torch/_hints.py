"""Hints for error messages: what a loss divides by, or takes, where its options or the data show it."""

import re
from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lca._listing import listed
from lca.frameworks import PyTree, tensors_in

_INTEGER = re.compile(
    r"\b(Byte|Char|Short|Int|Long|(un)?signed char|short|int|long long)\b.*\b[Ff]loat"
    r"|for '(Byte|Char|Short|Int)'|got (Byte|Char|Short|Int)\b"
)
"""In errors of torch: an integer in place of a floating-point number, or one too narrow for a label."""
_HALF = re.compile(
    r"(Half|float16)\w*\)? (and float|!= float|and (weight|bias) type|does not match weight)", re.IGNORECASE
)
"""In errors of torch: inputs in half precision for parameters in float32."""
_OTHER_LOSS = re.compile(r"must be Tensor, not (tuple|list|dict|\w*Output)|Expected target size")
"""In errors of torch: a model that returns more than outputs, or outputs for each token."""
OWN_LOSS_HINT = (
    "the model computes its loss itself, as a mean: pass "
    "loss_fn=lambda output, y, reduction='mean': cross_entropy(output.logits, y, reduction=reduction), and "
    "the labels twice in the data, ({'input_ids': x, 'labels': y}, y)"
)
"""What lets the examples of a loss be weighted that the model returns."""
IGNORED = -100
"""The label that torch and Hugging Face leave out of a mean by default."""


def loss_advice(error: Exception) -> str:
    """What to do where a model or loss wants something else than it got: other numbers, tensors, shapes.

    >>> loss_advice(RuntimeError("expected m1 and m2 to have the same dtype, but got: long int != float"))
    '; convert the integers in the data to what the model and the loss take: inputs.float(), labels.long()'
    >>> loss_advice(TypeError("argument 'input' (position 1) must be Tensor, not tuple"))
    '; if the loss is not loss_fn(model(inputs), target), pass batch_loss=, a function of model and batch'
    """
    if _OTHER_LOSS.search(str(error)):
        return (
            "; if the loss is not loss_fn(model(inputs), target), pass batch_loss=, a function of model and "
            "batch"
        )
    if isinstance(error, RuntimeError) and _HALF.search(str(error)):
        return (
            "; if a wrapper of the model converts the inputs to half precision, pass the module inside (that "
            "of Fabric: wrapped.module) to the objective and the tracker"
        )
    if isinstance(error, RuntimeError) and _INTEGER.search(str(error)):
        return (
            "; convert the integers in the data to what the model and the loss take: inputs.float(), "
            "labels.long()"
        )
    return ""


def weight_hint(loss: object, batch: PyTree) -> str:
    """The ``batch_weight`` that a loss needs: for class weights, or for labels that are left out.

    >>> print(weight_hint(nn.CrossEntropyLoss(weight=torch.ones(3)), ()))
    the loss weighs classes (weight=): pass batch_weight=lambda batch: float(weight[batch[1]].sum())
    """
    options = list(_options(loss))
    if any(isinstance(found.get("weight"), Tensor) for found in options):
        return (
            "the loss weighs classes (weight=): pass batch_weight=lambda batch: float(weight[batch[1]].sum())"
        )
    ignored = _ignored(options, batch)
    if ignored is not None:
        return (
            f"the loss leaves out labels {ignored} (ignore_index): pass batch_weight=function of a batch, "
            "the number of labels that count"
        )
    return ""


def sample_hint(loss: object, batch: PyTree) -> str:
    """What lets examples be weighted where a loss takes ``reduction='none'``, but leaves out labels.

    >>> sample_hint(nn.CrossEntropyLoss(), (torch.zeros(2), torch.tensor([[1, -100], [2, -100]])))[:55]
    'the loss leaves out labels -100 (ignore_index), so with'
    """
    ignored = _ignored(list(_options(loss)), batch)
    if ignored is None:
        return ""
    return (
        f"the loss leaves out labels {ignored} (ignore_index), so with reduction='none' it does not give one "
        "loss for each example; if the same number of labels counts in every example, pass a "
        "loss_fn(output, target, reduction='mean') that, with reduction='none', returns for each example "
        "the mean over its labels"
    )


def moving_hint(moved: Collection[str]) -> str:
    """What to do where a forward pass writes into these tensors and reads them, also in evaluation mode.

    >>> moving_hint({"0.scale"})[:64]
    'the forward pass writes into 0.scale, also in evaluation mode, a'
    """
    if not moved:
        return ""
    return (
        f"the forward pass writes into {listed(sorted(moved))}, also in evaluation mode, and the loss "
        "of a batch may depend on what is written there. If these are observers of fake quantisation, call "
        "model.apply(torch.ao.quantization.disable_observer) in a batch_loss=, where model is a private copy"
    )


def _ignored(options: list[dict[str, Any]], batch: PyTree) -> int | None:
    """The label that a loss with these options leaves out, if it is in the batch."""
    ignored: int = next((found["ignore_index"] for found in options if "ignore_index" in found), IGNORED)
    labels = [t for t in tensors_in(batch) if not t.is_floating_point() and t.dtype is not torch.bool]
    return ignored if any(bool((tensor == ignored).any()) for tensor in labels) else None


def _options(loss: object) -> Iterator[dict[str, Any]]:
    """The options of a loss: of a module and those inside it, or of a partial function."""
    if isinstance(loss, partial):
        yield dict(loss.keywords)
        yield from _options(loss.func)
    elif isinstance(loss, nn.Module):
        yield from (module.__dict__ | module._buffers for module in loss.modules())
