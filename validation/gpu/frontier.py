"""Part (e): points of the cost frontier on the device: the error and the time of each estimator."""

import time
from typing import Any

import numpy as np

import lca
from lca.estimators import CrossFit, LaggedCrossFit, NextBatch, SampledPathIntegral
from lca_torch import Tracker
from validation.gpu.setting import Setting
from validation.language_model.training import Options, PartTotals, Run, by_kind

EXACT = lca.Adaptive(tol=0.01, per="change")
ESTIMATORS: dict[str, Any] = {
    "cross-fit": CrossFit(2),
    "lagged": LaggedCrossFit(),
    "next batch, right": NextBatch(lca.RIGHT),
    "samples, 16": SampledPathIntegral(size=16),
    "samples, 64": SampledPathIntegral(size=64),
    "trapezoid": lca.PathIntegral(lca.TRAPEZOID),
    "rk4": lca.PathIntegral(lca.RK4),
}


def points(setting: Setting) -> None:
    """Train a GPT once with each estimator, from the same initial weights and on the same batches."""
    options = Options(
        size="tiny" if setting.small else "10M",
        steps=2 if setting.small else 60,
        batch=4 if setting.small else 16,
        device=setting.device,
    )
    plain = _seconds(setting, options, None)[0]
    exact_seconds, exact = _seconds(setting, options, EXACT)
    found: dict[str, Any] = {"exact": {"ratio": exact_seconds / plain, "total": float(exact.sum())}}
    setting.results.add(plain_step_s=plain, points=found)
    for name, estimator in ESTIMATORS.items():
        if setting.left < 2 * exact_seconds * options.steps:
            break
        seconds, rows = _seconds(setting, options, estimator)
        n = min(len(rows), len(exact))
        found[name] = {
            "ratio": seconds / plain,
            "total": float(rows[:n].sum()),
            "error_of_total": float(rows[:n].sum() / exact[:n].sum() - 1),
            "correlation": float(np.corrcoef(rows[:n].ravel(), exact[:n].ravel())[0, 1]),
        }
        setting.results.add(points=found)


def _seconds(setting: Setting, options: Options, estimator: Any) -> tuple[float, np.ndarray]:
    """Seconds per step without the first steps, and the sums over kinds at every measured step."""
    run, warm = Run(options), 1 if setting.small else 5
    if estimator is None:
        return _timed(setting, run, None, options.steps, warm), np.zeros((0, 5))
    tracker = Tracker(
        run.model,
        run.optimizer,
        run.objective(measured=64),
        estimator,
        views=PartTotals,
        check_every=None,
        on_error="raise",
    )
    with tracker:
        seconds = _timed(setting, run, tracker, options.steps + 1, warm)
    view: Any = tracker.views["train"]
    return seconds, by_kind(view)[0]


def _timed(setting: Setting, run: Run, tracker: Tracker | None, steps: int, warm: int) -> float:
    for _ in range(warm):
        run.step(tracker)
    setting.wait()
    began = time.perf_counter()
    for _ in range(steps - warm):
        run.step(tracker)
    setting.wait()
    return (time.perf_counter() - began) / (steps - warm)
