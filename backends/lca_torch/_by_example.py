"""`ForwardMode`: the losses of examples and their derivatives along the movement of groups, in forward mode.

One pass with the movement of a group as tangent gives the slopes of all examples, the directional derivatives
of their losses along this movement. Per-example gradients are never formed. The groups of a chunk share one
pass (`torch.func.vmap`).
"""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lca.by_example import ExampleSlopes, GroupMovement
from lca.errors import DataError
from lca.frameworks import PyTree, tensors_in, tree_map
from lca.frameworks._by_example import joined_slopes, warn_of_no_forward_mode
from lca.layout import Layout
from lca_torch._examples import BatchLoss, default_loss, example_losses
from lca_torch._parameters import Leaves
from lca_torch._replica import Replica

Tangents = Mapping[str, Tensor]
"""By name of a tensor that changed: its movement in each group of a chunk, (groups, *shape)."""
_SCRIPTS = "torch._decomp.decompositions_for_jvp"
Losses = Callable[[Tangents], Tensor]
"""Computes the losses of the examples of a batch (n,), with some tensors replaced by those given."""


def losses_of_examples(replica: Replica) -> BatchLoss:
    """A function of a model and a batch that returns the losses of its examples (n,), without reduction."""
    each = default_loss(example_losses(replica.loss_fn))

    def of_batch(model: nn.Module, batch: PyTree) -> Tensor:
        losses = each(model, batch)
        return losses.reshape(len(losses), -1).mean(1)

    return of_batch


class ForwardMode:
    """Forward-mode derivatives of one loss, in the fastest form that its operations support.

    Differentiates a chunk of groups per pass. Falls back to one group at a time if an operation cannot be
    batched over groups, and is unavailable if an operation has no forward-mode derivative. The form found
    is used in all later calls.
    """

    def __init__(self) -> None:
        self._forms = [_together, _group_by_group]

    def slopes(
        self,
        measuring: Callable[[], AbstractContextManager[tuple[Any, Leaves]]],
        batches: Sequence[PyTree],
        movement: GroupMovement,
        layout: Layout,
        *,
        at_once: bool,
    ) -> ExampleSlopes | None:
        """The slopes of all examples of the batches; ``None`` if forward mode is not available.

        Parameters
        ----------
        measuring
            Returns a context that yields the function that computes the loss of a batch, and θ.
        batches
            Batches of examples.
        movement
            The movement of the groups.
        layout
            The tensors in θ.
        at_once
            Whether the function returns the losses of all examples of a batch instead of their mean.

        Warns
        -----
        LCAWarning
            If forward mode is not available, so that one gradient per example is needed, which is slow.
        """
        _import_quietly()
        while self._forms:
            try:
                with measuring() as (run, leaves), sdpa_kernel(SDPBackend.MATH):
                    of = partial(_of_batch if at_once else _of_rows, run)
                    parts = [
                        self._of_chunks(partial(of, batch), leaves.tensors, movement, layout)
                        for batch in batches
                    ]
                return joined_slopes(movement, parts)
            except DataError as error:
                if not movement.moving or not isinstance(error.__cause__, RuntimeError | NotImplementedError):
                    raise
                self._forms.pop(0)
                if not self._forms:
                    warn_of_no_forward_mode(error.__cause__)
        return None

    def _of_chunks(
        self, losses: Losses, tensors: Mapping[str, Tensor], movement: GroupMovement, layout: Layout
    ) -> ExampleSlopes:
        """The losses of one batch, and the slopes along the groups that changed."""
        found, slopes = None, []
        for chunk in movement.chunks():
            tangents = _tangents(movement, chunk, layout)
            found, part = self._forms[0](losses, {name: tensors[name] for name in tangents}, tangents)
            slopes.append(_numbers(part))
        found = losses({}) if found is None else found
        own = _numbers(found)
        return ExampleSlopes(own, np.concatenate(slopes) if slopes else np.zeros((0, len(own))))


def _of_batch(run: Any, batch: PyTree, instead: Tangents) -> Tensor:
    losses: Tensor = run(batch, instead)
    return losses


def _of_rows(run: Any, batch: PyTree, instead: Tangents) -> Tensor:
    return one_by_one(lambda row: run(row, instead), batch)


def one_by_one(loss: Callable[..., Tensor], batch: PyTree, *more: Tensor) -> Tensor:
    """The losses of all examples (n,) in one pass, by `torch.func.vmap` of the loss of one.

    ``loss`` gets a batch of one example, and the entry of the example of each tensor in ``more``.
    """
    rows = list(tensors_in(batch))

    def of_row(*given: Tensor) -> Tensor:
        left = iter(given[: len(rows)])
        return loss(tree_map(lambda _: next(left)[None], batch), *given[len(rows) :])

    losses: Tensor = torch.func.vmap(of_row)(*rows, *more)
    return losses


def _together(losses: Losses, given: Tangents, tangents: Tangents) -> tuple[Tensor, Tensor]:
    """The losses, and the slopes along all groups of a chunk in one pass."""
    in_one: Any = torch.func.vmap
    along = in_one(partial(_derivative, losses, given), out_dims=(None, 0))
    found: tuple[Tensor, Tensor] = along(dict(tangents))
    return found


def _group_by_group(losses: Losses, given: Tangents, tangents: Tangents) -> tuple[Tensor, Tensor]:
    """The losses, and the slopes along the groups of a chunk in one pass per group."""
    number = len(next(iter(tangents.values())))
    each = [
        _derivative(losses, given, {name: tangent[i] for name, tangent in tangents.items()})
        for i in range(number)
    ]
    return each[0][0], torch.stack([slopes for _, slopes in each])


def _derivative(losses: Losses, given: Tangents, tangents: Tangents) -> tuple[Tensor, Tensor]:
    derivative: Any = torch.func.jvp
    found: tuple[Tensor, Tensor] = derivative(losses, (dict(given),), (dict(tangents),))
    return found


def _tangents(movement: GroupMovement, chunk: Sequence[int], layout: Layout) -> dict[str, Tensor]:
    """The movement of the groups of a chunk, by tensor; tensors without entries in them are omitted."""
    found, groups = {}, movement.groups
    for at, (name, moved) in enumerate(layout.unflatten(movement.vector.detach()).items()):
        if groups.whole_tensors:
            owner = int(groups.ids[at])
            if owner in chunk:
                found[name] = moved.new_zeros((len(chunk), *moved.shape))
                found[name][chunk.index(owner)] = moved
            continue
        start = layout.offsets[at]
        owners = groups.index[start : start + layout.sizes[at]].reshape(moved.shape)
        if np.isin(owners, chunk).any():
            masks = np.stack([owners == number for number in chunk])
            found[name] = torch.from_numpy(masks).to(moved.device) * moved
    return found


def _import_quietly() -> None:
    """Import what torch imports at the first forward-mode derivative, without its deprecation warning."""
    if _SCRIPTS not in sys.modules:
        with warnings.catch_warnings(), suppress(ImportError):
            warnings.simplefilter("ignore", DeprecationWarning)
            import_module(_SCRIPTS)


def _numbers(tensor: Tensor) -> np.ndarray:
    numbers: np.ndarray = tensor.detach().double().cpu().numpy()
    return numbers
