"""Training loops in torch with the passes of a cheap estimator, and its leanest sums by hand.

Each class trains one model. ``step(i)`` takes the same gradients as the estimator of that name, and nothing
else; with ``sums=True`` it adds the allocations of the tensors, from inner products alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.linalg.blas import sasum
from torch import Tensor, nn

from lca_torch._live import flat, holds

Data = tuple[Tensor, Tensor]
LOSS = nn.CrossEntropyLoss()


class Training:
    """A plain training step on the batches of ``data`` in turn."""

    def __init__(self, model: nn.Module, optimizer: Any, data: Data, batch: int) -> None:
        self.model, self.optimizer, self.data, self.batch = model, optimizer, data, batch
        self.parameters = list(model.parameters())

    def part(self, i: int) -> Data:
        """Batch i."""
        first = i * self.batch % (len(self.data[0]) - self.batch + 1)
        part = slice(first, first + self.batch)
        return self.data[0][part], self.data[1][part]

    def backward(self, x: Tensor, y: Tensor, weight: float = 1.0) -> None:
        """Add the gradient of a batch to ``.grad``."""
        loss = LOSS(self.model(x), y)
        (loss if weight == 1.0 else weight * loss).backward()

    def step(self, i: int) -> None:
        """One update."""
        self.optimizer.zero_grad()
        self.backward(*self.part(i))
        self.optimizer.step()


class Halves(Training):
    """Both halves of a batch apart: the passes of ``CrossFit()``.

    With ``sums``, for SGD with momentum, from three inner products a tensor (a is half of the gradient of the
    first half, T the whole gradient, v the velocity): ``left = -lr (μ v·T + 4 a·(T - a))``, and half of
    ``-lr v·T`` is the right end of the step before. For Adam, from both leave-one-out updates.
    """

    def __init__(self, *args: Any, sums: bool = False) -> None:
        super().__init__(*args)
        self.sums, self.found = sums, torch.zeros(len(self.parameters), dtype=torch.float64)
        adam = isinstance(self.optimizer, torch.optim.Adam)
        self.allocate: Callable[[list[Tensor], list[Tensor]], None] = self.of_adam if adam else self.of_sgd
        self.before: list[Tensor] = []

    def step(self, i: int) -> None:
        x, y = self.part(i)
        half = self.batch // 2
        self.optimizer.zero_grad()
        self.backward(x[:half], y[:half], 0.5)
        first = [_grad(p).clone() for p in self.parameters] if self.sums else []
        self.backward(x[half:], y[half:], 0.5)
        if self.sums:
            with torch.no_grad():
                self.allocate(first, [_grad(p) for p in self.parameters])
        self.optimizer.step()

    def of_sgd(self, first: list[Tensor], whole: list[Tensor]) -> None:
        [group] = self.optimizer.param_groups
        lr, momentum = group["lr"], group["momentum"]
        moving = [self.optimizer.state[p].get("momentum_buffer") for p in self.parameters]
        rows = []
        for half, total, velocity in zip(first, whole, moving, strict=True):
            a, t = half.view(-1), total.view(-1)
            row = 2 * (torch.dot(a, t) - torch.dot(a, a))
            if velocity is not None:
                row = row + (momentum + 1) / 2 * torch.dot(velocity.view(-1), t)
            rows.append(-lr * row)
        self.found += torch.stack(rows)

    def of_adam(self, first: list[Tensor], whole: list[Tensor]) -> None:
        [group] = self.optimizer.param_groups
        lr, (b1, b2), eps = group["lr"], group["betas"], group["eps"]
        states = [self.optimizer.state[p] for p in self.parameters]
        second = torch._foreach_sub(whole, first)
        rows = [torch.zeros(len(whole))]
        if self.before:  # the right end of the step before: g · Δ, from θ there and here
            moved = torch._foreach_sub(self.parameters, self.before)
            rows.append(0.5 * _dots(whole, moved))
        count = 1 + int(states[0]["step"]) if states[0] else 1
        rate, root = -lr / (1 - b1**count), 1 / (1 - b2**count)
        for judged, other in ((first, second), (second, first)):
            up = torch._foreach_mul(other, 2 * (1 - b1) * rate)
            down = torch._foreach_mul(other, other)
            torch._foreach_mul_(down, 4 * (1 - b2) * root)
            if states[0]:
                torch._foreach_add_(up, [s["exp_avg"] for s in states], alpha=b1 * rate)
                torch._foreach_add_(down, [s["exp_avg_sq"] for s in states], alpha=b2 * root)
            torch._foreach_sqrt_(down)
            torch._foreach_add_(down, eps)
            torch._foreach_div_(up, down)
            rows.append(0.5 * _dots(judged, up))  # weight ½ of the half, ½ of the rule, g = 2 judged
        self.before = [p.detach().clone() for p in self.parameters]
        self.found += torch.stack(rows).sum(0)


class SameResults(Training):
    """All that a tracker with ``CrossFit()`` finds from both halves of a batch, for SGD with momentum.

    The gradient and θ are compared with copies of them; the allocation A of each step is formed, with its
    mass and the float64 sums of the tensors. The sums and masses equal those of a tracker bit by bit.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        sizes = [parameter.numel() for parameter in self.parameters]
        self.offsets = np.cumsum([0, *sizes[:-1]])
        self.tensors = [parameter.detach() for parameter in self.parameters]
        self.start = self.end = flat(self.tensors)
        self.found, self.mass = np.zeros(len(sizes)), 0.0
        self.left: tuple[Tensor, float] | None = None

    def step(self, i: int) -> None:
        x, y = self.part(i)
        half = self.batch // 2
        self.optimizer.zero_grad()
        self.backward(x[:half], y[:half], 0.5)
        first = flat(map(_grad, self.parameters))
        self.backward(x[half:], y[half:], 0.5)
        with torch.no_grad():
            self.allocate(first)
        self.optimizer.step()
        self.start, self.end = self.end, flat(self.tensors)

    def allocate(self, first: Tensor) -> None:
        gradients = [_grad(parameter) for parameter in self.parameters]
        whole = flat(gradients)
        if not (holds(whole, gradients) and holds(self.end, self.tensors)):
            raise AssertionError("the gradient or θ has changed")
        right = torch.sub(self.end, self.start).mul_(whole)
        mass = 0.5 * sasum(right.numpy())
        if self.left is not None:  # the step before is complete
            values = right.mul_(0.5).add_(self.left[0], alpha=0.5)
            self.found += np.add.reduceat(values.numpy(), self.offsets, dtype=np.float64)
            self.mass += 0.5 * self.left[1] + mass
        [group] = self.optimizer.param_groups
        lr, momentum = group["lr"], group["momentum"]
        moving = [self.optimizer.state[p].get("momentum_buffer") for p in self.parameters]
        second = torch.sub(whole, first)
        base = torch.zeros_like(whole) if moving[0] is None else flat(moving).mul_(-lr * momentum)
        one = torch.add(base, second, alpha=-2 * lr).mul_(first)
        two = base.add_(first, alpha=-2 * lr).mul_(second)
        size = sasum(one.numpy()) + sasum(two.numpy())
        self.left = one.add_(two), size


class Probe(Training):
    """A training step, and the gradient on a uniform sample at θ_t: the passes of ``SampledPathIntegral``."""

    def __init__(self, *args: Any, size: int, sums: bool = False, pieces: int = 1) -> None:
        super().__init__(*args)
        self.sums, self.size, self.pieces = sums, size, pieces
        self.found = torch.zeros(len(self.parameters), dtype=torch.float64)
        self.theta: list[Tensor] = []
        self.gradient: list[Tensor] = []

    def step(self, i: int) -> None:
        x, y = self.data
        for _ in range(self.pieces):
            index = torch.randint(len(x), (self.size // self.pieces,))
            gradient = torch.autograd.grad(LOSS(self.model(x[index]), y[index]), self.parameters)
        if self.sums:
            with torch.no_grad():
                if self.theta:
                    moved = torch._foreach_sub(self.parameters, self.theta)
                    self.found += 0.5 * (_dots(gradient, moved) + _dots(self.gradient, moved))
                self.theta, self.gradient = [p.detach().clone() for p in self.parameters], gradient
        super().step(i)


class SameProbeResults(Training):
    """All that a tracker with a ``SampledPathIntegral`` of uniform samples in pieces finds by the trapezoid.

    The gradients of the pieces and their mean are kept for the error bars, and θ is compared with its copy
    before an update; A is formed with its mass and the float64 sums of the tensors. The sums and masses
    equal those of a tracker bit by bit.
    """

    def __init__(self, *args: Any, size: int, pieces: int) -> None:
        super().__init__(*args)
        n, sizes = len(self.data[0]), [parameter.numel() for parameter in self.parameters]
        self.size, self.pieces, self.random = size // pieces, pieces, np.random.default_rng([0, 0x1CA])
        self.upto = np.cumsum(np.full(n, 1 / n))
        self.offsets = np.cumsum([0, *sizes[:-1]])
        self.tensors = [parameter.detach() for parameter in self.parameters]
        self.found, self.mass = np.zeros(len(sizes)), 0.0
        self.theta: Tensor | None = None
        self.node: list[Tensor] = []

    def step(self, i: int) -> None:
        if self.theta is None:
            self.theta, self.node = flat(self.tensors), self.gradients()
        if not holds(self.theta, self.tensors):
            raise AssertionError("θ has changed")
        super().step(i)
        end = flat(self.tensors)
        node = self.gradients()
        moved = torch.sub(end, self.theta)
        values = torch.mul(self.node[0], moved)
        mass = 0.5 * sasum(values.numpy())
        product = torch.mul(node[0], moved, out=moved)
        self.mass += mass + 0.5 * sasum(product.numpy())
        values.mul_(0.5).add_(product, alpha=0.5)
        self.found += np.add.reduceat(values.numpy(), self.offsets, dtype=np.float64)
        self.theta, self.node = end, node

    def gradients(self) -> list[Tensor]:
        """The mean gradient (K,) of new samples, and that of each."""
        x, y = self.data
        pieces = []
        for _ in range(self.pieces):
            at = self.random.random(self.size) * self.upto[-1]
            index = torch.as_tensor(np.searchsorted(self.upto[:-1], at, side="right"))
            loss = LOSS(self.model(x.index_select(0, index)), y.index_select(0, index))
            pieces.append(flat(torch.autograd.grad(loss, self.parameters)))
        mean = pieces[0] * (1 / self.pieces)
        for piece in pieces[1:]:
            mean.add_(piece, alpha=1 / self.pieces)
        return [mean, *pieces]


def _grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _dots(a: Any, b: Any) -> Tensor:
    return torch.stack([torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in zip(a, b, strict=True)])
