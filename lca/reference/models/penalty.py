"""`L2Penalty`: the part of a loss that depends on θ alone, so that it can have a row of its own."""

from dataclasses import dataclass

import numpy as np

from lca.errors import LCAError, UnknownNameError
from lca.layout import Layout
from lca.objective import Batch

Array = np.ndarray


@dataclass(frozen=True)
class L2Penalty:
    """``½ c Σ_i θ_i²`` over the named tensors; an `lca.objective.Objective` with gradient ``c θ``.

    Parameters
    ----------
    layout
        That of the objective it is added to.
    coefficient
        c ≥ 0, in units of loss per θ². (A weight decay inside an optimizer is movement, not loss.)
    tensors
        Names from the layout; ``None`` is all of them.

    Raises
    ------
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
        """The penalty at θ, squares summed in float64; no batch changes it."""
        value, _ = self.loss_and_grad(theta, batch)
        return value

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        """The penalty and its gradient (K,), in θ's dtype; costs no gradient of the data."""
        self.layout.check(theta, "theta")
        kept = np.zeros_like(theta)
        target, source = self.layout.unflatten(kept), self.layout.unflatten(theta)
        for name in self.layout.names if self.tensors is None else self.tensors:
            target[name][...] = source[name]
        squares = np.square(kept, dtype=np.result_type(kept, np.float64))
        value: float = (0.5 * self.coefficient * squares.sum()).item()
        return value, self.coefficient * kept
