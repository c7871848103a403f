"""The data behind the time slider: layers at each moment, and the weights or neurons of a layer.

A *moment* is a stretch of steps; there are at most `MOMENTS`, each the sum over its steps, so that nothing is
left out. What is large is drawn in cells, each the sum over a block of entries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lca.report.cells import EMPTY, SIDES, Grid, List, Matrix
from lca.report.run import Run, columns

MOMENTS = 100
BYTES = 2_400_000
"""Of all cells in a page; written as text they take a third more."""
LEVELS = 127
LINEAR = 0.01
"""Colours are linear up to this share of the largest value, and logarithmic beyond."""

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Source:
    """Entries of a variable of the record that are shown together, and how."""

    variable: str
    entries: slice
    grid: Grid
    size: float


@dataclass(frozen=True, eq=False)
class Detail:
    """A map of the entries of a tensor, or the neurons of a layer, at every moment.

    Attributes
    ----------
    grid
        What it shows.
    side
        The most cells along an edge.
    codes
        int8 (losses, 1 + moments, height, width): see `encode`. The first one is the sum over the run.
    limits
        The largest size of a value: in the sum over the run, and at any moment.
    """

    grid: Grid
    side: int
    codes: Array
    limits: tuple[float, float]


def layer_moments(run: Run) -> Array:
    """Layer totals, float64 (losses, 1 + moments, layers); the first one is the sum over the run."""
    starts = columns(len(run.steps), MOMENTS)
    moments = np.array([np.add.reduceat(run.rows(loss), starts, axis=0) for loss in run.losses])
    return _with_sum(moments)


def details(run: Run) -> tuple[list[Detail], int]:
    """Maps of the weights if the record has all values, and of the neurons if it has those.

    Returns
    -------
    maps, skipped_steps
        The maps, and how many were left out because they do not fit into `BYTES`: those with the smallest
        totals.
    """
    sources = [*_tensors(run), *_neurons(run)]
    starts = columns(len(run.steps), MOMENTS)
    side, chosen = _that_fit(sources, len(run.losses) * (1 + len(starts)))
    cells: list[list[Array]] = [[] for _ in chosen]
    for variable in dict.fromkeys(source.variable for source in chosen):
        for loss in run.losses:
            data = run.record[variable].sel(measured=loss).data
            for sums in _moment_sums(data, starts):
                for source, kept in zip(chosen, cells, strict=True):
                    if source.variable == variable:
                        kept.append(source.grid.cells(sums[source.entries], side))
    shape = (len(run.losses), len(starts))
    maps = [
        _detail(s.grid, side, np.reshape(c, (*shape, *c[0].shape)))
        for s, c in zip(chosen, cells, strict=True)
    ]
    return maps, len(sources) - len(chosen)


def encode(values: Array, limit: float) -> Array:
    """``round(127 · sign(v) · log(1 + |v|/c) / log(1 + limit/c))`` with ``c = limit/100``, as int8.

    ``decode`` in page.js undoes it, within 2 % of ``|v| + c``. NaN becomes `EMPTY`.

    >>> encode(np.array([-1.0, 0.0, 0.1, 1.0, np.nan]), 1.0)
    array([-127,    0,   66,  127, -128], dtype=int8)
    """
    scaled = np.abs(values) / (LINEAR * limit) if limit else np.zeros(values.shape)
    codes = np.round(LEVELS * np.sign(values) * np.log1p(scaled) / np.log1p(1 / LINEAR))
    return np.where(np.isnan(values), EMPTY, codes).astype(np.int8)


def _tensors(run: Run) -> Iterator[Source]:
    if not run.has("values"):
        return
    layout = run.layout
    assert layout.neuron_axes is not None
    sizes = _sizes(run, "tensor")
    parts = (layout.names, run.layer_of, layout.shapes, layout.neuron_axes, layout.offsets, layout.sizes)
    for which, (name, layer, shape, axis, first, size) in enumerate(zip(*parts, strict=True)):
        grid: Grid
        if axis is None or len(shape) < 2:
            grid = List(name, layer, size, "neuron" if axis == 0 else "entry")
        else:
            grid = Matrix(name, layer, shape, axis)
        yield Source("values", slice(first, first + size), grid, sizes[which])


def _neurons(run: Run) -> Iterator[Source]:
    """Neurons of a layer are neighbours in the record, as `lca.Layout.groups` numbers them."""
    if not run.has("neuron_total"):
        return
    labels = [str(name) for name in run.record["neuron"].values]
    layers = np.array([label.rpartition("[")[0] or label for label in labels])
    sizes = dict(zip(run.layers, _sizes(run, "layer"), strict=True))
    for layer in dict.fromkeys(layers):
        where = np.flatnonzero(layers == layer)
        first, count = int(where[0]), len(where)
        if count > 1 and where[-1] == first + count - 1:  # a single one is the layer itself
            grid = List(f"neurons of {layer}", str(layer), count, "neuron")
            yield Source("neuron_total", slice(first, first + count), grid, sizes.get(str(layer), 0.0))


def _sizes(run: Run, by: str) -> Array:
    """|Total over the run| of every group."""
    totals = np.asarray(run.record[f"{by}_total"].sel(measured=run.losses[0]).values)
    return np.asarray(np.abs(totals.sum(axis=0)))


def _that_fit(sources: Sequence[Source], frames: int) -> tuple[int, list[Source]]:
    """Cells along an edge, and what is shown: everything, or with the fewest cells the largest totals."""
    for side in SIDES:
        cells = [frames * source.grid.count(side) for source in sources]
        if sum(cells) <= BYTES:
            return side, list(sources)
    order = np.argsort([-source.size for source in sources], kind="stable")
    fit = order[np.cumsum(np.array(cells)[order]) <= BYTES]
    return SIDES[-1], [sources[i] for i in sorted(fit)]


def _moment_sums(data: Any, starts: Array) -> Iterator[Array]:
    """The sum over each moment, float64; reads every block of rows once, and holds one of them."""
    stops, moment, at = [*starts[1:], len(data)], 0, 0
    total = np.zeros(data.shape[1])
    for block in _blocks(data):
        done = 0
        while done < len(block):
            taken = block[done : done + stops[moment] - at]
            total += taken.sum(axis=0, dtype=np.float64)
            at, done = at + len(taken), done + len(taken)
            if at == stops[moment]:
                yield total
                moment, total = moment + 1, np.zeros(data.shape[1])


def _blocks(data: Any) -> Iterator[Array]:
    """The rows of a dask array, block by block; of a NumPy array, all at once."""
    at = 0
    for length in data.chunks[0] if hasattr(data, "chunks") else (len(data),):
        yield np.asarray(data[at : at + length])
        at += length


def _detail(grid: Grid, side: int, moments: Array) -> Detail:
    cells = _with_sum(moments)
    parts = cells[:, :1], cells[:, 1:]
    limits = [float(np.nanmax(np.abs(part), initial=0.0)) for part in parts]
    codes = [encode(part, limit) for part, limit in zip(parts, limits, strict=True)]
    return Detail(grid, side, np.concatenate(codes, axis=1), (limits[0], limits[1]))


def _with_sum(moments: Array) -> Array:
    """The sum over all moments, before them."""
    return np.concatenate([moments.sum(axis=1, keepdims=True), moments], axis=1)
