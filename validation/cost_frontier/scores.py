"""How the scores of examples set the variance of a stratified sample.

A network is trained on MNIST (784-100-50-10, 10,000 images, batches of 250 in shuffled epochs, 400 steps). At
every step up to the 20th, and at every fourth one after it, the derivative of every example's loss along the
update of each layer is known exactly at both ends of the step. So is, up to the spread of 200 draws, the
variance of the trapezoid on two stratified samples of 250 examples, for each way to score examples.

    python -m validation.cost_frontier.scores --seeds 0 1
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from validation.cost_frontier.torch_case import fully_connected, he_normal, make_optimizer
from validation.evidence import keep, mnist_path

EXAMPLES, BATCH, STEPS, DRAWS = 10_000, 250, 400, 200
PERIODS = ((0, 20), (20, 50), (50, 100), (100, 200), (200, 400))
RATES = {"momentum": 0.05, "adam": 0.002}
Array = np.ndarray
Layers = list[tuple[Tensor, Tensor]]


@dataclass
class Scores:
    """Scores of all examples, from the errors of those that are seen."""

    floor: float
    memory: float = 0.0  # the part of what was known before in a new score
    measured: Callable[[int], bool] = lambda step: False  # whether all are measured now
    known: Array = field(default_factory=lambda: np.full(EXAMPLES, np.nan))

    def learn(self, step: int, index: Array, errors: Array, fresh: Callable[[], Array]) -> None:
        if self.measured(step):
            self.known[:] = fresh()
            return
        old = self.known[index]
        mixed = self.memory * old + (1 - self.memory) * errors
        self.known[index] = np.where(np.isnan(old), errors, mixed)

    def variance(self, slopes: Array, labels: Array) -> Array:
        """That of the mean over a stratified sample of slopes (layers, N), for each layer."""
        score = np.where(np.isnan(self.known), np.nanmean(self.known), self.known)
        p = (1 - self.floor) * score / score.sum() + self.floor / EXAMPLES
        order = np.lexsort((score, labels))
        upto = np.cumsum(p[order])
        at = (np.random.default_rng(1).random((DRAWS, 1)) + np.arange(BATCH)) / BATCH
        rank = np.minimum(np.searchsorted(upto, at * upto[-1], side="right"), EXAMPLES - 1)
        means = (slopes / (EXAMPLES * p))[:, order][:, rank].mean(2)
        return np.asarray(((means - slopes.mean(1)[:, None]) ** 2).mean(1))


def doubling(step: int) -> bool:
    return step >= 8 and step & (step - 1) == 0


def ways() -> dict[str, Scores]:
    """The ways to score; the last one knows every error at every step."""
    return {
        "last error, floor 0.1": Scores(0.1),
        "last error, floor 0.2": Scores(0.2),
        "mean of errors, floor 0.1": Scores(0.1, 0.5),
        "mean of errors, floor 0.2": Scores(0.2, 0.5),
        "the same, doubling": Scores(0.2, 0.5, doubling),
        "every 40 steps": Scores(0.2, 0.5, lambda step: step % 40 == 0),
        "present errors": Scores(0.1, 0.0, lambda step: True),
    }


def slopes(x: Tensor, y: Tensor, at: Layers, movement: Layers) -> Array:
    """The derivative of the loss of each example along the movement of each layer (layers, N), in NumPy."""
    inputs, last = [x], len(at) - 1
    for i, (weight, bias) in enumerate(at):
        z = inputs[-1] @ weight.T + bias
        inputs.append(z.relu() if i < last else z)
    back = inputs[-1].softmax(1)
    back[torch.arange(len(y)), y] -= 1
    found: list[Any] = [None] * len(at)
    for i in range(last, -1, -1):
        found[i] = (back * (inputs[i] @ movement[i][0].T + movement[i][1])).sum(1)
        back = (back @ at[i][0]) * (inputs[i] > 0)
    return np.asarray(torch.stack(found).double().numpy())


def errors_of(model: nn.Module, x: Tensor, y: Tensor) -> Array:
    """``1 - p(label)`` of each example."""
    with torch.no_grad():
        return np.asarray(1 - model(x).softmax(1)[torch.arange(len(y)), y].double().numpy())


def run(optimizer_name: str, seed: int) -> tuple[Array, Array, dict[str, Array]]:
    """Steps (T,), true sums (T, layers), and for each way the variance of each (T, layers)."""
    data, rng = np.load(mnist_path()), np.random.default_rng(seed)
    x = torch.from_numpy(data["x_train"][:EXAMPLES].reshape(EXAMPLES, -1).astype(np.float32) / 255)
    y = torch.from_numpy(data["y_train"][:EXAMPLES].astype(np.int64))
    model = fully_connected()
    he_normal(model, seed)
    optimizer = make_optimizer(model, optimizer_name, RATES[optimizer_name])
    scored, steps, truth = ways(), list[int](), list[Array]()
    found: dict[str, list[Array]] = {name: [] for name in scored}
    index = iter(())

    def layers() -> Layers:
        own = [layer for layer in model if isinstance(layer, nn.Linear)]
        return [(layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in own]

    for step in range(STEPS):
        if step % (EXAMPLES // BATCH) == 0:
            index = iter(rng.permutation(EXAMPLES).reshape(-1, BATCH))
        batch = next(index)
        errors = errors_of(model, x[batch], y[batch])
        for scores in scored.values():
            scores.learn(step, batch, errors, lambda: errors_of(model, x, y))
        start = layers()
        optimizer.zero_grad()
        cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
        if step >= 20 and step % 4 != 2:
            continue
        end = layers()
        movement = [(w1 - w0, b1 - b0) for (w0, b0), (w1, b1) in zip(start, end, strict=True)]
        ends = [slopes(x, y, at, movement) for at in (start, end)]
        steps.append(step)
        truth.append(sum(each.mean(1) for each in ends) / 2)
        for name, scores in scored.items():
            found[name].append(sum(scores.variance(each, y.numpy()) for each in ends) / 4)
    return np.array(steps), np.array(truth), {name: np.array(each) for name, each in found.items()}


def summary(optimizer_name: str, seeds: list[int]) -> dict[str, dict[str, Any]]:
    """For each way: the correlation that its variance leaves, whole run and second half, and its parts."""
    found: dict[str, list[tuple[float, float, list[float]]]] = {}
    for seed in seeds:
        steps, truth, each = run(optimizer_name, seed)
        weight = np.where(steps < 20, 1.0, 4.0)  # of the steps that each one stands for
        late = steps >= STEPS // 2
        for name, variance in each.items():
            noise = variance.mean(1) * weight / weight.sum()
            parts = [float(noise[(steps >= a) & (steps < b)].sum()) for a, b in PERIODS]
            row = (left(truth, variance, weight), left(truth[late], variance[late], weight[late]), parts)
            found.setdefault(name, []).append(row)
    return {
        name: {
            "correlation": float(np.mean([row[0] for row in rows])),
            "correlation_late": float(np.mean([row[1] for row in rows])),
            "variance_by_period": np.mean([row[2] for row in rows], axis=0).tolist(),
        }
        for name, rows in found.items()
    }


def left(truth: Array, variance: Array, weight: Array) -> float:
    """The correlation of the truth with itself plus noise of this variance."""
    share = np.broadcast_to(weight[:, None], truth.shape) / (weight.sum() * truth.shape[1])
    signal = ((truth - (share * truth).sum()) ** 2 * share).sum()
    return float(np.sqrt(signal / (signal + (share * variance).sum())))


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {name: summary(name, options.seeds) for name in RATES}
    for name, rows in results.items():
        print(f"\n{name}: correlation, second half, variance (1e-7) of steps {PERIODS}")
        for way, row in rows.items():
            parts = " ".join(f"{1e7 * part:5.2f}" for part in row["variance_by_period"])
            print(f"{way:28} {row['correlation']:.4f} {row['correlation_late']:.4f}  {parts}")
    keep(Path(__file__).parent, "scores.json", results)


if __name__ == "__main__":
    main()
