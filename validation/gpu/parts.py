"""The parts of the GPU run, in the order of their importance; `validation.gpu.run` runs this as a child."""

import argparse
import gc
import time
import traceback
from pathlib import Path

import torch

from validation.gpu.cifar import every_step
from validation.gpu.conformance import kit
from validation.gpu.frontier import points
from validation.gpu.language import cost
from validation.gpu.overhead import ratios
from validation.gpu.setting import Results, Setting
from validation.gpu.shares import SHARES

PARTS = {"kit": kit, "overhead": ratios, "cifar": every_step, "language": cost, "frontier": points}


def main() -> None:
    """Run the named parts one after another; a part that fails writes its error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=PARTS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for name in options.names:
        results = Results(options.out / f"{name}.json")
        seconds = 60 * options.minutes * SHARES[name]
        began = time.monotonic()
        setting = Setting(options.device, options.device == "cpu", seconds, results, began)
        try:
            PARTS[name](setting)
        except Exception:
            results.add(status="failed", error=traceback.format_exc())
        else:
            results.add(status="done", seconds_of_part=round(time.monotonic() - began, 1))
        gc.collect()
        if options.device != "cpu":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
