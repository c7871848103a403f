"""Streaming reductions of allocations, with memory O(K) for a run of any length.

A view receives every `lca.StepAllocation` once, in order, and keeps a few numbers a step or running counts.
It accepts the vectors of any backend; its results are NumPy arrays of float64 or integers.
"""

from lca.views.error_bars import ErrorBars
from lca.views.histogram import LogHistogram
from lca.views.oscillation import Oscillation
from lca.views.parameters import AllParameters, ParameterTrace
from lca.views.projection import BasisProjection
from lca.views.signs import HelpingCounts, Signs
from lca.views.top import Entry, TopParameters
from lca.views.totals import GroupTotals
from lca.views.trace import Trace
from lca.views.view import RowView, View

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
