"""Claim: in every model and loop of the list the figures are right, or the package refuses and says why.

`python -m validation.wild.run [--only PATTERN] [--framework torch|keras] [-o table.md]`
"""

import argparse
import gc
import re
import time
import traceback
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import lca
from lca.errors import LCAWarning
from validation.evidence import environment
from validation.wild.case import CASES, MODES, Case, Outcome
from validation.wild.fingerprint import fingerprint
from validation.wild.loop import SHARP
from validation.wild.verdict import KINDS, Verdict, judge

FOLDER = Path(__file__).parent
HONEST = ("right", "refused")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name matches this regular expression")
    parser.add_argument("--framework", choices=("torch", "keras"), help="default: both")
    parser.add_argument("--default", action="store_true", help="lca.Adaptive() instead of a sharp one")
    parser.add_argument(
        "--trace",
        action="store_true",
        help="print the traceback of every error, every warning and all that changed",
    )
    parser.add_argument("-o", type=Path, help="write the table to this file")
    options = parser.parse_args()
    began = time.perf_counter()
    rows = [
        (case, *_tried(case, lca.Adaptive() if options.default else SHARP, trace=options.trace))
        for framework in ([options.framework] if options.framework else ["torch", "keras"])
        for case in _cases(framework)
        if re.search(options.only, case.name)
    ]
    text = _report(rows, time.perf_counter() - began)
    print(text.rpartition("\n|")[2].partition("\n")[2])
    if options.o:
        options.o.write_text(text)
    raise SystemExit(any(verdict.kind not in HONEST for _, verdict, _ in rows))


def _cases(framework: str) -> list[Case]:
    """The cases of a framework; imported only now, as the oracle of torch forks the process."""
    for path in sorted(FOLDER.glob(f"cases_{framework}*.py")):
        import_module(f"validation.wild.{path.stem}")
    return [case for case in CASES if case.framework == framework]


def _tried(case: Case, estimator: Any, *, trace: bool) -> tuple[Verdict, float]:
    began = time.perf_counter()
    outcomes = {}
    for mode in MODES:
        outcomes[mode] = _played(case, mode, estimator)
        if trace and outcomes[mode].raised is not None:
            traceback.print_exception(outcomes[mode].raised)
        if mode in ("plain", "oracle") and outcomes[mode].raised is not None:
            break
    verdict = judge(case, outcomes)
    seconds = time.perf_counter() - began
    print(
        f"{verdict.kind:8} {seconds:5.1f} s  {case.framework}: {case.name}: {verdict.detail}"[:300],
        flush=True,
    )
    return verdict, seconds


def _played(case: Case, mode: str, estimator: Any) -> Outcome:
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
            run.outcome.fingerprint = fingerprint(case.train(run), run.log)
        except Exception as error:  # judged like everything else
            run.outcome.raised = error
    run.outcome.warnings = [str(w.message) for w in caught if issubclass(w.category, LCAWarning)]
    return run.outcome


def _report(rows: list[tuple[Case, Verdict, float]], seconds: float) -> str:
    counts = Counter(verdict.kind for _, verdict, _ in rows)
    lines = ["| framework | case | verdict | detail | s |", "|---|---|---|---|---|"]
    for case, verdict, spent in rows:
        detail = verdict.detail.replace("|", "\\|").replace("`", "'")
        lines.append(f"| {case.framework} | {case.name} | {verdict.kind} | {detail} | {spent:.1f} |")
    machine = ", ".join(f"{key} {value}" for key, value in environment().items())
    total = ", ".join(f"{kind} {counts[kind]}" for kind in KINDS if kind in HONEST or counts[kind])
    zeros = ", ".join(f"{kind} {counts[kind]}" for kind in KINDS if kind not in HONEST and not counts[kind])
    return "\n".join([*lines, "", f"{len(rows)} cases in {seconds:.0f} s: {total}; {zeros}", "", machine, ""])


if __name__ == "__main__":
    main()
