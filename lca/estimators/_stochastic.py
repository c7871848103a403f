"""`StochasticEstimator`: what an estimator on mini-batches or samples declares beyond an `Estimator`."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Protocol, Self, runtime_checkable

from lca.allocation import Estimator
from lca.errors import IncompleteStepError
from lca.step import Step


@runtime_checkable
class StochasticEstimator(Estimator, Protocol):
    """An estimator whose values depend on batches or on samples of its own.

    Its allocations have ``sampled=True``. It measures no losses: their ``loss_start``, ``loss_end`` and
    ``residual`` are NaN.

    Examples
    --------
    >>> from lca.estimators import NextBatch, PathIntegral
    >>> isinstance(NextBatch(), StochasticEstimator), isinstance(PathIntegral(), StochasticEstimator)
    (True, False)
    """

    @property
    def unbiased(self) -> bool:
        """Whether the mean of the values is the full-data allocation, up to the declared degree.

        The mean is taken over all samples of the estimator's own, and over training batches that are drawn
        independently of each other, for an optimizer that is linear in the gradient (SGD with or without
        momentum).
        """

    @property
    def bias(self) -> str:
        """The remaining bias in words, where the conditions of ``unbiased`` do not hold."""

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The fields of `lca.Step` that the training loop must supply, e.g. ``("next_gradient",)``."""

    def reseeded(self, seed: int) -> Self:
        """The same estimator with another seed; itself if it draws no random numbers."""


def required_fields_of(estimator: Estimator) -> tuple[str, ...]:
    """The fields of `lca.Step` that the training loop must supply for an estimator of any kind.

    >>> from lca.estimators import CrossFit, PathIntegral
    >>> required_fields_of(CrossFit()), required_fields_of(PathIntegral())
    (('micro_batches', 'next_gradient'), ())
    """
    return tuple(estimator.required_fields) if isinstance(estimator, StochasticEstimator) else ()


_FIELDS = frozenset(field.name for field in fields(Step))


def check_required_fields(step: Step, required_fields: Sequence[str], name: str) -> None:
    """Raise `IncompleteStepError` if ``step`` lacks a field that the estimator ``name`` requires.

    Parameters
    ----------
    step
        The step.
    required_fields
        Names of fields of `lca.Step`.
    name
        The name of the estimator, for the message.

    Raises
    ------
    IncompleteStepError
        If a field is ``None`` or empty.

    Examples
    --------
    >>> import numpy as np
    >>> step = Step(np.zeros(1), np.ones(1), gradient=np.ones(1))
    >>> check_required_fields(step, ["gradient"], "SameBatch")
    """
    assert _FIELDS.issuperset(required_fields)
    for field in required_fields:
        value = getattr(step, field)
        if value is None or (isinstance(value, tuple) and not value):
            raise IncompleteStepError(
                f"step {step.index}: {name} requires Step.{field}, which the training loop did not supply.",
                field,
            )
