"""`TensorBoard`: the loss change of each layer, in TensorBoard during training."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lca._blocks import block_starts
from lca._extras import extra
from lca._output import check_writable
from lca.errors import LCAError
from lca.live._logging import tagged

PICTURE = "layers_over_time"
WIDTH, ROW = 400, 16
"""Width of the picture and height of a layer in it, in pixels."""
BLUE, WHITE, RED = np.array([0, 114, 178]), np.array([255, 255, 255]), np.array([213, 94, 0])


class TensorBoard:
    """Writes to TensorBoard: the numbers of each step, and pictures of layers × time.

    Every measured loss has its own folder, named after it, so that TensorBoard shows the losses in the same
    charts; with ``writer``, the names begin with that of the loss instead, as ``lca/train/loss``. Every
    ``picture_every`` steps: a picture of layers × time, blue where a layer is helping.

    Parameters
    ----------
    folder
        The folder for ``tensorboard --logdir``; created if needed. Use one folder per run: a second run adds
        to the events that are there.
    writer
        In place of ``folder``: a ``SummaryWriter`` of tensorboardX or torch, to which the
        training loop writes too. It is flushed when the run ends, and not closed.
    picture_every
        Steps between pictures.

    Raises
    ------
    LCAError
        If not exactly one of ``folder`` and ``writer`` is given, or ``picture_every`` is less than 1.
    OutputError
        If the folder cannot be written.

    Notes
    -----
    A folder needs the extra ``tensorboard`` (tensorboardX), but neither torch nor TensorFlow. Memory: one
    number per step and layer, for the picture.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     logger = TensorBoard(folder)
    ...     logger.log(0, "train", {"loss": 1.5, "LCA/fc1": -0.5})
    ...     logger.close()
    ...     [path.name for path in Path(folder).iterdir()]
    ['train']
    """

    def __init__(
        self, folder: str | PathLike[str] | None = None, *, writer: Any = None, picture_every: int = 50
    ) -> None:
        if (folder is None) == (writer is None):
            raise LCAError("TensorBoard needs a folder or writer=, and not both.")
        if picture_every < 1:
            raise LCAError(f"picture_every must be at least 1 step, got {picture_every}.")
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            check_writable(self._folder)
            _writer_class()  # fail now rather than when training begins
        self._shared, self._picture_every = writer, picture_every
        self._writers: dict[str, Any] = {}
        self._rows: dict[str, list[list[float]]] = {}

    def log(self, step: int, loss: str, values: Mapping[str, float]) -> None:
        """As `Logger.log`."""
        writer = self._shared or self._writer_of(loss)
        for tag, number in (values if self._shared is None else tagged(loss, values)).items():
            writer.add_scalar(tag, number, step)
        layers, rows = (
            [v for name, v in values.items() if name.startswith("LCA/")],
            self._rows.setdefault(loss, []),
        )
        if not layers:  # a self-check alone
            return
        rows.append(layers)
        if len(rows) % self._picture_every == 0:
            [tag] = tagged(loss, {PICTURE: 0.0}) if self._shared else [PICTURE]
            writer.add_image(tag, layer_time_picture(np.array(rows)), step, dataformats="HWC")

    def close(self) -> None:
        """As `Logger.close`."""
        if self._shared is not None:
            self._shared.flush()
        for writer in self._writers.values():
            writer.close()
        self._writers, self._rows = {}, {}

    def _writer_of(self, loss: str) -> Any:
        if loss not in self._writers:
            assert self._folder is not None
            self._writers[loss] = _writer_class()(str(self._folder / _folder_name(loss)))
        return self._writers[loss]


def layer_time_picture(rows: np.ndarray) -> np.ndarray:
    """A picture of layers × time, (height, width, 3) bytes: blue is helping, red is hurting, white is zero.

    Parameters
    ----------
    rows
        Totals (T, layers). If there are more steps than pixels, equally many of them are summed. Colours are
        linear up to a hundredth of the largest value, and logarithmic beyond.

    Examples
    --------
    >>> layer_time_picture(np.array([[-1.0], [0.0], [1.0]]))[0, [0, 200, 399]].tolist()
    [[0, 114, 178], [255, 255, 255], [213, 94, 0]]
    """
    sums = np.add.reduceat(rows, block_starts(len(rows), WIDTH), axis=0)
    largest = np.abs(sums).max() or 1.0
    strength = np.log1p(100 * np.abs(sums) / largest) / np.log1p(100)
    ink = np.where((sums < 0)[..., None], BLUE, RED)
    colors = np.round(WHITE + strength[..., None] * (ink - WHITE)).astype(np.uint8)
    wide = colors[np.arange(WIDTH) * len(sums) // WIDTH]
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
