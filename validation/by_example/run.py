"""Claims on cost: 60 examples cost at most a tenth of one objective for each, and groups share a pass.

MNIST-FC (784-100-50-10) in torch on random numbers, float32, Simpson's rule on one step, tensors as groups.
Times are ratios inside one run: both sides alternate, and the median of the pairwise ratios is quoted.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import lca
from lca.by_example import ByExample, allocate_by_example
from lca_torch import Objective
from validation.evidence import keep, verdict
from validation.timing import interleaved

SEED, EXAMPLES, BATCH = 0, 60, 250
SIMPSON = lca.PathIntegral(lca.SIMPSON)


def network() -> nn.Module:
    """MNIST-FC."""
    return nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))


def data(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels at random."""
    return torch.randn(count, 784), torch.randint(10, (count,))


def step_of(objective: Objective) -> lca.Step:
    """A step of about the length of one of Adam."""
    theta = objective.theta()
    return lca.Step(theta, theta + 0.002 * torch.randn_like(theta).sign())


def by_example(objective: Objective, step: lca.Step, chunk: int) -> Callable[[], None]:
    """All examples of an objective by tensor."""
    how = ByExample("tensor", estimator=SIMPSON, chunk=chunk)
    allocate_step = how.start(objective)
    return lambda: allocate_step(step) and None


def one_objective_each(
    model: nn.Module, rows: tuple[torch.Tensor, torch.Tensor], step: lca.Step
) -> Callable[[], None]:
    """One objective per example, each allocated separately."""
    x, y = rows
    single = [Objective(model, cross_entropy, (x[n : n + 1], y[n : n + 1])) for n in range(len(x))]
    allocators = [SIMPSON.start(objective) for objective in single]
    groups = single[0].layout.groups("tensor")
    # A step and back, so that the end of one is the start of the next, as in a run.
    back = lca.Step(step.end, step.start)
    turns = [step, back]

    def allocate() -> None:
        turns.reverse()
        for allocate_step in allocators:
            groups.total(allocate_step(turns[1]).values)

    return allocate


def bare_step(model: nn.Module) -> Callable[[], None]:
    """A training step on a batch of 250."""
    x, y = data(BATCH)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)

    def train() -> None:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

    return train


WAYS = {
    "forward mode, a pass for each group": 1,
    "forward mode, 6 groups in a pass": 6,
    "one backward pass": 0,
}
"""Methods to compute the slopes, and for forward mode the number of groups per pass."""


def gradient_passes(count: int, rounds: int) -> dict[str, float]:
    """The cost of all 6 groups at a node by method, in gradients over the same examples."""
    objective = Objective(network(), cross_entropy, data(count), batch_size=count)
    step, theta = step_of(objective), objective.theta()
    gradient = lambda: objective.loss_and_grad(theta)  # noqa: E731
    found = {}
    for way, chunk in WAYS.items():
        objective._loss._derivatives.local = chunk == 0
        ratio = interleaved(by_example(objective, step, chunk or 8), gradient, rounds).cpu_ratio
        found[way] = ratio / 3 - 1  # three nodes, each with a gradient for the margin
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    model, rows = network(), data(EXAMPLES)
    objective = Objective(model, cross_entropy, rows)
    step = step_of(objective)
    [found] = allocate_by_example(objective, [step], ByExample("tensor", estimator=SIMPSON))
    each = interleaved(one_objective_each(model, rows, step), by_example(objective, step, 8), rounds)
    bare = interleaved(by_example(objective, step, 8), bare_step(network()), rounds)
    layers = ByExample("layer", estimator=lca.PathIntegral(lca.gauss_legendre(2))).start(objective)
    cheap = interleaved(lambda: layers(step), bare_step(network()), rounds)
    passes = {str(count): gradient_passes(count, rounds) for count in (EXAMPLES, 1000, 5000)}
    results = {
        "seed": SEED,
        "one objective each over by example": each._asdict(),
        "by example over a bare step": bare._asdict(),
        "by layer with gauss2 over a bare step": cheap._asdict(),
        "gradient passes for 6 groups at a node": passes,
        "residuals": {
            "example": float(abs(found.residual).max()),
            "group, of the mass": float(abs(found.group_residual).max() / found.mass),
        },
    }
    for name, value in results.items():
        print(f"{name}: {value}")
    keep(Path(__file__).parent, "results.json", results)
    verdict(
        {
            f"{EXAMPLES} examples at least 10 times cheaper than one objective each ({each.cpu_ratio:.1f})": (
                each.cpu_ratio >= 10
            ),
            "one backward pass for all groups is cheaper than forward mode": all(
                own["one backward pass"] < min(list(own.values())[:2]) for own in passes.values()
            ),
            "both margins hold": found.converged,
        }
    )


if __name__ == "__main__":
    main()
