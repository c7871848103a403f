"""What a replay of checkpoints costs: its peak with 3 and 12 checkpoints, in units of K float32 numbers."""

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn

import lca
from lca_torch import Objective, replay
from validation.evidence import peak_memory_mib
from validation.timing import memory_given_back

WIDTHS = (640,) * 8 + (10,)
COUNTS = 3, 12


def network() -> nn.Sequential:
    """A network of 2.9 million parameters, whose largest tensor is a seventh."""
    layers = [
        module
        for n_in, n_out in zip(WIDTHS[:-1], WIDTHS[1:], strict=True)
        for module in (nn.Linear(n_in, n_out), nn.ReLU())
    ]
    return nn.Sequential(*layers[:-1])


def parameters() -> int:
    """K."""
    return sum(parameter.numel() for parameter in network().parameters())


def in_shards(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """One safetensors file for each layer, and their index."""
    folder.mkdir()
    places = {
        name: f"model-{int(name.partition('.')[0]) // 2 + 1:05}-of-00008.safetensors" for name in tensors
    }
    for place in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == place}, folder / place)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def in_distcp(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """A folder of `torch.distributed.checkpoint`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(tensors, checkpoint_id=folder, no_dist=True)


def in_one_file(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """A file of `torch.save`."""
    torch.save(tensors, folder.with_suffix(".pt"))


FORMS: dict[str, Callable[[dict[str, torch.Tensor], Path], None]] = {
    "shards of safetensors": in_shards,
    "folder of torch.distributed": in_distcp,
    "file of torch.save": in_one_file,
}


def measure(folder: str, count: int, *, reads: bool) -> None:
    """Print the peak of a process that makes the objective, and allocates if ``reads`` (run as a child)."""
    torch.manual_seed(0)
    model = network()
    x, y = torch.randn(4, WIDTHS[0]), torch.randint(10, (4,))
    objective = Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=4)
    if reads:
        steps = replay(sorted(Path(folder).iterdir())[:count], objective)
        for _ in lca.allocate(objective, steps, lca.PathIntegral(lca.TRAPEZOID)):
            pass
    print(peak_memory_mib())


def measured() -> dict[str, dict[str, float]]:
    """Peaks beyond the objective, with each number of checkpoints, by form."""
    vector = 4 * parameters() / 2**20
    found: dict[str, dict[str, float]] = {}
    for form, save in FORMS.items():
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            for step in range(max(COUNTS)):
                save(network().state_dict(), Path(folder) / f"step-{step:02}")
            made = _peak(folder, 0)
            found[form] = {str(count): (_peak(folder, count) - made) / vector for count in COUNTS}
    return found


def _peak(folder: str, count: int) -> float:
    command = [sys.executable, "-m", "validation.large_models.run", "--replay-of", folder, str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=memory_given_back())
    return float(done.stdout)
