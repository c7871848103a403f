"""Strategies on two devices, in a process of its own: TensorFlow divides a CPU before its first operation."""

import subprocess
import sys
from pathlib import Path


def test_a_mirrored_strategy_is_measured_and_what_cannot_be_right_refused():
    place = Path(__file__).with_name("strategy_on_two_devices.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(place)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place.parents[2])
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert "skipped" not in run.stdout
