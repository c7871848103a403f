"""Grids: how the entries of a tensor, or the neurons of a layer, are summed into the cells of a map."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lca._blocks import block_starts

MAX_SIDES = (64, 48, 32, 24, 16, 12, 8, 4)
"""Limits on the number of cells along an edge of a map; the largest that keeps the page small is used."""
EMPTY = -128
"""The code of a cell without entries, behind the end of a list."""

Array = np.ndarray


class Grid(Protocol):
    """A grid of at most ``max_side`` × ``max_side`` cells that partitions the entries of a vector.

    Attributes
    ----------
    name, layer
        The name of the map, and the layer to which it belongs.
    axes
        What the rows and columns of the map are, such as neurons and inputs.
    """

    @property
    def name(self) -> str: ...
    @property
    def layer(self) -> str: ...
    @property
    def axes(self) -> tuple[str, ...]: ...
    def count(self, max_side: int) -> int:
        """The number of cells."""

    def edges(self, max_side: int) -> tuple[list[int], ...]:
        """For each axis, the first entry of each cell, and the end of the last cell."""

    def cell_sums(self, values: Array, max_side: int) -> Array:
        """The sum over the entries of each cell, shape (height, width); NaN in cells without entries."""


@dataclass(frozen=True)
class MatrixGrid:
    """A tensor with output neurons along the rows and inputs along the columns.

    >>> grid = MatrixGrid("fc.weight", "fc", (2, 3), 0)
    >>> grid.cell_sums(np.arange(6.0), 2), grid.edges(2)
    (array([[1., 2.],
           [7., 5.]]), ([0, 1, 2], [0, 2, 3]))
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    neuron_axis: int
    axes: tuple[str, ...] = ("neuron", "input")

    def count(self, max_side: int) -> int:
        return math.prod(len(block_starts(length, max_side)) for length in self._size())

    def edges(self, max_side: int) -> tuple[list[int], ...]:
        return tuple([*block_starts(length, max_side).tolist(), length] for length in self._size())

    def cell_sums(self, values: Array, max_side: int) -> Array:
        matrix = np.moveaxis(values.reshape(self.shape), self.neuron_axis, 0).reshape(self._size())
        rows, cols = (edge[:-1] for edge in self.edges(max_side))
        return np.asarray(np.add.reduceat(np.add.reduceat(matrix, rows, axis=0), cols, axis=1))

    def _size(self) -> tuple[int, int]:
        height = self.shape[self.neuron_axis]
        return height, math.prod(self.shape) // height


@dataclass(frozen=True)
class ListGrid:
    """A list of entries, wrapped into rows so that the map is about twice as wide as high.

    >>> ListGrid("fc.bias", "fc", 5, "neuron").cell_sums(np.arange(5.0), 2)
    array([[1., 5., 4.]])
    """

    name: str
    layer: str
    length: int
    entry: str

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.entry,)

    def count(self, max_side: int) -> int:
        return len(block_starts(self.length, max_side**2))

    def edges(self, max_side: int) -> tuple[list[int], ...]:
        return ([*block_starts(self.length, max_side**2).tolist(), self.length],)

    def cell_sums(self, values: Array, max_side: int) -> Array:
        sums = np.add.reduceat(values, self.edges(max_side)[0][:-1])
        width = len(sums) if len(sums) <= 16 else 2 ** math.ceil(math.log2(math.sqrt(2 * len(sums))))
        height = -(-len(sums) // width)
        return np.append(sums, np.full(height * width - len(sums), np.nan)).reshape(height, width)
