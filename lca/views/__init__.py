"""Streaming reductions of allocations: memory O(K), whatever the length of the run.

A view is told every `StepAllocation` once and keeps what it required_fields: a few numbers a step, or running
counts. It takes vectors of any backend, and its results are NumPy arrays in float64 or integers.
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
from lca.views.view import View

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
    "Signs",
    "TopParameters",
    "Trace",
    "View",
]
