"""Claim: the conformance kit catches everything wrong in its zoo, and refuses nothing that is right.

Every wrong subject is given to the check named for it with each of ``--seeds`` seeds, and once to all checks,
which the table shows. Every right subject is given to all checks with each of ``--right-seeds`` seeds. A run
can be repeated, as the cases follow from the seed; ``--nightly`` tries one other seed with many more cases.
The results of each kind of subject are kept in files of their own, so that ``--kind`` can repeat one alone.
With ``--pieces FOLDER`` each finished piece of work is kept there as well, so that a run that was cut short
goes on where it stopped; use it for one state of the code only.
"""

import argparse
import pickle
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from scipy.stats import beta
from tqdm import tqdm

from lca.testing._report import Check
from tests.meta.zoo import ZOO
from tests.meta.zoo_backends import MISSING_BACKENDS
from validation.evidence import keep, verdict

FOLDER = Path(__file__).parent
# One seed that the full run does not use.
NIGHTLY = {"first_seed": 1000, "seeds": 1, "right_seeds": 1, "samples": 200, "right_samples": 10}
BLOCK = 20
"""Seeds of a right subject that are tried in one piece of work."""
WITHOUT_SEED = "loads_no_other_framework"
"""Imports the backend in a process of its own, the same with every seed: right ones have it once a piece."""


@dataclass(frozen=True)
class Task:
    """One subject, with the seeds and the number of cases a check."""

    kind: str
    name: str
    right: bool
    seeds: tuple[int, ...]
    samples: int
    all_checks: bool


@dataclass(frozen=True)
class Found:
    """What the checks said: ``{check: {seed: reason}}`` of refusals, and how many checks were run."""

    task: Task
    refusals: dict[str, dict[int, str]]
    runs: int


def try_out(task: Task) -> Found:
    """Give a subject to the check named for it, or to every check that is meant for it."""
    kind = ZOO[task.kind]

    def fresh() -> Any:
        """Wrong ones are made anew for every run, because some of them remember."""
        return kind.right[task.name] if task.right else kind.wrong[task.name].make()

    if task.all_checks:
        checks = [check for check in kind.checks if check.applies(fresh())]
    else:
        checks = [kind.check(kind.wrong[task.name].check)]
    refusals: dict[str, dict[int, str]] = defaultdict(dict)
    runs = 0
    for check in checks:
        for seed in task.seeds[:1] if check.name == WITHOUT_SEED and task.right else task.seeds:
            runs += 1
            reason = _refusal(check, fresh(), seed, task.samples)
            if reason:
                refusals[check.name][seed] = reason
    return Found(task, dict(refusals), runs)


def _refusal(check: Check, subject: Any, seed: int, samples: int) -> str:
    """The reason why a check refuses a subject, or ``""``."""
    try:
        check.run(subject, samples=samples, seed=seed, shrink=False)
    except Exception as error:  # noqa: BLE001 - a crash refuses as well
        return f"{type(error).__name__}: {error}"
    return ""


def tasks(title: str, options: argparse.Namespace) -> Iterator[Task]:
    """All work on one kind of subject, the longest pieces first."""
    kind, first = ZOO[title], options.first_seed
    seeds = tuple(range(first, first + options.seeds))
    right_seeds = range(first, first + options.right_seeds)
    blocks = [tuple(right_seeds[start : start + BLOCK]) for start in range(0, len(right_seeds), BLOCK)]
    for name in kind.right:
        yield from (Task(title, name, True, block, options.right_samples, True) for block in blocks)
    for name in kind.wrong:
        yield Task(title, name, False, seeds, options.samples, False)
        if not options.nightly:  # for the table, which a nightly run does not write
            yield Task(title, name, False, seeds[:1], options.table_samples, True)


def all_found(pool: Executor, work: Iterable[Task], pieces: Path | None = None) -> list[Found]:
    """The tasks done by the processes of a pool, in the order of the tasks."""
    futures = [pool.submit(_try_once, task, pieces) for task in work]
    return [one.result() for one in tqdm(futures)]


def _try_once(task: Task, pieces: Path | None) -> Found:
    """What was found in an earlier run that kept its pieces, or now."""
    if pieces is None:
        return try_out(task)
    path = pieces / f"{sha256(repr(task).encode()).hexdigest()[:24]}.pickle"
    if path.exists():
        kept: Found = pickle.loads(path.read_bytes())  # noqa: S301 - a file of our own
        return kept
    found = try_out(task)
    pieces.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(pickle.dumps(found))
    unfinished.replace(path)
    return found


def summary(found: list[Found]) -> dict[str, Any]:
    """What escaped and what was refused though right, with the bound of the rate of false alarms."""
    named = [one for one in found if not one.task.right and not one.task.all_checks]
    right = [one for one in found if one.task.right]
    escaped: dict[str, list[int]] = {}
    for one in named:
        caught = next(iter(one.refusals.values()), {})
        missed = [seed for seed in one.task.seeds if seed not in caught]
        if missed:
            escaped[one.task.name] = missed
    alarms = [
        {"subject": one.task.name, "check": check, "seed": seed, "reason": reason}
        for one in right
        for check, seeds in one.refusals.items()
        for seed, reason in seeds.items()
    ]
    kits = sum(len(one.task.seeds) for one in right)
    refused_kits = len({(alarm["subject"], alarm["seed"]) for alarm in alarms})
    return {
        "wrong": len(named),
        "right": len({one.task.name for one in right}),
        "escaped": escaped,
        "false_alarms": alarms,
        "runs_of_the_kit_on_right_ones": kits,
        "checks_of_right_ones": sum(one.runs for one in right),
        "false_alarm_rate_of_a_kit": _rate(refused_kits, kits),
        "refused_by": {
            one.task.name: list(one.refusals) for one in found if one.task.all_checks and not one.task.right
        },
    }


def _rate(count: int, total: int) -> dict[str, float]:
    """A share with its 95 % interval of Clopper and Pearson; one-sided where nothing was counted."""
    level = 0.95 if count == 0 else 0.975
    upper = beta.ppf(level, count + 1, total - count) if count < total else 1.0
    lower = beta.ppf(0.025, count, total - count + 1) if count else 0.0
    return {"share": count / max(total, 1), "lower": float(lower), "upper": float(upper)}


def markdown(title: str, found: list[Found]) -> str:
    """The right subjects, and one row for each wrong one with the checks that refuse it."""
    kind = ZOO[title]
    wrong = {one.task.name: one for one in found if not one.task.right and not one.task.all_checks}
    others = {one.task.name: one for one in found if not one.task.right and one.task.all_checks}
    alarms = sum(len(seeds) for one in found if one.task.right for seeds in one.refusals.values())
    lines = [
        f"# What the checks said of {title}",
        "",
        "Made by `validation/conformance/run.py`. Refused: with how many seeds by the check named for it.",
        "Others: checks that refuse it as well, with one seed and few cases.",
        "",
        f"Right ones ({alarms} false alarms): {', '.join(kind.right)}.",
        "",
        "| wrong | its fault | check named for it | refused | others |",
        "|---|---|---|---|---|",
    ]
    for name, animal in kind.wrong.items():
        caught = wrong[name].refusals.get(animal.check, {})
        also = [f"`{check}`" for check in others[name].refusals if check != animal.check]
        shown = ", ".join(also[:3]) + (f" and {len(also) - 3} more" if len(also) > 3 else "")
        seeds = f"{len(caught)}/{len(wrong[name].task.seeds)}"
        lines.append(f"| {name} | {animal.bug} | `{animal.check}` | {seeds} | {shown} |")
    return "\n".join([*lines, ""])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nightly", action="store_true", help=f"sizes {NIGHTLY}")
    parser.add_argument("--kind", choices=list(ZOO), help="only this kind of subject")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of the seeds (%(default)s)")
    parser.add_argument("--seeds", type=int, default=20, help="seeds for wrong ones (%(default)s)")
    parser.add_argument("--right-seeds", type=int, default=200, help="seeds for right ones (%(default)s)")
    parser.add_argument("--samples", type=int, default=20, help="cases for the named check (%(default)s)")
    parser.add_argument(
        "--right-samples", type=int, default=1, help="cases a check, right ones (%(default)s)"
    )
    parser.add_argument("--table-samples", type=int, default=2, help="cases a check, table (%(default)s)")
    parser.add_argument("--pieces", type=Path, help="where finished pieces are kept, to go on later")
    parser.add_argument("--jobs", type=int, default=2, help="processes (%(default)s)")
    if parser.parse_known_args()[0].nightly:
        parser.set_defaults(**NIGHTLY)
    return parser.parse_args()


def main() -> None:
    """Try the zoo, keep what was found, judge the claims."""
    options = _options()
    claims: dict[str, bool] = {}
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for title in [options.kind] if options.kind else ZOO:
            print(f"{title}:")
            began = time.perf_counter()
            found = all_found(pool, tasks(title, options), options.pieces)
            sizes = {name: value for name, value in vars(options).items() if name != "pieces"}
            results = sizes | {"backends_not_installed": MISSING_BACKENDS} | summary(found)
            results["seconds"] = round(time.perf_counter() - began)
            name = title.replace(" ", "_")
            if not options.nightly:
                (FOLDER / f"{name}.md").write_text(markdown(title, found))
            keep(FOLDER, f"{name}-nightly.json" if options.nightly else f"{name}.json", results)
            claims |= {
                f"{title}: each wrong one is caught by its named check ({options.seeds} seeds)": not results[
                    "escaped"
                ],
                f"{title}: no right one is refused ({options.right_seeds} seeds)": not results[
                    "false_alarms"
                ],
            }
    verdict(claims)


if __name__ == "__main__":
    main()
