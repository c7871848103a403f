"""Claim: the conformance kit catches everything wrong in its zoo, and refuses nothing that is right.

Over ``--seeds`` derandomised seeds each wrong one is given to the check named for it, and each right one to
every check; in the first seed the wrong ones meet all checks, which is what the table shows. ``--nightly``
tries one further seed with many more cases (kept in nightly.json, without a table).
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from tqdm import tqdm

from lca.testing._report import Check
from tests.meta.zoo import ZOO, Kind
from tests.meta.zoo_backends import MISSING_BACKENDS
from validation.evidence import keep, verdict

FOLDER = Path(__file__).parent
# One seed that the full run does not use; sized to take less than ten minutes on one core.
NIGHTLY = {"first_seed": 20, "seeds": 1, "samples": 200, "right_samples": 50}
REFUSED, NAMED, PASSED, NOT_MEANT = "✗", "**✗**", "·", ""
Refusals = dict[str, dict[str, dict[int, str]]]  # {subject: {check: {seed: reason}}}


def refusals(check: Check, subject: Any, seeds: Iterable[int], samples: int) -> dict[int, str]:
    """The seeds in which ``check`` refuses ``subject``, each with the reason."""
    found = {}
    for seed in seeds:
        try:
            check.run(subject, samples=samples, seed=seed, shrink=False)
        except Exception as error:  # noqa: BLE001 - a crash refuses as well
            found[seed] = f"{type(error).__name__}: {error}"
    return found


def refused_right_ones(kind: Kind, seeds: Iterable[int], samples: int) -> Refusals:
    """Every check that is meant for a right one, with its false alarms."""
    return {
        name: {c.name: refusals(c, subject, seeds, samples) for c in kind.checks if c.applies(subject)}
        for name, subject in tqdm(kind.right.items(), desc="right ones")
    }


def escaped_wrong_ones(kind: Kind, seeds: Iterable[int], samples: int) -> dict[str, list[int]]:
    """``{subject: seeds in which the check named for it let it pass}``."""
    # Made afresh for every seed: some of them remember.
    missed = {
        name: [s for s in seeds if not refusals(kind.check(w.check), w.make(), [s], samples)]
        for name, w in tqdm(kind.wrong.items(), desc="wrong ones")
    }
    return {name: found for name, found in missed.items() if found}


def matrix(kind: Kind, seeds: Iterable[int], samples: int) -> Refusals:
    """Every check that is meant for a wrong one, with its refusals."""
    return {
        name: {c.name: refusals(c, w.make(), seeds, samples) for c in kind.checks if c.applies(w.make())}
        for name, w in tqdm(kind.wrong.items(), desc="table")
    }


def markdown(title: str, right: Refusals, wrong: Refusals) -> str:
    """One row a check, one column a subject: the right ones by letter, the wrong ones by number."""
    kind = ZOO[title]
    columns = [*ascii_lowercase[: len(right)], *map(str, range(1, len(wrong) + 1))]
    lines = [f"## {title}", "", f"| check | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for check in kind.checks:
        cells = [_cell(found.get(check.name)) for found in (right | wrong).values()]
        named = [len(right) + i for i, w in enumerate(kind.wrong.values()) if w.check == check.name]
        for i in named:
            cells[i] = NAMED if cells[i] == REFUSED else cells[i]
        lines.append(f"| `{check.name}` | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_legend(kind), ""])


def _cell(found: dict[int, str] | None) -> str:
    if found is None:
        return NOT_MEANT
    return REFUSED if found else PASSED


def _legend(kind: Kind) -> Iterator[str]:
    yield "Right: " + ", ".join(f"{c} *{n}*" for c, n in zip(ascii_lowercase, kind.right, strict=False)) + "."
    yield "\nWrong:\n"
    for i, (name, w) in enumerate(kind.wrong.items(), 1):
        yield f"{i}. *{name}*: {w.bug}. Named check: `{w.check}`."


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Try the whole zoo; without ``--nightly`` also write the table."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    results: dict[str, Any] = {"right": {}, "wrong": {}, "alarms": {}, "escaped": {}, "caught_by": {}}
    pages = [
        f"{REFUSED}: the check refuses this one (bold: the check named for it); {PASSED}: it lets it pass;"
    ]
    pages.append("empty: it is not meant for it.\n")
    for title, kind in ZOO.items():
        print(f"{title}:")
        results["right"][title], results["wrong"][title] = list(kind.right), len(kind.wrong)
        results["escaped"][title] = escaped_wrong_ones(kind, seeds, options.samples)
        right = refused_right_ones(kind, seeds, options.right_samples)
        results["alarms"][title] = _found(right)
        if not options.nightly:
            wrong = matrix(kind, seeds[:1], options.matrix_samples)
            results["caught_by"][title] = {name: list(found) for name, found in _found(wrong).items()}
            pages.append(markdown(title, right, wrong))
    if not options.nightly:
        (FOLDER / "table.md").write_text("\n".join(pages))
    return results


def _found(refused: Refusals) -> Refusals:
    """Without the checks that let a subject pass, and without the subjects that all of them let pass."""
    some = {name: {c: seeds for c, seeds in by_check.items() if seeds} for name, by_check in refused.items()}
    return {name: by_check for name, by_check in some.items() if by_check}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nightly", action="store_true", help=f"sizes {NIGHTLY}")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of the seeds (%(default)s)")
    parser.add_argument("--seeds", type=int, default=20, help="how many (%(default)s)")
    parser.add_argument("--samples", type=int, default=20, help="cases for the named check (%(default)s)")
    parser.add_argument(
        "--right-samples", type=int, default=2, help="cases a check, right ones (%(default)s)"
    )
    parser.add_argument("--matrix-samples", type=int, default=2, help="cases a check, table (%(default)s)")
    if parser.parse_known_args()[0].nightly:
        parser.set_defaults(**NIGHTLY)
    return parser.parse_args()


def main() -> None:
    """Try the zoo, keep what was found, judge the claims."""
    options = _options()
    began, cpu = time.perf_counter(), time.process_time()
    results = vars(options) | {"backends_not_installed": MISSING_BACKENDS} | measure(options)
    results["seconds"] = round(time.perf_counter() - began)
    results["cpu_seconds"] = round(time.process_time() - cpu)
    keep(FOLDER, "nightly.json" if options.nightly else "results.json", results)
    verdict(
        {
            f"each wrong one is caught by its named check ({options.seeds} seeds)": not any(
                results["escaped"].values()
            ),
            f"no right one is refused ({options.seeds} seeds)": not any(results["alarms"].values()),
        }
    )


if __name__ == "__main__":
    main()
