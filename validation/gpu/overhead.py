"""Part (b): time relative to the same gradients by hand, and synchronisations of host and device."""

from typing import Any

import torch
from torch import Tensor, nn

import lca
from validation.bench_torch.resnet20 import resnet20
from validation.bench_torch.run import cifar_like, overhead
from validation.cost_frontier.torch_case import fully_connected
from validation.gpu.setting import Setting
from validation.gpu.waits import ESTIMATORS, all_waits, waits

LOSS = nn.CrossEntropyLoss()


def ratios(setting: Setting) -> None:
    """Time both networks with both rules, interleaved; then count the synchronisations of a step."""
    device, small = setting.device, setting.small
    cases: dict[str, Any] = {
        "MNIST-FC": (fully_connected, mnist_like(300 if small else 55_000, device), 5_000),
        "ResNet-20": (resnet20, cifar_like(20 if small else 5_000, device), 250),
    }
    for name, (network, data, size) in cases.items():
        rules = {"trapezoid": lca.TRAPEZOID} if small else {"trapezoid": lca.TRAPEZOID, "rk4": lca.RK4}
        for rule_name, rule in rules.items():
            torch.manual_seed(0)
            found = overhead(
                network().to(device), data, size, rule, steps=1 if small else 3, rounds=1 if small else 15
            )
            setting.results.add(**{f"{name}, {rule_name}": found})
    setting.results.add(waits=all_waits(device))
    setting.results.add(profiled_waits=waits(ESTIMATORS["Adaptive"], device, profile=True))


def mnist_like(examples: int, device: str) -> tuple[Tensor, Tensor]:
    """Random images of MNIST's size: time does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(examples, 784, generator=generator), torch.randint(10, (examples,), generator=generator)
    return x.to(device), y.to(device)
