"""The conformance kit on TensorFlow's own GPU path; `validation.gpu.run --tensorflow` runs it."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from lca.testing import ArraySubject, generate_checks
from lca_tensorflow import TensorFlowBackend

REHEARSED = ("losses_equal_the_reference", "totals_are_summed_in_float64")


def on_device(device: str) -> bool:
    """Let memory grow on the device; whether a new vector is on it."""
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    return ("GPU" if device == "cuda" else "CPU") in TensorFlowBackend().vector(np.zeros(3)).device


def kit(path: Path, device: str, seconds: float) -> bool:
    """Run the checks of backend and array operations until the time is over; write what was found."""
    began, small = time.monotonic(), device == "cpu"
    only: dict[str, Any] = {"only": REHEARSED[:1]} if small else {}
    arrays: dict[str, Any] = {"only": REHEARSED[1:]} if small else {}
    samples = 1 if small else 5
    checks = [*generate_checks(TensorFlowBackend(), samples=samples, **only)]
    checks += generate_checks(ArraySubject(TensorFlowBackend().vector), samples=samples, **arrays)
    found: dict[str, Any] = {
        "tensorflow": tf.__version__,
        "passed": 0,
        "failed": {},
        "unfinished": len(checks),
    }
    for check in checks:
        if time.monotonic() - began > seconds:
            break
        result = check.result()
        found["unfinished"] -= 1
        if result.status == "failed":
            found["failed"][check.name] = result.message[:600]
        found["passed"] += result.status == "passed"
        path.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return bool(found["passed"]) and not found["failed"]


def main() -> None:
    """Run the kit on the device, and end with 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not on_device(options.device):
        sys.exit("TensorFlow has no GPU here; nothing was measured. Rehearse with --device cpu.")
    sys.exit(not kit(options.out / "tensorflow.json", options.device, 60 * options.minutes))


if __name__ == "__main__":
    main()
