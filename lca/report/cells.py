"""From the entries of a tensor, or the neurons of a layer, to the cells of a map."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lca.report.run import columns

SIDES = (64, 48, 32, 24, 16, 12, 8, 4)
"""The most cells along an edge of a map; the largest of these that keeps the page small is used."""
EMPTY = -128
"""The code of a cell behind the end of a list."""

Array = np.ndarray


class Grid(Protocol):
    """Cells that the entries of a vector are put into, at most ``side`` × ``side`` of them.

    Attributes
    ----------
    name, layer
        What is shown, and the layer that it is part of.
    axes
        What rows and columns of the map count.
    """

    @property
    def name(self) -> str: ...
    @property
    def layer(self) -> str: ...
    @property
    def axes(self) -> tuple[str, ...]: ...
    def count(self, side: int) -> int:
        """Number of cells."""

    def edges(self, side: int) -> tuple[list[int], ...]:
        """Along each axis: where the entries of each cell begin, and where those of the last one end."""

    def cells(self, values: Array, side: int) -> Array:
        """The sum over the entries of each cell, (height, width); NaN where there are none."""


@dataclass(frozen=True)
class Matrix:
    """A tensor with a row of cells for each output neuron (or several), and a column for each input.

    >>> grid = Matrix("fc.weight", "fc", (2, 3), 0)
    >>> grid.cells(np.arange(6.0), 2), grid.edges(2)
    (array([[1., 2.],
           [7., 5.]]), ([0, 1, 2], [0, 2, 3]))
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    neuron_axis: int
    axes: tuple[str, ...] = ("neuron", "input")

    def count(self, side: int) -> int:
        return math.prod(len(columns(length, side)) for length in self._size())

    def edges(self, side: int) -> tuple[list[int], ...]:
        return tuple([*columns(length, side).tolist(), length] for length in self._size())

    def cells(self, values: Array, side: int) -> Array:
        matrix = np.moveaxis(values.reshape(self.shape), self.neuron_axis, 0).reshape(self._size())
        rows, cols = (edge[:-1] for edge in self.edges(side))
        return np.asarray(np.add.reduceat(np.add.reduceat(matrix, rows, axis=0), cols, axis=1))

    def _size(self) -> tuple[int, int]:
        height = self.shape[self.neuron_axis]
        return height, math.prod(self.shape) // height


@dataclass(frozen=True)
class List:
    """Entries one after another, in lines that are about twice as long as there are lines.

    >>> List("fc.bias", "fc", 5, "neuron").cells(np.arange(5.0), 2)
    array([[1., 5., 4.]])
    """

    name: str
    layer: str
    length: int
    what: str

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.what,)

    def count(self, side: int) -> int:
        return len(columns(self.length, side**2))

    def edges(self, side: int) -> tuple[list[int], ...]:
        return ([*columns(self.length, side**2).tolist(), self.length],)

    def cells(self, values: Array, side: int) -> Array:
        sums = np.add.reduceat(values, self.edges(side)[0][:-1])
        width = len(sums) if len(sums) <= 16 else 2 ** math.ceil(math.log2(math.sqrt(2 * len(sums))))
        height = -(-len(sums) // width)
        return np.append(sums, np.full(height * width - len(sums), np.nan)).reshape(height, width)
