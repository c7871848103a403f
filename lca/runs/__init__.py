"""Several runs, such as the seeds of some conditions: totals with intervals, differences, tables.

`open_runs` (also `lca.open_runs`) opens the records; `Runs` computes. `lca.report.write_comparison` makes the
page of the same numbers. Needs the extra ``report``.
"""

__all__: list[str] = []
