"""Claim: where the numerics, the estimators, the tracking or the kit are broken at random, a test fails.

cosmic-ray makes every small change it knows of (a *mutant*) to the files in `GROUPS`. Of those that make
sense some are drawn a file and put one at a time into a clone of HEAD, where tests that execute the changed
statement run until the first failure. A mutant that none of them sees *survived*; ``--judge`` then reads in
reasons.json why that is no missing test, or which test sees it, and runs that test with and without it.

Mutants whose result is kept are not tried again, so a run that was cut off goes on.

Needs cosmic-ray where it runs: ``.venv/bin/pip install -c constraints.txt cosmic-ray``.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from validation.evidence import ROOT, keep, verdict
from validation.mutation.groups import FOLDER, Row, kept, preload, tried_group
from validation.mutation.reasons import UNJUDGED, judged, seen, visible
from validation.mutation.table import table
from validation.mutation.targets import GROUPS

ASKED = 0.92  # of the drawn mutants that a test could see must be seen by one


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


def conclude(results: dict[str, Row]) -> None:
    """Write the table from the results of all groups, judge the claim."""
    rows = [row for found in results.values() for row in found["rows"]]
    survived = [row for row in rows if row["outcome"] == "survived"]
    count, some = sum(map(seen, rows)), sum(map(visible, rows))
    print(f"{count} of {len(rows)} mutants are seen by a test; {len(rows) - some} could not be seen")
    (FOLDER / "table.md").write_text(table(results))
    verdict(
        {
            "at least 300 mutants": len(rows) >= 300,
            f"{count / some:.1%} of those that could be, asked {ASKED:.0%}": count / some >= ASKED,
            "every survivor has a reason": all(row["reason"] != UNJUDGED for row in survived),
            "every test that is named sees its mutant": all(row["seen"] is not False for row in survived),
        }
    )


def main() -> None:
    """Try the mutants, keep what was found, judge the claim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", default=list(GROUPS), help="of files (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (%(default)s)")
    parser.add_argument("--judge", action="store_true", help="judge the results that are kept")
    options = parser.parse_args()
    head = subprocess.check_output(["git", "-C", str(ROOT), "rev-parse", "HEAD"], text=True).strip()[:7]
    for name in options.groups:
        with clone(head) as work:
            if options.judge:
                preload(name)
                found = judged(kept(name), work)
                (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
                continue
            found = tried_group(name, options.seed, head, work)
        keep(FOLDER, f"{name}.json", {"cosmic-ray": version("cosmic-ray"), "seed": options.seed, **found})
    if options.judge and options.groups == list(GROUPS):
        conclude({name: kept(name) for name in GROUPS})


if __name__ == "__main__":
    main()
