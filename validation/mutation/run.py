"""Claim: where the engine's numerics are broken at random, a test of the engine fails.

cosmic-ray makes every small change it knows of (a *mutant*) to the files in `TARGETS`. Of those that make
sense ``--per-file`` are drawn a file and put one at a time into a clone of HEAD, where the tests run until
the first failure. A mutant that no test sees *survived*; reasons.json says why that is no missing test. With
``--again`` the survivors in results.json meet the tests of HEAD; the engine stays as it was then.

Needs cosmic-ray where it runs: ``.venv/bin/pip install -c constraints.txt cosmic-ray``.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec
from tqdm import tqdm

from validation.evidence import ROOT, keep, verdict

FOLDER = Path(__file__).parent
# The files under test, each with the tests that know it best; the others run after these.
TARGETS = {
    "lca/quadrature.py": "tests/test_quadrature.py",
    "lca/allocation.py": "tests/test_allocation.py",
    "lca/estimators/segment.py": "tests/estimators/test_path_integral.py",
    "lca/estimators/_panel.py": "tests/estimators/test_adaptive.py",
    "lca/estimators/_path_integral.py": "tests/estimators/test_path_integral.py",
    "lca/estimators/_adaptive.py": "tests/estimators/test_adaptive.py",
}
TESTS = ("tests/test_quadrature.py", "tests/test_allocation.py", "tests/test_state.py", "tests/estimators")
# Bit operators (on floats, or the | of annotations) and identity of numbers only raise; without @dataclass or
# @property nothing runs; arithmetic is replaced by + - * / only, as the tests that see // % ** are the same.
SENSELESS = re.compile(
    r".*(Bit|Shift|Invert|RemoveDecorator|(Lt|LtE|Gt|GtE|Eq|NotEq)_Is|IsNot_(?!Is)|_(Mod|Pow|FloorDiv)$)"
)
UNJUDGED = "not judged yet"
Row = dict[str, Any]


def all_mutants() -> dict[str, list[MutationSpec]]:
    """Every mutant that makes sense, by file; run inside the clone."""
    with tempfile.TemporaryDirectory() as folder, use_db(f"{folder}/db", WorkDB.Mode.create) as db:
        init([Path(target) for target in TARGETS], db, {})
        found = [mutant for item in db.work_items for mutant in item.mutations]
    kept = sorted(
        (mutant for mutant in found if not SENSELESS.match(mutant.operator_name)),
        key=lambda mutant: (mutant.operator_name, mutant.occurrence),
    )
    return {target: [m for m in kept if str(m.module_path) == target] for target in TARGETS}


def command(target: str) -> str:
    """Runs the tests up to the first failure, those that know the target best first."""
    tests = dict.fromkeys([TARGETS[target], *TESTS])
    pytest = f"{sys.executable} -m pytest -q -x -p no:cacheprovider -p validation.mutation.quick_hypothesis"
    return " ".join([pytest, *tests])


def outcome(mutant: MutationSpec, timeout: float) -> Row:
    """Put one mutant in, run the tests, take it out again."""
    target, began = str(mutant.module_path), time.perf_counter()
    result = mutate_and_test([mutant], command(target), timeout)
    if result.test_outcome is None or result.test_outcome.value == "incompetent":
        raise RuntimeError(f"{mutant}: {result.output}")
    seen = re.search(r"^(?:FAILED|ERROR) (\S+)", result.output, re.MULTILINE)
    return {
        "file": target,
        "line": mutant.start_pos[0],
        "operator": mutant.operator_name.removeprefix("core/"),
        "occurrence": mutant.occurrence,
        "change": _change(result.diff),
        "outcome": "timeout" if result.output == "timeout" else result.test_outcome.value,
        "seen_by": seen.group(1) if seen else "",
        "seconds": round(time.perf_counter() - began, 1),
    }


def _change(diff: str) -> str:
    """The lines of a diff that changed."""
    lines = (" ".join(line.split()) for line in diff.splitlines() if re.match(r"[-+](?![-+])", line))
    return "  ".join(lines)


def _mutant(row: Row) -> MutationSpec:
    """The mutant of a kept row."""
    at = (row["line"], 0)
    return MutationSpec(Path(row["file"]), f"core/{row['operator']}", row["occurrence"], at, (row["line"], 1))


def clone(work: Path, engine: str) -> None:
    """A clone of HEAD with the engine as it was at a commit; becomes the working folder."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(work)], check=True)
    os.chdir(work)
    subprocess.run(["git", "checkout", "--quiet", engine, "--", "lca"], check=True)
    os.environ |= {
        "PYTHONPATH": str(work),
        "LCA_HYPOTHESIS_PROFILE": "mutation",
        "OPENBLAS_NUM_THREADS": "1",
    }
    whole = subprocess.run(command("lca/quadrature.py").split(), capture_output=True, text=True, check=False)
    if whole.returncode:
        sys.exit(f"the tests fail without any mutant:\n{whole.stdout[-2000:]}")


def summary(rows: list[Row], populations: dict[str, int]) -> Row:
    """Counts by file, and the share killed: of the sample, and estimated for all mutants."""
    outcomes = ("killed", "timeout", "survived")
    by_file = {
        target: {
            "mutants": populations[target],
            **{o: sum(row["file"] == target and row["outcome"] == o for row in rows) for o in outcomes},
        }
        for target in TARGETS
    }
    killed = sum(row["outcome"] != "survived" for row in rows)
    everywhere = sum(
        counts["mutants"] * (1 - counts["survived"] / sum(counts[o] for o in outcomes))
        for counts in by_file.values()
    )
    return {
        "by_file": by_file,
        "score": round(killed / len(rows), 4),
        "score_weighted_by_file": round(everywhere / sum(populations.values()), 4),
    }


def table(results: Row) -> str:
    """Counts by file, then every survivor with its reason."""
    lines = ["| file | mutants that make sense | tried | killed | by timeout | survived |", "|---" * 6 + "|"]
    for target, n in results["by_file"].items():
        tried = n["killed"] + n["timeout"] + n["survived"]
        lines.append(
            f"| `{target}` | {n['mutants']} | {tried} | {n['killed']} | {n['timeout']} | {n['survived']} |"
        )
    lines += ["", f"Killed: {results['score']:.1%} of those tried.", ""]
    lines += ["| survivor | change | why no test is missing, or which was added |", "|---|---|---|"]
    for row in results["survivors"]:
        change = row["change"].replace("|", "\\|")
        lines.append(f"| `{row['file']}:{row['line']}` | `{change}` | {row['reason']} |")
    if results["killed_by_tests_added"]:
        lines += ["", "Survived at first, and got a test:", "", "| mutant | change | test |", "|---|---|---|"]
    for row in results["killed_by_tests_added"]:
        change = row["change"].replace("|", "\\|")
        lines.append(f"| `{row['file']}:{row['line']}` | `{change}` | `{row['seen_by']}` |")
    return "\n".join([*lines, ""])


def first_run(options: argparse.Namespace, tried: Callable[[Iterable[MutationSpec]], list[Row]]) -> Row:
    """Draw mutants and try them."""
    mutants = all_mutants()
    rng = random.Random(options.seed)
    drawn = [m for found in mutants.values() for m in rng.sample(found, min(options.per_file, len(found)))]
    return {
        "populations": {target: len(found) for target, found in mutants.items()},
        "rows": tried(drawn),
        "killed_by_tests_added": [],
    }


def second_run(before: Row, tried: Callable[[Iterable[MutationSpec]], list[Row]]) -> Row:
    """Try those again that survived or timed out."""
    again = {_key(row): row for row in tried(map(_mutant, before["survivors"] + before["timeouts"]))}
    rows = [again.get(_key(row), row) for row in before["rows"]]
    added = [again[_key(row)] for row in before["survivors"] if again[_key(row)]["outcome"] != "survived"]
    return {
        "populations": before["populations"],
        "rows": rows,
        "killed_by_tests_added": before["killed_by_tests_added"] + added,
    }


def _key(row: Row) -> tuple[Any, ...]:
    return row["file"], row["operator"], row["occurrence"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-file", type=int, default=25, help="mutants drawn a file (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (%(default)s)")
    parser.add_argument("--timeout", type=float, default=150, help="seconds a mutant (%(default)s)")
    parser.add_argument("--again", action="store_true", help="only survivors and timeouts of results.json")
    parser.add_argument("--judge", action="store_true", help="run nothing, put reasons.json in results.json")
    return parser.parse_args()


def judged(rows: list[Row]) -> list[Row]:
    """The survivors, each with what reasons.json says of it."""
    reasons = json.loads((FOLDER / "reasons.json").read_text())
    survived = (row for row in rows if row["outcome"] == "survived")
    return [row | {"reason": reasons.get(f"{row['file']}: {row['change']}", UNJUDGED)} for row in survived]


def conclude(results: Row) -> None:
    """Write the table, judge the claim."""
    (FOLDER / "table.md").write_text(table(results))
    verdict({"every survivor has a reason": all(r["reason"] != UNJUDGED for r in results["survivors"])})


def main() -> None:
    """Try the mutants, keep what was found, judge the claim."""
    options, began = _options(), time.perf_counter()
    kept = options.again or options.judge
    before = json.loads((FOLDER / "results.json").read_text()) if kept else None
    if options.judge:
        before["survivors"] = judged(before["rows"])
        (FOLDER / "results.json").write_text(json.dumps(before, indent=2) + "\n")
        conclude(before)
    head = subprocess.check_output(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], text=True
    ).strip()

    def tried(mutants: Iterable[MutationSpec]) -> list[Row]:
        rows = []
        for mutant in tqdm(list(mutants), miniters=1):
            rows.append(outcome(mutant, options.timeout))
            if rows[-1]["outcome"] != "killed":
                tqdm.write(json.dumps(rows[-1]))
        return rows

    with tempfile.TemporaryDirectory() as work:
        clone(Path(work) / "clone", before["engine"] if before else head)
        found = second_run(before, tried) if before else first_run(options, tried)
    results = {
        "cosmic-ray": version("cosmic-ray"),
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "first": before["first"] if before else vars(options) | {"commit": head},
        "engine": before["engine"] if before else head,
        "tests": head,
        "seconds": round(time.perf_counter() - began) + (before["seconds"] if before else 0),
        **summary(found["rows"], found["populations"]),
        "survivors": judged(found["rows"]),
        "timeouts": [row for row in found["rows"] if row["outcome"] == "timeout"],
        **found,
    }
    keep(FOLDER, "results.json", results)
    conclude(results)


if __name__ == "__main__":
    main()
