"""`Penalty`: a term of the loss that depends on the parameters alone."""

from collections.abc import Callable, Collection, Mapping
from copy import copy

import torch
from torch import Tensor, nn

from lca.frameworks import Frozen, PyTree
from lca.layout import Layout
from lca_torch._checks import check_differentiable, require_theta_alone
from lca_torch._form import Precision
from lca_torch._parameters import Leaves, check_theta, layout_of, parameters_of


class Penalty:
    """``R(θ)``, a function of the parameters alone: a term of its own in a `lca.Sum`; an `lca.Objective`.

    Parameters
    ----------
    model
        The model with these parameters.
    function
        From a mapping of parameter tensors by name to a scalar tensor, in the units of the loss.
    frozen, precision
        As in `Objective`. The gradient is where θ is, on the device of the model or on the host.

    Raises
    ------
    LCAError
        When it is evaluated, if the function does not return a differentiable scalar.

    Examples
    --------
    >>> model = nn.Linear(2, 1, bias=False)
    >>> ridge = Penalty(model, lambda tensors: 0.5 * sum((t * t).sum() for t in tensors.values()))
    >>> ridge.loss_and_grad(torch.tensor([3.0, 4.0]))
    (12.5, tensor([3., 4.]))
    """

    def __init__(
        self,
        model: nn.Module,
        function: Callable[[Mapping[str, Tensor]], Tensor],
        frozen: Frozen = "zero",
        *,
        precision: Precision | None = None,
    ) -> None:
        self.layout: Layout = layout_of(model, frozen, precision)
        self._function = function
        self._parameters = parameters_of(model, frozen, precision)
        self._names: frozenset[str] | None = None
        self._device = next(iter(self._parameters.values())).device

    @property
    def differentiated(self) -> frozenset[str]:
        """Names of the tensors whose gradient is computed: those that train now, or those asked for."""
        if self._names is not None:
            return self._names
        return frozenset(name for name, parameter in self._parameters.items() if parameter.requires_grad)

    def differentiating(self, names: Collection[str]) -> "Penalty":
        """The same term with the gradient of these tensors, whether they train or not."""
        other = copy(self)
        other._names = frozenset(names)
        return other

    def loss(self, theta: Tensor, batch: PyTree | None = None) -> float:
        """R(θ), the same for every batch."""
        return self.loss_and_grad(theta)[0]

    def loss_and_grad(self, theta: Tensor, batch: PyTree | None = None) -> tuple[float, Tensor]:
        """R(θ) and ∂R/∂θ (K,), which is 0 for frozen parameters."""
        check_theta(self.layout, theta, theta.device if theta.device.type == "cpu" else self._device)
        with torch.inference_mode(False), torch.enable_grad():
            chosen = [name for name in self.layout.names if name in self.differentiated]
            leaves = Leaves(theta, self.layout, chosen, device=self._device)
            value = self._function(leaves.tensors)
            check_differentiable(value)
            require_theta_alone(value, self._parameters)
            leaves.add_gradient(value)
        return float(value.detach()), leaves.take_mean(1.0)
