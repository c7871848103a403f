"""`Loop`: what a training loop in torch has at hand for estimators on batches."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from lca.errors import LCAError
from lca.frameworks import PyTree, Rows, examples_in, is_rows, joined
from lca.step import ExampleScores, MicroBatch, check_outputs
from lca.tracking.context import LoopContext, multiple_of
from lca_torch.live import holds
from lca_torch.optimizers import updates_without
from lca_torch.ranks import Ranks


class Loop(LoopContext):
    """Remembers what passes by between two updates, as far as it is ``asked`` for.

    A part begins when a batch, or a piece of one, is given out, and ends when the loop comes back for another
    or makes its update: what ``.grad`` has grown by then is the part's. Nothing is written.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        asked: Callable[[], Collection[str]],
    ) -> None:
        super().__init__()
        self._parameters, self._optimizer, self._asked = parameters, optimizer, asked
        self._open: float | None = None
        self._before: list[tuple[Any, int]] = []
        self._grad: Tensor | None = None
        self._ranks: Ranks | None = None

    def ranks(self, group: Any) -> None:
        """From now on the parts of an update are the ranks' shares."""
        self.leave()
        self._ranks = Ranks(self._parameters, group)

    def leave(self) -> None:
        """The run is over."""
        self.forget()
        if self._ranks is not None:
            self._ranks.remove()
            self._ranks = None

    def batches(self, loader: Iterable[PyTree]) -> Iterator[PyTree]:
        """The batches of ``loader``, each remembered; several to one update are its parts."""
        for batch in loader:
            self.take(batch)
            yield batch
            self.close()

    def take(self, batch: PyTree) -> None:
        """Remember the batch that comes next."""
        self.part()
        self._batches.append(batch)

    def part(self) -> None:
        """A part of the coming update begins, of a batch that nobody shows."""
        self.close()
        self._begin(1.0)

    def micro_batches(self, batch: PyTree, n: int) -> Iterator[tuple[PyTree, float]]:
        """``batch`` in n pieces, each with its share of the examples."""
        if not isinstance(n, int) or n < 1:
            raise LCAError(f"a batch is split into a whole number of micro-batches ≥ 1, got {n!r}.")
        if not is_rows(batch) or not examples_in(batch):
            raise LCAError(
                "this batch cannot be cut into parts: it needs tensors of one length ≥ 1, a row an example; "
                "cut it yourself and tell the tracker with tracker.batches(pieces)."
            )
        rows, total = Rows(batch), examples_in(batch)
        if not self._batches or self._open is None:  # nobody has told of this batch
            self._batches.append(batch)
        n = min(n, total)  # a last batch may be too small; the estimator then says what it lacks
        ends = [-(-m * total // n) for m in range(n + 1)]  # the larger ones first
        for start, end in pairwise(ends):
            piece = rows.take(slice(start, end))
            self._begin(share := examples_in(piece) / total)
            yield piece, share
            self.close()

    def scores(self, index: Any, outputs: Tensor, labels: Tensor | None) -> None:
        """Errors of single examples, as the coming update's forward pass saw them."""
        if "scores" not in self._asked():
            return
        with torch.no_grad():
            if labels is not None:
                check_outputs(tuple(outputs.shape), tuple(labels.shape))
                right = outputs.detach().softmax(1).gather(1, labels[:, None].to(outputs.device))
                outputs = 1 - right.squeeze(1)
            numbers = torch.as_tensor(index).cpu().numpy()
            self._scores.append(ExampleScores(numbers, outputs.cpu().double().numpy()))

    def close(self) -> None:
        """The part under way, if there is one, has had its backward pass, or never will."""
        share, self._open = self._open, None
        if share is None:
            return
        if _untouched(self._parameters, self._before):  # a batch that the loop passed over
            self._batches = self._batches[:-1]
            return
        grad = next((p.grad for p in self._parameters if p.grad is not None), None)
        if self._grad is not None and grad is not self._grad:  # zeroed, without an update
            self._marks, self._batches = [], self._batches[-1:]
        self._grad = grad
        if "micro_batches" in self._asked() and self._ranks is None:
            self._marks.append((share, flat_gradient(self._parameters)))

    def _begin(self, share: float) -> None:
        """A part with this share of the update begins."""
        self._open = share
        self._before = _versions(self._parameters)

    def hand_over(self, fields: Collection[str]) -> Mapping[str, Any]:
        self.close()
        if "micro_batches" in fields and self._ranks is not None:
            self._marks = self._ranks.marks()
        return super().hand_over(fields)

    def forget(self) -> None:
        super().forget()
        self._open, self._grad, self._before = None, None, []
        if self._ranks is not None:
            self._ranks.forget()

    def _whole_batch(self) -> PyTree:
        whole = joined(self._batches)
        if not isinstance(whole, Rows):
            raise LCAError(
                "the batches of one update do not fit together (structure, dtypes or shapes), so they are no "
                "batch to measure on; use an estimator that needs none (lca.estimators.CrossFit)."
            )
        return whole.tree

    def _gradient(self) -> Tensor:
        """As the optimizer sees it; the last mark itself if nothing has changed since."""
        scale = getattr(self._optimizer, "grad_scale", None)
        if scale is None and self._marks and holds(self._marks[-1][1], map(_own, self._parameters)):
            mark: Tensor = self._marks[-1][1]
            return mark
        found = flat_gradient(self._parameters)
        return found if scale is None else found.div_(scale)  # a fused optimizer unscales by itself

    def _parts(self, gradient: Tensor) -> tuple[MicroBatch, ...]:
        shares = [share for share, _ in self._marks]
        shares = [share / sum(shares) for share in shares]
        marks = [mark for _, mark in self._marks]
        factor = 1.0 if marks[-1] is gradient else multiple_of(marks[-1], gradient)
        parts, before = [], None
        for share, mark in zip(shares, marks, strict=True):
            parts.append((mark if before is None else mark - before) * (factor / share))
            before = mark
        updates = updates_without(self._optimizer, self._parameters, parts, shares)
        return tuple(map(MicroBatch, parts, updates))


def flat_gradient(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The gradients that the parameters have now, a new vector (K,); 0 where there is none."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.cat([_own(parameter).reshape(-1) for parameter in parameters])


def _own(parameter: nn.Parameter) -> Tensor:
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
    """Whether no gradient has been written to, put there or taken away since."""
    return all(
        grad is None if was is None else was() is grad is not None and grad._version == version
        for grad, (was, version) in zip((p.grad for p in parameters), before, strict=True)
    )
