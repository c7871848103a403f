"""Reports: self-contained HTML pages about one run, or several, from records; needs the extra ``report``.

`write_report` writes the page of a run to a file, and `write_comparison` one that compares runs;
`render_report` and `render_comparison` return them as text. Each section is a pure function of the records.
All text from the records is escaped, and the pages make no network requests.
"""

from lca.report._comparison_page import render_comparison, write_comparison
from lca.report._page import render_report, write_report

__all__ = ["render_comparison", "render_report", "write_comparison", "write_report"]
