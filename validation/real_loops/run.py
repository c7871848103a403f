"""Claim: no cheap estimator is wrong in silence in the loops that people have.

In every loop an estimator is right, refused with the reason, or contradicted by its own self-check.
"""

import argparse
import re
import time
from collections import Counter
from pathlib import Path

from validation.evidence import environment, verdict
from validation.real_loops.case import ESTIMATORS, EXACT, Outcome, outcome
from validation.real_loops.loops import ALL

FOLDER = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="loops whose name matches this regular expression")
    parser.add_argument("--estimators", nargs="+", default=[*ESTIMATORS], choices=ESTIMATORS)
    parser.add_argument("-o", "--output", type=Path, help="where the table is written")
    options = parser.parse_args()
    began, found = time.perf_counter(), []
    for loops in ALL.values():
        for loop, train in loops():
            if re.search(options.only, loop):
                exact = train(EXACT)
                rows = [outcome(loop, train, name, exact) for name in options.estimators]
                print(loop, *(f"{row.estimator}: {_cell(row)}" for row in rows), sep="; ", flush=True)
                found += rows
    kinds = Counter(row.kind for row in found)
    text = table(found)
    text += f"\n{dict(kinds)}; {time.perf_counter() - began:.0f} s; {environment()['machine']}\n"
    if options.output:
        options.output.write_text(text)
    print(text)
    verdict({f"{len(found)} combinations, silent: 0": bool(found) and not kinds["silent"]})


def table(rows: list[Outcome]) -> str:
    """A line a loop, a column an estimator."""
    names = dict.fromkeys(row.estimator for row in rows)
    lines = ["| loop | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for loop in dict.fromkeys(row.loop for row in rows):
        cells = [_cell(row) for row in rows if row.loop == loop]
        lines.append(f"| {loop} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Outcome) -> str:
    if row.kind == "refused":
        return "refused"
    signs = f", {row.wrong_signs} signs" if row.wrong_signs else ""
    mark = {"right": "", "told": " (told)", "silent": " **silent**"}[row.kind]
    return f"{100 * row.error:+.1f} %{signs}{mark}"


if __name__ == "__main__":
    main()
