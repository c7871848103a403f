"""Claim: a cheap estimator shows during training which kinds of layers of a language model learn.

A GPT-2-like transformer is trained with AdamW on the text of Python's own standard library, byte by byte.
Cross-fit allocates every step by layer and by kind. Every 20th step is allocated exactly, too, for the mean
loss of 64 fixed sequences.
"""

import argparse
import json
import os
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from validation.evidence import environment, verdict
from validation.language_model.gpt import KINDS, SIZES
from validation.language_model.training import CHEAP, Options, PartTotals, Run, compared, watched
from validation.timing import interleaved, keep_memory

FOLDER = Path(__file__).parent


def wall_ratio(options: Options, steps: int, rounds: int) -> dict[str, float]:
    """The ratio of the time of training with the cheap estimator to that of plain training."""
    from lca_torch import Tracker  # noqa: PLC0415

    watched, plain = Run(options), Run(options)
    tracker = Tracker(
        watched.model,
        watched.optimizer,
        watched.objective(),
        CHEAP,
        views=PartTotals,
        check_every=None,
        on_error="raise",
    )
    with tracker:
        found = interleaved(
            lambda: [watched.step(tracker) for _ in range(steps)],
            lambda: [plain.step() for _ in range(steps)],
            rounds,
        )
    return {"plain_step_s": found.b / steps, "ratio": found.ratio, "cpu_ratio": found.cpu_ratio}


def write(path: Path, results: dict[str, Any]) -> None:
    """Put ``results`` in place of the file in one go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=None) + "\n"
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)


def figures(options: Options, path: Path) -> dict[str, Any]:
    """Train and measure; what is known so far is written at every exact step."""
    began, worked, losses = time.perf_counter(), time.process_time(), list[float]()
    found: dict[str, Any] = {"options": asdict(options), "environment": environment()}

    def note(step: int, loss: float, cheap: PartTotals, exact: PartTotals) -> None:
        losses.append(loss)
        if step % 20 == 1 and step > 20:
            found["compared"] = compared(cheap, exact)
            write(path, found)
            print(f"step {step}, loss {loss:.3f}, {time.perf_counter() - began:.0f} s", flush=True)

    cheap, exact = watched(options, note)
    found |= {
        "compared": compared(cheap, exact),
        "losses": np.round(losses, 4).tolist(),
        "parts": list(cheap.groups.names),
        "rows": np.round(cheap.totals.rows, 7).tolist(),
        "exact": {
            key: exact.trace.rows[key].tolist()
            for key in ("step", "loss_start", "loss_end", "residual", "full_gradients", "converged")
        },
        "parameters": int(cheap.groups.parameters),
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - worked,
        "threads": torch.get_num_threads(),
    }
    write(path, found)
    return found


def claims(found: dict[str, Any]) -> dict[str, bool]:
    """What the run must show."""
    near = found["compared"]
    apart, whole = near["correlation_without_largest_step"], error_of_all(found)
    return {
        f"correlation over kinds and steps {near['correlation']:.3f} ≥ 0.95": near["correlation"] >= 0.95,
        f"the same without the largest step {apart:.3f} ≥ 0.95": apart >= 0.95,
        f"total off by {100 * near['error_of_total']:+.1f} %, at most 5": abs(near["error_of_total"]) <= 0.05,
        f"all steps together off by {100 * whole:+.1f} %, at most 5": abs(whole) <= 0.05,
        "every exact step has converged": all(found["exact"]["converged"]),
    }


def error_of_all(found: dict[str, Any]) -> float:
    """The relative error of the summed cross-fit allocations with respect to the measured loss change.

    Both run up to the last exactly allocated step.
    """
    last, losses = found["exact"]["step"][-1], found["exact"]["loss_start"]
    return float(np.sum(found["rows"][:last]) / (losses[-1] - losses[0]) - 1)


def table(found: dict[str, Any]) -> str:
    """The sums by kind over the steps that were measured exactly, in Markdown."""
    near = found["compared"]
    cheap, exact = (np.sum(near[which], axis=0) for which in ("cheap", "exact"))
    lines = [
        "| kind | exact | cross-fit | correlation over steps | all steps, cross-fit |",
        "|---|---:|---:|---:|---:|",
    ]
    names = [part.partition(" ")[0] for part in found["parts"]]
    for at, kind in enumerate(KINDS):
        whole = sum(np.sum(found["rows"], axis=0)[[name == kind for name in names]])
        correlation = near["correlation_of_kind"][kind]
        lines.append(f"| {kind} | {exact[at]:+.4f} | {cheap[at]:+.4f} | {correlation:.3f} | {whole:+.4f} |")
    whole = float(np.sum(found["rows"]))
    lines.append(
        f"| all | {exact.sum():+.4f} | {cheap.sum():+.4f} | {near['correlation']:.3f} | {whole:+.4f} |"
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, measure, time, keep, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option in fields(Options):
        choices = list(SIZES) if option.name == "size" else None
        flag = f"--{option.name.replace('_', '-')}"
        parser.add_argument(flag, default=option.default, type=option.type, choices=choices)  # type: ignore[arg-type]
    parser.add_argument("--rounds", type=int, default=5, help="of the timing; 0: none")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of SIZE.json")
    given = vars(parser.parse_args())
    rounds, out = given.pop("rounds"), given.pop("out")
    if given["device"] == "cpu":
        keep_memory("validation.language_model.run")
    options = Options(**given)
    path = out / f"{options.size}.json"
    found = figures(options, path)
    if rounds:
        found["wall"] = wall_ratio(options, 4, rounds)
        write(path, found)
        print(found["wall"])
    print(table(found))
    verdict(claims(found))


if __name__ == "__main__":
    main()
