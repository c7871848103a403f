"""What is lost: by vectors in bfloat16, and by straight lines between checkpoints that are far apart."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import lca
from lca.reference import load_digits
from lca.tolerances import EPS32, conservation
from lca_torch import Objective

UPDATES = 300
GAPS = 1, 10, 30, 100, 300
LOSS = nn.CrossEntropyLoss()


class Run(NamedTuple):
    """A training run on the digits, and the loss that is measured."""

    objective: Objective
    points: list[Tensor]


def trained() -> Run:
    """A network of 2,410 parameters on the digits, Adam 0.005, batch 100; θ before and after every update."""
    torch.manual_seed(0)
    digits = load_digits().reshaped((64,))
    x, y = torch.tensor(digits.x_train).float(), torch.tensor(digits.y_train)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    objective = Objective(model, LOSS, (x, y))
    points = [objective.theta()]
    for _ in range(UPDATES):
        rows = torch.randint(len(x), (100,))
        optimizer.zero_grad()
        LOSS(model(x[rows]), y[rows]).backward()
        optimizer.step()
        points.append(objective.theta())
    return Run(objective, points)


def rounded(run: Run) -> dict[str, dict[str, float]]:
    """Trapezoid steps whose θ_t, or whose gradients, were kept in bfloat16.

    Of each: the largest error of a step's sum in units of the tolerance of conservation, the mean over the
    steps of ``Σ_i |A_i - A'_i| / Σ_i |A_i|``, and ``Σ_l |A_l - A'_l| / Σ_l |A_l|`` of the layers of the run.
    """
    layers = run.objective.layout.groups("layer")
    names = "θ_t", "gradients"
    exact, sums = np.zeros(len(layers)), {name: np.zeros(len(layers)) for name in names}
    errors, entries = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    (loss, grad), start = run.objective.loss_and_grad(run.points[0]), run.points[0]
    for end in run.points[1:]:
        next_loss, next_grad = run.objective.loss_and_grad(end)
        mean = (grad + next_grad) / 2
        values = {
            "": mean * (end - start),
            "θ_t": mean * (end - start.bfloat16().float()),
            "gradients": (grad.bfloat16().float() + next_grad.bfloat16().float()) / 2 * (end - start),
        }
        exact += layers.total(values[""])
        allowed = conservation(float(values[""].abs().sum()), loss, EPS32)
        for name in sums:
            sums[name] += layers.total(values[name])
            off = (values[name] - values[""]).double()
            errors[name] = max(errors[name], abs(float(off.sum())) / allowed)
            entries[name] += float(off.abs().sum() / values[""].abs().sum()) / UPDATES
        start, loss, grad = end, next_loss, next_grad
    return {
        name: {
            "tolerances": errors[name],
            "parameters": entries[name],
            "layers": float(np.abs(sums[name] - exact).sum() / np.abs(exact).sum()),
        }
        for name in sums
    }


def lines(run: Run) -> dict[str, dict[str, Any]]:
    """The whole run from every 1st, 10th, ... point, by `lca.Adaptive`, against all updates."""
    tensors = run.objective.layout.groups("tensor")
    found: dict[str, dict[str, Any]] = {}
    exact: list[np.ndarray] = []
    for gap in GAPS:
        points = lca.Trajectory(run.points[::gap])
        steps = list(lca.allocate(run.objective, points, lca.Adaptive(tol=1e-4)))
        values = sum(a.values.double() for a in steps)
        sums = [tensors.total(values), values.numpy()]
        exact = exact or sums
        off = [float(np.abs(a - b).sum() / np.abs(b).sum()) for a, b in zip(sums, exact, strict=True)]
        found[str(gap)] = {
            "lines": len(steps),
            "gradients": sum(a.cost.full_gradients for a in steps),
            "residual": sum(a.residual for a in steps),
            "unconverged": sum(not a.converged for a in steps),
            "change": steps[-1].loss_end - steps[0].loss_start,
            "tensors": off[0],
            "parameters": off[1],
        }
    return found
