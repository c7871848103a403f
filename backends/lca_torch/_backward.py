"""`BackwardPasses`: when backward passes begin and end to add to the gradients of parameters."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import get_gradient_edge

from lca_torch._updates import calling, untraced


class BackwardPasses:
    """Calls ``begins`` before a backward pass first adds to a gradient, and ``ended`` when it is over.

    It listens to the nodes of the graph that accumulate gradients, and not to the parameters: their hooks
    and gradients stay as they are. A pass that computes gradients without accumulating them
    (`torch.autograd.grad`) is none. A pass inside another that has added to a gradient (reentrant
    checkpointing) is part of that one. Leaves that are frozen may be trained later. An error of a listener
    does not reach the backward pass of training; `check` raises it.

    Parameters
    ----------
    leaves
        Returns the leaves of the graph whose gradients count.
    begins, ended
        Called with the index of the first leaf that the pass reaches and the gradient that it adds to that
        one, and without arguments.

    Attributes
    ----------
    reached
        Which of the leaves the last pass, or the current one, has computed a gradient of.
    """

    def __init__(
        self,
        leaves: Callable[[], Sequence[Tensor]],
        begins: Callable[[int, Tensor | None], None],
        ended: Callable[[], None],
    ) -> None:
        self._leaves = leaves
        self._begins, self._ended = begins, ended
        self.reached: set[int] = set()
        self._hooks: list[Any] = []
        self._nodes: list[Any] = []  # leaves do not keep them alive
        self._pass, self._running = -1, False
        self._error: Exception | None = None
        self._end: Any = None

    def listen(self) -> None:
        """Begin to listen."""
        found = {which: _node(leaf) for which, leaf in enumerate(self._leaves()) if _is_trainable(leaf)}
        self._nodes = list(found.values())
        self._hooks = [
            node.register_prehook(untraced(partial(self._accumulates, which)))
            for which, node in found.items()
        ]
        self._end = untraced(self._over)

    def stop(self) -> None:
        """Listen no longer."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._nodes = [], []

    def check(self) -> None:
        """Raise the error of a listener since the last call."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _accumulates(self, which: int, grads: Sequence[Tensor | None]) -> None:
        current = torch._C._current_graph_task_id()
        # A pass that has raised an error seems to be running still, but the next one is not inside of it.
        if current == self._pass or (self._running and calling(BackwardCFunction)):
            self.reached.add(which)
            return
        self._pass, self._running, self.reached = current, True, {which}
        self._guard(partial(self._begins, which, grads[0]))
        queue = Variable._execution_engine.queue_callback
        # Queued anew at the end, so that it follows the callbacks of DistributedDataParallel.
        queue(partial(queue, self._end))

    def _over(self) -> None:
        self._running = False
        self._guard(self._ended)

    def _guard(self, listener: Callable[[], None]) -> None:
        try:
            listener()
        except Exception as error:
            self._error = error


def _is_trainable(leaf: Tensor) -> bool:
    """Whether a leaf is trained or may be."""
    return leaf.requires_grad or (leaf.is_floating_point() and not leaf.is_inference())


def _node(leaf: Tensor) -> Any:
    """The node that accumulates the gradient of a leaf, which stays the same while it is frozen."""
    trained = leaf.requires_grad
    try:
        return get_gradient_edge(leaf.requires_grad_()).node
    finally:
        leaf.requires_grad_(trained)
