"""NumPy objectives with hand-derived gradients: networks, penalties, and losses with known allocations."""

from lca.reference._models.closed_form import Bilinear, Quadratic, Quartic, ReluKink, bowl, saddle
from lca.reference._models.convolution import Conv2d, MaxPool2d
from lca.reference._models.dataset_loss import DatasetLoss
from lca.reference._models.layers import Dense, Flatten, Layer, ReLU, Tanh
from lca.reference._models.losses import CrossEntropy, OutputLoss, SquaredError
from lca.reference._models.network import Network, logistic_regression, mlp, small_cnn
from lca.reference._models.normalization import BatchNorm, Dropout
from lca.reference._models.penalty import L2Penalty

__all__ = [
    "BatchNorm",
    "Bilinear",
    "Conv2d",
    "CrossEntropy",
    "DatasetLoss",
    "Dense",
    "Dropout",
    "Flatten",
    "L2Penalty",
    "Layer",
    "MaxPool2d",
    "Network",
    "OutputLoss",
    "Quadratic",
    "Quartic",
    "ReLU",
    "ReluKink",
    "SquaredError",
    "Tanh",
    "bowl",
    "logistic_regression",
    "mlp",
    "saddle",
    "small_cnn",
]
