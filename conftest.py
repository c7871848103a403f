"""Runs the examples in the Markdown pages that pytest is given.

Python blocks are executed, and a ``text`` block must hold exactly what the Python block before it
printed. All blocks of a page share one namespace.
"""

from contextlib import redirect_stdout
from io import StringIO

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser, SkipParser

collect_ignore = ["docs/conf.py"]
_execute = PythonEvaluator()


def run(example: Example) -> None:
    """Execute a Python block and keep what it prints."""
    printed = StringIO()
    with redirect_stdout(printed):
        _execute(example)
    example.namespace["printed"] = printed.getvalue()


def compare(example: Example) -> str | None:
    """What is wrong with a block of expected output, or ``None``."""
    printed = example.namespace.pop("printed", "")
    if printed.rstrip() == example.parsed.rstrip():
        return None
    return f"the page shows\n{example.parsed}\nbut the example prints\n{printed}"


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", run), CodeBlockParser("text", compare), SkipParser()],
    patterns=["*.md"],
).pytest()
