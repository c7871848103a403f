"""Estimators: recipes that turn a step of the path into an allocation of its loss change."""

from lca.estimators.adaptive import Adaptive
from lca.estimators.path_integral import PathIntegral

__all__ = ["Adaptive", "PathIntegral"]
