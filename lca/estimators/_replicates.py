"""Independent gradients at one node, whose spread gives error bars."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lca.arrays import Vector, array_ops
from lca.objective import Evaluation
from lca.step import Step


@dataclass(frozen=True, eq=False)
class SampledNode(Evaluation):
    """The mean of independent, unbiased gradients at one point.

    Parameters
    ----------
    gradients
        The gradient (K,) of each micro-batch; ``grad`` is their mean.
    time
        ``t + s``. Nodes of the same time share their samples.
    parts
        If the samples are all of the data, in parts, so that ``grad`` is exact and ``gradients`` have no
        spread: the gradient of each part.
    """

    gradients: Sequence[Vector] = ()
    time: float = 0.0
    parts: Sequence[Vector] = ()


Weighted: TypeAlias = tuple[float, Sequence[Vector]]
"""A weight and gradients at a node."""


class NodeReplicates(Sequence[Vector]):
    """``Σ_k w_k g_{k,j} ∘ Δ`` for j = 1 ... m: m copies of a node's contribution, formed on demand.

    Parameters
    ----------
    step
        The step whose movement Δ is multiplied.
    weighted
        ``(w_k, [g_{k,1}, ..., g_{k,m}])`` of each gradient at the node.
    samples
        The same of samples, where the node itself is exact.

    Examples
    --------
    >>> import numpy as np
    >>> step = Step(np.array([1.0]), np.array([3.0]))
    >>> list(NodeReplicates(step, [(0.5, [np.array([4.0]), np.array([5.0])])]))
    [array([4.]), array([5.])]
    """

    def __init__(
        self, step: Step, weighted: Sequence[Weighted], samples: Sequence[Weighted] | None = None
    ) -> None:
        self._step, self._weighted = step, weighted
        self._samples = None if samples is None else NodeReplicates(step, samples)

    @property
    def samples(self) -> "NodeReplicates":
        """The contributions of m samples; their spread gives the variance of an example.

        These replicates themselves, unless the node is exact.
        """
        return self._samples or self  # no attribute: a cycle would keep the gradients until it is collected

    def __len__(self) -> int:
        return len(self._weighted[0][1])

    def __getitem__(self, j):  # type: ignore[no-untyped-def]
        if isinstance(j, slice):
            return [self[i] for i in range(*j.indices(len(self)))]
        ops, total = array_ops(self._step.start), None
        for weight, gradients in self._weighted:
            total = weight * gradients[j] if total is None else ops.add_scaled(total, weight, gradients[j])
        return ops.times_movement(total, self._step.start, self._step.end)
