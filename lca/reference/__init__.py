"""The NumPy backend: networks with hand-derived gradients, data sets, optimizers and a training loop.

It needs NumPy and SciPy only. The other backends are checked against it.

Examples
--------
Train a small network on the embedded digits and allocate its loss change:

>>> import lca
>>> from lca.reference import SGD, DatasetLoss, load_digits, minibatches, mlp, train
>>> digits, network = load_digits().reshaped((64,)), mlp((64, 16, 10))
>>> objective = DatasetLoss(network, digits.x_train, digits.y_train)
>>> batches = minibatches(digits.x_train, digits.y_train, batch_size=100, steps=5, seed=0)
>>> steps = train(objective, network.init(seed=0), SGD(lr=0.1), batches)
>>> change = sum(a.loss_end - a.loss_start for a in lca.allocate(objective, steps, lca.PathIntegral()))
>>> print(f"{change:.2f}")
-0.14
"""

from lca._micro_batches import mean_gradient
from lca.reference._backend import Backend, Dtype, NumpyBackend, load_backend, offered_backends
from lca.reference._data import Batch, Dataset, Split, load_digits, load_split
from lca.reference._models import (
    BatchNorm,
    Bilinear,
    Conv2d,
    CrossEntropy,
    DatasetLoss,
    Dense,
    Dropout,
    Flatten,
    L2Penalty,
    Layer,
    MaxPool2d,
    Network,
    OutputLoss,
    Quadratic,
    Quartic,
    ReLU,
    ReluKink,
    SquaredError,
    Tanh,
    bowl,
    logistic_regression,
    mlp,
    saddle,
    small_cnn,
)
from lca.reference._models.named import make_model
from lca.reference._optimizers import (
    SGD,
    Adam,
    AdamW,
    Optimizer,
    RMSProp,
    leave_one_out,
    make_optimizer,
    update_slope,
)
from lca.reference._training import minibatches, train, with_next

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Backend",
    "Batch",
    "BatchNorm",
    "Bilinear",
    "Conv2d",
    "CrossEntropy",
    "Dataset",
    "DatasetLoss",
    "Dense",
    "Dropout",
    "Dtype",
    "Flatten",
    "L2Penalty",
    "Layer",
    "MaxPool2d",
    "Network",
    "NumpyBackend",
    "Optimizer",
    "OutputLoss",
    "Quadratic",
    "Quartic",
    "RMSProp",
    "ReLU",
    "ReluKink",
    "Split",
    "SquaredError",
    "Tanh",
    "bowl",
    "leave_one_out",
    "load_backend",
    "load_digits",
    "load_split",
    "logistic_regression",
    "make_model",
    "make_optimizer",
    "mean_gradient",
    "minibatches",
    "mlp",
    "offered_backends",
    "saddle",
    "small_cnn",
    "train",
    "update_slope",
    "with_next",
]
