"""A run while it goes on: in TensorBoard, and as a progress bar that shows the residual so far.

`TensorBoard` needs the extra ``tensorboard``, `progress_bar` the extra ``report``; importing this needs
neither.
"""

from lca.live.progress import progress_bar
from lca.live.tensorboard import TensorBoard, TensorBoardView

__all__ = ["TensorBoard", "TensorBoardView", "progress_bar"]
