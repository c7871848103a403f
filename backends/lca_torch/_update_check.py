"""`UpdateCheck`: whether an update is the one that its optimizer makes of the gradient."""

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor, nn

from lca import tolerances
from lca.errors import LCAError
from lca_torch._arrays import block_size
from lca_torch._live import flat
from lca_torch._optimizers import ELSE, leading_updates


class UpdateCheck:
    """Compares an update with the formula that tells what it would be with another gradient.

    The formula does not know what a hook, a wrapper, a projection or the step of a subclass does to the
    parameters inside the step.
    Compared are the first entries of each parameter, all of those of small models.

    Parameters
    ----------
    optimizer
        Which makes the update, in the state before it.
    parameters
        The measured parameters.
    gradient
        (K,), as the optimizer sees it.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], gradient: Tensor
    ) -> None:
        self._optimizer, self._parameters = optimizer, parameters
        self._most = max(1, block_size(gradient) // len(parameters))
        self._before = self._theta()
        self._expected = flat(leading_updates(optimizer, parameters, gradient, self._most))

    def update_made(self) -> None:
        """Raise `LCAError` unless the update that was made is the expected one."""
        moved = self._theta() - self._before
        off, size, theta = [float(v.norm()) for v in (moved - self._expected, self._expected, self._before)]
        if not isfinite(size):
            return  # training has diverged, of which the allocation tells
        if not off <= tolerances.summed(size + theta, self._eps(moved.dtype)):
            name = type(self._optimizer).__name__
            raise LCAError(
                f"the update is off by {off:.2g} of {size:.2g} from the one that {name} makes of its "
                "gradient: a hook, a wrapper such as Lookahead, or a projection also moves the parameters "
                "inside the step. The update with another gradient, such as one without a micro-batch, is "
                f"then unknown; let {name} alone make the updates, {ELSE}"
            )

    def _eps(self, dtype: torch.dtype) -> float:
        """Machine epsilon of θ, or of the settings that are coarser tensors, such as a float32 rate."""
        settings = (value for group in self._optimizer.param_groups for value in group.values())
        found = [value.dtype for value in settings if isinstance(value, Tensor) and value.is_floating_point()]
        return max(torch.finfo(each).eps for each in (dtype, *found))

    def _theta(self) -> Tensor:
        return flat([own.detach().reshape(-1)[: self._most] for own in self._parameters])
