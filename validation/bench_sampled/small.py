"""The fixed cost of a gradient of an `Objective`, on models so small that it matters.

Three gradients take turns: that of `torch.autograd.grad`, put together in one vector; the same at a given θ
with the guards of the package, written as one function for this one model (`guarded`); and that of
`lca_torch.Objective`. CPU time of one thread, medians over rounds of the ratio within a round.
"""

import argparse
import copy
import ctypes
import gc
import random
import time
from collections.abc import Callable
from functools import partial
from operator import attrgetter, is_
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from lca_torch import Objective

LOSS = nn.functional.cross_entropy
Gradient = Callable[[], object]


def tiny() -> tuple[nn.Module, Tensor, Tensor]:
    """A network of 2,007 parameters in six tensors, and 100 examples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 63), nn.Tanh(), nn.Linear(63, 10), nn.Linear(10, 4))
    return model, torch.randn(100, 20), torch.arange(100) % 4


class Many(nn.Module):
    """4,000 tensors of 64 numbers are added to the input of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.shifts = nn.ParameterList([nn.Parameter(0.1 * torch.randn(64)) for _ in range(4000)])
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, 4)."""
        for shift in self.shifts:
            x = x + 0.01 * shift
        return self.head(x)


def many() -> tuple[nn.Module, Tensor, Tensor]:
    """A network of 4,002 tensors, and 20 examples."""
    torch.manual_seed(0)
    return Many(), torch.randn(20, 64), torch.arange(20) % 4


def plain(model: nn.Module, x: Tensor, y: Tensor) -> Gradient:
    """The gradient as it is written by hand."""
    parameters = list(model.parameters())

    def gradient() -> Tensor:
        found = torch.autograd.grad(LOSS(model(x), y), parameters)
        return torch.cat([piece.reshape(-1) for piece in found])

    return gradient


def guarded(model: nn.Module, x: Tensor, y: Tensor, theta: Tensor) -> Callable[[], tuple[float, Tensor]]:
    """Loss and gradient at θ of a copy of the model, refused if anything has changed that the loss reads.

    Compared are the parameters in their modules, their shapes, dtypes and devices, the attributes of every
    module, the versions of the data, the random generators, the modes and hooks of torch.
    """
    private = copy.deepcopy(model).eval()
    pairs = list(zip(model.modules(), private.modules(), strict=True))
    slots = [(mine._parameters, own._parameters, k) for own, mine in pairs for k in own._parameters]
    held = [own[key] for _, own, key in slots]
    form, version = attrgetter("shape", "dtype", "device"), attrgetter("_version")
    forms, versions = list(map(form, held)), sum(map(version, (x, y)))
    spaces = [module.__dict__ for pair in pairs for module in pair]
    places = [(space, key, space[key]) for space in spaces for key in space]
    getters, keys = [space.get for space, _, _ in places], [key for _, key, _ in places]
    values, lengths = [value for _, _, value in places], list(map(len, spaces))
    hooks = [getattr(torch_module, f"_global_{n}_hooks") for n in ("forward", "forward_pre", "backward")]
    numpy = np.random.get_bit_generator().ctypes.state_address  # type: ignore[attr-defined]
    python = id(random._inst) + object.__basicsize__  # type: ignore[attr-defined]
    sizes, shapes = [len(t.reshape(-1)) for t in held], [t.shape for t in held]

    def bits() -> tuple[bytes, ...]:
        own = torch.default_generator.get_state().numpy().tobytes()
        return own, ctypes.string_at(numpy, 2500), ctypes.string_at(python, 2500)

    def require_same() -> None:
        same = (
            all(map(is_, [own[key] for _, own, key in slots], held))
            and list(map(form, held)) == forms
            and list(map(len, spaces)) == lengths
            and all(map(is_, [get(key) for get, key in zip(getters, keys, strict=True)], values))
            and sum(map(version, (x, y))) == versions
            and not any(hooks)
            and torch.is_grad_enabled()
            and not torch.is_inference_mode_enabled()
            and not torch.is_autocast_enabled("cpu")
        )
        if not same:
            raise RuntimeError("something has changed")

    def gradient() -> tuple[float, Tensor]:
        require_same()
        before = bits()
        views = [p.data.view(s) for p, s in zip(theta.split(sizes), shapes, strict=True)]
        for view, (mine, _, key) in zip(views, slots, strict=True):
            mine[key] = view.requires_grad_()
        try:
            loss = LOSS(private(x), y)
            found = torch._C._nn.flatten_dense_tensors(torch.autograd.grad(loss, views))
        finally:
            for mine, own, key in slots:
                mine[key] = own[key]
        if bits() != before:
            raise RuntimeError("the loss has drawn a random number")
        return float(loss.detach().double()), found

    return gradient


def seconds(gradient: Gradient, times: int) -> float:
    """CPU seconds of one call; cycles are collected before, as else that falls on any of the sides."""
    gc.collect()
    gc.disable()
    began = time.process_time()
    for _ in range(times):
        gradient()
    taken = (time.process_time() - began) / times
    gc.enable()
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=41)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for make, times in ((tiny, 100), (many, 2)):
        model, x, y = make()
        objective = Objective(model, LOSS, (x, y))
        theta = objective.theta()
        by_guarded = guarded(model, x, y, theta)
        (loss, found), (own_loss, own) = by_guarded(), objective.loss_and_grad(theta)
        if loss != own_loss or not torch.equal(found, own):
            raise AssertionError("the results differ")
        ours = partial(objective.loss_and_grad, theta)
        sides: list[Gradient] = [plain(model, x, y), by_guarded, ours]
        for side in sides:
            seconds(side, times)
        rounds = [[seconds(side, times) for side in sides] for _ in range(options.rounds)]
        lean, own_ratio = (median(each[i] / each[0] for each in rounds) for i in (1, 2))
        micro = 1e6 * median(each[0] for each in rounds)
        print(
            make.__doc__,
            f"By hand {micro:,.0f} µs; guarded {lean:.2f}, Objective {own_ratio:.2f} times that.",
        )


if __name__ == "__main__":
    main()
