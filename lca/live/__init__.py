"""Live views of a run: TensorBoard, and a progress bar that shows the residual so far.

`TensorBoard` needs the extra ``tensorboard``, and `progress_bar` the extra ``report``; importing this package
needs neither.
"""

from lca.live._progress import progress_bar
from lca.live._tensorboard import TensorBoard, TensorBoardView

__all__ = ["TensorBoard", "TensorBoardView", "progress_bar"]
