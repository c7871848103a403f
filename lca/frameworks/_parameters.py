"""Checks that the parameters of a model, and a vector θ of them, can be measured."""

from collections.abc import Mapping

from lca.arrays import Vector, array_ops
from lca.errors import LayoutError
from lca.frameworks._tensors import dtype_of
from lca.layout import Layout

PRECISIONS = ("float32", "float64")
"""The dtypes θ may have: differences between the steps of a run are lost in fewer bits."""


def require_one(what: str, values: Mapping[str, object], fix: str) -> None:
    """Raise `LayoutError` unless all parameters have the same ``what``, e.g. the same dtype.

    Parameters
    ----------
    what
        The property, for the message.
    values
        Its value of each parameter, by the name of the parameter.
    fix
        What to do, for the message.

    Raises
    ------
    LayoutError
        If two values differ.

    Examples
    --------
    >>> require_one("dtype", {"w": "float32", "b": "float32"}, "convert the model")
    """
    (first, wanted), *rest = values.items()
    for name, value in rest:
        if value != wanted:
            raise LayoutError(
                f"all parameters must share one {what}: {first!r} has {wanted}, {name!r} has {value}; {fix}."
            )


def require_precision(dtypes: Mapping[str, str], fix: str) -> None:
    """Raise `LayoutError` unless the first parameter is float32 or float64.

    Parameters
    ----------
    dtypes
        Names of dtypes, by the name of the parameter.
    fix
        What to do, for the message.

    Raises
    ------
    LayoutError
        If the first is neither float32 nor float64.

    Examples
    --------
    >>> require_precision({"w": "float64"}, "build the model in float32")
    """
    first, dtype = next(iter(dtypes.items()))
    if dtype not in PRECISIONS:
        raise LayoutError(
            f"parameter {first!r} is {dtype}; differences between steps need float32 or float64 parameters: "
            f"{fix}."
        )


def check_theta(layout: Layout, theta: Vector, kind: type) -> None:
    """Raise `LayoutError` unless θ is a (K,) float32 or float64 vector of this tensor type.

    Parameters
    ----------
    layout
        Names and shapes of the parameters.
    theta
        What was passed as θ.
    kind
        The type of the tensors of the framework.

    Raises
    ------
    LayoutError
        If its type, dtype or shape is another.

    Examples
    --------
    >>> import numpy as np
    >>> check_theta(Layout(("w",), ((2,),)), np.zeros(2), np.ndarray)
    """
    array_ops(theta)
    if not isinstance(theta, kind) or dtype_of(theta) not in PRECISIONS:
        raise LayoutError(
            f"theta must be a float32 or float64 {kind.__module__.split('.')[0]}."
            f"{kind.__name__.rpartition('.')[2]} of shape "
            f"({layout.size},), got {dtype_of(theta) if isinstance(theta, kind) else type(theta).__name__}; "
            "take it from objective.theta()."
        )
    layout.check(theta, "theta")
