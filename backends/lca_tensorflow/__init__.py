"""Loss Change Allocation for TensorFlow and Keras: one callback for `model.fit`."""

import lca_tensorflow.engine  # noqa: F401 - refuses other engines of Keras before anything is built on them
import lca_tensorflow.vectors  # noqa: F401 - registers the reductions of TensorFlow tensors
from lca_tensorflow.callback import LCACallback
from lca_tensorflow.objective import Objective
from lca_tensorflow.parameters import layout_of

__all__ = ["LCACallback", "Objective", "layout_of"]
