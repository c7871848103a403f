"""NumPy objectives with hand-derived gradients: networks over data sets, penalties, closed forms."""

from lca.models.closed_form import Bilinear, Quadratic, Quartic, ReluKink, bowl, saddle
from lca.models.convolution import Conv2d, MaxPool2d
from lca.models.dataset_loss import DatasetLoss
from lca.models.layers import Dense, Flatten, Layer, ReLU, Tanh
from lca.models.losses import CrossEntropy, OutputLoss, SquaredError
from lca.models.network import Network, logistic_regression, mlp, small_cnn
from lca.models.normalization import BatchNorm, Dropout
from lca.models.penalty import L2Penalty

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
