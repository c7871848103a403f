"""The checks of a step, a gradient and a loss, and the search for the tensor that holds NaN or Inf."""

from collections.abc import Collection
from math import isfinite
from numbers import Real

import numpy as np

from lca.arrays import Vector, array_ops
from lca.errors import IncompleteStepError, LCAError, NonFiniteError, TrajectoryError
from lca.layout import Layout
from lca.objective import Evaluation
from lca.step import Step

OVERFLOW = "gradient times movement overflows"


def check_step(layout: Layout, step: Step) -> None:
    """Raise `LCAError` unless both ends of a step have the layout and one dtype."""
    layout.check(step.start, f"start of step {step.index}")
    layout.check(step.end, f"end of step {step.index}")
    if step.start.dtype != step.end.dtype:
        raise TrajectoryError(
            f"step {step.index} goes from {step.start.dtype} to {step.end.dtype}; store all points in one "
            "dtype."
        )


def check_trained(step: Step, untrained: Collection[str]) -> None:
    """Raise `IncompleteStepError` if tensors moved that do not train, and so have no training gradient."""
    if untrained:
        names = ", ".join(sorted(untrained))
        raise IncompleteStepError(
            f"step {step.index}: {names} moved but did not train, so training has no gradient from which to "
            "allocate this movement. Possible causes: a layer was frozen after the update; it was frozen "
            "in Keras without model.compile, so that fit still trains it; or the momentum of the optimizer "
            "still moves it. Call model.compile, reset the optimizer's state when a layer is frozen, or "
            "use an estimator that computes its own gradients (lca.Adaptive, "
            "lca.estimators.SampledPathIntegral).",
            f"gradient of {names}",
        )


def check_gradient(layout: Layout, step: Step, gradient: Vector) -> None:
    """Raise `LCAError` unless a gradient has the layout and the dtype of θ."""
    layout.check(gradient, f"a gradient for step {step.index}")
    if gradient.dtype != step.start.dtype:
        raise LCAError(
            f"step {step.index}: a gradient is {gradient.dtype} where θ is {step.start.dtype}; compute it in "
            "θ's dtype, or convert the points to the gradient's."
        )


def check_loss(layout: Layout, step: Step, node: Evaluation, s: float) -> None:
    """Raise `LCAError` unless the loss at θ_t + s Δ_t is a finite Python float."""
    if not isinstance(node.loss, Real):
        raise LCAError(
            f"the objective's loss must be a Python float, got {type(node.loss).__name__}; return "
            "float(loss)."
        )
    if not isfinite(node.loss):
        raise non_finite(layout, step, f"the loss at s = {s:g} is {node.loss}", node.grad)


def non_finite(layout: Layout, step: Step, otherwise: str, grad: Vector | None) -> NonFiniteError:
    """The error that says where NaN or Inf is: in the parameters, the gradient, or as ``otherwise`` says."""
    named = {"parameters at the start": step.start, "parameters at the end": step.end}
    if grad is not None:
        named["gradient"] = grad
    ops, found = array_ops(step.start), otherwise
    for what, vector in named.items():
        tensors = layout.unflatten(ops.to_numpy(vector)).items()
        bad = [name for name, tensor in tensors if not np.isfinite(tensor).all()]
        if bad:
            found = f"NaN or Inf in the {what}, in {', '.join(bad)}"
            break
    return NonFiniteError(
        f"step {step.index}: {found}; training has probably diverged (lower the learning rate or clip the "
        "gradient), or the data hold NaN or Inf."
    )
