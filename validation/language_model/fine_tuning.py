"""Which adapters learn when a small GPT that has read Python code is fine-tuned on English prose.

The base is trained on the standard library, the adapters on the topics of its help, `pydoc_data.topics`: the
reference of the language, in prose. All else is frozen and left out of θ, so every step can be exact.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lca
from lca_torch import Objective, Tracker
from validation.evidence import environment, verdict
from validation.language_model.adapters import ADAPTED, adapter_of, with_adapters
from validation.language_model.gpt import SIZES, next_token_loss
from validation.language_model.text import Windows, prose_bytes
from validation.language_model.training import FIXED, Options, Run

FOLDER = Path(__file__).parent


def fine_tuned(base: Options, steps: int, *, by_hand: bool | None = None) -> dict[str, Any]:
    """Train the base, then its adapters with every step allocated; the sums of each adapter."""
    run = Run(base)
    for _ in range(base.steps):
        run.step()
    size, text = SIZES[base.size], prose_bytes()
    model, made = with_adapters(run.model, by_hand=by_hand)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    fixed = Windows(text, size.length, seed=1).draw(FIXED)
    windows = Windows(text, size.length, seed=2)
    objective = Objective(model, None, fixed, batch_loss=next_token_loss, batch_size=16, frozen="omit")
    estimator = lca.Adaptive(tol=0.02, per="change")
    with Tracker(model, optimizer, objective, estimator, on_error="raise") as tracker:
        for _ in range(steps):
            optimizer.zero_grad()
            next_token_loss(model, windows.draw(base.batch)).backward()
            optimizer.step()
    summary = tracker.summary()["train"]
    groups = objective.layout.groups(adapter_of)
    view: Any = tracker.views["train"]
    sums = groups.merged(view.tensors.rows.sum(axis=0))
    return {
        "adapters_by": made,
        "parameters_of_theta": summary["parameters"],
        "parameters_of_model": sum(p.numel() for p in model.parameters()),
        "steps": summary["steps"],
        "loss_start": summary["loss_start"],
        "loss_end": summary["loss_end"],
        "residual": summary["residual"],
        "lca_total": summary["lca_total"],
        "adapters": dict(zip(groups.names, sums.tolist(), strict=True)),
    }


def table(found: dict[str, Any]) -> str:
    """The sums of the adapters in Markdown: a row a block, a column a layer."""
    blocks = sorted({int(name.split()[0]) for name in found["adapters"]})
    rows = [[found["adapters"][f"{block} {place}"] for place in ADAPTED] for block in blocks]
    lines = ["| block | " + " | ".join(ADAPTED) + " |", "|---|" + "---:|" * len(ADAPTED)]
    lines += [
        f"| {b} | " + " | ".join(f"{x:+.4f}" for x in row) + " |" for b, row in zip(blocks, rows, strict=True)
    ]
    lines.append("| all | " + " | ".join(f"{x:+.4f}" for x in np.sum(rows, axis=0)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, fine-tune, keep, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1M", choices=SIZES)
    parser.add_argument("--base-steps", type=int, default=150)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    found = fine_tuned(Options(options.size, options.base_steps), options.steps)
    found["environment"] = environment()
    (options.out / "adapters.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    change = found["loss_end"] - found["loss_start"]
    verdict(
        {
            f"the loss falls from {found['loss_start']:.3f} to {found['loss_end']:.3f}": change < 0,
            f"the adapters add up: residual {found['residual']:+.2g}, at most 2 %": abs(found["residual"])
            <= 0.02 * abs(change),
        }
    )


if __name__ == "__main__":
    main()
