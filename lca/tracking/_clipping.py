"""Clipping of gradients: how the loop clips, and the same clipping of an update without a micro-batch."""

from collections.abc import Sequence
from math import floor, isfinite, log10

import numpy as np

from lca._micro_batches import mean_without
from lca.arrays import Slices, Vector, array_ops
from lca.errors import LCAError, NonFiniteError
from lca.tolerances import summed

_DIGITS = 3
_EPSILON = 1e-6  # what frameworks add to the norm before they divide by it


class Clipping:
    """The largest norm that a training loop allows its gradient, told or recognised.

    A gradient that was multiplied by a factor ≠ 1 after its backward passes was either clipped, which is no
    part of the training loss, or divided by a number of batches, tokens or ranks, which is. The two are told
    apart by the norm after it: clipping leaves the same round number at every update.
    """

    def __init__(self) -> None:
        self.max_norm: float | None = None
        self._told = False

    def tell(self, max_norm: float) -> None:
        """As `lca.tracking.ModelTracker.clips_norm`."""
        if not max_norm > 0:
            raise LCAError(f"the largest norm of a gradient is a number > 0, got {max_norm!r}.")
        self.max_norm, self._told = float(max_norm), True

    def norm_after(self, norm: float, factor: float, eps: float) -> float | None:
        """The norm to which one of this norm, multiplied by ``factor``, was clipped; ``None`` if unknown.

        It is that of the measured parameters, if the norm that was told covers more. ``eps`` is that of the
        gradient's dtype. Raises `LCAError` unless clipping explains the factor.
        """
        after = factor * norm
        slack = summed(8 * after, eps) + _EPSILON * factor
        if factor == 1.0:
            if self.max_norm is not None and norm > self.max_norm + slack:
                raise LCAError(
                    f"a gradient of norm {norm:.6g} was not clipped, although those of other updates are, to "
                    f"norm {self.max_norm:.6g}; {_FIX}"
                )
            return self.max_norm
        if self.max_norm is None and factor < 1.0:
            self.max_norm = _round_number(after, slack)
        if factor > 1.0 or self.max_norm is None or not self._leaves(after, slack):
            raise LCAError(
                f"the gradient was multiplied by {factor:.6g} between its backward pass and the update, to "
                f"norm {after:.6g}, which is not clipping to one norm; {_FIX}"
            )
        return after

    def _leaves(self, norm: float, slack: float) -> bool:
        """Whether clipping leaves a gradient of this norm; of a part of the parameters, if it was told."""
        assert self.max_norm is not None
        return norm <= self.max_norm + slack and (self._told or norm >= self.max_norm - slack)


def multiple_of(total: Vector, gradient: Vector) -> float | None:
    """The factor c for which ``gradient = c · total``, as after unscaling or clipping by norm; or ``None``.

    Parameters
    ----------
    total
        The sum of the gradients of the micro-batches (K,).
    gradient
        The gradient (K,) that the optimizer receives.

    Raises
    ------
    LCAError
        If ``total`` is not finite; a `NonFiniteError` if the gradient is not finite either.

    Examples
    --------
    >>> import numpy as np
    >>> multiple_of(np.array([3.0, 4.0]), np.array([0.6, 0.8])), multiple_of(np.ones(2), np.array([0.6, 0.8]))
    (0.2, None)
    """
    ops = array_ops(gradient)
    square = ops.total(total * total)
    if not isfinite(square):
        if not isfinite(ops.total(gradient * gradient)):
            raise NonFiniteError(
                "the gradient of this update has NaN, Inf or numbers too large to square; if the run "
                "diverged, lower the learning rate."
            )
        raise LCAError(
            "a backward pass of this update gave a gradient with NaN, Inf or numbers too large to square, "
            "and the loop replaced them before the update (as with nan_to_num_). Make no update where the "
            "loss or its gradient is not finite, or use an estimator that requires no gradient of training "
            "(lca.estimators.SampledPathIntegral)."
        )
    factor = ops.total(total * gradient) / square if square else 1.0
    rest = gradient - factor * total
    off, size = ops.total(rest * rest) ** 0.5, ops.total(gradient * gradient) ** 0.5
    return factor if off <= summed(size, ops.eps(gradient)) else None


def only_clipped(total: Vector, gradient: Vector) -> bool:
    """Whether every entry ≠ 0 of ``total`` is the same in ``gradient`` or nearer to 0, and some are the same.

    So it is after clipping by value or of single tensors. A gradient that was divided by a constant as well
    has no entry that is the same, and clipping makes none 0.

    >>> import numpy as np
    >>> total = np.array([3.0, -0.5, 0.0])
    >>> only_clipped(total, np.array([1.0, -0.5, 0.0])), only_clipped(total, np.array([0.5, -0.25, 0.0]))
    (True, False)
    """
    ops, taken = array_ops(gradient), total - gradient
    whole = [Slices(0, 1, 1, ops.size(total))]

    def counts(vector: Vector) -> np.ndarray:
        """The numbers of negative and of positive entries."""
        found: np.ndarray = ops.sums_and_signs(vector, whole)[1].sum(axis=1)
        return found

    sizes = [ops.abs_total(gradient), ops.abs_total(taken)]
    before, after, changed = (counts(vector).sum() for vector in (total, gradient, taken))
    if not all(sizes) or after != before or changed >= before:
        return False
    # Divided by their sizes, so that no product that matters becomes 0.
    below, _ = counts((gradient * (1 / sizes[0])) * (taken * (1 / sizes[1])))
    return not below


def clipped_without(
    gradients: Sequence[Vector], weights: Sequence[float], max_norm: float, shrink: float = 1.0
) -> tuple[Sequence[Vector], float]:
    """Gradients of micro-batches whose mean without each of them is clipped to a norm, and its mean norm.

    The factor of clipping then depends on no example that judges the update. A mean over fewer examples has
    more noise, and so a larger norm, which ``shrink`` takes off: the norm of the whole gradient divided by
    the mean norm returned, both of an earlier update.

    >>> import numpy as np
    >>> clipped_without([np.array([3.0, 4.0]), np.array([0.0, 0.5])], [0.5, 0.5], 1.0)
    ([array([0.6, 0.8]), array([0. , 0.5])], 2.75)
    """
    means = [mean_without(m, gradients, weights) for m in range(len(gradients))]
    norms = [array_ops(mean).total(mean * mean) ** 0.5 for mean in means]
    average = sum(norms) / len(norms)
    if shrink * max(norms) <= max_norm:
        return gradients, average
    # With μ_m the mean without m, w_m g_m = Σ_k w_k g_k - (1 - w_m) μ_m, summed over m and solved for g_m.
    rest = [
        mean * ((1 - weight) * min(1.0, max_norm / (shrink * norm)) if norm else 0.0)
        for mean, weight, norm in zip(means, weights, norms, strict=True)
    ]
    if len(rest) == 2:
        return [rest[1] * (1 / weights[0]), rest[0] * (1 / weights[1])], average
    total = sum(rest[1:], start=rest[0]) * (1 / (len(rest) - 1))
    return [(total - part) * (1 / weight) for part, weight in zip(rest, weights, strict=True)], average


def _round_number(value: float, slack: float) -> float | None:
    """The number of few digits that ``value`` is, if it is one.

    >>> _round_number(0.2500001, 1e-6), _round_number(0.2512, 1e-6)
    (0.25, None)
    """
    found = round(value, _DIGITS - 1 - floor(log10(value))) if value else 0.0
    return found if abs(found - value) <= slack and found else None


NO_MULTIPLE = (
    "the gradient of the update is not a multiple of the sum over its micro-batches: it was clipped entry by "
    "entry or in a part of the parameters, averaged over ranks, had something added to it, or one backward "
    "pass covered several micro-batches. What single examples do in the update is then unknown; run one "
    "backward pass for each micro-batch and clip by norm, or use lca.estimators.NextBatch, which requires "
    "only the gradient of the loss, or one that requires no gradient of training "
    "(lca.estimators.SampledPathIntegral)."
)
_FIX = (
    "divide the loss, and not its gradient, by the number of batches or tokens; if the loop clips the "
    "Euclidean norm, also with gradients that no optimizer uses in it, call tracker.clips_norm(max_norm), "
    "with a constant max_norm; if it clips another norm, "
    "or single tensors, use an estimator that requires no gradient of training "
    "(lca.estimators.SampledPathIntegral)."
)
