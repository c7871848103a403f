"""Draws the mutants of a group and tries them."""

import importlib
import json
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from validation.mutation import trial
from validation.mutation.covering import CAP, measure
from validation.mutation.mutants import Mutant, applied, sample, sensible
from validation.mutation.targets import GROUPS, Group

FOLDER = Path(__file__).parent
# What takes long to import, and imports nothing that is mutated; begins no threads, which a fork would lose.
PRELOADED = ("numpy", "scipy.special", "scipy.stats", "scipy.optimize", "pytest_cov", "hypothesis", "sybil")
FRAMEWORKS = {"arrays": ("torch", "tensorflow"), "loops": ("torch",), "kit": ("torch", "tensorflow")}
LIMIT = 20 * CAP  # seconds a round, on a machine that others use, too
Row = dict[str, Any]


def kept(name: str) -> Row:
    """The results of a group, as far as there are some."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {"rows": [], "seconds": 0}


def preload(name: str) -> None:
    """Import what the tests of a group import, but for the project."""
    for module in PRELOADED + FRAMEWORKS.get(name, ()):
        importlib.import_module(module)


def tried_group(name: str, seed: int, commit: str, work: Path) -> Row:
    """Draw the mutants of a group, and try those of which nothing is known."""
    group, began, before = GROUPS[name], time.perf_counter(), kept(name)
    preload(name)
    populations, chosen = drawn(group, seed)
    known = {_key(row): {"commit": before.get("commit")} | row for row in before["rows"]}
    new = [mutant for mutant in chosen if _key(asdict(mutant)) not in known]
    covering = measure(group, work) if new else None
    for mutant in tqdm(new, miniters=1):
        row = tried(mutant, covering.rounds(mutant, group.files[mutant.file]), work) | {"commit": commit}
        known[_key(row)] = row
        (FOLDER / f"{name}.json").write_text(json.dumps(before | {"rows": list(known.values())}))
        if row["outcome"] != "killed":
            tqdm.write(json.dumps(row))
    return {
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "tests": len(covering.seconds) if covering else before["tests"],
        "seconds": round(time.perf_counter() - began) + before["seconds"],
        "populations": populations,
        "rows": [known[_key(asdict(mutant))] for mutant in chosen],
    }


def drawn(group: Group, seed: int) -> tuple[dict[str, int], list[Mutant]]:
    """How many mutants each file of a group has, and the sample."""
    mutants = {file: sensible(file, numbers=group.numbers) for file in group.files}
    chosen = [m for file, found in mutants.items() for m in sample(found, group.per_file, f"{seed} {file}")]
    return {file: len(found) for file, found in mutants.items()}, chosen


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


def _key(row: Row) -> tuple[str, str, int]:
    return row["file"], row["operator"], row["occurrence"]
