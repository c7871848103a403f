"""What measuring a model under `fully_shard` takes on each rank: memory and numbers sent, in units of K.

Command: python -m validation.distributed.shards
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.profiler import ProfilerActivity, profile, record_function

import lca
from lca_torch import Objective, Tracker
from validation.bench_torch.run import mlp
from validation.evidence import ROOT, keep, verdict

FOLDER = Path(__file__).parent
RANKS = (2, 4)
LOSS = nn.CrossEntropyLoss()
WIDTHS = (256,) * 25 + (10,)
"""1.6 million parameters, of which the largest tensor is a twenty-fourth, and activations of next to no size."""
STEPS = 4
BATCHES = 4
"""Measuring batches of one gradient."""


def train(*, tracked: bool, copied: bool = False) -> dict[str, float]:
    """Some steps of SGD; the largest memory in bytes before the first step, and in each."""
    torch.manual_seed(0)
    model, copy = mlp(WIDTHS), mlp(WIDTHS)
    mesh = torch.distributed.init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for layer in (*(m for m in model.modules() if isinstance(m, nn.Linear)), model):
        fully_shard(layer, mesh=mesh)
    x, y = torch.randn(4 * BATCHES, WIDTHS[0]), torch.randint(10, (4 * BATCHES,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def steps() -> None:
        for step in range(STEPS):
            with record_function(f"step {step}"):
                optimizer.zero_grad()
                LOSS(model(x[:4]), y[:4]).backward()
                optimizer.step()

    if not copied:
        del copy
    gc.collect()  # what is freed later would count as negative
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        if tracked:
            objective = Objective(copy if copied else model, LOSS, (x, y), batch_size=4)
            rule = lca.PathIntegral(lca.TRAPEZOID)
            with Tracker(model, optimizer, objective, rule, views=lambda _: _NoView(), on_error="raise"):
                steps()
        else:
            steps()
        gc.collect()
    return _peaks(profiler)


class _NoView:
    def update(self, allocation: lca.StepAllocation) -> None:
        pass


def _peaks(profiler: Any) -> dict[str, float]:
    now, step, most = 0, "making", dict[str, float]()
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name().startswith("step "):
            step = event.name()
        elif event.name() == "[memory]":
            now += event.nbytes()
            most[step] = max(most.get(step, 0.0), now)
    return most


def sent() -> dict[str, float]:
    """How many numbers a rank gives to the transfers of one gradient, and how many are gathered from all."""
    counts, distributed = Counter[str](), torch.distributed
    gather, add = distributed.all_gather, distributed.all_reduce

    def gathering(rows: Any, row: Any, **options: Any) -> Any:
        counts["gathered"] += sum(each.numel() for each in rows)
        return gather(rows, row, **options)

    def adding(tensor: Any, **options: Any) -> Any:
        counts["summed"] += tensor.numel()
        return add(tensor, **options)

    torch.manual_seed(0)
    model = mlp(WIDTHS)
    fully_shard(model, mesh=distributed.init_device_mesh("cpu", (distributed.get_world_size(),)))
    x, y = torch.randn(4 * BATCHES, WIDTHS[0]), torch.randint(10, (4 * BATCHES,))
    objective = Objective(model, LOSS, (x, y), batch_size=4)
    theta = objective.theta()
    distributed.all_gather, distributed.all_reduce = gathering, adding
    objective.loss_and_grad(theta)
    distributed.all_gather, distributed.all_reduce = gather, add
    return dict(counts)


def rank(folder: str) -> None:
    """Measure on one rank, a child under torchrun."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    plain, shards, copied = train(tracked=False), train(tracked=True), train(tracked=True, copied=True)
    size = 4 * sum(parameter.numel() for parameter in mlp(WIDTHS).parameters())
    found = {
        way: {step: (most - plain.get(step, 0.0)) / size for step, most in peaks.items()}
        for way, peaks in (("shards", shards), ("copied", copied))
    }
    numbers = {name: 4 * count / size for name, count in sent().items()}
    text = json.dumps({"memory": found, "numbers": numbers})
    (Path(folder) / f"{torch.distributed.get_rank()}.json").write_text(text, encoding="utf-8")
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads are not always gone when the interpreter ends, which aborts it


def launched(ranks: int) -> list[dict[str, Any]]:
    """What each rank has found."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        module = ["-m", "validation.distributed.shards", folder]
        subprocess.run([*command, *module], check=True, cwd=ROOT, capture_output=True)
        return [json.loads((Path(folder) / f"{i}.json").read_text("utf-8")) for i in range(ranks)]


def main() -> None:
    rows = []
    for ranks in RANKS:
        found = launched(ranks)
        most = {
            way: {step: max(one["memory"][way][step] for one in found) for step in found[0]["memory"][way]}
            for way in ("shards", "copied")
        }
        rows.append({"ranks": ranks, "memory": most, "numbers": found[0]["numbers"]})
        print(json.dumps(rows[-1]))
    keep(FOLDER, "shards.json", {"rows": rows})
    batches = {row["ranks"]: -(-BATCHES // row["ranks"]) for row in rows}
    verdict(
        {
            "an ordinary step takes 3 K / W and a few whole tensors": all(
                row["memory"]["shards"]["step 2"] <= 3 / row["ranks"] + 0.5 for row in rows
            ),
            "each batch gathers twice K numbers and sums K": all(
                abs(row["numbers"]["gathered"] / batches[row["ranks"]] - 2) <= 0.05
                and abs(row["numbers"]["summed"] / batches[row["ranks"]] - 1) <= 0.05
                for row in rows
            ),
        }
    )


if __name__ == "__main__":
    rank(sys.argv[1]) if len(sys.argv) > 1 else main()
