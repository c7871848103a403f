"""What one run costs for models of 10M to 7B parameters: passes, memory in units of K, traffic.

Passes and traffic are computed from what estimators declare and report. Memory is measured on the GPT with
10M parameters on a CPU (``--measure``), and applied to the others. Writes ``scale.json`` and ``scale.md``.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lca
from lca.estimators import CrossFit, LaggedCrossFit, NextBatch, SampledPathIntegral
from lca.reference import SGD, DatasetLoss, logistic_regression, minibatches, train, with_next
from lca_torch import Tracker
from validation.evidence import environment, peak_memory_mib
from validation.language_model.gpt import GPT, SIZES, Size
from validation.language_model.training import Options, Run
from validation.timing import memory_given_back

FOLDER = Path(__file__).parent
MODELS = {
    "10M": SIZES["10M"],
    "124M": SIZES["124M"],
    "1B": Size(width=2048, blocks=18, heads=16, length=2048, vocabulary=50_257, tied=True),
    "7B": Size(width=4096, blocks=32, heads=32, length=4096, vocabulary=50_257, tied=True),
}
ESTIMATORS: dict[str, Any] = {
    "next batch, right": NextBatch(lca.RIGHT),
    "lagged cross-fit": LaggedCrossFit(),
    "cross-fit": CrossFit(2),
    "samples": SampledPathIntegral(size=16),
    "trapezoid": lca.PathIntegral(lca.TRAPEZOID),
    "adaptive": lca.Adaptive(),
    "rk4": lca.PathIntegral(lca.RK4),
}
BATCH, MEASURED = 16, 64
"""Sequences of a training batch, and of the measured loss."""
TRAINING = 4
"""Vectors (K,) of training with AdamW in float32: θ, the gradient and both moments."""


@dataclass(frozen=True)
class Passes:
    """What an estimator adds to a measured step of training, in gradients of a training batch.

    ``batches`` if the step before was measured, too, ``apart`` if not.
    """

    name: str
    batches: float
    apart: float

    @classmethod
    def of(cls, name: str, batch: int = BATCH, measured: int = MEASURED) -> "Passes":
        """From the declared cost, and the least of a small run; a loss is a third of a gradient.

        >>> Passes.of("rk4"), Passes.of("samples")
        (Passes(name='rk4', batches=8.0, apart=12.0), Passes(name='samples', batches=1.0, apart=2.0))
        """

        def batches(cost: lca.Cost) -> float:
            full = (cost.full_gradients + cost.full_losses / 3) * measured / batch
            return full + cost.examples / batch + cost.batch_gradients

        return cls(name, batches(ESTIMATORS[name].cost), min(map(batches, _costs_apart(name))))


def _costs_apart(name: str) -> list[lca.Cost]:
    """The costs of steps that do not begin where the last measured one ended."""
    rng = np.random.default_rng(0)
    network = logistic_regression(2, 2)
    data = DatasetLoss(network, rng.normal(size=(MEASURED, 2)), rng.integers(2, size=MEASURED))
    batches = minibatches(data.x, data.y, batch_size=BATCH, steps=12, seed=0)
    steps = train(data, network.init(0), SGD(lr=0.01), batches, micro_batches=2, slopes=True)
    return [a.cost for a in lca.allocate(data, list(with_next(steps))[::2], ESTIMATORS[name])]


def parameters(size: Size) -> int:
    """K of a GPT, without its memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GPT(size).parameters())


def operations(size: Size, sequences: int = 1) -> float:
    """Floating-point operations of a gradient.

    A token takes ``6 M + 12 · blocks · length · width``: for each of the M entries of matrices,
    ``M = 12 · blocks · width² + vocabulary · width``, 2 forward and 4 backward; and the products of
    attention, of which causality makes half superfluous.

    >>> operations(Size(width=2, blocks=1, heads=1, length=4, vocabulary=8))
    1920.0
    """
    matrices = 12 * size.blocks * size.width**2 + size.vocabulary * size.width
    per_token = 6 * matrices + 12 * size.blocks * size.length * size.width
    return float(sequences * size.length * per_token)


def traffic(k: int, ranks: int) -> dict[str, float]:
    """Bytes that each rank sends in a step, in float32.

    - ``training``, and each full ``gradient`` of data that the ranks share: a ring all-reduce,
      ``2 (W - 1)/W · 4 K``;
    - ``cross-fit`` with the ranks as micro-batches (`lca_torch.Tracker.ranks`): each rank receives the
      gradients of all others, ``(W - 1) · 4 K``.

    >>> traffic(1000, 2)
    {'training': 4000.0, 'gradient': 4000.0, 'cross-fit': 4000.0}
    """
    reduced = 2 * (ranks - 1) / ranks * 4.0 * k
    return {"training": reduced, "gradient": reduced, "cross-fit": (ranks - 1) * 4.0 * k}


# --- memory ----------------------------------------------------------------------------------------------


def train_with(name: str) -> None:
    """Print the peak memory in MiB of some steps with an estimator, or ``plain`` (run as a child)."""
    run = Run(Options("10M", batch=2))
    if name == "plain":
        for _ in range(4):
            run.step()
    else:
        tracker = Tracker(
            run.model,
            run.optimizer,
            run.objective(measured=2),
            ESTIMATORS[name],
            views=_NoView,
            check_every=None,
            on_error="raise",
        )
        with tracker:
            for _ in range(4):
                run.step(tracker)
    print(peak_memory_mib())


class _NoView:
    """A view that reads nothing, as what is made of an allocation is not part of its estimator."""

    def __init__(self, layout: lca.Layout) -> None:
        pass

    def update(self, allocation: lca.StepAllocation) -> None:
        pass


def memory() -> dict[str, float]:
    """Peak memory beyond plain training by estimator, in vectors of K float32 numbers."""
    vector = 4 * parameters(MODELS["10M"]) / 2**20
    peaks = {name: _peak(name) for name in ("plain", *ESTIMATORS)}
    return {name: (peak - peaks["plain"]) / vector for name, peak in peaks.items() if name != "plain"}


def _peak(name: str) -> float:
    command = [sys.executable, "-m", "validation.language_model.scale", "--memory-of", name]
    environ = memory_given_back()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environ)
    return float(done.stdout.split()[-1])


# --- tables ----------------------------------------------------------------------------------------------


def tables(measured: dict[str, float]) -> str:
    """All tables in Markdown; ``measured`` are the vectors of each estimator beyond training."""
    return "\n".join((models(), passes(measured), sizes(measured), network()))


def models() -> str:
    """The models: K, operations of a training step, a vector of K numbers."""
    lines = [
        "| model | K | width × blocks, length | operations of a batch of 16 | one vector (K,) |",
        "|---|---:|---|---:|---:|",
    ]
    for name, size in MODELS.items():
        k = parameters(size)
        form = f"{size.width} × {size.blocks}, {size.length}"
        lines.append(f"| {name} | {k:,} | {form} | {operations(size, BATCH):.1e} | {_gigabytes(4.0 * k)} |")
    return "\n".join(lines) + "\n"


def passes(measured: dict[str, float]) -> str:
    """Per estimator: gradients of a training batch, and vectors beyond training."""
    lines = [
        "| estimator | every step | every 20th step | memory beyond training |",
        "|---|---:|---:|---:|",
    ]
    for name in ESTIMATORS:
        own = Passes.of(name)
        least = "≥ " if name == "adaptive" else ""
        lines.append(
            f"| {name} | {least}{own.batches:g} | {least}{own.apart / 20:g} | {measured[name]:.1f} K |"
        )
    return "\n".join(lines) + "\n"


def sizes(measured: dict[str, float]) -> str:
    """Memory of training and of training with each estimator, by model."""
    head = " | ".join(MODELS)
    lines = [f"| vectors of | {head} |", "|---|" + "---:|" * len(MODELS)]
    vectors = {"training with AdamW": 0.0, **{f"and {name}": measured[name] for name in ESTIMATORS}}
    for name, beyond in vectors.items():
        cells = [_gigabytes(4.0 * parameters(size) * (TRAINING + beyond)) for size in MODELS.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def network() -> str:
    """Bytes that each of two and of eight ranks sends in a step."""
    lines = [
        "| model, ranks | training | each full gradient | cross-fit, ranks as micro-batches |",
        "|---|---:|---:|---:|",
    ]
    for name, size in MODELS.items():
        for ranks in (2, 8):
            sent = traffic(parameters(size), ranks)
            lines.append(f"| {name}, {ranks} | " + " | ".join(map(_gigabytes, sent.values())) + " |")
    return "\n".join(lines) + "\n"


def _gigabytes(count: float) -> str:
    """Bytes in GB, or in MB below one.

    >>> _gigabytes(4e7), _gigabytes(2.66e10)
    ('40 MB', '27 GB')
    """
    return (
        f"{count / 1e9:.2g} GB"
        if 1e9 <= count < 1e10
        else (f"{count / 1e9:.0f} GB" if count >= 1e10 else f"{count / 1e6:.0f} MB")
    )


def main() -> None:
    """Measure if asked to, compute, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="measure memory anew, in some minutes")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        train_with(options.memory_of)
        return
    path = FOLDER / "scale.json"
    if options.measure:
        found = {"vectors_beyond_training": memory(), "environment": environment()}
        path.write_text(json.dumps(found, indent=1) + "\n")
    measured = json.loads(path.read_text())["vectors_beyond_training"]
    text = tables(measured)
    (FOLDER / "scale.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
