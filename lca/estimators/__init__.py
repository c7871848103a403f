"""Estimators: each allocates the loss change of a step to the parameters."""

from lca.estimators.adaptive import Adaptive
from lca.estimators.adaptive_sample_size import AdaptiveSampleSize
from lca.estimators.control_variate import ControlVariate
from lca.estimators.crossfit import CrossFit
from lca.estimators.minibatch import NextBatch, SameBatch
from lca.estimators.path_integral import PathIntegral
from lca.estimators.sampled_path_integral import SampledPathIntegral

__all__ = [
    "Adaptive",
    "AdaptiveSampleSize",
    "ControlVariate",
    "CrossFit",
    "NextBatch",
    "PathIntegral",
    "SameBatch",
    "SampledPathIntegral",
]
