"""Estimators: each allocates the loss change of a step to the parameters."""

from lca.estimators._adaptive import Adaptive
from lca.estimators._adaptive_sample_size import AdaptiveSampleSize
from lca.estimators._control_variate import ControlVariate
from lca.estimators._crossfit import CrossFit
from lca.estimators._integral import Integral, integrate
from lca.estimators._lagged import LaggedCrossFit
from lca.estimators._minibatch import NextBatch, SameBatch
from lca.estimators._path import GradientAt, Path, Segment
from lca.estimators._path_integral import PathIntegral
from lca.estimators._registry import REGISTRY, NamedEstimator, make_estimator, named_estimator
from lca.estimators._replicates import NodeReplicates
from lca.estimators._sampled_path_integral import SampledPathIntegral, gradient_on
from lca.estimators._sampling import Sampler
from lca.estimators._stochastic import StochasticEstimator, check_required_fields, required_fields_of

__all__ = [
    "REGISTRY",
    "Adaptive",
    "AdaptiveSampleSize",
    "ControlVariate",
    "CrossFit",
    "GradientAt",
    "Integral",
    "LaggedCrossFit",
    "NamedEstimator",
    "NextBatch",
    "NodeReplicates",
    "Path",
    "PathIntegral",
    "SameBatch",
    "SampledPathIntegral",
    "Sampler",
    "Segment",
    "StochasticEstimator",
    "check_required_fields",
    "gradient_on",
    "integrate",
    "make_estimator",
    "named_estimator",
    "required_fields_of",
]
