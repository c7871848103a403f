"""`CSV`, `WandB` and `MLflow`: the loggers that write to a file, to Weights & Biases and to MLflow."""

import csv
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import IO, Any

from lca._extras import extra
from lca._output import check_free, check_writable
from lca.live._logging import tagged

_LINES = 256
"""Lines that are collected before the file is flushed: the most that a killed process can lose."""
_HEADER = ("step", "loss", "name", "value")
_NOT_ALLOWED = re.compile(r"[^\w\-. /]", re.ASCII)


class CSV:
    """Writes a table with one line for each measured step, loss and number: ``step,loss,name,value``.

    Parameters
    ----------
    path
        The file. Further runs of one logger are appended.
    overwrite
        Whether a table of an earlier logger may be replaced, at the first step. Other files never are.

    Raises
    ------
    OutputError
        If there is a file that may not be replaced, or the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     logger = CSV(f"{folder}/run.csv")
    ...     logger.log(0, "train", {"loss": 2.0, "LCA/fc1": -0.5})
    ...     logger.close()
    ...     print(Path(f"{folder}/run.csv").read_text(), end="")
    step,loss,name,value
    0,train,loss,2.0
    0,train,LCA/fc1,-0.5
    """

    def __init__(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        self._path = Path(path)
        check_free(self._path, overwrite=overwrite, option="overwrite=True", is_ours=_is_table)
        check_writable(self._path.parent)
        self._file: IO[str] | None = None
        self._begun, self._lines = False, 0

    def log(self, step: int, loss: str, values: Mapping[str, float]) -> None:
        """As `Logger.log`."""
        if self._file is None:
            self._file = self._path.open("a" if self._begun else "w", newline="", encoding="utf-8")
            self._writer = csv.writer(self._file, lineterminator="\n")
            if not self._begun:
                self._writer.writerow(_HEADER)
            self._begun = True
        self._writer.writerows((step, loss, name, repr(float(value))) for name, value in values.items())
        self._lines += len(values)
        if self._lines >= _LINES:
            self._file.flush()
            self._lines = 0

    def close(self) -> None:
        """As `Logger.close`."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _is_table(path: Path) -> bool:
    """Whether a file begins as those of `CSV` do."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline(64).rstrip() == ",".join(_HEADER).encode()


class WandB:
    """Writes to a run of Weights & Biases, along with whatever else is logged there.

    The numbers are named ``lca/<loss>/<name>``, over an axis of their own, ``lca/step``. Each step is one
    call of ``run.log`` for each loss.

    Parameters
    ----------
    run
        What ``wandb.init`` returned. Default: the run that is active at the first step, or else a new
        one, which ends with the tracker.

    Notes
    -----
    Needs the extra ``wandb``.

    Examples
    --------
    >>> from lca.live import WandB
    >>> # with wandb.init(project="lca", mode="offline") as run:
    >>> #     with Tracker(model, optimizer, objective, log_to=WandB(run)) as tracker: ...
    """

    def __init__(self, run: Any = None) -> None:
        with extra("wandb"):
            import wandb  # noqa: PLC0415
        self._wandb, self._given = wandb, run
        self._run: Any = None
        self._own = False

    def log(self, step: int, loss: str, values: Mapping[str, float]) -> None:
        """As `Logger.log`."""
        if self._run is None:
            self._run = self._given or self._wandb.run
            self._own = self._run is None
            self._run = self._run or self._wandb.init()
            self._run.define_metric("lca/step", hidden=True)
            self._run.define_metric("lca/*", step_metric="lca/step")
        self._run.log({"lca/step": step, **tagged(loss, values)})

    def close(self) -> None:
        """As `Logger.close`; a run that was started outside of the logger goes on."""
        if self._own:
            self._run.finish()
        self._run, self._own = None, False


class MLflow:
    """Writes to a run of MLflow, under the names ``lca/<loss>/<name>``.

    MLflow allows letters, digits and ``_-. /`` in a name; other characters are replaced by ``_``.

    Parameters
    ----------
    run_id
        The run. Default: the one that is active at the first step, or else a new one, which ends with the
        tracker.

    Notes
    -----
    Needs the extra ``mlflow``. Each step is one call of MLflow for each loss.

    Examples
    --------
    >>> from lca.live import MLflow
    >>> # with mlflow.start_run():
    >>> #     with Tracker(model, optimizer, objective, log_to=MLflow()) as tracker: ...
    """

    def __init__(self, run_id: str | None = None) -> None:
        with extra("mlflow"):
            import mlflow  # noqa: PLC0415
        self._mlflow, self._given = mlflow, run_id
        self._run_id: str | None = None
        self._own = False

    def log(self, step: int, loss: str, values: Mapping[str, float]) -> None:
        """As `Logger.log`."""
        if self._run_id is None:
            self._run_id = self._given or self._active()
        named = {_NOT_ALLOWED.sub("_", name): value for name, value in tagged(loss, values).items()}
        self._mlflow.log_metrics(named, step=step, run_id=self._run_id)

    def close(self) -> None:
        """As `Logger.close`; a run that was started outside of the logger goes on."""
        if self._own:
            self._mlflow.end_run()
        self._run_id, self._own = None, False

    def _active(self) -> str:
        active = self._mlflow.active_run()
        self._own = active is None
        return str((active or self._mlflow.start_run()).info.run_id)
