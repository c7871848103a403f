"""Loss Change Allocation for PyTorch: any model, any training loop, on the model's own device."""

import lca_torch.arrays  # noqa: F401 - registers the array operations of torch tensors
from lca_torch.backend import TorchBackend
from lca_torch.objective import Objective
from lca_torch.parameters import layout_of
from lca_torch.penalty import Penalty
from lca_torch.replay import replay
from lca_torch.tracker import Tracker

__all__ = ["Objective", "Penalty", "TorchBackend", "Tracker", "layout_of", "replay"]
