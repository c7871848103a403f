"""`margin_bound`: how far the sums over a run may be from the truth because steps were sampled."""

from statistics import NormalDist

import numpy as np

from lca.analysis import group_stderr
from lca.runs._run import Run

NORMAL_95 = NormalDist().inv_cdf(0.975)
"""A normal variable is farther from its mean than this many standard deviations with a probability of 5 %."""


def margin_bound(run: Run, by: str, measured: str) -> np.ndarray | None:
    """Half of a 95 % interval of the totals of groups over the run, or more, (groups,).

    Neighbouring steps share a sample, so their errors are not independent. The errors of every other step
    are: with E the sum over even steps and O that over odd steps,
    Var(E + O) ≤ 2 (Var E + Var O) = 2 Σ_t stderr_t². ``None`` if the error of a step is missing, because the
    sum would then be too small.
    """
    if by != "layer" and not run.has("group_stderr"):
        return None
    errors = group_stderr(run.record, by, measured).values
    return None if np.isnan(errors).any() else np.asarray(NORMAL_95 * np.sqrt(2 * (errors**2).sum(axis=0)))
