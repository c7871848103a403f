"""Models whose parameters are sharded over the ranks (FSDP2, `DTensor`), measured on an unsharded copy."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lca.errors import LayoutError, LCAError
from lca_torch._form import VectorForm
from lca_torch._kinds import is_sharded
from lca_torch._live import fill


class ShardedTheta:
    """`lca.tracking.LiveTheta` of sharded parameters: each read gathers all parameters on every rank.

    This is a collective operation, in which every rank receives K numbers.

    Parameters
    ----------
    parameters
        The parameters in the order of θ, sharded or not.
    form
        That of θ. The parameters are gathered one after another.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], form: VectorForm) -> None:
        self._parameters, self._form = parameters, form

    def copy(self) -> Tensor:
        made = self._form.zeros(sum(parameter.numel() for parameter in self._parameters))
        with torch.no_grad():
            fill(made, (_whole(parameter) for parameter in self._parameters))
        return made

    def borrow(self) -> Tensor:
        return self.copy()

    def persist(self, borrowed: Tensor, memory: Tensor) -> Tensor:
        return borrowed  # a copy already, and the gradient at it is reused

    def is_at(self, theta: Tensor) -> bool:
        return torch.equal(self.copy(), theta)


class WholeCopy:
    """The unsharded model that is measured in place of a sharded one; buffers are copied from training.

    Parameters
    ----------
    trained, whole
        The sharded model, and its unsharded copy.

    Raises
    ------
    LayoutError
        If the two models differ in names, shapes or dtypes of parameters or buffers.
    """

    def __init__(self, trained: nn.Module, whole: nn.Module) -> None:
        for kind in ("parameters", "buffers"):
            ours, theirs = (dict(getattr(m, f"named_{kind}")()) for m in (trained, whole))
            _require_same_form(kind, ours, theirs)
        self._trained, self._whole = trained, whole
        self.follow()

    def follow(self) -> None:
        """Copy the buffers of the trained model into the copy."""
        with torch.no_grad():
            # Read anew each time, as training may have put other tensors in their places.
            for copy, buffer in zip(self._whole.buffers(), self._trained.buffers(), strict=True):
                if not torch.equal(copy, buffer):
                    copy.copy_(buffer)


def require_training_alone(required: Sequence[str]) -> None:
    """Raise `LCAError` if an estimator requires gradients or batches of training, with an unsharded copy."""
    if required:
        raise LCAError(
            f"the estimator requires {', '.join(required)} of training, and the gradients of a sharded model "
            "are spread over the ranks; make the objective from the sharded model itself, or use "
            "lca.Adaptive, lca.PathIntegral or lca.estimators.SampledPathIntegral (with refresh=n "
            "for samplings other than 'uniform')."
        )


def require_gradients_alone(required: Sequence[str]) -> None:
    """Raise `LCAError` if an estimator requires what only a rank by itself has of training on shards."""
    advice = {
        "halves": "use lca.estimators.CrossFit with the micro-batches of the loop",
        "scores": "let the estimator measure the errors itself with refresh=n",
    }
    for field in advice.keys() & {*required}:
        raise LCAError(
            f"the estimator requires {field} of training, and each rank has those of its own batch only; "
            f"{advice[field]}, or use lca.Adaptive or lca.PathIntegral."
        )


def _whole(parameter: Tensor) -> Tensor:
    if not is_sharded(parameter):
        return parameter
    whole: Tensor = parameter.full_tensor()  # type: ignore[attr-defined]
    return whole


def _require_same_form(kind: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    forms = [{name: (tuple(t.shape), t.dtype) for name, t in tensors.items()} for tensors in (ours, theirs)]
    if forms[0] == forms[1]:
        return
    odd = next(name for name in [*forms[0], *forms[1]] if forms[0].get(name) != forms[1].get(name))
    raise LayoutError(
        f"the {kind} of the objective's model differ from those of the sharded model in training: "
        f"{odd!r} is {forms[1].get(odd, 'missing')} in place of {forms[0].get(odd, 'missing')}; make it from "
        "copy.deepcopy(model) before fully_shard(model)."
    )
