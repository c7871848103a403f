"""Loss Change Allocation for TensorFlow and Keras: a callback for `model.fit`, a tracker for loops."""

import lca_tensorflow.arrays  # noqa: F401 - registers the array operations of TensorFlow tensors
import lca_tensorflow.engine  # noqa: F401 - refuses other engines of Keras at import
from lca_tensorflow.backend import TensorFlowBackend
from lca_tensorflow.callback import LCACallback
from lca_tensorflow.objective import Objective
from lca_tensorflow.parameters import layout_of
from lca_tensorflow.penalty import Penalty
from lca_tensorflow.replay import replay
from lca_tensorflow.tracker import Tracker

__all__ = ["LCACallback", "Objective", "Penalty", "TensorFlowBackend", "Tracker", "layout_of", "replay"]
