"""What measuring on several ranks costs each rank, and whether the results are those of one process.

Command: python -m validation.distributed.run
"""

import json
import subprocess
import sys
import tempfile
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np

from lca.tolerances import EPS32, allocation
from validation.distributed.rank import CASES, STEPS
from validation.evidence import ROOT, keep, verdict

FOLDER = Path(__file__).parent
RANKS = (1, 2, 4)
TERMS = {"by class": 10}
"""Vectors of a gradient, where there are several."""


def launched(case: str, ranks: int) -> list[dict[str, Any]]:
    """What each rank has found and counted."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        subprocess.run(
            [*command, "-m", "validation.distributed.rank", folder, case],
            check=True,
            cwd=ROOT,
            capture_output=True,
        )
        return [dict(np.load(Path(folder) / f"{rank}.npz")) for rank in range(ranks)]


def row(case: str, found: list[dict[str, Any]], alone: dict[str, Any]) -> dict[str, Any]:
    """The figures of one case with W ranks, per step."""
    counts = [json.loads(str(rank["counts"])) for rank in found]
    examples, parameters, item = (int(n) for n in found[0]["sizes"])
    off = np.abs(found[0]["values"] - alone["values"]).max(axis=1) / alone["masses"]
    vectors = float(found[0]["vectors"]) + 2 * TERMS.get(case, 1)  # the first step is evaluated twice more
    return {
        "case": case,
        "ranks": len(found),
        "passes of each rank": [c["examples"] / examples / STEPS for c in counts],
        "rounds of messages": counts[0].get("messages", 0) / STEPS,
        "bytes of messages": counts[0].get("message bytes", 0) / STEPS,
        "bytes of vectors": counts[0].get("bytes", 0) / STEPS,
        "by the formula": vectors * parameters * item / STEPS if len(found) > 1 else 0.0,
        "difference / (eps mass)": float(off.max() / EPS32),
        "same on all ranks": all(np.array_equal(r["values"], found[0]["values"]) for r in found),
    }


def main() -> None:
    rows = []
    for case in CASES:
        alone = None
        for ranks in RANKS:
            found = launched(case, ranks)
            alone = alone or found[0]
            rows.append(row(case, found, alone))
            print(json.dumps(rows[-1]))
    keep(FOLDER, "results.json", {"rows": rows})
    whole = {r["case"]: r["passes of each rank"][0] for r in rows if r["ranks"] == 1}
    verdict(
        {
            "each example is evaluated by one rank": all(
                isclose(sum(r["passes of each rank"]), whole[r["case"]]) for r in rows
            ),
            "no rank evaluates more than 1.1 times its part": all(
                max(r["passes of each rank"]) <= 1.1 * whole[r["case"]] / r["ranks"] for r in rows
            ),
            "the bytes of vectors are those of the formula": all(
                isclose(r["bytes of vectors"], r["by the formula"]) for r in rows
            ),
            "the allocations are those of one process": all(
                r["difference / (eps mass)"] <= allocation(1.0, 1.0) and r["same on all ranks"] for r in rows
            ),
        }
    )


if __name__ == "__main__":
    main()
