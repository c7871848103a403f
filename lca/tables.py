"""`Table`: a table of numbers for a notebook, a paper or a file; `HasTable`: what can be shown as one.

A summary, a tracker and `lca.Runs` are `HasTable`: they have ``to_frame()``, ``to_latex()``, ``to_csv(path)``
and a view in notebooks.
"""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from os import PathLike
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from lca._extras import extra
from lca._output import check_free, move_into, scratch_folder, stage
from lca.errors import LCAError

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Column", "HasTable", "Table"]

_LATEX = {
    "−": "$-$",
    "±": r"$\pm$",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


@dataclass(frozen=True)
class Column:
    """A column of a `Table`.

    Parameters
    ----------
    name
        Its head.
    values
        One per row: numbers, text, or ``None`` for an empty cell.
    half
        For numbers with an interval: half its width; NaN for a number without an interval.
    sign
        Whether positive numbers have a sign, as allocations do.
    digits
        Significant digits of a number without an interval, in text; `Table.to_frame` has all of them.
    decimals
        Decimals of such a number, in place of ``digits``.

    Examples
    --------
    >>> Column("adam", [-1.25, 0.5], half=[0.034, float("nan")]).text(0)
    '−1.250 ± 0.034'
    """

    name: str
    values: Sequence[Any]
    half: Sequence[float] | None = None
    sign: bool = True
    digits: int = 4
    decimals: int | None = None

    @property
    def is_text(self) -> bool:
        """Whether the column has no numbers."""
        return not any(_is_number(value) for value in self.values)

    def text(self, row: int) -> str:
        """The cell as a person writes it, with the digits that its interval justifies if there is one."""
        value, half = self.values[row], math.nan if self.half is None else self.half[row]
        if not _is_number(value):
            return "" if value is None else str(value)
        if math.isnan(value):
            return "—"
        sign = "+" if self.sign and not isinstance(value, int) and value else ""
        if isinstance(value, int):
            return f"{value:,}".replace("-", "−")
        if not 0 < half < math.inf:
            exactly = self.decimals is None or not value  # 0 is no rounded number
            form = f".{self.digits}g" if exactly else f".{self.decimals}f"
            return f"{value:{sign}{form}}".replace("-", "−")
        if not _SMALLEST <= half < _LARGEST:
            return f"{value:{sign}.3g} ± {half:.2g}".replace("-", "−")
        digits = max(0, 1 - math.floor(math.log10(half)))
        return f"{value:{sign}.{digits}f} ± {half:.{digits}f}".replace("-", "−")

    def plain(self) -> dict[str, list[Any]]:
        """The values in full precision by name; an interval as two more columns, its ends."""
        if self.half is None:
            return {self.name: list(self.values)}
        ends = {"lower": -1, "upper": 1}
        return {
            self.name: list(self.values),
            **{
                f"{self.name} {end}": [
                    None if v is None else v + by * h for v, h in zip(self.values, self.half, strict=True)
                ]
                for end, by in ends.items()
            },
        }


_SMALLEST, _LARGEST = 1e-6, 1e6
"""Half intervals between which numbers are written without an exponent."""


@dataclass(frozen=True)
class Table:
    r"""A table with a caption; the first ``labels`` columns name the rows.

    Parameters
    ----------
    columns
        From left to right, with equally many values.
    caption
        What the numbers are: the loss, the unit, the sign, what an interval is.
    labels
        The number of columns that name the rows.

    Raises
    ------
    LCAError
        If the columns differ in length.

    Examples
    --------
    >>> table = Table([Column("layer", ["fc1", "fc2"]), Column("LCA", [-1.25, 0.5])], "LCA of each layer")
    >>> print(table)
    LCA of each layer
    layer    LCA
    fc1    −1.25
    fc2     +0.5
    >>> print(table.to_latex())
    \begin{tabular}{lr}
    \toprule
    layer & LCA \\
    \midrule
    fc1 & $-1.25$ \\
    fc2 & $+0.5$ \\
    \bottomrule
    \end{tabular}
    """

    columns: Sequence[Column]
    caption: str = ""
    labels: int = 1

    def __post_init__(self) -> None:
        lengths = {column.name: len(column.values) for column in self.columns}
        if len(set(lengths.values())) != 1:
            raise LCAError(f"the columns of a table must have equal length, got {lengths}.")

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self, width: int | None = 100) -> str:
        """The table as text of at most ``width`` characters a line, as far as single columns allow.

        A wider table is shown in parts below each other, each with the columns that name the rows. ``None``:
        in one part, however wide.

        Examples
        --------
        >>> columns = [Column("layer", ["fc"]), Column("train", [-1.25]), Column("held out", [-0.5])]
        >>> print(Table(columns, "LCA of each layer").to_text(width=18))
        LCA of each layer
        layer  train
        fc     −1.25
        <BLANKLINE>
        layer  held out
        fc         −0.5
        """
        rows = range(len(self.columns[0].values))
        texts = [[column.name, *map(column.text, rows)] for column in self.columns]
        widths = [max(map(len, cells)) for cells in texts]
        aligned = [
            [cell.ljust(wide) if column.is_text else cell.rjust(wide) for cell in cells]
            for column, cells, wide in zip(self.columns, texts, widths, strict=True)
        ]
        parts = [
            "\n".join("  ".join(row).rstrip() for row in zip(*(aligned[at] for at in part), strict=True))
            for part in _parts(widths, self.labels, width)
        ]
        caption = self.caption if width is None else fill(self.caption, width)
        return (f"{caption}\n" if caption else "") + "\n\n".join(parts)

    def _repr_html_(self) -> str:
        """The table as HTML, for notebooks."""
        align = ["left" if column.is_text else "right" for column in self.columns]
        head = "".join(
            f'<th style="text-align:{side}">{escape(column.name)}</th>'
            for side, column in zip(align, self.columns, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align:{side}">{escape(cell)}</td>'
                for side, cell in zip(align, row, strict=True)
            )
            + "</tr>"
            for row in self._texts()
        )
        caption = f'<caption style="text-align:left">{escape(self.caption)}</caption>'
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def to_frame(self) -> "DataFrame":
        """The numbers in full precision as a pandas ``DataFrame``, indexed by the labels.

        An interval is two more columns, ``... lower`` and ``... upper``. Needs the extra ``report``.

        Examples
        --------
        >>> Table([Column("layer", ["fc"]), Column("LCA", [-1.25], half=[0.25])]).to_frame().columns.tolist()
        ['LCA', 'LCA lower', 'LCA upper']
        """
        with extra("report"):
            import pandas as pd  # noqa: PLC0415 - half a second, and only for frames
        frame = pd.DataFrame(self._plain())
        return frame.set_index([column.name for column in self.columns[: self.labels]])

    def to_csv(self, path: str | PathLike[str] | None = None, *, overwrite: bool = False) -> str:
        r"""The numbers in full precision as CSV text, which is also written to ``path`` if given.

        Parameters
        ----------
        path
            A file.
        overwrite
            Whether to replace an existing file.

        Raises
        ------
        OutputError
            If the file cannot be written, or exists and may not be replaced.

        Examples
        --------
        >>> Table([Column("layer", ["fc"]), Column("LCA", [-1.25])]).to_csv()
        'layer,LCA\nfc,-1.25\n'
        """
        plain, buffer = self._plain(), StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(plain)
        writer.writerows(zip(*plain.values(), strict=True))
        if path is not None:
            file = Path(path)
            check_free(file, overwrite=overwrite, option="overwrite=True", is_ours=Path.is_file)
            with scratch_folder(file.parent) as scratch:
                stage(scratch, {file.name: buffer.getvalue().encode()})
                move_into(file.parent, scratch)
        return buffer.getvalue()

    def to_latex(self) -> str:
        r"""The table in LaTeX, without its caption; needs ``\usepackage{booktabs}``."""
        align = "".join("l" if column.is_text else "r" for column in self.columns)
        rows = [[_latex(column.name) for column in self.columns]]
        rows += [
            [
                _latex(cell) if column.is_text else _math(cell)
                for cell, column in zip(row, self.columns, strict=True)
            ]
            for row in self._texts()
        ]
        head, *body = (" & ".join(row) + r" \\" for row in rows)
        lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
        return "\n".join([*lines, r"\end{tabular}"])

    def _texts(self) -> list[list[str]]:
        rows = len(self.columns[0].values)
        return [[column.text(row) for column in self.columns] for row in range(rows)]

    def _plain(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for column in self.columns:
            found |= column.plain()
        return found


class HasTable:
    r"""What can be shown as a table; a subclass has ``table()``.

    Examples
    --------
    >>> class Mine(HasTable):
    ...     def table(self):
    ...         return Table([Column("layer", ["fc"]), Column("LCA", [-1.25])])
    >>> Mine().to_csv()
    'layer,LCA\nfc,-1.25\n'
    """

    def table(self) -> Table:
        """The table that the other methods show."""
        raise NotImplementedError

    def to_frame(self) -> "DataFrame":
        """`Table.to_frame` of `table`."""
        return self.table().to_frame()

    def to_latex(self) -> str:
        """`Table.to_latex` of `table`."""
        return self.table().to_latex()

    def to_csv(self, path: str | PathLike[str] | None = None, *, overwrite: bool = False) -> str:
        """`Table.to_csv` of `table`."""
        return self.table().to_csv(path, overwrite=overwrite)

    def _repr_html_(self) -> str | None:
        """For notebooks; ``None``, which shows the repr, as long as there is nothing to show."""
        try:
            return self.table()._repr_html_()
        except LCAError:
            return None


def _parts(widths: Sequence[int], labels: int, width: int | None) -> list[list[int]]:
    """The columns in each part of a text: the labels, and as many others as fit beside them.

    >>> _parts([5, 4, 4, 9], 1, 17), _parts([5, 4, 4, 9], 1, None)
    ([[0, 1, 2], [0, 3]], [[0, 1, 2, 3]])
    """
    parts = [list(range(labels))]
    for at in range(labels, len(widths)):
        used = sum(widths[i] + 2 for i in parts[-1])
        if width is not None and used + widths[at] > width and len(parts[-1]) > labels:
            parts.append(list(range(labels)))
        parts[-1].append(at)
    return parts


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _math(cell: str) -> str:
    """A number in LaTeX."""
    if cell in ("", "—"):
        return "--" if cell else ""
    cell = re.sub(r"e([−+-]?)0*(\d+)", lambda m: rf" \times 10^{{{m[1].strip('+')}{m[2]}}}", cell)
    for sign, latex in (("−", "-"), ("±", r"\pm"), (",", "{,}")):
        cell = cell.replace(sign, latex)
    return f"${cell}$"
