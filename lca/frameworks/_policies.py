"""Options that mean the same in every framework: BatchNorm while measuring, parameters that do not train."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeAlias, get_args

from lca.errors import UnknownNameError

BatchNormPolicy: TypeAlias = Literal["batch", "frozen"]
"""Statistics that a BatchNorm layer uses while measuring.

``"batch"``: those of the measuring batch, with the gradient through them. ``"frozen"``: its running
statistics.
"""
BatchNorm: TypeAlias = BatchNormPolicy | Mapping[str, BatchNormPolicy]
"""One policy for all BatchNorm layers, or a policy by name of the layer; layers not named get ``"batch"``."""
Frozen: TypeAlias = Literal["zero", "omit"]
"""Parameters that do not train: ``"zero"`` keeps them in θ with gradient 0, ``"omit"`` leaves them out."""


def batch_norm_policies(policy: BatchNorm, layers: Collection[str]) -> dict[str, BatchNormPolicy]:
    """The policy of each normalisation layer, by name.

    Parameters
    ----------
    policy
        One policy for all layers, or policies by the name of the layer; the others get ``"batch"``.
    layers
        The names of the normalisation layers.

    Raises
    ------
    UnknownNameError
        If a policy, or the name of a layer, is unknown.

    Examples
    --------
    >>> batch_norm_policies({"norm2": "frozen"}, ["norm1", "norm2"])
    {'norm1': 'batch', 'norm2': 'frozen'}
    """
    named = policy if isinstance(policy, Mapping) else {}
    for name in named:
        if name not in layers:
            raise UnknownNameError("normalisation layer", name, layers)
    default: Any = "batch" if isinstance(policy, Mapping) else policy
    for chosen in (default, *named.values()):
        if chosen not in get_args(BatchNormPolicy):
            raise UnknownNameError("batch_norm policy", chosen, get_args(BatchNormPolicy))
    return {name: named.get(name, default) for name in layers}


def check_frozen(frozen: str) -> None:
    """Raise `UnknownNameError` unless ``frozen`` is a policy.

    >>> check_frozen("omit")
    """
    if frozen not in get_args(Frozen):
        raise UnknownNameError("policy for frozen parameters", frozen, get_args(Frozen))
