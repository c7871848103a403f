"""Cases that several ranks run under torchrun, and their results, for the tests that compare them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]


def launch(module, folder, ranks, timeout=300):
    """Run a module by torchrun; its exit status and what it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.run(
        [*command, "-m", module, str(folder)],
        check=False,
        cwd=ROOT,
        timeout=timeout,
        capture_output=True,
        text=True,
    )


def launched(module, folder, ranks):
    """Run the cases of a module; a function from the name of a case to what each rank has found."""
    ended = launch(module, folder, ranks)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return lambda name: [dict(np.load(folder / f"{name}.{rank}.npz")) for rank in range(ranks)]


def world():
    """The number of ranks and that of this one; without a process group 1 and 0."""
    ready = torch.distributed.is_initialized()
    return (torch.distributed.get_world_size(), torch.distributed.get_rank()) if ready else (1, 0)


def begin():
    """Begin on this rank."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")


def end():
    """End on all ranks together."""
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads are not always gone when the interpreter ends, which aborts it


def run(cases, folder):
    """Run these cases on this rank and save what each of them returns, arrays by name."""
    begin()
    for case in cases:
        np.savez(Path(folder) / f"{case.__name__}.{world()[1]}.npz", **case())
    end()
