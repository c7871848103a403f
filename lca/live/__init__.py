"""Live views of a run: loggers, and a progress bar that shows the residual so far.

`TensorBoard`, `WandB` and `MLflow` need the extra of their name, `Progress` the extra ``progress``; importing
this package needs none.
"""

from lca.live._loggers import CSV, MLflow, WandB
from lca.live._logging import EveryNth, Logger, LogTo
from lca.live._progress import Progress, progress_bar
from lca.live._tensorboard import TensorBoard

__all__ = [
    "CSV",
    "EveryNth",
    "LogTo",
    "Logger",
    "MLflow",
    "Progress",
    "TensorBoard",
    "WandB",
    "progress_bar",
]
