"""A run as a film: the loss falls while every layer's share of it grows."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from lca.analysis.arrays import check_finite
from lca.errors import LCAError, OutputError
from lca.extras import extra
from lca.plots.canvas import GREY, HELPED, HURT, SKY, cumulative, grouped, plain, step_axis

with extra("report"):
    from matplotlib.animation import FuncAnimation, writers
    from matplotlib.figure import Figure

WRITERS = {".gif": "pillow", ".mp4": "ffmpeg"}


def animate_training(
    loss: np.ndarray, rows: np.ndarray, names: Sequence[str], *, frames: int = 100, fps: int = 20
) -> FuncAnimation:
    """The loss up to now beside the allocation of each layer up to now, as a film.

    Parameters
    ----------
    loss
        L(θ_t) for t = 0 ... T, shape (T + 1,).
    rows
        Allocation of each step to each layer, shape (T, layers).
    names
        One a layer.
    frames
        Pictures, evenly spread over the steps; the last one shows the whole run.
    fps
        Pictures a second.

    Returns
    -------
    matplotlib.animation.FuncAnimation
        Write it with `save_animation`, or show it in a notebook with ``HTML(film.to_jshtml())``.
    """
    rows, names = grouped(rows, names)
    loss = check_finite(loss, "the loss", ndim=1)
    if len(loss) != len(rows) + 1:
        raise LCAError(f"a run of {len(rows)} steps has {len(rows) + 1} losses, got {len(loss)}.")
    if frames < 2 or fps < 1:
        raise LCAError(f"a film needs frames ≥ 2 and fps ≥ 1, got frames={frames} and fps={fps}.")
    sums = cumulative(rows)
    figure = Figure(figsize=(6.4, 2.8), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    line, bars = _draw_loss(left, loss), _draw_bars(right, sums, names)

    def show(step: int) -> list[Any]:
        line.set_data(np.arange(step + 1), loss[: step + 1])
        for bar, value in zip(bars, sums[step], strict=True):
            bar.set_width(value)
            bar.set_color(HELPED if value < 0 else HURT)
        left.set_title(f"Loss at step {step}: {loss[step]:.3f}", fontsize="medium")
        return [line, *bars]

    steps = np.unique(np.linspace(0, len(rows), frames).astype(int)).tolist()
    return FuncAnimation(figure, show, frames=steps, interval=1000 / fps)


def save_animation(film: FuncAnimation, path: str | PathLike[str]) -> None:
    """Write a film: ``.gif`` (needs nothing more) or ``.mp4`` (needs the program ffmpeg).

    Raises
    ------
    LCAError
        If the name ends otherwise, or the writer for it is not installed.
    OutputError
        If the file cannot be written.
    """
    path = Path(path)
    name = WRITERS.get(path.suffix.lower())
    if name is None:
        raise LCAError(f"a film is written as {' or '.join(WRITERS)}, got {path.name!r}.")
    if not writers.is_available(name):
        raise LCAError(f"{path.suffix} needs the program {name}, which is not on the PATH; write a .gif.")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}.")
    film.save(path, writer=name)


def _draw_loss(ax: Any, loss: np.ndarray) -> Any:
    plain(ax).plot(loss, color=GREY, linewidth=0.8, alpha=0.5)
    [line] = ax.plot([], [], color=SKY, linewidth=2.5)
    step_axis(ax)
    ax.set_ylabel("loss")
    return line


def _draw_bars(ax: Any, sums: np.ndarray, names: Sequence[str]) -> Any:
    bars = plain(ax).barh(range(len(names)), np.zeros(len(names)), 0.6)
    low, high = min(0.0, sums.min()), max(0.0, sums.max())
    room = 0.05 * (high - low) or 1.0
    ax.set_xlim(low - room, high + room)
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("LCA so far, in units of the loss\n(negative = helped)", fontsize="small")
    ax.set_title("What each layer has done", fontsize="medium")
    return bars
