"""The data of the maps: layers over time, and the weights or neurons of one layer.

The steps are grouped into at most `MAX_INTERVALS` intervals, and each interval shows the *sum* over its
steps, so that no step is skipped. Likewise a large tensor is drawn in cells, each the sum over a block of
entries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lca._blocks import block_starts
from lca.report._cells import EMPTY, MAX_SIDES, Grid, ListGrid, MatrixGrid
from lca.runs._run import Run

MAX_INTERVALS = 100
MAX_BYTES = 2_400_000
"""The limit on the cells of all maps of a page, one byte each; as base64 text they need a third more."""
LEVELS = 127
LINEAR_FRACTION = 0.01
"""The colour scale is linear up to this fraction of the largest value, and logarithmic beyond."""

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class _MapSource:
    """The entries of one variable of the record that form a map, and their grid.

    ``weight`` ranks the maps when not all of them fit into the page.
    """

    variable: str
    entries: slice
    grid: Grid
    weight: float


@dataclass(frozen=True, eq=False)
class DetailMap:
    """A map of the entries of a tensor, or of the neurons of a layer, for every interval.

    Attributes
    ----------
    grid
        How entries are summed into cells.
    max_side
        The limit on the number of cells along an edge.
    codes
        int8 of shape (losses, 1 + intervals, height, width), from `encode`. Index 0 along the second axis is
        the sum over the run.
    limits
        The largest |value| in the sum over the run, and the largest one in any interval.
    """

    grid: Grid
    max_side: int
    codes: Array
    limits: tuple[float, float]


def layer_intervals(run: Run) -> Array:
    """Layer totals, float64 of shape (losses, 1 + intervals, layers); index 0 is the sum over the run."""
    starts = block_starts(len(run.steps), MAX_INTERVALS)
    intervals = np.array([np.add.reduceat(run.layer_totals(loss), starts, axis=0) for loss in run.losses])
    return _prepend_sum(intervals)


def detail_maps(run: Run) -> tuple[list[DetailMap], int]:
    """Maps of the weights, if the record has all values, and of the neurons, if it has their totals.

    Returns
    -------
    maps, skipped
        The maps, and the number of maps that were skipped because they do not fit into `MAX_BYTES`. These are
        the ones with the smallest totals.
    """
    sources = [*_tensors(run), *_neurons(run)]
    starts = block_starts(len(run.steps), MAX_INTERVALS)
    max_side, chosen = _select_sources(sources, len(run.losses) * (1 + len(starts)))
    cells: list[list[Array]] = [[] for _ in chosen]
    for variable in dict.fromkeys(source.variable for source in chosen):
        for loss in run.losses:
            data = run.record[variable].sel(measured=loss).data
            for sums in _interval_sums(data, starts):
                for source, found in zip(chosen, cells, strict=True):
                    if source.variable == variable:
                        found.append(source.grid.cell_sums(sums[source.entries], max_side))
    shape = (len(run.losses), len(starts))
    maps = [
        _encode_map(s.grid, max_side, np.reshape(c, (*shape, *c[0].shape)))
        for s, c in zip(chosen, cells, strict=True)
    ]
    return maps, len(sources) - len(chosen)


def encode(values: Array, limit: float) -> Array:
    """``round(127 · sign(v) · log(1 + |v|/c) / log(1 + limit/c))`` with ``c = limit/100``, as int8.

    The function ``decode`` in page.js inverts it to within 2 % of ``|v| + c``. NaN becomes `EMPTY`.

    >>> encode(np.array([-1.0, 0.0, 0.1, 1.0, np.nan]), 1.0)
    array([-127,    0,   66,  127, -128], dtype=int8)
    """
    scaled = np.abs(values) / (LINEAR_FRACTION * limit) if limit else np.zeros(values.shape)
    codes = np.round(LEVELS * np.sign(values) * np.log1p(scaled) / np.log1p(1 / LINEAR_FRACTION))
    return np.where(np.isnan(values), EMPTY, codes).astype(np.int8)


def _tensors(run: Run) -> Iterator[_MapSource]:
    if not run.has("values"):
        return
    layout = run.layout
    assert layout.neuron_axes is not None
    weights = _abs_totals(run, "tensor")
    tensors = zip(
        layout.names,
        run.tensor_layers,
        layout.shapes,
        layout.neuron_axes,
        layout.offsets,
        layout.sizes,
        weights,
        strict=True,
    )
    for name, layer, shape, axis, first, size, weight in tensors:
        grid: Grid
        if axis is None or len(shape) < 2:
            grid = ListGrid(name, layer, size, "neuron" if axis == 0 else "entry")
        else:
            grid = MatrixGrid(name, layer, shape, axis)
        yield _MapSource("values", slice(first, first + size), grid, weight)


def _neurons(run: Run) -> Iterator[_MapSource]:
    """One map per layer; the neurons of a layer are contiguous, as `lca.Layout.groups` numbers them."""
    if not run.has("neuron_total"):
        return
    labels = [str(name) for name in run.record["neuron"].values]
    layers = np.array([label.rpartition("[")[0] or label for label in labels])
    weights = dict(zip(run.layers, _abs_totals(run, "layer"), strict=True))
    for layer in dict.fromkeys(layers):
        where = np.flatnonzero(layers == layer)
        first, count = int(where[0]), len(where)
        if count > 1 and where[-1] == first + count - 1:  # a single neuron is the layer itself
            grid = ListGrid(f"neurons of {layer}", str(layer), count, "neuron")
            yield _MapSource("neuron_total", slice(first, first + count), grid, weights.get(str(layer), 0.0))


def _abs_totals(run: Run, by: str) -> Array:
    """|Total over the run| of every tensor or layer."""
    totals = np.asarray(run.record[f"{by}_total"].sel(measured=run.losses[0]).values)
    return np.asarray(np.abs(totals.sum(axis=0)))


def _select_sources(sources: Sequence[_MapSource], frames: int) -> tuple[int, list[_MapSource]]:
    """The largest grid with which all maps fit; with the smallest grid, the maps of the largest totals."""
    for side in MAX_SIDES:
        cells = [frames * source.grid.count(side) for source in sources]
        if sum(cells) <= MAX_BYTES:
            return side, list(sources)
    order = np.argsort([-source.weight for source in sources], kind="stable")
    fitting = order[np.cumsum(np.array(cells)[order]) <= MAX_BYTES]
    return MAX_SIDES[-1], [sources[i] for i in sorted(fitting)]


def _interval_sums(data: Any, starts: Array) -> Iterator[Array]:
    """The float64 sum over each interval; reads each block of rows once, and holds one of them."""
    stops, interval, at = [*starts[1:], len(data)], 0, 0
    total = np.zeros(data.shape[1])
    for block in _blocks(data):
        done = 0
        while done < len(block):
            taken = block[done : done + stops[interval] - at]
            total += taken.sum(axis=0, dtype=np.float64)
            at, done = at + len(taken), done + len(taken)
            if at == stops[interval]:
                yield total
                interval, total = interval + 1, np.zeros(data.shape[1])


def _blocks(data: Any) -> Iterator[Array]:
    """The rows of a dask array block by block; those of a NumPy array as one block."""
    at = 0
    for length in data.chunks[0] if hasattr(data, "chunks") else (len(data),):
        yield np.asarray(data[at : at + length])
        at += length


def _encode_map(grid: Grid, max_side: int, intervals: Array) -> DetailMap:
    cells = _prepend_sum(intervals)
    parts = cells[:, :1], cells[:, 1:]
    limits = [float(np.nanmax(np.abs(part), initial=0.0)) for part in parts]
    codes = [encode(part, limit) for part, limit in zip(parts, limits, strict=True)]
    return DetailMap(grid, max_side, np.concatenate(codes, axis=1), (limits[0], limits[1]))


def _prepend_sum(intervals: Array) -> Array:
    """The sum over all intervals, followed by the intervals."""
    return np.concatenate([intervals.sum(axis=1, keepdims=True), intervals], axis=1)
