"""What is said of the survivors, and whether the tests named there see them.

A reason in reasons.json is ``"added: TEST"``, ``"there before: TEST"`` (a test of the suite that is not in
the lists of the group, or was not reached there), or the text that says why no test can see the change.
"""

import json
from functools import cache
from pathlib import Path

from validation.mutation import trial
from validation.mutation.groups import FOLDER, Row
from validation.mutation.mutants import Mutant, applied

UNJUDGED = "not judged yet"
ADDED, BEFORE = "added: ", "there before: "
INVISIBLE = ("equivalent", "equal ", "no arithmetic", "no effect", "other ")
"""How a reason begins if no test could see the change: nothing that is computed differs, or only which of
many cases of one kind is drawn. Any other survivor counts against the score."""


def judged(results: Row, work: Path) -> Row:
    """The results with a reason for each survivor; ``"seen"`` says whether the test named there sees it."""
    reasons = json.loads((FOLDER / "reasons.json").read_text())
    for row in results["rows"]:
        if row["outcome"] == "survived":
            reason = reasons.get(f"{row['file']}: {row['change']}", UNJUDGED)
            if reason.startswith((ADDED, BEFORE)):
                known = row.get("reason") == reason and row["seen"]
                row["seen"] = known or _sees(reason.split(": ", 1)[1], row, work / "output")
            else:
                row["seen"] = None
            row["reason"] = reason
    return results


def seen(row: Row) -> bool:
    """Whether a test sees the mutant."""
    return row["outcome"] != "survived" or bool(row["seen"])


def visible(row: Row) -> bool:
    """Whether a test could see the mutant."""
    return row["outcome"] != "survived" or not row["reason"].startswith(INVISIBLE)


def _sees(test: str, row: Row, output: Path) -> bool:
    """Whether a test passes without the mutant and fails with it."""
    if not _passes(test, output):
        return False
    with applied(Mutant(row["file"], row["operator"], row["occurrence"], row["line"])):
        found = trial.run((), [test], limit=600, output=output, chosen=False)
    return found.how != "survived"


@cache
def _passes(test: str, output: Path) -> bool:
    """Whether a test passes without a mutant."""
    return trial.run((), [test], limit=600, output=output, chosen=False).how == "survived"
