"""`Loop`: the step fields of a training loop in torch, whose gradients accumulate in ``.grad``."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor, nn

from lca.arrays import array_ops
from lca.errors import LCAError
from lca.frameworks import PyTree, Rows, examples_in, is_rows, joined
from lca.tracking._context import LoopContext
from lca_torch._live import holds
from lca_torch._optimizers import updates_without
from lca_torch._ranks import Ranks


class Loop(LoopContext):
    """The gradient of a micro-batch is what it adds to ``.grad``, which is read and never written.

    The mark of a micro-batch is the sum of the gradients up to its end.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        requested: Callable[[], Collection[str]],
    ) -> None:
        super().__init__(requested)
        self._parameters, self._optimizer = parameters, optimizer
        self._before: list[tuple[Any, int]] = []
        self._grad: Tensor | None = None
        self._ranks: Ranks | None = None

    def ranks(self, group: Any) -> None:
        """From now on the micro-batches of an update are the batches of the ranks."""
        self.close()
        self._ranks = Ranks(self._parameters, group)

    def close(self) -> None:
        """The run is over."""
        self.clear()
        if self._ranks is not None:
            self._ranks.remove()
            self._ranks = None

    def supply(self, fields: Collection[str]) -> Mapping[str, Any]:
        self._end_micro_batch()
        if "micro_batches" in fields and self._ranks is not None:
            self._marks = self._ranks.marks()
        return super().supply(fields)

    def clear(self) -> None:
        super().clear()
        self._grad, self._before = None, []
        if self._ranks is not None:
            self._ranks.clear()

    def _begin_micro_batch(self, weight: float) -> None:
        super()._begin_micro_batch(weight)
        self._before = _versions(self._parameters)

    def _end_micro_batch(self) -> None:
        weight = self._weight
        super()._end_micro_batch()
        if weight is None:
            return
        if _untouched(self._parameters, self._before):  # the loop took no gradient from this batch
            self._batches = self._batches[:-1]
            return
        grad = next((p.grad for p in self._parameters if p.grad is not None), None)
        if self._grad is not None and grad is not self._grad:  # zeroed, without an update
            self._marks, self._batches = [], self._batches[-1:]
        self._grad = grad
        if "micro_batches" in self._requested() and self._ranks is None:
            self._marks.append((weight, flat_gradient(self._parameters)))

    def _count_examples(self, batch: PyTree) -> int:
        if not is_rows(batch):
            raise LCAError(
                "this batch cannot be split into micro-batches, which requires tensors of one length with a "
                "row for each example; split it yourself and loop over tracker.batches(pieces)."
            )
        return examples_in(batch)

    def _rows(self, batch: PyTree, start: int, stop: int) -> PyTree:
        return Rows(batch).take(slice(start, stop))

    def _joined(self, batches: Sequence[PyTree]) -> PyTree:
        whole = joined(list(batches))
        if not isinstance(whole, Rows):
            raise LCAError(
                "the batches of one update differ in structure, dtypes or shapes and cannot be joined into "
                "one; use an estimator that requires no batch (lca.estimators.CrossFit)."
            )
        return whole.tree

    def _label_errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        probabilities = logits.detach().softmax(1)
        return 1 - probabilities.gather(1, labels.reshape(-1, 1).to(logits.device)).squeeze(1)

    def _to_numpy(self, array: Any) -> np.ndarray:
        tensor = torch.as_tensor(array)
        return array_ops(tensor).to_numpy(tensor)

    def _gradient(self) -> Tensor:
        """As the optimizer sees it; the last mark itself if nothing has changed since."""
        scale = getattr(self._optimizer, "grad_scale", None)
        if scale is None and self._marks and holds(self._marks[-1][1], map(_dense, self._parameters)):
            mark: Tensor = self._marks[-1][1]
            return mark
        found = flat_gradient(self._parameters)
        return found if scale is None else found.div_(scale)  # a fused optimizer unscales by itself

    def _gradient_sums(self) -> tuple[Tensor, Iterable[Tensor]]:
        sums = [mark for _, mark in self._marks]
        return sums[-1], chain(sums[:1], (after - before for before, after in pairwise(sums)))

    def _updates_without(self, gradients: Sequence[Tensor], weights: Sequence[float]) -> list[Tensor]:
        return updates_without(self._optimizer, self._parameters, gradients, weights)


def flat_gradient(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The gradients that the parameters have now, a new vector (K,); 0 for a parameter without gradient."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.cat([_dense(parameter).reshape(-1) for parameter in parameters])


def _dense(parameter: nn.Parameter) -> Tensor:
    """The gradient of a parameter in its dtype; 0 if it has no gradient."""
    grad = parameter.grad
    if grad is None:
        return torch.zeros_like(parameter)
    dense = grad.detach().to_dense() if grad.is_sparse else grad.detach()
    return dense.to(parameter.dtype)


def _versions(parameters: Iterable[nn.Parameter]) -> list[tuple[Any, int]]:
    """Which tensors the gradients are and how often each was written to; keeps none of them alive."""
    grads = [parameter.grad for parameter in parameters]
    return [(None, 0) if grad is None else (ref(grad), grad._version) for grad in grads]


def _untouched(parameters: Iterable[nn.Parameter], before: Sequence[tuple[Any, int]]) -> bool:
    """Whether no gradient has been written to, created or removed since `_versions` returned ``before``."""
    return all(
        grad is None if was is None else was() is grad is not None and grad._version == version
        for grad, (was, version) in zip((p.grad for p in parameters), before, strict=True)
    )
