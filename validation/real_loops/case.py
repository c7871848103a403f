"""One estimator in one training loop, against the full-data allocation of the same training."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import lca
from lca.errors import LCAError, LCAWarning
from lca.estimators import (
    AdaptiveSampleSize,
    ControlVariate,
    CrossFit,
    LaggedCrossFit,
    NextBatch,
    SameBatch,
    SampledPathIntegral,
)

EXACT = lca.Adaptive(tol=1e-4, nested_tol=3e-3)
STRATIFIED = SampledPathIntegral(size=256, sampling="stratified", refresh=20, micro_batches=2)
ESTIMATORS: dict[str, Any] = {
    "same batch": SameBatch(),
    "next batch, right": NextBatch(lca.RIGHT),
    "next batch": NextBatch(),
    "cross-fit": CrossFit(),
    "cross-fit, own pass": CrossFit(own_pass=True),
    "lagged": LaggedCrossFit(),
    "samples": SampledPathIntegral(size=256, micro_batches=2),
    "samples, by scores": SampledPathIntegral(size=256, sampling="stratified", micro_batches=2),
    "samples, refreshed": STRATIFIED,
    "samples, refined": SampledPathIntegral(size=256, micro_batches=2, refine=0.03),
    "control variate": ControlVariate(STRATIFIED, every=20),
    "sized samples": AdaptiveSampleSize(STRATIFIED, examples=1000),
}
NEAR, COUNTS = 0.05, 0.02
"""The largest relative error of a total; and the part of it from which the sign of a tensor must be right."""

Train = Callable[[Any], Any]
"""Trains from the same start with an estimator, and returns its tracker; raises errors in measuring."""


@dataclass(frozen=True)
class Outcome:
    """What became of one estimator in one loop.

    ``kind``: ``right``; ``refused`` with an error; ``told``, off but with a warning of the self-check; or
    ``silent``.
    """

    loop: str
    estimator: str
    kind: str
    error: float = float("nan")
    wrong_signs: int = 0
    note: str = ""


def outcome(loop: str, train: Train, name: str, exact: Any) -> Outcome:
    """Train with the estimator ``name``, and compare it with the tracker ``exact`` of the same training."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            tracker = train(ESTIMATORS[name])
        except LCAError as error:
            return Outcome(loop, name, "refused", note=f"{error}")
    view, whole = tracker.views["train"], exact.views["train"]
    steps = np.isin(whole.trace.rows["step"], view.trace.rows["step"])
    found, wanted = view.tensors.totals, whole.tensors.rows[steps].sum(axis=0)
    error = float(found.sum() / wanted.sum() - 1)
    signs = (np.sign(found) != np.sign(wanted)) & (np.abs(wanted) > COUNTS * abs(wanted.sum()))
    wrong = int(np.count_nonzero(signs))
    told = [
        str(w.message) for w in caught if issubclass(w.category, LCAWarning) and "sum to" in str(w.message)
    ]
    off = abs(error) > NEAR or wrong
    kind = ("told" if told else "silent") if off else "right"
    return Outcome(loop, name, kind, error, wrong, "warned" if told else "")
