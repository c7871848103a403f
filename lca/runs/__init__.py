"""Several runs, such as the seeds of some conditions: totals with intervals, differences, tables.

`open_runs` (also `lca.open_runs`) opens the records; `Runs` computes. `lca.report.write_comparison` makes the
page of the same numbers. Needs the extra ``report``.
"""

from lca.runs._members import Condition, Member
from lca.runs._open import open_runs
from lca.runs._runs import Runs

__all__ = ["Condition", "Member", "Runs", "open_runs"]
