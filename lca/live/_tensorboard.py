"""`TensorBoard`: the loss change of each layer, in TensorBoard during training."""

import weakref
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lca._extras import extra
from lca._output import check_writable
from lca.errors import LCAError
from lca.layout import Layout
from lca.row import Row
from lca.summary import RunViews
from lca.views import RowView

WIDTH, ROW = 400, 16
"""Width of the picture and height of a layer in it, in pixels."""
BLUE, WHITE, RED = np.array([0, 114, 178]), np.array([255, 255, 255]), np.array([213, 94, 0])


class TensorBoard:
    """Views that write to TensorBoard: pass an instance as ``views=`` to a tracker or callback.

    Every measured loss is written to its own folder, named as in the tracker, so that TensorBoard shows the
    losses in the same charts. Scalars: ``loss``, ``residual_so_far``, ``helping_percent``, and for each layer
    ``LCA`` (of the step) and ``LCA_so_far``. Of a sampled estimator, at each self-check: ``checked_change``,
    the change of the measured loss since the first one, and ``checked_sum``, that of the allocations. Every
    ``picture_every`` steps: a picture of layers × time, blue where a layer is helping. The default views of a
    tracker are kept as well, so its ``summary()`` works.

    Parameters
    ----------
    folder
        The folder for ``tensorboard --logdir``; created if needed. Use one folder per run: a second tracker
        adds to the events that are there.
    every, picture_every
        Measured steps between scalars, and between pictures.

    Raises
    ------
    LCAError
        If ``every`` or ``picture_every`` is less than 1.
    OutputError
        If the folder cannot be written.

    Notes
    -----
    Needs the extra ``tensorboard`` (tensorboardX), but neither torch nor TensorFlow. Cost: no pass over the
    allocation of its own, because it reads the row of the step. Memory: one number per step and layer.

    Examples
    --------
    >>> import tempfile
    >>> from lca import SIMPSON, PathIntegral, Trajectory
    >>> from lca.reference import Quadratic
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
        _writer_class()  # fail now rather than when training begins

    def view_of(self, name: str, layout: Layout) -> "LoggedViews":
        """The views of the measured loss ``name``, as a session asks for them."""
        folder = self._folder / _folder_name(name)
        log = TensorBoardView(layout, folder, every=self._every, picture_every=self._picture_every)
        return LoggedViews(**vars(RunViews.of(layout)), log=log)


class TensorBoardView(RowView):
    """Writes one measured loss to ``folder``: a `lca.views.View` for any training loop.

    Parameters
    ----------
    layout
        The layout of the parameters.
    folder, every, picture_every
        As for `TensorBoard`, which also lists what is written.

    Attributes
    ----------
    close
        Call it to write all buffered events; the end of the process does the same.

    Examples
    --------
    >>> import tempfile
    >>> from lca import StepAllocation
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     view = TensorBoardView(Layout(("fc.w",), ((2,),)), folder)
    ...     view.update(StepAllocation(np.array([-1.0, 0.5]), 2.0, 1.5, residual=0.0, mass=1.5))
    ...     _ = view.close()
    ...     len(list(Path(folder).glob("events*")))
    1
    """

    def __init__(
        self, layout: Layout, folder: str | PathLike[str], *, every: int = 1, picture_every: int = 50
    ) -> None:
        super().__init__(layout)
        self._layers = layout.groups("layer").names
        self._every, self._picture_every = every, picture_every
        self._totals, self._residual = np.zeros(len(self._layers)), 0.0
        self._change = self._sum = 0.0  # over the windows of self-checks
        self._rows: list[np.ndarray] = []
        self._writer = _writer_class()(str(folder))
        self.close = weakref.finalize(self, self._writer.close)

    def read(self, row: Row) -> None:
        """Process the row of one step."""
        totals = row.totals("layer")
        self._rows.append(totals)
        self._totals += totals
        self._residual += row.allocation.residual
        if row.check is not None:
            self._change += row.check.change
            self._sum += row.check.total
            self._writer.add_scalar("checked_change", self._change, row.check.last_step)
            self._writer.add_scalar("checked_sum", self._sum, row.check.last_step)
        if len(self._rows) % self._every == 0:
            self._write_scalars(row)
        if len(self._rows) % self._picture_every == 0:
            picture = layer_time_picture(np.array(self._rows))
            self._writer.add_image("layers_over_time", picture, row.allocation.step, dataformats="HWC")

    def _write_scalars(self, row: Row) -> None:
        found = {"loss": row.allocation.loss_end, "residual_so_far": self._residual}
        signs = row.signs("layer")
        helping, hurting = int(signs.negative.sum()), int(signs.positive.sum())
        if helping + hurting and not row.allocation.sampled:  # noise turns signs (lca.views._signs.NOISY)
            found["helping_percent"] = 100 * helping / (helping + hurting)
        for name, value, total in zip(self._layers, self._rows[-1], self._totals, strict=True):
            found[f"LCA/{name}"], found[f"LCA_so_far/{name}"] = value, total
        for tag, number in found.items():
            if np.isfinite(number):  # NaN: the estimator does not measure the loss
                self._writer.add_scalar(tag, number, row.allocation.step)


@dataclass(frozen=True, eq=False)
class LoggedViews(RunViews):
    """The default views of a tracker, and ``log``, which writes to TensorBoard."""

    log: TensorBoardView

    def read(self, row: Row) -> None:
        """Process the row of one step."""
        super().read(row)
        self.log.read(row)


def layer_time_picture(rows: np.ndarray) -> np.ndarray:
    """A picture of layers × time, (height, width, 3) bytes: blue is helping, red is hurting, white is zero.

    Parameters
    ----------
    rows
        Totals (T, layers). If there are more steps than pixels, the steps of a pixel are summed. Colours are
        linear up to a hundredth of the largest value, and logarithmic beyond.

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
    """The name of a loss as the name of one folder, whatever characters it contains.

    >>> _folder_name("by class"), _folder_name("../up"), _folder_name("..")
    ('by class', '..%2Fup', '%2E%2E')
    """
    name = quote(loss, safe=" ")
    return name if name.strip(".") else name.replace(".", "%2E") or "unnamed"


def _writer_class() -> Any:
    with extra("tensorboard"):
        from tensorboardX import SummaryWriter  # noqa: PLC0415

    return SummaryWriter
