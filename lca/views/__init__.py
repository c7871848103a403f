"""Streaming reductions of allocations, with memory O(K) for a run of any length.

A view receives every `lca.StepAllocation` once, in order, and keeps a few numbers a step or running counts.
It accepts the vectors of any backend; its results are NumPy arrays of float64 or integers.
"""

from lca.views._error_bars import ErrorBars
from lca.views._histogram import LogHistogram
from lca.views._oscillation import Oscillation
from lca.views._parameters import AllParameters, ParameterTrace
from lca.views._projection import BasisProjection
from lca.views._signs import HelpingCounts, Signs
from lca.views._top import Entry, TopParameters
from lca.views._totals import GroupTotals
from lca.views._trace import Trace
from lca.views._view import RowView, View

__all__ = [
    "AllParameters",
    "BasisProjection",
    "Entry",
    "ErrorBars",
    "GroupTotals",
    "HelpingCounts",
    "LogHistogram",
    "Oscillation",
    "ParameterTrace",
    "RowView",
    "Signs",
    "TopParameters",
    "Trace",
    "View",
]
