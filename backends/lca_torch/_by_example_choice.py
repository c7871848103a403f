"""`ExampleDerivatives`: the slopes of examples, by the cheapest method that is correct for a model."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lca.by_example import ExampleSlopes, GroupMovement
from lca.errors import DataError
from lca.frameworks import PyTree
from lca.frameworks._by_example import joined_slopes
from lca.layout import Layout
from lca_torch._by_example import ForwardMode
from lca_torch._by_example_local import LocalSlopes
from lca_torch._parameters import Leaves


class Measuring(Protocol):
    """Returns a context that yields the function that computes the loss or losses of a batch, and θ."""

    def __call__(self, *, gradient: bool) -> AbstractContextManager[tuple[Any, Leaves]]: ...


class ExampleDerivatives:
    """The slopes of the examples of one loss: directional derivatives along the movement of each group.

    1. One backward pass for all groups whose tensors are weights and biases of layers that are linear in them
       (`LocalSlopes`).
    2. Forward mode for the other groups (`ForwardMode`).
    3. One gradient per example, computed by the caller, if an operation has no forward-mode derivative.

    Parameters
    ----------
    layout
        The tensors in θ.
    local
        Whether the first method can be used.
    """

    def __init__(self, layout: Layout, *, local: bool) -> None:
        self._layout, self.local = layout, local
        self._forward = ForwardMode()
        self.uncovered: set[str] = set()  # the tensors used by other operations

    def slopes(
        self,
        measuring: Measuring,
        batches: Sequence[PyTree],
        movement: GroupMovement,
        *,
        at_once: bool,
    ) -> ExampleSlopes | None:
        """The slopes of all examples; ``None`` if this requires one gradient per example.

        Parameters
        ----------
        measuring
            Returns a context in which the loss can be evaluated.
        batches
            Batches of examples.
        movement
            The movement of the groups.
        at_once
            Whether the losses of all examples of a batch can be computed together.
        """
        found: ExampleSlopes | None = None
        if self.local and movement.groups.whole_tensors and movement.moving:
            found, movement = self._locally(measuring, batches, movement)
            if found is not None and not movement.moving:
                return found

        def forward() -> AbstractContextManager[tuple[Any, Leaves]]:
            return measuring(gradient=False)

        rest = self._forward.slopes(forward, batches, movement, self._layout, at_once=at_once)
        if found is None or rest is None:
            return rest
        return ExampleSlopes(found.losses, found.slopes + rest.slopes)

    def _locally(
        self, measuring: Measuring, batches: Sequence[PyTree], movement: GroupMovement
    ) -> tuple[ExampleSlopes | None, GroupMovement]:
        """The slopes of the groups that `LocalSlopes` covers, and the movement of all other groups."""
        moved = self._moving_tensors(movement)
        try:
            with measuring(gradient=True) as (run, leaves), sdpa_kernel(SDPBackend.MATH):
                tensors = {name: leaves.tensors[name] for name in moved}
                parts = []
                for batch in batches:
                    mode = LocalSlopes(tensors, moved)
                    parts.append(mode.of_batch(run, batch))
                    self.uncovered |= mode.uncovered
        except (DataError, RuntimeError, NotImplementedError) as error:
            cause = error.__cause__ if isinstance(error, DataError) else error
            if not isinstance(cause, RuntimeError | NotImplementedError):
                raise
            self.local = False
            return None, movement
        ids = {name: int(owner) for name, owner in zip(self._layout.names, movement.groups.ids, strict=True)}
        found = joined_slopes(movement, [_by_group(movement, ids, *part) for part in parts])
        left = sorted({ids[name] for name in moved if name in self.uncovered})
        found.slopes[left] = 0
        rest = sum(map(movement.part, left), torch.zeros_like(movement.vector))
        return found, GroupMovement(rest, movement.groups, movement.chunk)

    def _moving_tensors(self, movement: GroupMovement) -> dict[str, Tensor]:
        names = zip(self._layout.names, movement.groups.ids, strict=True)
        tensors: Mapping[str, Tensor] = self._layout.unflatten(movement.vector.detach())
        return {name: tensors[name] for name, owner in names if int(owner) in movement.moving}


def _by_group(
    movement: GroupMovement, ids: Mapping[str, int], losses: Tensor, slopes: Mapping[str, Tensor]
) -> ExampleSlopes:
    """The slopes of one batch, with one row for each group that changed."""
    sums = np.zeros((len(movement.groups), len(losses)))
    for name, slope in slopes.items():
        sums[ids[name]] += slope.double().cpu().numpy()
    return ExampleSlopes(losses.double().cpu().numpy(), sums[movement.moving])
