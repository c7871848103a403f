"""An animation of a run: the loss falls while the bars of the layers grow."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from lca._extras import extra
from lca.analysis._arrays import check_finite
from lca.errors import LCAError, OutputError
from lca.plots._canvas import (
    GREEN,
    GREY,
    HELPING,
    HURTING,
    LCA_LABEL,
    check_grouped,
    cumulative_sums,
    remove_frame,
    set_step_axis,
    width_of,
)
from lca.plots._many import height_of, name_rows

with extra("report"):
    from matplotlib.animation import FuncAnimation, writers
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

WRITERS = {".gif": "pillow", ".mp4": "ffmpeg"}


def animate_training(
    loss: np.ndarray, allocations: np.ndarray, names: Sequence[str], *, frames: int = 100, fps: int = 20
) -> FuncAnimation:
    """Animate a run: the loss on the left, and each layer's cumulative allocation on the right.

    Parameters
    ----------
    loss
        L(θ_t) for t = 0 ... T, shape (T + 1,).
    allocations
        The allocation of each step to each layer in units of the loss, shape (T, layers).
    names
        The names of the layers, one per column.
    frames
        The number of frames, spread evenly over the steps. The last one shows the whole run.
    fps
        Frames per second.

    Returns
    -------
    matplotlib.animation.FuncAnimation
        Write it with `save_animation`, or show it in a notebook with ``HTML(animation.to_jshtml())``.

    Raises
    ------
    LCAError
        If the shapes do not match, ``frames`` is less than 2, or ``fps`` is less than 1.
    NonFiniteError
        If a loss or an allocation is not finite.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> loss, allocations = np.array([2.0, 1.5, 1.0]), np.array([[-0.5, 0.0], [-0.75, 0.25]])
    >>> animation = animate_training(loss, allocations, ["fc1", "fc2"], frames=3)
    >>> with TemporaryDirectory() as folder:
    ...     save_animation(animation, f"{folder}/training.gif")
    """
    allocations, names = check_grouped(allocations, names)
    loss = check_finite(loss, "the losses", ndim=1)
    if len(loss) != len(allocations) + 1:
        raise LCAError(
            f"a run of {len(allocations)} steps has {len(allocations) + 1} losses, got {len(loss)}; include "
            "the losses before the first and after the last step."
        )
    if frames < 2 or fps < 1:
        raise LCAError(f"an animation needs frames ≥ 2 and fps ≥ 1, got frames={frames} and fps={fps}.")
    sums = cumulative_sums(allocations)
    size = (width_of(names) + 0.4, min(5.0, height_of(len(names), base=2.0, per_row=0.13, least=2.8)))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    line, bars = _draw_loss(left, loss), _draw_bars(right, sums, names)

    def draw_frame(step: int) -> list[Any]:
        line.set_data(np.arange(step + 1), loss[: step + 1])
        for bar, value in zip(bars, sums[step], strict=True):
            bar.set_width(value)
            bar.set_color(HELPING if value < 0 else HURTING)
        left.set_title(f"Loss at step {step}: {loss[step]:.3f}", fontsize="medium")
        return [line, *bars]

    steps = np.unique(np.linspace(0, len(allocations), frames).astype(int)).tolist()
    return FuncAnimation(figure, draw_frame, frames=steps, interval=1000 / fps)


def save_animation(animation: FuncAnimation, path: str | PathLike[str]) -> None:
    """Write an animation to a ``.gif`` or ``.mp4`` file.

    Parameters
    ----------
    animation
        From `animate_training`.
    path
        The file. ``.gif`` needs no further software; ``.mp4`` needs the program ffmpeg.

    Raises
    ------
    LCAError
        If the file name has another suffix, or ffmpeg is not installed.
    OutputError
        If the folder does not exist.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> animation = animate_training(np.array([2.0, 1.0]), np.array([[-1.0]]), ["fc"], frames=2)
    >>> with TemporaryDirectory() as folder:
    ...     save_animation(animation, f"{folder}/training.gif")
    """
    path = Path(path)
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise LCAError(
            f"an animation is written to a file named *{' or *'.join(WRITERS)}, got {path.name!r}."
        )
    if not writers.is_available(writer):
        raise LCAError(
            f"writing {path.suffix} needs the program {writer}, which is not on the PATH; install it, or "
            "write a .gif file."
        )
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {str(path)!r}: the folder {str(path.parent)!r} does not exist.")
    animation.save(path, writer=writer)


def _draw_loss(ax: Any, loss: np.ndarray) -> Any:
    remove_frame(ax).plot(loss, color=GREY, linewidth=0.8, alpha=0.5)
    [line] = ax.plot([], [], color=GREEN, linewidth=2.5)
    set_step_axis(ax, {})
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_ylabel("loss")
    return line


def _draw_bars(ax: Any, sums: np.ndarray, names: Sequence[str]) -> Any:
    bars = remove_frame(ax).barh(range(len(names)), np.zeros(len(names)), 0.6)
    low, high = min(0.0, sums.min()), max(0.0, sums.max())
    margin = 0.05 * (high - low) or 1.0
    ax.set_xlim(low - margin, high + margin)
    ax.axvline(0, color=GREY, linewidth=0.8)
    name_rows(ax, np.arange(len(names)), names, sums[-1])
    ax.invert_yaxis()
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(f"cumulative {LCA_LABEL}".replace(" in", "\nin"), fontsize="small")
    ax.set_title("Allocation by layer", fontsize="medium")
    return bars
