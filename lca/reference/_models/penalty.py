"""`L2Penalty`: a penalty as an objective, so that a `Sum` can allocate it separately."""

from dataclasses import dataclass

import numpy as np

from lca.errors import LCAError, UnknownNameError
from lca.layout import Layout
from lca.objective import Batch

Array = np.ndarray


@dataclass(frozen=True)
class L2Penalty:
    """``½ c Σ_i θ_i²`` over the named tensors, with gradient ``c θ``; an `lca.Objective`.

    Weight decay inside an optimizer (as in `AdamW`) is not a penalty: it is movement, not part of the loss.

    Parameters
    ----------
    layout
        The layout of the objective to which the penalty is added.
    coefficient
        c ≥ 0, in units of loss per θ².
    tensors
        Names from the layout; ``None`` means all of them.

    Raises
    ------
    LCAError
        If the coefficient is negative or not finite.
    UnknownNameError
        If a tensor is not in the layout.

    Examples
    --------
    >>> layout = Layout(("fc1.weight", "fc1.bias"), ((1, 2), (1,)))
    >>> penalty = L2Penalty(layout, 0.5, tensors=("fc1.weight",))
    >>> penalty.loss_and_grad(np.array([2.0, 4.0, 8.0]))
    (5.0, array([1., 2., 0.]))
    """

    layout: Layout
    coefficient: float
    tensors: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.coefficient < float("inf"):
            raise LCAError(f"an L2 penalty needs a finite coefficient ≥ 0, got {self.coefficient}.")
        # A NumPy scalar would turn float32 gradients into float64 ones; a Python float does not.
        object.__setattr__(self, "coefficient", float(self.coefficient))
        for name in self.tensors or ():
            if name not in self.layout.names:
                raise UnknownNameError("tensor", name, self.layout.names)

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        """The penalty at θ, with squares accumulated in float64; ``batch`` is ignored."""
        value, _ = self.loss_and_grad(theta, batch)
        return value

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        """The penalty and its gradient (K,) in θ's dtype. Cost: no gradient of the data."""
        self.layout.check(theta, "theta")
        kept = np.zeros_like(theta)
        target, source = self.layout.unflatten(kept), self.layout.unflatten(theta)
        for name in self.layout.names if self.tensors is None else self.tensors:
            target[name][...] = source[name]
        squares = np.square(kept, dtype=np.result_type(kept, np.float64))
        value: float = (0.5 * self.coefficient * squares.sum()).item()
        return value, self.coefficient * kept
