"""Claim: in every model and loop of the list the figures are right, or the package refuses and says why.

Each case trains four times (`validation.wild.case`); `validation.wild.verdict` compares.
"""

import argparse
import gc
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import lca
from lca.errors import LCAWarning
from validation.evidence import environment, verdict
from validation.wild.case import CASES, MODES, Case, Mode, Outcome
from validation.wild.fingerprint import fingerprint
from validation.wild.loop import SHARP
from validation.wild.verdict import KINDS, judge

FOLDER = Path(__file__).parent
FRAMEWORKS = ("torch", "keras")
LIMIT = 60  # seconds for one training, which takes one or two
ASKED = 120  # cases


def main() -> None:
    options = _options()
    began = time.perf_counter()
    if options.list:
        print(_listed())
    elif options.framework:
        _kept(options, _rows(options))
    else:
        results = _both(options)
        _kept(options, results)
        rows = results["rows"]
        print(f"{time.perf_counter() - began:.0f} s in all")
        counts = Counter(row["kind"] for row in rows)
        claims = {f"{kind}: 0": not counts[kind] for kind in KINDS if kind not in ("right", "refused")}
        verdict(claims if options.only else {f"at least {ASKED} cases": len(rows) >= ASKED} | claims)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose `file: name` matches this regular expression")
    parser.add_argument("--framework", choices=FRAMEWORKS, help="default: both, side by side")
    parser.add_argument("--default", action="store_true", help="lca.Adaptive() instead of a sharper one")
    parser.add_argument(
        "--trace", action="store_true", help="print tracebacks, warnings, and all that changed"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the cases, and run none")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("-o", type=Path, help="write the table to this file")
    return parser.parse_args()


# --- one framework, in this process -----------------------------------------------------------------------


def _rows(options: argparse.Namespace) -> dict[str, Any]:
    signal.signal(signal.SIGALRM, _too_long)
    estimator = lca.Adaptive() if options.default else SHARP
    cases = [
        case for case in _cases(options.framework) if re.search(options.only, f"{case.file}: {case.name}")
    ]
    rows = [_tried(case, estimator, trace=options.trace) for case in cases]
    return {"environment": environment(), "rows": rows}


def _cases(framework: str) -> list[Case]:
    """The cases of a framework; imported only now, as the oracle of torch forks the process."""
    for path in sorted(FOLDER.glob(f"cases_{framework}*.py")):
        import_module(f"validation.wild.{path.stem}")
    gc.collect()
    gc.freeze()  # or every collection between two runs would go through all that the frameworks hold
    return [case for case in CASES if case.framework == framework]


def _tried(case: Case, estimator: Any, *, trace: bool) -> dict[str, Any]:
    began = time.perf_counter()
    outcomes = {mode: Outcome() for mode in MODES}
    for mode in MODES:
        outcomes[mode] = _played(case, mode, estimator)
        if trace:
            _print(mode, outcomes[mode])
        if mode in ("plain", "oracle") and outcomes[mode].raised is not None:
            break
    found = judge(case, outcomes)
    seconds = round(time.perf_counter() - began, 1)
    row = {"framework": case.framework, "name": case.name, "seconds": seconds, **vars(found)}
    print(f"{found.kind:8} {seconds:5} s  {case.framework}: {case.name}: {found.detail}"[:300], flush=True)
    return row


def _played(case: Case, mode: Mode, estimator: Any) -> Outcome:
    """Train once; nothing of the training before is left."""
    gc.collect()
    if case.framework == "torch":
        from validation.wild.torch_run import TorchRun as Player  # noqa: PLC0415 - one framework at a time
    else:
        from validation.wild.keras_run import KerasRun as Player  # noqa: PLC0415
    run = Player(mode, estimator)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            signal.alarm(LIMIT)
            run.outcome.fingerprint = fingerprint(case.train(run), run.log)
        except Exception as error:  # judged like everything else
            run.outcome.raised = error
        finally:
            signal.alarm(0)
    run.outcome.warnings = [str(w.message) for w in caught if issubclass(w.category, LCAWarning)]
    return run.outcome


def _too_long(*_: object) -> None:
    raise TimeoutError(f"it took more than {LIMIT} s")


def _print(mode: Mode, outcome: Outcome) -> None:
    error = outcome.raised or getattr(outcome.tracker, "error", None)
    if error is not None and mode != "failing":
        traceback.print_exception(error)
    for text in outcome.warnings:
        print(f"  {mode} warned: {text}")
    if mode == "measured" and error is None and outcome.tracker is not None:
        print(json.dumps(outcome.tracker.summary(), indent=1))
    if mode == "oracle" and outcome.truth is not None:
        print(
            f"  truth: {outcome.truth.loss_start} -> {outcome.truth.loss_end}",
            *outcome.truth.steps,
            sep="\n  ",
        )


# --- both frameworks, each in a process of its own --------------------------------------------------------


def _both(options: argparse.Namespace) -> dict[str, Any]:
    """The results of both, run side by side."""
    passed = [f"--only={options.only}", *["--default"] * options.default, *["--trace"] * options.trace]
    with tempfile.TemporaryDirectory() as folder:
        files = {framework: Path(folder, f"{framework}.json") for framework in FRAMEWORKS}
        command = [sys.executable, "-m", "validation.wild.run", *passed]
        running = [
            subprocess.Popen([*command, f"--framework={framework}", f"--json={file}"])
            for framework, file in files.items()
        ]
        for process in running:
            if process.wait():
                raise SystemExit(f"{process.args} ended with {process.returncode}")
        results = [json.loads(file.read_text()) for file in files.values()]
    return {
        "environment": {key: value for found in results for key, value in found["environment"].items()},
        "rows": [row for found in results for row in found["rows"]],
    }


def _kept(options: argparse.Namespace, results: dict[str, Any]) -> None:
    text = _table(results)
    print(text.rpartition("|\n")[2])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.o:
        options.o.write_text(text)


def _table(results: dict[str, Any]) -> str:
    rows = results["rows"]
    lines = ["| framework | case | verdict | reason, or what is off |", "|---|---|---|---|"]
    for row in rows:
        detail = row["detail"].replace("|", "\\|").replace("`", "'")
        lines.append(f"| {row['framework']} | {row['name']} | {row['kind']} | {detail} |")
    counts = Counter(row["kind"] for row in rows)
    total = ", ".join(f"{kind} {counts[kind]}" for kind in KINDS)
    machine = ", ".join(f"{key} {value}" for key, value in results["environment"].items())
    return "\n".join([*lines, "", f"{len(rows)} cases: {total}", "", machine, ""])


def _listed() -> str:
    """The names of all cases by file, in Markdown."""
    lines = []
    for framework in FRAMEWORKS:
        for path in sorted(FOLDER.glob(f"cases_{framework}*.py")):
            before = len(CASES)
            module = import_module(f"validation.wild.{path.stem}")
            names = "; ".join(case.name for case in CASES[before:])
            title = (module.__doc__ or "").splitlines()[0].rstrip(".")
            lines.append(f"- **{title}** (`{path.name}`, {len(CASES) - before}): {names}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
