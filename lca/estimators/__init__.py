"""Estimators: recipes that turn a step of the path into an allocation of its loss change."""

from lca.estimators.adaptive import Adaptive
from lca.estimators.anchored import Anchored
from lca.estimators.budget import Budget
from lca.estimators.crossfit import CrossFit
from lca.estimators.minibatch import NextBatch, SameBatch
from lca.estimators.path_integral import PathIntegral
from lca.estimators.probe import Probe

__all__ = ["Adaptive", "Anchored", "Budget", "CrossFit", "NextBatch", "PathIntegral", "Probe", "SameBatch"]
