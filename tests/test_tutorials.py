"""The notebooks of docs/tutorials run, and show what is stored in them.

Printed text must be equal; of tables the words, because the last digits of a sum depend on the machine.
`docs/make_tutorials.py` stores the outputs.
"""

import ast
import html
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
QUESTIONS = (
    "layers_classes_freezing",
    "language_model",
    "old_checkpoints",
    "keras_fit",
    "compare_optimizers",
)
MOST_LINES = 15
"""Of code that answers a question, beside the model, the data and the loop that a reader has already."""
LINE_LENGTH = 88
"""Characters of code that the column of the site shows without wrapping a line."""


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run_cell(source: str, namespace: dict[str, Any]) -> tuple[str, Any]:
    """What the cell prints, and the value of its last expression."""
    body, value = ast.parse(source).body, None
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    with redirect_stdout(StringIO()) as printed:
        exec(compile(ast.Module(body, []), "cell", "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)
    return printed.getvalue(), value


def stored(cell: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a notebook says that the cell printed and showed."""
    texts = ["".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream"]
    shown = [output["data"] for output in cell["outputs"] if output["output_type"] == "execute_result"]
    return "".join(texts), shown[0] if shown else {}


def words(table: str) -> str:
    """The text of an HTML table without its numbers and signs."""
    text = html.unescape(re.sub(r"<[^>]*>", " ", table))
    return " ".join(re.sub(r"(?<!\w)[−+±]? ?\d[\d.,]*(e[−+]?\d+)?", " # ", text).split())


def differences(cell: dict[str, Any], printed: str, value: Any) -> list[str]:
    """In what a cell differs from what is stored."""
    text, shown = stored(cell)
    found = [] if printed == text else [f"prints\n{printed}but the notebook has\n{text}"]
    if (value is not None) != bool(shown):
        return [*found, f"shows {value!r}, but the notebook has {sorted(shown)}"]
    if "text/html" in shown and words(value._repr_html_()) != words("".join(shown["text/html"])):
        found.append(f"shows the table\n{words(value._repr_html_())}")
    if "image/png" in shown and not value._repr_png_().startswith(b"\x89PNG"):
        found.append("shows no picture")
    return found


@contextmanager
def restored() -> Iterator[None]:
    """Undo what notebooks do to silence the advice of trainers."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        yield
    logging.disable(level)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_runs_and_shows_what_is_stored(path: Path, tmp_path: Path, monkeypatch: Any) -> None:
    if path.stem == "keras_fit":
        pytest.importorskip("tensorflow", reason="there is no wheel for Python 3.14")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = code_cells(path)
    assert cells
    with restored():
        for cell in cells:
            source = "".join(cell["source"])
            found = differences(cell, *run_cell(source, namespace))
            assert found == [], f"{source}\n{found[0]}"


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_is_answered_in_few_lines(name: str) -> None:
    cells = [
        cell
        for cell in code_cells(FOLDER / f"{name}.ipynb")
        if "given" not in cell["metadata"].get("tags", ())
    ]
    lines = [line for cell in cells for line in "".join(cell["source"]).splitlines() if line.strip()]
    assert 0 < len(lines) <= MOST_LINES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_is_stored_as_executed_from_top_to_bottom(path: Path) -> None:
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result"}
    lines = [line for cell in cells for line in "".join(cell["source"]).splitlines()]
    assert max(map(len, lines)) <= LINE_LENGTH
    assert path.stat().st_size < 300_000


def test_every_tutorial_is_in_the_navigation() -> None:
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^(\w+)$", index, re.MULTILINE)) == {path.stem for path in NOTEBOOKS}


def test_another_table_is_noticed() -> None:
    html_of = "<table><tr><td>fc1</td><td>−1.38 ± 0.2</td></tr></table>".format
    assert words(html_of()) == words(html_of().replace("−1.38", "+2.4e−05"))
    assert words(html_of()) != words(html_of().replace("fc1", "fc2"))
    cell = {"outputs": [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}]}
    assert differences(cell, "1\n", None) == []
    assert differences(cell, "2\n", None) != []
    assert differences(cell, "1\n", "shown") != []
