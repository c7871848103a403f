"""Statistics of a run: noise, oscillation, layers that hurt, synchrony.

All are functions of plain arrays, steps along the first axis, and of nothing else: equal arrays (and seed)
give equal results. `lca.analysis.reading` takes these arrays out of a record. Definitions with formula and
limits are in docs/analysis.md.
"""

from lca.analysis.causes import Causes, allocate_causes, movement_causes
from lca.analysis.layers import PhaseLag, SeedTest, holm, paired_t_test, phase_lag, seeds_t_test
from lca.analysis.noise import HelpingRow, Tails, helping_table, signs_by_parameter, tails, tails_of_counts
from lca.analysis.oscillation import SignChanges, Transitions, mean_gradient, sign_changes, transitions
from lca.analysis.reading import class_rows, group_names, group_rows, group_signs, histogram, traced
from lca.analysis.synchrony import SynchronyTest, coincidences, peak_moments, synchrony_test
from lca.analysis.weibull import WeibullFit, fit_weibull, fit_weibull_counts

__all__ = [
    "Causes",
    "HelpingRow",
    "PhaseLag",
    "SeedTest",
    "SignChanges",
    "SynchronyTest",
    "Tails",
    "Transitions",
    "WeibullFit",
    "allocate_causes",
    "class_rows",
    "coincidences",
    "fit_weibull",
    "fit_weibull_counts",
    "group_names",
    "group_rows",
    "group_signs",
    "helping_table",
    "histogram",
    "holm",
    "mean_gradient",
    "movement_causes",
    "paired_t_test",
    "peak_moments",
    "phase_lag",
    "seeds_t_test",
    "sign_changes",
    "signs_by_parameter",
    "synchrony_test",
    "tails",
    "tails_of_counts",
    "traced",
    "transitions",
]
