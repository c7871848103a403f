"""A table shows the same numbers as text, HTML, LaTeX, CSV and frame, and overwrites nothing unasked."""

import csv
import math

import pytest

from lca import LCAError
from lca.errors import OutputError
from lca.tables import Column, Table

TABLE = Table(
    [
        Column("layer", ["a_1", "b&c", "<i>"]),
        Column("LCA", [-1.25, 0.5, math.nan], half=[0.034, math.nan, math.nan]),
        Column("n", [3, -1200, None], sign=False),
    ],
    "LCA <of> layers",
)


def test_text_has_the_digits_that_the_interval_justifies():
    assert [TABLE.columns[1].text(row) for row in range(3)] == ["−1.250 ± 0.034", "+0.5", "—"]
    assert [TABLE.columns[2].text(row) for row in range(3)] == ["3", "−1,200", ""]
    assert Column("p", [0.0123456], sign=False, digits=2).text(0) == "0.012"
    assert [Column("A", [-0.01234, 2e-9, 0.0], decimals=3).text(i) for i in range(3)] == [
        "−0.012",
        "+0.000",
        "0",
    ]
    assert Column("x", [123.0], half=[40.0]).text(0) == "+123 ± 40"
    assert Column("x", [-1.668e7], half=[2.345e8]).text(0) == "−1.67e+07 ± 2.3e+08"


def test_html_escapes_names():
    html = TABLE._repr_html_()
    assert "&lt;i&gt;" in html
    assert "LCA &lt;of&gt; layers" in html
    assert "<i>" not in html


def test_latex_escapes_names_and_sets_numbers():
    lines = TABLE.to_latex().splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    assert lines[4] == r"a\_1 & $-1.250 \pm 0.034$ & $3$ \\"
    assert lines[5] == r"b\&c & $+0.5$ & $-1{,}200$ \\"
    small = Table([Column("p", [1.5e-5, -2e20])]).to_latex()
    assert r"$+1.5 \times 10^{-5}$" in small
    assert r"$-2 \times 10^{20}$" in small
    assert lines[6] == r"<i> & -- &  \\"


def test_csv_and_frame_have_full_precision_and_both_ends(tmp_path):
    path = tmp_path / "new" / "t.csv"
    text = TABLE.to_csv(path)
    assert path.read_text(encoding="utf-8") == text
    rows = list(csv.DictReader(text.splitlines()))
    assert float(rows[0]["LCA upper"]) == -1.25 + 0.034
    frame = TABLE.to_frame()
    assert frame.loc["a_1", "LCA lower"] == -1.25 - 0.034
    assert frame.index.name == "layer"


def test_a_file_is_replaced_on_request_only(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("mine")
    with pytest.raises(OutputError, match="pass overwrite=True"):
        TABLE.to_csv(path)
    assert path.read_text() == "mine"
    TABLE.to_csv(path, overwrite=True)
    assert path.read_text().startswith("layer,")
    with pytest.raises(OutputError):
        TABLE.to_csv(tmp_path, overwrite=True)


def test_a_wide_table_is_folded_and_loses_nothing():
    classes = [Column(f"train/class {i}", [-0.125 * i, 1e-3 * i]) for i in range(10)]
    table = Table([Column("tensor", ["fc.weight", "fc.bias"]), *classes], 30 * "word ")
    lines = str(table).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("fc.weight ") for line in lines) == 2
    wide = table.to_text(width=None).splitlines()
    assert [len(wide), max(map(len, wide))] == [4, 159]
    for row in wide[1:]:
        name, *cells = row.split()
        assert " ".join(line for line in lines if line.startswith(name)).replace(name, "").split() == cells
    assert str(Table([Column("x", ["a" * 120])])) == "x\n" + 120 * "a"


def test_columns_of_different_length_are_refused():
    with pytest.raises(LCAError, match="equal length"):
        Table([Column("a", [1]), Column("b", [])])
