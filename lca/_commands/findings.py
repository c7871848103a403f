"""`lca findings`: the three findings of the paper, measured on the spot on a small network."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from textwrap import fill
from typing import Any

import numpy as np

from lca import analysis
from lca._commands.command import JSON, QUIET, Command
from lca._commands.demo import OPTIMIZERS
from lca._commands.demo_run import DemoResult, DemoSettings, run_demo
from lca.errors import LCAError
from lca.reference._models.named import MODELS

MODEL, STEPS, SEEDS = "mlp:32,32,32", 100, 5
SURROGATES = 1_999


def add_arguments(parser: ArgumentParser) -> None:
    """The options of `lca findings`."""
    add = parser.add_argument
    add("--model", default=MODEL, help=f"{', '.join(MODELS)}; widths after a colon (%(default)s)")
    add("--data", default="digits", metavar="PATH", help="as for lca demo (%(default)s)")
    add("--optimizer", default="adam", help=f"{OPTIMIZERS} (%(default)s)")
    add("--lr", type=float, help="learning rate (default: the usual one of the optimizer)")
    add("--steps", type=int, default=STEPS, help="updates of each run (%(default)s)")
    add("--seeds", type=int, default=SEEDS, help="number of runs, 2 or more (%(default)s)")
    add("-q", "--quiet", action="store_true", help=QUIET)
    add("--json", action="store_true", help=JSON)


def run(args: Namespace) -> None:
    """Train, allocate every step of the loss on the full data set, and print the findings."""
    from lca.live import progress_bar  # noqa: PLC0415 - tqdm

    if args.seeds < 2:
        raise LCAError(f"the findings are tested over runs: pass --seeds 2 or more, got {args.seeds}.")
    shared = {name: getattr(args, name) for name in ("model", "data", "optimizer", "lr", "steps")}
    quiet = args.quiet or args.json
    results = [
        run_demo(
            DemoSettings(**shared, estimator="adaptive", seed=seed),
            lambda rows: progress_bar(rows, args.steps, quiet=quiet),
        )
        for seed in range(args.seeds)
    ]
    found = findings(results)
    if args.json:
        print(json.dumps({**shared, "seeds": args.seeds, **found}, indent=2))
    elif not args.quiet:
        print("\n".join(text(found, results[0].summary, args.seeds)))


def findings(results: Sequence[DemoResult]) -> dict[str, Any]:
    """The figures of the three findings, over runs that differ in their seed."""
    names = results[0].train.layers.groups.names
    losses = {
        "training": [r.train.layers.totals for r in results],
        "held-out": [r.heldout.layers.totals for r in results if r.heldout is not None],
    }
    layers = {loss: analysis.t_test_over_seeds(names, np.array(totals)) for loss, totals in losses.items()}
    tails = [
        analysis.tails_from_histogram(h.edges, h.helping[None], h.hurting[None])
        for h in (r.train.histogram for r in results)
    ]
    rows = [r.train.layers.rows for r in results]
    peaks = np.stack([analysis.learning_peaks(each) for each in rows])
    each = [analysis.synchrony_test(mask, permutations=SURROGATES) for mask in peaks]
    return {
        "noise": {
            "helping_percent": [r.summary["helping_percent"] for r in results],
            "zero_percent": [r.summary["zero_percent"] for r in results],
            "top_percent_share": [100 * t.top_share for t in tails],
            "kurtosis": [t.kurtosis for t in tails],
        },
        "layers": {loss: [asdict(row) for row in tests] for loss, tests in layers.items()},
        "synchrony": {
            "coincidences": [t.coincidences for t in each],
            "expected": [t.expected for t in each],
            "p_values": [t.p_value for t in each],
            "p_over_runs": analysis.synchrony_test_over_runs(peaks, permutations=SURROGATES).p_value,
        },
    }


def text(found: dict[str, Any], about: dict[str, Any], seeds: int) -> Iterator[str]:
    """The findings in words, with what is uncertain."""
    yield _wrapped(
        f"{about['model']} ({about['parameters']:,} parameters) on {about['data']}: {seeds} runs of "
        f"{about['steps']} steps of {about['optimizer']}. Every step is allocated over all training "
        "examples. ± is half of the 95 % interval of the mean over runs.",
        indent="",
    )
    yield from _noise(found["noise"])
    yield from _layers(found["layers"])
    yield from _synchrony(found["synchrony"], seeds)
    yield ""
    yield _wrapped(
        f"Uncertain: {seeds} runs of one small network are few. The page 'Statistics of a run' of the "
        "documentation has the definitions and limits.",
        indent="",
    )


def _wrapped(paragraph: str, indent: str = "   ") -> str:
    return fill(paragraph, 100, initial_indent=indent, subsequent_indent=indent)


def _noise(found: dict[str, Any]) -> Iterator[str]:
    yield "\n1. Learning is noisy."
    yield _wrapped(
        f"In a step, {_mean(found['helping_percent'])} % of the parameters with an effect help; "
        f"{_mean(found['zero_percent'])} % have none. The largest percent of the values holds "
        f"{_mean(found['top_percent_share'])} % of their sizes; their excess kurtosis is "
        f"{_mean(found['kurtosis'])} (a normal distribution: 0). The paper: 50.3 to 55.8 % help, heavy tails."
    )


def _layers(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    yield "\n2. Some layers hurt."
    width = max(len(row["name"]) for row in found["training"])
    yield f"   {'layer':{width}}{'training loss':>19}{'p':>9}{'held-out loss':>20}{'p':>9}   (p: Holm's)"
    for pair in zip(*found.values(), strict=True):
        yield f"   {pair[0]['name']:{width}}" + " ".join(map(_cells, pair))
    hurting = [
        f"{row['name']} ({loss} loss)"
        for loss, rows in found.items()
        for row in rows
        if row["mean"] > 0 and row["p_adjusted"] <= 0.05
    ]
    if hurting:
        yield f"   Over a whole run, these layers hurt: {', '.join(hurting)}."
    else:
        yield "   Over a whole run, no layer hurts here. The paper found layers that do in its ResNets."


def _cells(test: dict[str, Any]) -> str:
    half = test["high"] - test["mean"]
    return f"{test['mean']:+10.3f} ± {half:<6.3f}{test['p_adjusted']:9.2g}".replace("-", "−", 1)


def _synchrony(found: dict[str, Any], seeds: int) -> Iterator[str]:
    ratio = np.sum(found["coincidences"]) / np.sum(found["expected"])
    small = sum(p <= 0.05 for p in found["p_values"])
    yield "\n3. Layers learn at the same steps."
    yield _wrapped(
        f"Moments of peak learning of two layers coincide {ratio:.1f} times as often as by chance: p ≤ 0.05 "
        f"in {small} of {seeds} runs (layers shifted against each other), p = {found['p_over_runs']:.2g} "
        "over all runs (layers of different runs). The paper: p < 1e-6. The test does not say why: a batch "
        "that suits all layers is enough."
    )


def _mean(values: Sequence[float], digits: int = 3) -> str:
    found = analysis.mean_over_runs(np.array(values, dtype=np.float64))
    return f"{found.mean:.{digits}g} ± {found.half:.2g}"


FINDINGS = Command(
    "findings",
    "Measure the three findings of the paper on a small network, in a minute.",
    add_arguments,
    run,
    words={"--model": tuple(MODELS), "--optimizer": tuple(OPTIMIZERS.split(", "))},
)
