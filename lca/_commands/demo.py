"""`lca demo`: train a small network, allocate every step, print and write the results."""

from argparse import ArgumentParser, Namespace
from contextlib import closing
from pathlib import Path
from typing import get_args

from lca._commands.command import JSON, OVERWRITE, QUIET, Command
from lca._commands.demo_run import DemoSettings, run_demo
from lca._commands.summary_text import summary_text
from lca._output import (
    GENERATOR,
    check_free,
    check_writable,
    is_our_file,
    move_into,
    scratch_folder,
    stage,
)
from lca._paths import local_path
from lca.errors import LCAError
from lca.estimators._registry import REGISTRY
from lca.record import Record
from lca.record._lock import WriterLock
from lca.record._ownership import is_our_record
from lca.reference._backend import Dtype, offered_backends
from lca.reference._models.named import MODELS
from lca.summary import to_json


def add_arguments(parser: ArgumentParser) -> None:
    """The options of `lca demo`, with the defaults of `DemoSettings`."""
    default = DemoSettings()
    add = parser.add_argument
    add("--model", default=default.model, help=f"{', '.join(MODELS)}; widths after a colon (%(default)s)")
    add("--data", default=default.data, metavar="PATH", help=_DATA_HELP)
    add("--optimizer", default=default.optimizer, help=f"{OPTIMIZERS} (%(default)s)")
    add("--lr", type=float, help="learning rate (default: the usual one of the optimizer)")
    add("--steps", type=int, default=default.steps, help="number of updates (%(default)s)")
    add("--batch-size", type=int, default=default.batch_size, help="examples an update (%(default)s)")
    add("--estimator", default=default.estimator, help=_ESTIMATOR_HELP)
    add("--tol", type=float, default=default.tol, help=_TOL_HELP)
    add("--dtype", default=default.dtype, choices=get_args(Dtype), help="of the parameters (%(default)s)")
    add("--seed", type=int, default=default.seed, help="of initial weights and batches (%(default)s)")
    add(
        "--backend", default=default.backend, help=f"installed: {', '.join(offered_backends())} (%(default)s)"
    )
    add("-o", "--out", default="lca-demo", metavar="FOLDER", help=_OUT_HELP)
    add("--overwrite", action="store_true", help=OVERWRITE)
    add("-q", "--quiet", action="store_true", help=QUIET)
    add("--json", action="store_true", help=JSON)


OPTIMIZERS = "sgd, momentum, nesterov, rmsprop, adam, adamw"
_DATA_HELP = (
    "digits (embedded), an .npz with x_train, y_train, x_test, y_test (Keras' mnist.npz), or a folder of "
    "IDX files (%(default)s)"
)
_ESTIMATOR_HELP = f"{', '.join(REGISTRY)}, or module:object for one of your own (%(default)s)"
_TOL_HELP = (
    "largest |residual| of a step, in units of the loss: rules flag a step above it, adaptive refines it; "
    "sampled estimators measure none (%(default)s)"
)
RECORD = "run.zarr"
FIGURES = tuple(f"{name}.png" for name in ("loss", "cumulative", "totals", "helping", "histogram"))
RESULTS = ("summary.json", RECORD, "report.html", *FIGURES)
"""All that any demo writes: what is there from an earlier one is replaced or removed."""
_OUT_HELP = "folder of summary.json, the record (run.zarr), the report and the figures (./%(default)s)"


def run(args: Namespace) -> int:
    """Check the folder, run, write and print; status 1 if the run diverged."""
    # Imported here because `lca --help` and the other commands need neither matplotlib nor tqdm.
    from lca._commands.demo_figures import draw_figures  # noqa: PLC0415
    from lca._commands.report import report_file  # noqa: PLC0415
    from lca.live import progress_bar  # noqa: PLC0415

    settings = DemoSettings(**{name: getattr(args, name) for name in DemoSettings.__dataclass_fields__})
    out, quiet = local_path(args.out), args.quiet or args.json
    if args.out == "-":
        raise LCAError(
            "the demo writes a folder and cannot print it (-o -); use --json to print the summary, or -o ./- "
            "for a folder named '-'."
        )
    check_writable(out)
    with closing(_Claim(out, overwrite=args.overwrite)) as claim, scratch_folder(out) as scratch:
        with Record(scratch / RECORD) as record:
            result = run_demo(settings, lambda rows: progress_bar(rows, settings.steps, quiet=quiet), record)
        figures = draw_figures(result.train, result.heldout)
        report = report_file(scratch / RECORD, title=f"lca demo: {settings.model} on {settings.data}")
        summary = to_json({"generator": GENERATOR, **result.summary})
        stage(scratch, figures | report | {"summary.json": summary.encode()})
        claim.check()  # again, as the run took a while
        move_into(out, scratch, earlier=RESULTS)
    if args.json:
        print(summary, end="")
    elif not args.quiet:
        print(summary_text(result.summary))
        print(f"\nWrote summary.json, {RECORD} and {len(figures)} figures to {out}/: {', '.join(figures)}")
        for name in report:
            print(f"The report, for a browser: {out / name}")
    return int(result.summary["diverged"])


class _Claim:
    """The paths of all results; each is free, or holds a result that may be replaced and is not in use."""

    def __init__(self, out: Path, *, overwrite: bool) -> None:
        self._out, self._overwrite = out, overwrite
        self.check()
        self._lock = WriterLock(out / RECORD) if out.is_dir() else None

    def check(self) -> None:
        for name in RESULTS:
            is_ours = is_our_record if name == RECORD else is_our_file
            check_free(self._out / name, overwrite=self._overwrite, is_ours=is_ours)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()


DEMO = Command(
    "demo",
    "Train a small network and show which parameters made its loss fall.",
    add_arguments,
    run,
    words={
        "--model": tuple(MODELS),
        "--optimizer": tuple(OPTIMIZERS.split(", ")),
        "--estimator": tuple(REGISTRY),
        "--backend": tuple(offered_backends()),
    },
)
