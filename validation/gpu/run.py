"""What to measure in the first few minutes on a GPU: five parts, each with its time limit.

`python -m validation.gpu.run --out FOLDER --minutes 8`. Each part writes its results to a file of its own as
they come, so what ends the run, or a part, loses only what was being measured. ``--device cpu`` rehearses all
of it in less than a minute; that says nothing about GPUs.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from validation.gpu.shares import SHARES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "loss-change-allocation"
START = 45.0
"""Seconds that a child may take to import everything and reach the device."""


def environment_of_child(out: Path) -> dict[str, str]:
    """The environment in which the package is found, also where it is not installed."""
    paths = [str(ROOT), str(ROOT / "backends")]
    try:
        importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        paths.append(str(metadata(out / "metadata")))
    before = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths + ([before] if before else []))}


def metadata(folder: Path) -> Path:
    """A folder for the path with the name and the version of the package: all that its import asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = folder / f"{PACKAGE.replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in own.items()) for group, own in groups]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def follow(names: list[str], options: argparse.Namespace) -> list[str]:
    """Run the parts in one child until they are done or one exceeds its limit; returns those still to run."""
    command = [sys.executable, "-W", "ignore", "-m", "validation.gpu.parts", *names]
    command += ["--device", options.device, "--minutes", str(options.minutes), "--out", str(options.out)]
    child = subprocess.Popen(command, cwd=ROOT, env=environment_of_child(options.out))
    began, late = time.monotonic(), START
    try:
        for at, name in enumerate(names):
            limit = 60 * options.minutes * SHARES[name] + late
            while status(options.out, name) in ("", "running"):
                if time.monotonic() - began > limit or child.poll() is not None:
                    how = "stopped at its limit" if child.poll() is None else f"ended with {child.returncode}"
                    mark(options.out, name, how)
                    return names[at + 1 :]
                time.sleep(0.2)
            print(f"{name}: {status(options.out, name)}, {time.monotonic() - began:.0f} s", flush=True)
            began, late = time.monotonic(), 0.0
        child.wait(30)
    finally:
        child.kill()
        child.wait()
    return []


def tensorflow(options: argparse.Namespace) -> int:
    """Run the kit of the TensorFlow backend in a child; its exit status."""
    command = [sys.executable, "-W", "ignore", "-m", "validation.gpu.tensorflow_kit"]
    command += ["--device", options.device, "--minutes", str(options.minutes), "--out", str(options.out)]
    environment = environment_of_child(options.out)
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def read(out: Path, name: str) -> dict[str, Any]:
    """What a part has written so far; empty if it has not begun."""
    path = out / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def status(out: Path, name: str) -> str:
    """``running``, ``done``, ``failed``, or how it was ended; empty before it begins."""
    return str(read(out, name).get("status", ""))


def mark(out: Path, name: str, how: str) -> None:
    """Write how a part was ended, beside what it had found."""
    (out / f"{name}.json").write_text(json.dumps(read(out, name) | {"status": how}, indent=1) + "\n")
    print(f"{name}: {how}", flush=True)


def device_of(name: str) -> dict[str, Any]:
    """The device and the versions, asked of a process of its own, as the parent stays free of torch."""
    code = (
        "import json, sys, torch, numpy; cuda = torch.cuda.is_available(); print(json.dumps({"
        "'torch': torch.__version__, 'cuda': torch.version.cuda, 'numpy': numpy.__version__,"
        "'python': sys.version.split()[0], 'gpu': torch.cuda.get_device_name() if cuda else None}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {"device": name, **json.loads(found.stdout)}


def claims(out: Path) -> dict[str, bool]:
    """What the parts must show, of those figures that are there."""
    kit, overhead, language = (read(out, name) for name in ("kit", "overhead", "language"))
    precisions = [name for name in ("float32", "float64") if name in kit]
    found = {f"the kit passes in {name}": not kit[name]["failed"] for name in precisions}
    for name, figures in overhead.items():
        if isinstance(figures, dict) and "ratio" in figures:
            ratio = figures["ratio"]
            found[f"{name}: allocation over gradients {ratio:.3f} ≤ 1.03"] = ratio <= 1.03
    for name, places in overhead.get("waits", {}).items():
        count = sum(places.values())
        found[f"{name}: the host waits {count:g} times a step, at most once"] = count <= 1
    if "cross-fit" in language:
        ratio = language["cross-fit"]["ratio"]
        found[f"GPT-2: cross-fit over plain training {ratio:.2f} ≤ 1.2"] = ratio <= 1.2
    return found


def main() -> None:
    """Run all parts, and write ``summary.json``: the device, the state of each part, and the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal")
    parser.add_argument("--only", nargs="+", default=list(SHARES), choices=SHARES)
    parser.add_argument("--tensorflow", action="store_true", help="instead, the kit on TensorFlow's GPU path")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.tensorflow:
        sys.exit(tensorflow(options))
    began, names = time.monotonic(), [name for name in SHARES if name in options.only]
    about = device_of(options.device)
    if options.device != "cpu" and not about["gpu"]:
        sys.exit("no CUDA device here; nothing was measured. Rehearse with --device cpu.")
    for name in names:
        (options.out / f"{name}.json").unlink(missing_ok=True)
    left = list(names)
    while left:
        left = follow(left, options)
    summary = {
        **about,
        "seconds": round(time.monotonic() - began, 1),
        "parts": {name: status(options.out, name) for name in names},
        "claims": {} if options.device == "cpu" else claims(options.out),
    }
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    sys.exit(any(state != "done" for state in summary["parts"].values()))


if __name__ == "__main__":
    main()
