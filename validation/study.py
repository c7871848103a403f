"""What the studies share: means over seeds with intervals, the style of a figure, and batches."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lca.analysis import mean_over_runs

IMAGES = Path(__file__).parent.parent / "docs" / "images"
COLORS = ("#009E73", "#9A5FBF", "#B8941F", "#C9579B", "#7F9A2D", "#8A6D4F")
"""The colours of conditions, as in `lca.plots`."""
Run = dict[str, Any]


def figure(rows: int = 1, columns: int = 1, *, size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    """A figure and its Axes, (rows, columns), without the upper and right spines."""
    made = Figure(figsize=size, dpi=120, layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False)
    for ax in axes.ravel():
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize="small")
    return made, axes


def draw_means(
    ax: Axes, places: Sequence[float], values: np.ndarray, *, color: str, label: str = "", **style: Any
) -> None:
    """Means over the rows (seeds) with their 95 % intervals."""
    found = mean_over_runs(np.asarray(values, dtype=np.float64))
    style = {"marker": "o", "markersize": 4, "linewidth": 1, "capsize": 2, **style}
    ax.errorbar(places, found.mean, found.half, color=color, label=label, **style)


def mean_text(values: Sequence[float], digits: int = 3) -> str:
    """The mean over seeds with half its 95 % interval.

    >>> mean_text([1.0, 2.0, 3.0], digits=1)
    '+2.0 ± 2.5'
    """
    found = mean_over_runs(np.asarray(values, dtype=np.float64))
    return f"{found.mean:+.{digits}f} ± {found.half:.{digits}f}"


def save(made: Figure, name: str) -> None:
    """Write a figure to docs/images."""
    made.savefig(IMAGES / name, metadata={"Software": "validation/study.py"})
    print(f"wrote docs/images/{name}")


def shuffled(examples: int, batch_size: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """The indices of each batch: epochs without replacement, as many steps as are asked for."""
    rng, made = np.random.default_rng(seed), 0
    while True:
        order = rng.permutation(examples)
        for start in range(0, examples - batch_size + 1, batch_size):
            if made == steps:
                return
            made += 1
            yield order[start : start + batch_size]
