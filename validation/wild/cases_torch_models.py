"""Models in torch, in an ordinary loop."""

import torch
from torch import nn

from lca_torch import Objective
from validation.wild.small_torch import supervised, torch_case


@torch_case("MLP, SGD")
def _(run):
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    return supervised(run, model)
