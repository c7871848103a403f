"""Claim: where the numerics, the estimators, the tracking or the kit are broken at random, a test fails.

cosmic-ray makes every small change it knows of (a *mutant*) to the files in `GROUPS`. Of those that make sense
some are drawn a file and put one at a time into a clone of HEAD, where the tests that execute the changed
statement run until the first failure. A mutant that no test sees *survived*; reasons.json says why that is no
missing test, or names the test that was added, which ``--judge`` runs against the mutant.

Needs cosmic-ray where it runs: ``.venv/bin/pip install -c constraints.txt cosmic-ray``.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from validation.evidence import ROOT, keep, verdict
from validation.mutation import trial
from validation.mutation.covering import CAP, Covering, measure
from validation.mutation.mutants import Mutant, applied, sample, sensible
from validation.mutation.table import UNJUDGED, table
from validation.mutation.targets import GROUPS, Group

FOLDER = Path(__file__).parent
ASKED = 0.92  # of the drawn mutants must be killed by the tests of the commit they are drawn from
# What takes long to import, and imports nothing that is mutated; begins no threads, which a fork would lose.
PRELOADED = ("numpy", "scipy.special", "scipy.stats", "scipy.optimize", "pytest_cov", "hypothesis", "sybil")
FRAMEWORKS = {"arrays": ("torch", "tensorflow"), "loops": ("torch",)}
LIMIT = 20 * CAP  # seconds a round, on a machine that others use, too
Row = dict[str, Any]


@contextmanager
def clone(commit: str) -> Iterator[Path]:
    """A clone of a commit, the working folder until the end of the block; gives a folder for other files."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        os.chdir(folder)
        subprocess.run(["git", "checkout", "--quiet", commit], check=True)
        os.environ |= {
            "PYTHONPATH": f"{folder}:{folder}/backends",
            "LCA_HYPOTHESIS_PROFILE": "mutation",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        yield Path(work)
        os.chdir(before)


def tried(mutant: Mutant, rounds: list[list[str]], work: Path) -> Row:
    """Put one mutant in, run the tests, take it out again."""
    began, tests = time.perf_counter(), 0
    found = trial.Outcome("survived")
    with applied(mutant) as change:
        for chosen in rounds:
            tests += len(chosen)
            found = trial.run((), chosen, limit=LIMIT, output=work / "output")
            if found.how != "survived":
                break
    seconds = round(time.perf_counter() - began, 1)
    outcome = {"outcome": found.how, "seen_by": found.seen_by, "tests": tests, "seconds": seconds}
    return asdict(mutant) | {"change": change} | outcome


def drawn(group: Group, seed: int) -> tuple[dict[str, int], list[Mutant]]:
    """How many mutants each file of a group has, and the sample."""
    mutants = {file: sensible(file) for file in group.files}
    chosen = [m for file, found in mutants.items() for m in sample(found, group.per_file, f"{seed} {file}")]
    return {file: len(found) for file, found in mutants.items()}, chosen


def tried_group(name: str, seed: int, work: Path) -> Row:
    """Draw the mutants of a group and try them."""
    group, began = GROUPS[name], time.perf_counter()
    for module in PRELOADED + FRAMEWORKS.get(name, ()):
        importlib.import_module(module)
    populations, chosen = drawn(group, seed)
    covering: Covering = measure(group, work)
    print(f"{name}: {len(covering.seconds)} tests in {time.perf_counter() - began:.0f} s", flush=True)
    rows = []
    for mutant in tqdm(chosen, miniters=1, file=sys.stdout):
        rows.append(tried(mutant, covering.rounds(mutant, group.files[mutant.file]), work))
        if rows[-1]["outcome"] != "killed":
            tqdm.write(json.dumps(rows[-1]), file=sys.stdout)
    return {
        "tests": len(covering.seconds),
        "seconds": round(time.perf_counter() - began),
        "populations": populations,
        "rows": rows,
    }


def judged(results: Row, work: Path) -> Row:
    """The results with a reason for each survivor; a test that was added is run with and without the mutant."""
    reasons = json.loads((FOLDER / "reasons.json").read_text())
    for row in results["rows"]:
        if row["outcome"] == "survived":
            row["reason"] = reasons.get(f"{row['file']}: {row['change']}", UNJUDGED)
            if row["reason"].startswith("tests/") and not row.get("killed_since"):
                row["killed_since"] = _kills(row, work)
    return results


def _kills(row: Row, work: Path) -> bool:
    """Whether the test that the reason names passes without the mutant and fails with it."""
    mutant = Mutant(row["file"], row["operator"], row["occurrence"], row["line"])
    run = [row["reason"].split()[0]], work / "output"
    without = trial.run((), run[0], limit=300, output=run[1], chosen=False)
    with applied(mutant):
        found = trial.run((), run[0], limit=300, output=run[1], chosen=False)
    return without.how == "survived" and found.how != "survived"


def conclude() -> None:
    """Write the table from the results of all groups, judge the claim."""
    results = {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in GROUPS}
    rows = [row for found in results.values() for row in found["rows"]]
    survived = [row for row in rows if row["outcome"] == "survived"]
    (FOLDER / "table.md").write_text(table(results))
    verdict(
        {
            "at least 300 mutants": len(rows) >= 300,
            f"{len(rows) - len(survived)} of {len(rows)} killed, asked {ASKED:.0%}": len(survived)
            <= (1 - ASKED) * len(rows),
            "every survivor has a reason": all(row.get("reason", UNJUDGED) != UNJUDGED for row in survived),
            "every test that was added sees its mutant": all(
                row.get("killed_since", True) for row in survived
            ),
        }
    )


def main() -> None:
    """Try the mutants, keep what was found, judge the claim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", help="of files (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (%(default)s)")
    parser.add_argument(
        "--judge", action="store_true", help="only put reasons.json in the results that are kept"
    )
    options = parser.parse_args()
    head = subprocess.check_output(["git", "-C", str(ROOT), "rev-parse", "HEAD"], text=True).strip()[:7]
    for name in options.groups or GROUPS:
        with clone(head) as work:
            if options.judge:
                kept = json.loads((FOLDER / f"{name}.json").read_text())
                (FOLDER / f"{name}.json").write_text(json.dumps(judged(kept, work), indent=1) + "\n")
                continue
            results = {
                "cosmic-ray": version("cosmic-ray"),
                "date": datetime.now().astimezone().isoformat(timespec="minutes"),
                "seed": options.seed,
                "commit": head,
                **tried_group(name, options.seed, work),
            }
        keep(FOLDER, f"{name}.json", results)
    if options.judge:
        conclude()


if __name__ == "__main__":
    main()
