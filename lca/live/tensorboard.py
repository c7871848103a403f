"""`TensorBoard`: what each layer does for the loss, in TensorBoard while training runs."""

import weakref
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lca.allocation import StepAllocation
from lca.errors import LCAError
from lca.extras import extra
from lca.layout import Layout
from lca.output import check_writable
from lca.summary import RunViews

WIDTH, ROW = 400, 16
"""Of the picture, in pixels: its width at most, and the height of a layer."""
BLUE, WHITE, RED = np.array([0, 114, 178]), np.array([255, 255, 255]), np.array([213, 94, 0])


class TensorBoard:
    """Makes views that write to TensorBoard: pass it as ``views=`` to a tracker or callback.

    Every measured loss is a run of its own, in a folder with the name that the tracker has for it, so that
    TensorBoard draws them into the same charts. Scalars: ``loss``, ``residual_so_far``, ``helping_percent``,
    and for each layer ``LCA`` (of the step) and ``LCA_so_far``; now and then a picture of layers × time, blue
    where a layer helped. The default views of a tracker are kept too, so its ``summary()`` works.

    Parameters
    ----------
    folder
        For ``tensorboard --logdir``; made if needed. A second tracker that writes here adds to what there
        is; give every run a folder of its own.
    every, picture_every
        Measured steps between scalars, and between pictures.

    Notes
    -----
    Needs the extra ``tensorboard`` (tensorboardX), and neither torch nor TensorFlow. Cost: one pass over the
    allocation a logged step. Memory: one number a step and layer.

    Examples
    --------
    >>> import tempfile
    >>> from lca import SIMPSON, PathIntegral, Trajectory
    >>> from lca.reference.models import Quadratic
    >>> from lca.tracking import Session
    >>> folder = tempfile.TemporaryDirectory()
    >>> measurement = Session(Quadratic(np.eye(2)), PathIntegral(SIMPSON), views=TensorBoard(folder.name))
    >>> for step in Trajectory(np.array([[1.0, 1.0], [0.5, 1.0], [0.0, 1.0]])):
    ...     measurement.measure(step)
    >>> measurement.views["train"].log.close()
    >>> [path.name for path in Path(folder.name).iterdir()]
    ['train']
    >>> folder.cleanup()
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        every: int = 1,
        picture_every: int = 50,
    ) -> None:
        for name, value in (("every", every), ("picture_every", picture_every)):
            if value < 1:
                raise LCAError(f"{name} must be at least 1 step, got {value}.")
        self._folder = Path(folder)
        check_writable(self._folder)
        self._every, self._picture_every = every, picture_every
        _writer_class()  # fail here, not when training begins

    def view_of(self, name: str, layout: Layout) -> "LoggedViews":
        """The views of the measured loss ``name`` (`lca.tracking.ViewsByName`)."""
        folder = self._folder / _folder_name(name)
        log = TensorBoardView(layout, folder, every=self._every, picture_every=self._picture_every)
        return LoggedViews(**vars(RunViews.of(layout)), log=log)


class TensorBoardView:
    """Writes one measured loss to ``folder``; a `lca.views.View` for loops of one's own.

    The parameters are those of `TensorBoard`, which says what is written. `close` writes what is still held
    back; so does the end of the process.
    """

    def __init__(
        self, layout: Layout, folder: str | PathLike[str], *, every: int = 1, picture_every: int = 50
    ) -> None:
        self._groups = layout.groups("layer")
        self._every, self._picture_every = every, picture_every
        self._totals, self._residual = np.zeros(len(self._groups)), 0.0
        self._rows: list[np.ndarray] = []
        self._writer = _writer_class()(str(folder))
        self.close = weakref.finalize(self, self._writer.close)

    def update(self, allocation: StepAllocation) -> None:
        row = self._groups.total(allocation.values)
        self._rows.append(row)
        self._totals += row
        self._residual += allocation.residual
        if len(self._rows) % self._every == 0:
            self._scalars(allocation, row)
        if len(self._rows) % self._picture_every == 0:
            picture = layer_time_picture(np.array(self._rows))
            self._writer.add_image("layers_over_time", picture, allocation.step, dataformats="HWC")

    def _scalars(self, allocation: StepAllocation, row: np.ndarray) -> None:
        signs = self._groups.signs(allocation.values)
        helped, hurt = int(signs.negative.sum()), int(signs.positive.sum())
        found = {"loss": allocation.loss_end, "residual_so_far": self._residual}
        if helped + hurt and not allocation.sampled:  # noise turns signs (lca.views.signs.NOISY)
            found["helping_percent"] = 100 * helped / (helped + hurt)
        for name, value, total in zip(self._groups.names, row, self._totals, strict=True):
            found[f"LCA/{name}"], found[f"LCA_so_far/{name}"] = value, total
        for tag, number in found.items():
            if np.isfinite(number):  # an estimator may not measure the loss
                self._writer.add_scalar(tag, number, allocation.step)


@dataclass(frozen=True, eq=False)
class LoggedViews(RunViews):
    """The default views of a tracker, and ``log``, which writes to TensorBoard."""

    log: TensorBoardView

    def update(self, allocation: StepAllocation) -> None:
        super().update(allocation)
        self.log.update(allocation)


def layer_time_picture(rows: np.ndarray) -> np.ndarray:
    """Layers × time, (height, width, 3) bytes: blue helped, red hurt, white neither.

    Parameters
    ----------
    rows
        (T, layers). Steps are added up where there are more than pixels; colours are linear up to a
        hundredth of the largest value, and logarithmic beyond.

    Examples
    --------
    >>> layer_time_picture(np.array([[-1.0], [0.0], [1.0]]))[0, [0, 200, 399]].tolist()
    [[0, 114, 178], [255, 255, 255], [213, 94, 0]]
    """
    count = min(len(rows), WIDTH)
    sums = np.add.reduceat(rows, np.arange(count) * len(rows) // count, axis=0)
    largest = np.abs(sums).max() or 1.0
    strength = np.log1p(100 * np.abs(sums) / largest) / np.log1p(100)
    ink = np.where((sums < 0)[..., None], BLUE, RED)
    colors = np.round(WHITE + strength[..., None] * (ink - WHITE)).astype(np.uint8)
    wide = colors[np.arange(WIDTH) * count // WIDTH]
    return np.asarray(np.repeat(wide.swapaxes(0, 1), ROW, axis=0))


def _folder_name(loss: str) -> str:
    """The name of a loss as that of one folder, whatever is in it.

    >>> _folder_name("by class"), _folder_name("../up"), _folder_name("..")
    ('by class', '..%2Fup', '%2E%2E')
    """
    name = quote(loss, safe=" ")
    return name if name.strip(".") else name.replace(".", "%2E") or "unnamed"


def _writer_class() -> Any:
    with extra("tensorboard"):
        from tensorboardX import SummaryWriter  # noqa: PLC0415

    return SummaryWriter
