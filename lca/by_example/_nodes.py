"""`Nodes`: the slopes of the examples along one step, as a loss that the estimators integrate.

Let ``φ(u) = Σ_n ω_n ℓ_n(θ_t + Σ_g u_{g,n} Δ_g)`` with one scalar u per group and example. On the diagonal
``u = s (1, ..., 1)`` all examples are at ``θ_t + s Δ_t``, and ``∂φ/∂u_{g,n}`` is ω_n times the slope of
example n: the derivative of ℓ_n along the movement of group g. The allocation of φ along the diagonal is
therefore the allocation by group and example, and the rules and error controls of `lca.estimators` apply
unchanged.
"""

from collections.abc import Mapping

import numpy as np

from lca.arrays import Vector, array_ops
from lca.by_example._chosen import Chosen
from lca.by_example._protocol import Separable
from lca.errors import LCAError, NonFiniteError
from lca.estimators import Segment
from lca.groups import Groups
from lca.layout import Layout
from lca.objective import Batch, Evaluation
from lca.step import Step
from lca.tolerances import rebatched

Array = np.ndarray
ASIDE = 2.0**-40
"""Factor of the sums that are integrated together with φ.

A power of 2, so that scaling is exact, and so small that they do not affect the error control.
"""


class Nodes:
    """``φ`` of one step after another; an `lca.Objective` that is evaluated on the diagonal only.

    Its gradient contains the slopes by group and example, followed by the sums over examples, computed from
    the gradient of the loss, and their mass, both times `ASIDE`.

    Parameters
    ----------
    chosen
        The examples to allocate.
    groups
        The groups of parameters.
    chunk
        The number of groups that are differentiated in one pass.
    """

    def __init__(self, chosen: Chosen, groups: Groups, chunk: int) -> None:
        self._chosen, self._groups, self._chunk = chosen, groups, chunk
        self.shape = len(groups), len(chosen.index)
        self.layout = Layout(("group and example",), ((self.shape[0] * (self.shape[1] + 1) + 1,),))
        self.evaluated = 0

    def begin(self, objective: Separable, factor: float, step: Step) -> Step:
        """Measure ``step`` from now on, by ``factor`` times ``objective``; returns the diagonal as a step.

        The returned step is float64 if ``step`` is, else float32: estimators infer the size of rounding
        errors from its dtype.
        """
        self._objective, self._factor, self._step = objective, factor, step
        self._ops, self._movement = array_ops(step.start), step.end - step.start
        self._weight = factor * self._chosen.weight
        self._losses: dict[float, Array] = {}
        self.evaluated = 0
        single = self._ops.eps(step.start) > np.finfo(np.float64).eps
        start = np.zeros(self.layout.size, np.float32 if single else np.float64)
        return Step(start, np.ones_like(start), step.index)

    def loss(self, theta: Vector, batch: Batch | None = None) -> float:
        """``φ`` on the diagonal."""
        return float(self.losses(_position(theta)).sum())

    def loss_and_grad(self, theta: Vector, batch: Batch | None = None) -> tuple[float, Vector]:
        """``φ`` and its gradient on the diagonal."""
        s = _position(theta)
        found = self._objective.by_example(
            self._theta(s), self._movement, self._groups, self._chosen.index, chunk=self._chunk
        )
        if found.slopes.shape != self.shape:
            raise LCAError(
                f"by_example gave slopes of shape {found.slopes.shape}; they must have one row for each of "
                f"{self.shape[0]} groups and one column for each of {self.shape[1]} examples."
            )
        self.evaluated += 1
        self._keep(s, found.losses)
        slopes = self._weight * found.slopes
        whole = np.concatenate([slopes.ravel(), ASIDE * self._sums(s)])
        return float(self._losses[s].sum()), whole.astype(theta.dtype)

    def losses(self, s: float) -> Array:
        """``ω_n ℓ_n`` (n,) at a point of the step."""
        if s not in self._losses:
            self._keep(s, self.losses_by(self._objective, s))
        return self._losses[s]

    def losses_by(self, objective: Separable, s: float) -> Array:
        """``ℓ_n`` (n,) of another objective, or in another state, at a point of the step."""
        nowhere = self._movement * 0.0  # no group moves, so nothing is differentiated
        return objective.by_example(self._theta(s), nowhere, self._groups, self._chosen.index).losses

    def split(self, values: Array) -> tuple[Array, Array, float]:
        """The integral over φ by group and example, that of the sums over examples, and their mass."""
        groups, examples = self.shape
        wide = values.astype(np.float64)
        beside = wide[groups * examples :] / ASIDE
        return wide[: groups * examples].reshape(self.shape), beside[:-1], float(beside[-1])

    def residual(self, segment: Segment, weights: Mapping[Evaluation, float], total: float) -> float:
        """``Σ_n |ω_n Δℓ_n - Σ_g A_{g,n}|``, in which the residuals of examples cannot cancel."""
        values = sum(weight * node.grad.astype(np.float64) for node, weight in weights.items())
        change = self.losses(1.0) - self.losses(0.0)
        return float(np.abs(change - self.split(values)[0].sum(axis=0)).sum())

    def _sums(self, s: float) -> Array:
        """``Σ_{i ∈ g} g_i Δ_i`` (groups,) and ``Σ_i |g_i Δ_i|`` of the loss of these examples."""
        start, end, batch = self._step.start, self._step.end, self._chosen.batch
        given = () if batch is None else (batch,)
        loss, grad = self._objective.loss_and_grad(self._theta(s), *given)
        share = self._factor if batch is None else float(self._weight.sum())
        self._require_mean(s, share * loss)
        _, mass = self._ops.movement_sums([(share, grad)], start, end)
        products = self._ops.times_movement(grad, start, end)
        return np.append(share * self._groups.total(products), mass)

    def _theta(self, s: float) -> Vector:
        ends = {0.0: self._step.start, 1.0: self._step.end}
        return ends[s] if s in ends else self._ops.between(self._step.start, self._step.end, s)

    def _keep(self, s: float, losses: Array) -> None:
        if losses.shape != self.shape[1:]:
            raise LCAError(
                f"by_example gave losses of shape {losses.shape} for {self.shape[1]} examples; it must give "
                "one loss each."
            )
        if not np.isfinite(losses).all():
            at = int(np.flatnonzero(~np.isfinite(losses))[0])
            raise NonFiniteError(
                f"step {self._step.index}: the loss of example {self._chosen.index[at]} at s = {s:g} is "
                f"{losses[at]}; leave the example out, or lower the learning rate if all losses diverge."
            )
        self._losses[s] = self._weight * losses

    def _require_mean(self, s: float, loss: float) -> None:
        """Raise `LCAError` unless the losses of the examples add up to that of the batch."""
        own, eps = self._losses[s], self._ops.eps(self._step.start)
        if abs(own.sum() - loss) > rebatched(float(np.abs(own).sum()) + abs(loss), eps):
            raise LCAError(
                f"step {self._step.index}: the losses of the examples add up to {own.sum():.6g}, but the "
                f"loss of their batch is {loss:.6g}; by_example must give the losses whose weighted mean is "
                "the loss."
            )


def _position(theta: Array) -> float:
    """The position s on the step of a point of the diagonal."""
    if theta.min() != theta.max():
        raise LCAError(
            "an estimator by example must evaluate points of the step only; use lca.PathIntegral or "
            "lca.Adaptive."
        )
    return float(theta[0])
