"""What every validation script shares: where the data are, what machine this is, how results are kept."""

import json
import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

FRAMEWORKS = ("torch", "tensorflow", "keras")
ROOT = Path(__file__).resolve().parent.parent


def data_folder() -> Path:
    """The folder named by LCA_DATA, else ../shared/data; it need not exist."""
    return Path(os.environ.get("LCA_DATA", ROOT.parent / "shared" / "data"))


def mnist_path() -> Path:
    """``mnist.npz`` in the folder named by LCA_DATA, else in ../shared/data; exits with the fix if absent."""
    path = data_folder() / "mnist.npz"
    if not path.exists():
        sys.exit(f"{path} is missing: set LCA_DATA to the folder that holds Keras' mnist.npz")
    return path


def environment() -> dict[str, Any]:
    """Versions and machine, so that a figure can be traced."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in ("loss-change-allocation", "numpy", "scipy")},
        **{package: sys.modules[package].__version__ for package in FRAMEWORKS if package in sys.modules},
        "machine": f"{platform.machine()}, {_processor()}, {os.cpu_count()} cores, {_memory():.0f} GiB",
    }


def peak_memory_mib() -> float:
    """The largest resident memory of this process so far, in MiB (Linux).

    Not ``getrusage``: its figure is inherited from the parent process at the fork.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def keep(folder: Path, name: str, results: dict[str, Any]) -> None:
    """Write ``results`` to ``folder/name``, with the command (paths by their names) and the environment."""
    arguments = [
        Path(each).name if os.path.isabs(each) else each for each in sys.argv[1:]
    ]  # no one's folders
    command = f"python -m {shlex.join([sys.modules['__main__'].__spec__.name, *arguments])}"
    text = json.dumps({"command": command, "environment": environment(), **results}, indent=2)
    (folder / name).write_text(text + "\n")
    print(f"wrote {os.path.relpath(folder / name, ROOT)}")


def verdict(claims: dict[str, bool]) -> None:
    """Print each claim with its outcome; exit with status 1 if one does not hold."""
    for claim, holds in claims.items():
        print(f"{'holds ' if holds else 'MISSED'}  {claim}")
    sys.exit(not all(claims.values()))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
