"""Loss Change Allocation: split every change of a training loss over the parameters that moved.

A training run is a path; an estimator turns each step of the path into an allocation of the loss
change. Negative values helped, positive values hurt, and they add up to the true change.
"""

# ruff: noqa: E402
from lca import _signals

_signals.end_at_once()  # the imports below take a while, and Ctrl-C may come during them

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from lca.allocation import Cost, StepAllocation, allocate, allocate_each
from lca.errors import LCAError
from lca.estimators import Adaptive, PathIntegral
from lca.layout import Layout
from lca.objective import Objective, Scaled, Sum
from lca.quadrature import (
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
from lca.record import Record, open_record
from lca.step import MicroBatch, Step, Trajectory

if TYPE_CHECKING:
    from lca.runs import Runs, open_runs
    from lca.tracking import measure

_LATER = {"Runs": "lca.runs", "open_runs": "lca.runs", "measure": "lca.tracking"}
_MODULES = frozenset(("analysis", "importers", "plots", "reference", "report", "runs", "testing", "tracking"))
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
    "Runs",
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
    "measure",
    "open_record",
    "open_runs",
]


def __getattr__(name: str) -> Any:
    """Import on first use what builds on this module, as `lca.runs` does by `lca.analysis`, or is large."""
    if name in _MODULES:
        return import_module(f"lca.{name}")
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'lca' has no attribute {name!r}")
