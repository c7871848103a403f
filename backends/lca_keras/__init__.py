"""Loss Change Allocation for Keras on PyTorch and JAX: a callback for `model.fit`, a tracker for loops.

The engine is the one that Keras runs on (``KERAS_BACKEND``). `lca_tensorflow` measures Keras on TensorFlow.
"""

from lca_keras._backend import KerasBackend
from lca_keras._callback import LCACallback
from lca_keras._objective import Objective
from lca_keras._parameters import layout_of
from lca_keras._tracker import Tracker

__all__ = ["KerasBackend", "LCACallback", "Objective", "Tracker", "layout_of"]
