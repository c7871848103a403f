"""One run for the findings: train, allocate every step over all examples, reduce to figures."""

import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import lca
from lca import analysis
from lca.layout import Layout
from lca.views import GroupTotals, HelpingCounts, LogHistogram, Oscillation, Trace
from lca_torch import Objective, Tracker
from validation.evidence import peak_memory_mib
from validation.findings.networks import Task

BATCH, BLOCK, TOP = 250, 20, 20
SURROGATES = 9_999
STRETCH = 20
"""Steps of a block within which rotations keep the course of training."""
OPTIMIZERS = {
    "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr),
    "momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
}


class Seen:
    """What is kept of one measured loss: layers and classes step by step, signs, sizes, turns."""

    def __init__(self, layout: Layout) -> None:
        self.groups = layout.groups("layer")
        self.trace, self.layers, self.turns = Trace(), GroupTotals(self.groups), Oscillation()
        self.signs = HelpingCounts(self.groups)
        self.classes: dict[str, GroupTotals] = {}
        self.sizes: list[LogHistogram] = []

    def update(self, allocation: lca.StepAllocation) -> None:
        """Take in one step; a new histogram begins every `BLOCK` steps."""
        if allocation.step % BLOCK == 0 or not self.sizes:
            self.sizes.append(LogHistogram())
        for view in (self.trace, self.layers, self.turns, self.signs, self.sizes[-1]):
            view.update(allocation)
        for name, term in allocation.terms.items():
            self.classes.setdefault(name, GroupTotals(self.groups)).update(term)


def measure(
    task: Task, optimizer_name: str, *, seed: int, steps: int, examples: int, frozen: str, device: str
) -> dict[str, Any]:
    """Train on the first ``examples`` images, measured on the same and on the held-out ones; the figures."""
    torch.manual_seed(seed)
    model, (x, y) = task.model().to(device), (part.to(device) for part in task.data())
    held = min(task.sets[1], examples)
    train, heldout = (x[:examples], y[:examples]), (x[-held:], y[-held:])
    losses: dict[str, Any] = {"train": by_class(model, train) if task.by_class else full(model, train)}
    losses["heldout"] = full(model, heldout)
    moving = [p for name, p in model.named_parameters() if not frozen or name.rpartition(".")[0] != frozen]
    if len(moving) == len(list(model.parameters())) and frozen:
        raise SystemExit(f"there is no layer {frozen!r} to freeze; there are {', '.join(_layers(model))}")
    optimizer = OPTIMIZERS[optimizer_name](moving, task.lr[optimizer_name])
    began, bar = time.perf_counter(), tqdm(total=steps, unit="step", mininterval=10)
    tracker = Tracker(model, optimizer, losses, lca.Adaptive(tol=1e-3), views=Seen, on_error="raise")
    generator = torch.Generator().manual_seed(seed)
    with tracker:
        while tracker.steps < steps:
            for part in torch.randperm(examples, generator=generator).split(BATCH)[: steps - tracker.steps]:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(train[0][part]), train[1][part]).backward()
                optimizer.step()
                bar.update()
    return {
        **figures(tracker.views["train"], tracker.views["heldout"]),
        "seconds": time.perf_counter() - began,
        "threads": torch.get_num_threads(),
        "peak_memory_mib": peak_memory_mib(),
    }


def full(model: nn.Module, data: tuple[Tensor, Tensor]) -> Objective:
    """The loss of all examples."""
    return Objective(model, nn.CrossEntropyLoss(), data, batch_size=min(1_000, len(data[0])))


def by_class(model: nn.Module, data: tuple[Tensor, Tensor]) -> lca.Sum:
    """The same loss as the sum of its classes: ``L = Σ_c (n_c / N) L_c``, for one pass over the data."""
    x, y = data
    terms = {}
    for c in y.unique().tolist():
        own = y == c
        share = int(own.sum()) / len(y)
        terms[f"class {c}"] = lca.Scaled(full(model, (x[own], y[own])), share)
    return lca.Sum(terms)


def figures(train: Seen, heldout: Seen) -> dict[str, Any]:
    """Plain numbers, ready for JSON."""
    rows, signs = train.trace.rows, train.signs.per_step()
    edges = train.sizes[0].edges
    helping, hurting = (np.array([getattr(h, kind) for h in train.sizes]) for kind in ("helping", "hurting"))
    moves, turns = train.turns, (len(rows) - 1) * train.groups.parameters
    peaks = peaks_of(train)
    return {
        "parameters": train.groups.parameters,
        "steps": len(rows),
        "loss_start": float(rows["loss_start"][0]),
        "loss_end": float(rows["loss_end"][-1]),
        "heldout_loss_end": float(heldout.trace.rows["loss_end"][-1]),
        "state_change": float(rows["state_change"].sum()),
        "unconverged_steps": int(np.count_nonzero(~rows["converged"])),
        "full_gradients_per_step": float(rows["full_gradients"].mean()),
        "helping_percent": float(signs.mean_helping_percent()),
        "zero_percent": float(signs.mean_zero_percent()),
        "by_layer": [asdict(r) for r in analysis.helping_table(train.groups.names, train.signs.per_group())],
        "tails": asdict(analysis.tails_from_histogram(edges, helping, hurting)),
        "weibull": asdict(
            analysis.fit_weibull_histogram(edges, helping + hurting, block=1 if len(helping) > 1 else None)
        ),
        "steps_per_turn": turns / max(1, int(moves.turns.sum())),
        "steps_per_gradient_sign_change": turns / max(1, int(moves.sign_changes.sum())),
        "layers": list(train.groups.names),
        "totals": train.layers.totals.tolist(),
        "heldout_totals": heldout.layers.totals.tolist(),
        "synchrony": {name: synchrony(mask) for name, mask in peaks.items()},
        "peaks": {name: packed(mask) for name, mask in peaks.items()},
    }


def peaks_of(seen: Seen) -> dict[str, np.ndarray]:
    """The learning peaks (local minima of the allocation) of layers and of layers by class.

    All of them, and only the `TOP` deepest.
    """
    series = {"layers": seen.layers.rows}
    if seen.classes:
        series["layers by class"] = np.stack([view.rows for view in seen.classes.values()], axis=2)
    found = {}
    for name, rows in series.items():
        found[f"{name}, all minima"] = analysis.learning_peaks(rows)
        found[f"{name}, {TOP} lowest"] = analysis.learning_peaks(rows, top=TOP)
    return found


def synchrony(peaks: np.ndarray) -> dict[str, Any]:
    """Shifts of whole layers by a few steps, and rotations within blocks, which assume more."""
    shifted = analysis.synchrony_test(peaks, permutations=SURROGATES)
    rotated = analysis.synchrony_test(peaks, block=STRETCH, permutations=SURROGATES)
    return {"shifts": asdict(shifted), "rotations": asdict(rotated)}


def packed(peaks: np.ndarray) -> dict[str, Any]:
    """A mask as text, so that a test can be repeated without the run."""
    return {"shape": list(peaks.shape), "bits": np.packbits(peaks).tobytes().hex()}


def unpacked(stored: dict[str, Any]) -> np.ndarray:
    """The mask that `packed` wrote."""
    bits, size = np.frombuffer(bytes.fromhex(stored["bits"]), np.uint8), int(np.prod(stored["shape"]))
    return np.unpackbits(bits, count=size).astype(bool).reshape(stored["shape"])


def _layers(model: nn.Module) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name, _ in model.named_parameters()))
