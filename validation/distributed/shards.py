"""What measuring a model under `fully_shard` takes on each rank: memory and transfers, in units of K numbers.

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

import lca
from lca_torch import Objective, Tracker
from lca_torch._gathering import _FIRST, Gathering
from validation.bench_torch.run import mlp
from validation.evidence import ROOT, keep, verdict

FOLDER = Path(__file__).parent
RANKS = (2, 4)
LOSS = nn.CrossEntropyLoss()
WIDTHS = (128,) * 9 + (10,)
"""133,000 parameters, of which the largest tensor is an eighth, and activations of next to no size."""
TENSORS = 18
BATCHES = 4
"""Measuring batches of one gradient."""
MEASURED = 2
"""The step whose memory is read: no checked one (the second, the fourth, ...), and not the first."""


class _NoView:
    def update(self, allocation: lca.StepAllocation) -> None:
        pass


def held() -> float:
    """The memory of all tensors of this process, in bytes."""
    kinds = (torch.Tensor, nn.Parameter)
    found = [each for each in gc.get_objects() if type(each) in kinds]
    return float(sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in found}.values()))


def train(*, tracked: bool) -> tuple[float, dict[str, int]]:
    """Some steps of SGD: the largest memory at the transfers of one step, and how many numbers these move.

    Without a tracker, the memory after that step.
    """
    gc.collect()  # models under fully_shard lead to themselves
    torch.manual_seed(0)
    model = mlp(WIDTHS)
    mesh = torch.distributed.init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for layer in (*(m for m in model.modules() if isinstance(m, nn.Linear)), model):
        fully_shard(layer, mesh=mesh)
    x, y = torch.randn(4 * BATCHES, WIDTHS[0]), torch.randint(10, (4 * BATCHES,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    most, moved = [0.0], Counter[str]()
    run = Gathering._run

    def looking(gathering: Gathering, *transfer: Any) -> None:
        most[0] = max(most[0], held())
        run(gathering, *transfer)
        most[0] = max(most[0], held())

    def steps() -> None:
        for step in range(MEASURED + 1):
            optimizer.zero_grad()
            LOSS(model(x[:4]), y[:4]).backward()
            if step == MEASURED:
                Gathering._run = looking  # type: ignore[method-assign]
                counting(moved)
            optimizer.step()
            Gathering._run = run  # type: ignore[method-assign]

    if not tracked:
        steps()
        return held(), {}
    objective = Objective(model, LOSS, (x, y), batch_size=4)
    rule = lca.PathIntegral(lca.TRAPEZOID)
    with Tracker(model, optimizer, objective, rule, views=lambda layout: _NoView(), on_error="raise"):
        steps()
        found = dict(moved)
    return most[0], found


def counting(moved: Counter[str]) -> None:
    """Count from now on the numbers that transfers move."""
    distributed: Any = torch.distributed
    gather, add = distributed.all_gather, distributed.all_reduce

    def gathering(rows: Any, row: Any, **options: Any) -> Any:
        moved["gathered"] += sum(each.numel() for each in rows)
        return gather(rows, row, **options)

    def adding(tensor: Any, **options: Any) -> Any:
        moved["summed"] += tensor.numel()
        return add(tensor, **options)

    distributed.all_gather, distributed.all_reduce = gathering, adding


def rank(folder: str) -> None:
    """Measure on one rank, a child under torchrun."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    size = sum(parameter.numel() for parameter in mlp(WIDTHS).parameters())
    (plain, _), (most, moved) = train(tracked=False), train(tracked=True)
    found = {name: number / size for name, number in moved.items()}
    first = (1 + _FIRST) / size
    text = json.dumps({"memory": (most - plain) / (4 * size), **found, "first": first})
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
        rows.append({"ranks": ranks, **{name: max(one[name] for one in found) for name in found[0]}})
        print(json.dumps(rows[-1]), flush=True)
    keep(FOLDER, "shards.json", {"rows": rows})
    verdict(
        {
            "memory is 3 K / W and at most three times the largest tensor": all(
                3 / row["ranks"] <= row["memory"] <= 3 / row["ranks"] + 3 / 8 for row in rows
            ),
            "a gradient gathers at most 2 K numbers for each batch, beside the first rows": all(
                row["gathered"] * row["ranks"] / BATCHES <= 2 + 3 * TENSORS * row["ranks"] * row["first"]
                for row in rows
            ),
            "a gradient sums K numbers for each batch": all(
                abs(row["summed"] * row["ranks"] / BATCHES - 1) <= 0.01 for row in rows
            ),
        }
    )


if __name__ == "__main__":
    rank(sys.argv[1]) if len(sys.argv) > 1 else main()
