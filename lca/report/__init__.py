"""The report of a run: one self-contained HTML page made from a record; needs the extra ``report``.

`write_report` writes the page to a file, and `render_report` returns it as text. Each section is a pure
function of the record. All text from the record is escaped, and the page makes no network requests.
"""

from lca.report._page import render_report, write_report

__all__ = ["render_report", "write_report"]
