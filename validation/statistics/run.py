"""Claim: the tests and intervals of `lca.analysis` err as rarely as they say, and find what is there.

Each test is given series for which its null hypothesis is true, ``--runs`` times; the share of p ≤ 0.05 must
not exceed 0.05 by more than four standard errors. Where p-values should be uniform, a Kolmogorov-Smirnov
test says whether they are. Then each is given something to find.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kstest
from tqdm import tqdm

from lca import analysis
from validation.evidence import keep, verdict
from validation.statistics.series import KINDS

FOLDER = Path(__file__).parent
SIZES = ((100, 5), (100, 50), (300, 20), (1_000, 5))
"""Steps and layers."""
PERMUTATIONS = 199
Row = dict[str, Any]
Generator = np.random.Generator


def p_values(name: str, runs: int, one: Callable[[Generator], float]) -> Row:
    """What ``one`` gives in so many runs, each with its own seed."""
    p = np.array([one(np.random.default_rng([17, run])) for run in tqdm(range(runs), name, leave=False)])
    return {
        "name": name,
        "runs": runs,
        "share": float(np.mean(p <= 0.05)),
        "ks": float(kstest(p, "uniform").pvalue),
    }


def synchrony(runs: int) -> Iterator[Row]:
    """Independent layers, of each kind and size; by class; of several runs."""
    for kind, make in KINDS.items():
        for steps, layers in SIZES:
            yield p_values(
                f"{kind}, {steps} steps, {layers} layers",
                runs,
                lambda rng, make=make, size=(steps, layers): _synchrony(make(rng, *size)),
            )
    for kind in ("white", "fading", "steep fall"):
        yield p_values(
            f"{kind}, 300 steps, 20 layers x 10 classes", runs, lambda rng, kind=kind: _by_class(rng, kind)
        )
        yield p_values(
            f"{kind}, over 5 runs of 100 steps, 20 layers", runs, lambda rng, kind=kind: _over_runs(rng, kind)
        )
    for top in (20, 5):
        yield p_values(
            f"fading, 300 steps, 20 layers, the {top} lowest",
            runs,
            lambda rng, top=top: _synchrony(KINDS["fading"](rng, 300, 20), top=top),
        )


def _synchrony(series: np.ndarray, top: int | None = None) -> float:
    peaks = analysis.learning_peaks(series, top=top)
    return analysis.synchrony_test(peaks, permutations=PERMUTATIONS).p_value


def _by_class(rng: Generator, kind: str) -> float:
    """Classes of a layer that peak together, layers that do not."""
    layers = KINDS[kind](rng, 300, 20)
    return _synchrony(layers[..., None] + 0.5 * layers.std() * rng.normal(size=(300, 20, 10)))


def _over_runs(rng: Generator, kind: str) -> float:
    peaks = np.stack([analysis.learning_peaks(KINDS[kind](rng, 100, 20)) for _ in range(5)])
    return analysis.synchrony_test_over_runs(peaks, permutations=PERMUTATIONS).p_value


def over_seeds(runs: int) -> Iterator[Row]:
    """Tests over seeds of layers whose totals have the mean 0."""
    draws = {
        "normal": lambda rng, size: rng.normal(size=size),
        "heavy tails": lambda rng, size: rng.standard_t(2, size=size),
        "skewed": lambda rng, size: rng.exponential(size=size) - 1,
    }
    for name, draw in draws.items():
        for seeds in (3, 5, 10):
            for what in ("p_value", "p_sign_flip", "p_skewed"):
                yield p_values(
                    f"{name}, {seeds} seeds, {what}",
                    runs,
                    lambda rng, size=(seeds, 1), draw=draw, what=what: getattr(
                        analysis.t_test_over_seeds(["layer"], draw(rng, size))[0], what
                    ),
                )
    for seeds in (3, 5):  # the smallest of ten: wrong at all as seldom as 0.05
        yield p_values(
            f"normal, {seeds} seeds, the smallest p_adjusted of 10 layers",
            runs,
            lambda rng, seeds=seeds: min(
                row.p_adjusted
                for row in analysis.t_test_over_seeds([*"abcdefghij"], rng.normal(size=(seeds, 10)))
            ),
        )


EDGES = np.logspace(-24, 2, 26 * 8 + 1)


def weibull(runs: int) -> dict[str, float]:
    """How often the limit is exceeded, and stated errors over the spread of repeated fits."""

    def fits(draw: Callable[[Generator], np.ndarray]) -> list[analysis.WeibullFit]:
        return [analysis.fit_weibull(draw(np.random.default_rng([18, run]))) for run in range(runs)]

    def beyond(found: list[analysis.WeibullFit]) -> float:
        return float(np.mean([fit.distance > fit.distance_limit for fit in found]))

    blocks = [
        analysis.fit_weibull_histogram(EDGES, _mixture(np.random.default_rng([19, run])), block=1)
        for run in tqdm(range(runs), "mixture", leave=False)
    ]
    stated = np.mean([fit.shape_stderr for fit in blocks])
    return {
        "Weibull(0.6) beyond the limit, n = 300": beyond(fits(lambda rng: rng.weibull(0.6, 300))),
        "Weibull(0.6) beyond the limit, n = 3,000": beyond(fits(lambda rng: rng.weibull(0.6, 3_000))),
        "gamma(3) beyond the limit, n = 3,000": beyond(fits(lambda rng: rng.gamma(3.0, size=3_000))),
        "mixture: error of k between blocks over its spread": float(
            stated / np.std([f.shape for f in blocks], ddof=1)
        ),
    }


def _mixture(rng: Generator) -> np.ndarray:
    """Counts of entries of two scales, 100 steps of 50."""
    values = np.where(rng.random((100, 50)) < 0.5, 1.0, 1e-3) * rng.weibull(1.5, size=(100, 50))
    return np.array([np.histogram(row, EDGES)[0] for row in values])


def half_periods(runs: int) -> dict[str, float]:
    """Mean over runs of the estimates for a half-period of 12 steps, by the noise."""
    found: dict[str, float] = {}
    for noise in (0.0, 0.5, 1.0, 2.0):
        waves = []
        for run in range(runs // 10):
            rng = np.random.default_rng([20, run])
            phase = rng.uniform(0, 2 * np.pi, size=20)
            waves.append(
                np.sin(np.pi * np.arange(600)[:, None] / 12 + phase) + noise * rng.normal(size=(600, 20))
            )
        found[f"noise {noise}: sign changes"] = float(
            np.mean([analysis.sign_changes(w).half_period() for w in waves])
        )
        found[f"noise {noise}: spectrum"] = float(np.mean([analysis.dominant_half_period(w) for w in waves]))
    return found


def power(runs: int) -> Iterator[Row]:
    """Synchronous layers: a common part of each share of the variance."""
    for share in (0.1, 0.2, 0.4):
        for steps, layers in ((100, 5), (300, 5), (300, 20)):
            yield p_values(
                f"common part {share:.0%} of the variance, {steps} steps, {layers} layers",
                runs // 4,
                lambda rng, share=share, size=(steps, layers): _synchrony(
                    math.sqrt(1 - share) * rng.normal(size=size)
                    + math.sqrt(share) * rng.normal(size=(size[0], 1))
                ),
            )


def _limit(row: Row) -> float:
    return 0.05 + 4 * math.sqrt(0.05 * 0.95 / row["runs"])


def table(results: Row) -> str:
    """The results as a page."""
    lines: list[str] = []
    for part in ("synchrony", "over seeds", "power"):
        lines += [
            f"## {part.capitalize()}",
            "",
            "| series | runs | share of p ≤ 0.05 | KS p |",
            "|---|---|---|---|",
        ]
        lines += [f"| {r['name']} | {r['runs']} | {r['share']:.3f} | {r['ks']:.2g} |" for r in results[part]]
        lines.append("")
    for part in ("weibull", "half-period of 12 steps"):
        lines += [f"## {part.capitalize()}", "", "| what | found |", "|---|---|"]
        lines += [f"| {name} | {value:.3f} |" for name, value in results[part].items()]
        lines.append("")
    return "\n".join(lines)


PARTS: dict[str, Callable[[int], Any]] = {
    "synchrony": lambda runs: list(synchrony(runs)),
    "over seeds": lambda runs: list(over_seeds(runs)),
    "power": lambda runs: list(power(runs)),
    "weibull": weibull,
    "half-period of 12 steps": half_periods,
}


def main() -> None:
    """Simulate, keep, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400, help="of each kind (%(default)s)")
    parser.add_argument(
        "--parts", nargs="*", default=[*PARTS], choices=PARTS, help="simulate these; the others are kept"
    )
    options, began, path = parser.parse_args(), time.perf_counter(), FOLDER / "results.json"
    results: Row = json.loads(path.read_text()) if path.exists() else {}
    results |= {part: PARTS[part](options.runs) for part in options.parts}
    results["seconds"] = round(time.perf_counter() - began)
    keep(FOLDER, "results.json", {k: v for k, v in results.items() if k not in ("command", "environment")})
    (FOLDER / "table.md").write_text(table(results))
    verdict(claims(results, options.runs))


def claims(results: Row, runs: int) -> dict[str, bool]:
    """What is asked."""
    found = results["weibull"]
    error = found["mixture: error of k between blocks over its spread"]
    return {
        **{
            row["name"]: row["share"] <= _limit(row)
            for part in ("synchrony", "over seeds")
            for row in results[part]
        },
        "a Weibull distribution is beyond the limit in 5 % of samples": all(
            abs(found[f"Weibull(0.6) beyond the limit, n = {n}"] - 0.05) <= 4 * math.sqrt(0.05 * 0.95 / runs)
            for n in ("300", "3,000")
        ),
        "a gamma distribution is found in 99 %": found["gamma(3) beyond the limit, n = 3,000"] >= 0.99,
        "the error between blocks is the spread": abs(error - 1) <= 4 / math.sqrt(2 * runs),
    }


if __name__ == "__main__":
    main()
