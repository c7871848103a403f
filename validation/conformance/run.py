"""Claim: the conformance kit catches each wrong estimator and objective of its zoo, and refuses no right one.

Over ``--seeds`` derandomised seeds each wrong one is given to the check named for it, and each right one to
every check; over ``--matrix-seeds`` the wrong ones meet all checks, which is what the table shows.
"""

import argparse
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lca.testing.estimator_checks import ESTIMATOR_CHECKS
from lca.testing.objective_checks import OBJECTIVE_CHECKS
from lca.testing.report import Check
from tests.meta.animals import Wrong
from tests.meta.right_estimators import RIGHT_ESTIMATORS
from tests.meta.zoo_estimators import WRONG_ESTIMATORS
from tests.meta.zoo_objectives import RIGHT_OBJECTIVES, WRONG_OBJECTIVES
from validation.evidence import keep, verdict

FOLDER = Path(__file__).parent
ZOO = {
    "estimators": (ESTIMATOR_CHECKS, RIGHT_ESTIMATORS, WRONG_ESTIMATORS),
    "objectives": (OBJECTIVE_CHECKS, RIGHT_OBJECTIVES, WRONG_OBJECTIVES),
}
Table = dict[str, dict[str, str]]


def refusals(check: Check, subject: Any, seeds: Iterable[int], samples: int) -> dict[int, str]:
    """The seeds in which ``check`` refuses ``subject``, each with the reason."""
    found = {}
    for seed in seeds:
        try:
            check.run(subject, samples=samples, seed=seed, shrink=False)
        except Exception as error:  # noqa: BLE001 - a crash refuses as well
            found[seed] = f"{type(error).__name__}: {error}"
    return found


def refused_right_ones(
    checks: Iterable[Check], subjects: Mapping[str, Any], seeds: Iterable[int], samples: int
) -> dict[str, dict[int, str]]:
    """False alarms: ``{subject / check: {seed: reason}}``."""
    alarms = {}
    for name, subject in tqdm(subjects.items(), desc="right ones"):
        for check in checks:
            if check.applies(subject) and (found := refusals(check, subject, seeds, samples)):
                alarms[f"{name} / {check.name}"] = found
    return alarms


def escaped_wrong_ones(
    checks: Iterable[Check], subjects: Mapping[str, Wrong], seeds: Iterable[int], samples: int
) -> dict[str, list[int]]:
    """``{subject: seeds in which the check named for it let it pass}``."""
    by_name = {check.name: check for check in checks}
    escaped = {}
    for name, wrong in tqdm(subjects.items(), desc="wrong ones"):
        # Made afresh for every seed: some of them remember.
        missed = [s for s in seeds if not refusals(by_name[wrong.check], wrong.make(), [s], samples)]
        if missed:
            escaped[name] = missed
    return escaped


def matrix(
    checks: Iterable[Check], subjects: Mapping[str, Wrong], seeds: Iterable[int], samples: int
) -> dict[str, list[str]]:
    """``{wrong one: the checks that refuse it in at least one seed}``."""
    return {
        name: [c.name for c in checks if c.applies(w.make()) and refusals(c, w.make(), seeds, samples)]
        for name, w in tqdm(subjects.items(), desc="table")
    }


def markdown(title: str, checks: Iterable[Check], right: Iterable[str], caught: dict[str, list[str]]) -> str:
    """One row a check, one column a subject: the right ones together, the wrong ones by number."""
    wrong = ZOO[title][2]
    columns = " | ".join(str(i) for i, _ in enumerate(wrong, 1))
    lines = [f"## {title}", "", f"| check | right ones | {columns} |", "|---" * (len(wrong) + 2) + "|"]
    for check in checks:
        cells = (_cell(check.name, w.check, caught[name]) for name, w in wrong.items())
        lines.append(f"| `{check.name}` | · | {' | '.join(cells)} |")
    legend = [
        f"{i}. *{name}*: {w.bug}. Named check: `{w.check}`." for i, (name, w) in enumerate(wrong.items(), 1)
    ]
    return "\n".join([*lines, "", f"Right: {', '.join(right)}.", "", "Wrong:", "", *legend, ""])


def _cell(check: str, named: str, caught: list[str]) -> str:
    if check not in caught:
        return "·"
    return "**✗**" if check == named else "✗"


def main() -> None:
    """Run the zoo, write results.json and table.md, judge the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="seeds 0, 1, ... (%(default)s)")
    parser.add_argument("--samples", type=int, default=20, help="cases for the named check (%(default)s)")
    parser.add_argument(
        "--right-samples", type=int, default=2, help="cases a check, right ones (%(default)s)"
    )
    parser.add_argument("--matrix-samples", type=int, default=2, help="cases a check, table (%(default)s)")
    options = parser.parse_args()

    seeds = range(options.seeds)
    began, cpu = time.perf_counter(), time.process_time()
    results: dict[str, Any] = vars(options) | {"right": {}, "caught_by": {}, "alarms": {}, "escaped": {}}
    pages = ["✗: the check refuses this one (bold: the check named for it); ·: it lets it pass.", ""]
    for title, (checks, right, wrong) in ZOO.items():
        results["right"][title] = list(right)
        results["escaped"] |= escaped_wrong_ones(checks, wrong, seeds, options.samples)
        results["caught_by"][title] = matrix(checks, wrong, [0], options.matrix_samples)
        results["alarms"] |= refused_right_ones(checks, right, seeds, options.right_samples)
        pages.append(markdown(title, checks, right, results["caught_by"][title]))
    results["seconds"] = round(time.perf_counter() - began)
    results["cpu_seconds"] = round(time.process_time() - cpu)
    (FOLDER / "table.md").write_text("\n".join(pages))
    keep(FOLDER, "results.json", results)
    verdict(
        {
            f"each wrong one is caught by its named check in all {options.seeds} seeds": not results[
                "escaped"
            ],
            f"no right one is refused in any of {options.seeds} seeds": not results["alarms"],
        }
    )


if __name__ == "__main__":
    main()
