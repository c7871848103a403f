"""Allocation by example: the loss change of a step, split over groups of parameters and over examples.

Examples
--------
Which class of digits each layer learned in the first step:

>>> from lca.reference import SGD, DatasetLoss, load_digits, minibatches, mlp, train
>>> digits, network = load_digits().reshaped((64,)), mlp((64, 16, 10))
>>> objective = DatasetLoss(network, digits.x_train, digits.y_train)
>>> batches = minibatches(digits.x_train, digits.y_train, batch_size=100, steps=1, seed=0)
>>> steps = train(objective, network.init(seed=0), SGD(lr=0.1), batches)
>>> [a] = allocate_by_example(objective, steps, ByExample("layer"))
>>> a.over("class").values.shape
(2, 10)
"""

from lca.by_example._allocation import ExampleAllocation
from lca.by_example._estimator import ByExample, allocate_by_example
from lca.by_example._history import ExampleHistory
from lca.by_example._movement import GroupMovement
from lca.by_example._protocol import ExampleSlopes, Separable

__all__ = [
    "ByExample",
    "ExampleAllocation",
    "ExampleHistory",
    "ExampleSlopes",
    "GroupMovement",
    "Separable",
    "allocate_by_example",
]
