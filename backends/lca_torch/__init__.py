"""Loss Change Allocation for PyTorch: any model, any training loop, on the model's own device."""

import lca_torch._arrays  # noqa: F401 - registers the array operations of torch tensors
from lca_torch._backend import TorchBackend
from lca_torch._objective import Objective
from lca_torch._parameters import layout_of
from lca_torch._penalty import Penalty
from lca_torch._replay import replay
from lca_torch._tracker import Tracker

__all__ = ["Objective", "Penalty", "TorchBackend", "Tracker", "layout_of", "replay"]
