"""A run as one self-contained page of HTML, from its record; needs the extra ``report``.

`write_report` writes it, `render_report` makes the text. Every section of the page is a pure function of the
record (`lca.report.sections`), and everything that the record brings along is escaped.
"""

from lca.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
