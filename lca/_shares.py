"""Losses that are measured together with their own parts: finds them, and checks that the parts add up."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lca.arrays import array_ops
from lca.errors import LCAError
from lca.objective import Objective, Sum, at_state
from lca.step import Step
from lca.tolerances import rebatched

if TYPE_CHECKING:
    from lca.allocation import Estimator


def shared_losses(objectives: Mapping[str, Objective], estimator: "Estimator") -> dict[str, str]:
    """Losses that are measured beside a `Sum` of their own parts (`Sum.whole`): its name for each of theirs.

    Their allocation is that of the `Sum`, whose gradients are taken once and counted in the ``cost`` of the
    whole loss. Only for estimators of the full loss.

    Examples
    --------
    >>> import numpy as np
    >>> from lca import SIMPSON, PathIntegral
    >>> from lca.reference import DatasetLoss, logistic_regression
    >>> loss = DatasetLoss(logistic_regression(2, 3), np.eye(2), np.array([0, 2]))
    >>> shared_losses({"train": loss, "by class": loss.by_class()}, PathIntegral(SIMPSON))
    {'train': 'by class'}
    """
    if estimator.target != "full":
        return {}
    sums = {name: o for name, o in objectives.items() if isinstance(o, Sum) and o.whole is not None}
    return {
        name: parts
        for parts, total in sums.items()
        for name, objective in objectives.items()
        if total.whole is objective
    }


def check_shares(objectives: Mapping[str, Objective], shared: Mapping[str, str], step: Step) -> None:
    """Raise `LCAError` unless the parts of a loss add up to it at θ_t; costs two forward passes."""
    eps, state = array_ops(step.start).eps(step.start), step.state[0] if step.state else None
    for name, parts in shared.items():
        whole, total = (at_state(objectives[key], state).loss(step.start) for key in (name, parts))
        if abs(whole - total) > rebatched(whole, eps):
            raise LCAError(
                f"the terms of {parts!r} add up to {total!r}, and not to {name!r}, which is {whole!r}; make "
                "the Sum without whole=."
            )
