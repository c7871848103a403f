"""Loss Change Allocation for TensorFlow and Keras: a callback for `model.fit`, a tracker for loops."""

import lca_tensorflow._arrays  # noqa: F401 - registers the array operations of TensorFlow tensors
import lca_tensorflow._engine  # noqa: F401 - refuses other engines of Keras at import
from lca_keras._parameters import layout_of
from lca_tensorflow._backend import TensorFlowBackend
from lca_tensorflow._callback import LCACallback
from lca_tensorflow._objective import Objective
from lca_tensorflow._penalty import Penalty
from lca_tensorflow._replay import replay
from lca_tensorflow._tracker import Tracker

__all__ = ["LCACallback", "Objective", "Penalty", "TensorFlowBackend", "Tracker", "layout_of", "replay"]
