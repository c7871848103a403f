"""Statistics of a training run: noise, oscillation, layers that hurt, synchrony.

Every function takes arrays with the steps along the first axis. Allocations are in units of the loss;
negative = helping. The same arrays and seed give the same results. The functions ``group_totals``,
``class_totals``, ``allocations``, ``movements``, ``mean_gradients`` and ``traced_parameters`` read labelled
arrays from a record; ``group_signs``, ``histogram_counts`` and ``checked_windows`` read counts and checks.
docs/analysis.md has the definitions with formulas and limits.

Examples
--------
>>> import numpy as np
>>> from lca import analysis
>>> allocations = np.array([[0.0, 0.1], [-0.5, -0.2], [-0.1, -0.1]])  # 3 steps, 2 layers
>>> analysis.count_coincidences(analysis.learning_peaks(allocations))
1
"""

from lca.analysis._causes import Causes, split_allocation, split_movements
from lca.analysis._checks import checked_windows
from lca.analysis._layers import (
    PhaseLag,
    TTestResult,
    TTests,
    paired_t_test,
    phase_lag,
    t_test_over_seeds,
)
from lca.analysis._noise import (
    HelpingRow,
    Tails,
    helping_table,
    signs_by_parameter,
    tails,
    tails_from_histogram,
)
from lca.analysis._oscillation import (
    SignChanges,
    Transitions,
    dominant_half_period,
    mean_gradient,
    sign_changes,
    transitions,
)
from lca.analysis._over_runs import (
    RunDifference,
    RunMeans,
    difference_over_runs,
    holm_correction,
    mean_over_runs,
)
from lca.analysis._parameters import allocations, mean_gradients, movements, traced_parameters
from lca.analysis._peaks import count_coincidences, learning_peaks
from lca.analysis._reading import (
    class_totals,
    division_names,
    group_names,
    group_signs,
    group_stderr,
    group_totals,
    histogram_counts,
)
from lca.analysis._synchrony import SynchronyResult, synchrony_test, synchrony_test_over_runs
from lca.analysis._weibull import WeibullFit, fit_weibull, fit_weibull_histogram

__all__ = [
    "Causes",
    "HelpingRow",
    "PhaseLag",
    "RunDifference",
    "RunMeans",
    "SignChanges",
    "SynchronyResult",
    "TTestResult",
    "TTests",
    "Tails",
    "Transitions",
    "WeibullFit",
    "allocations",
    "checked_windows",
    "class_totals",
    "division_names",
    "count_coincidences",
    "difference_over_runs",
    "dominant_half_period",
    "fit_weibull",
    "fit_weibull_histogram",
    "group_names",
    "group_signs",
    "group_stderr",
    "group_totals",
    "helping_table",
    "histogram_counts",
    "holm_correction",
    "learning_peaks",
    "mean_gradient",
    "mean_gradients",
    "mean_over_runs",
    "movements",
    "paired_t_test",
    "phase_lag",
    "sign_changes",
    "signs_by_parameter",
    "split_allocation",
    "split_movements",
    "synchrony_test",
    "synchrony_test_over_runs",
    "t_test_over_seeds",
    "tails",
    "tails_from_histogram",
    "traced_parameters",
    "transitions",
]
