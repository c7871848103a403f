"""Loss Change Allocation: split every change of a training loss over the parameters that moved.

A training run is a path; an estimator turns each step of the path into an allocation of the loss
change. Negative values helped, positive values hurt, and they add up to the true change.
"""

from importlib.metadata import version

from lca import _signals

_signals.end_at_once()  # the imports below take a while, and Ctrl-C may come during them

from lca.allocation import Cost, StepAllocation, allocate, allocate_each  # noqa: E402
from lca.errors import LCAError  # noqa: E402
from lca.estimators import Adaptive, PathIntegral  # noqa: E402
from lca.layout import Layout  # noqa: E402
from lca.objective import Objective, Scaled, Sum  # noqa: E402
from lca.quadrature import (  # noqa: E402
    BOOLE,
    LEFT,
    MIDPOINT,
    RIGHT,
    RK4,
    SIMPSON,
    TRAPEZOID,
    QuadratureRule,
    composite,
    gauss_legendre,
    gauss_lobatto,
)
from lca.record import Record, open_record  # noqa: E402
from lca.step import MicroBatch, Step, Trajectory  # noqa: E402

__version__ = version("loss-change-allocation")

__all__ = [
    "BOOLE",
    "LEFT",
    "MIDPOINT",
    "RIGHT",
    "RK4",
    "SIMPSON",
    "TRAPEZOID",
    "Adaptive",
    "Cost",
    "LCAError",
    "Layout",
    "Objective",
    "MicroBatch",
    "PathIntegral",
    "QuadratureRule",
    "Record",
    "Scaled",
    "Step",
    "StepAllocation",
    "Sum",
    "Trajectory",
    "allocate",
    "allocate_each",
    "composite",
    "gauss_legendre",
    "gauss_lobatto",
    "open_record",
]
