"""`ExampleDerivatives`: the slopes of examples, by the cheapest method that is correct for a model."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lca.by_example import ExampleSlopes, GroupMovement
from lca.errors import DataError
from lca.frameworks import PyTree, examples_in
from lca.frameworks._by_example import joined_slopes, single_examples
from lca.frameworks._trees import take
from lca.layout import Layout
from lca.tolerances import rebatched
from lca_torch._by_example import ForwardMode
from lca_torch._by_example_local import LocalSlopes
from lca_torch._parameters import Leaves

_FEW = 4
"""The number of examples whose slopes are checked against per-example gradients."""


class Measuring(Protocol):
    """Returns a context that yields the function that computes the loss or losses of a batch, and θ."""

    def __call__(self, *, gradient: bool) -> AbstractContextManager[tuple[Any, Leaves]]: ...


class ExampleDerivatives:
    """The slopes of the examples of one loss: directional derivatives along the movement of each group.

    1. One backward pass for all groups whose tensors are weights and biases of layers that are linear in them
       (`LocalSlopes`). For each tensor, the slopes of a few examples are compared once with their gradients.
    2. Forward mode for the other groups (`ForwardMode`).
    3. One gradient per example, computed by the caller, if an operation has no forward-mode derivative.

    Parameters
    ----------
    layout
        The tensors in θ.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._forward = ForwardMode()
        self.local = True  # whether the first method can be used
        self.right: set[str] = set()  # the tensors for which it was found correct
        self.wrong: set[str] = set()  # those used by other operations, or for which it was found incorrect

    def slopes(
        self,
        measuring: Measuring,
        batches: Sequence[PyTree],
        movement: GroupMovement,
        *,
        at_once: bool,
        one_by_one: Callable[[PyTree], ExampleSlopes],
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
        one_by_one
            Computes the slopes of a batch from one gradient per example, for comparison.
        """
        found: ExampleSlopes | None = None
        if self.local and movement.groups.whole_tensors and movement.moving:
            found, movement = self._locally(measuring, batches, movement, at_once, one_by_one)
            if found is not None and not movement.moving:
                return found

        def forward() -> AbstractContextManager[tuple[Any, Leaves]]:
            return measuring(gradient=False)

        rest = self._forward.slopes(forward, batches, movement, self._layout, at_once=at_once)
        if found is None or rest is None:
            return rest
        return ExampleSlopes(found.losses, found.slopes + rest.slopes)

    def _locally(
        self,
        measuring: Measuring,
        batches: Sequence[PyTree],
        movement: GroupMovement,
        at_once: bool,  # noqa: FBT001
        one_by_one: Callable[[PyTree], ExampleSlopes],
    ) -> tuple[ExampleSlopes | None, GroupMovement]:
        """The slopes of the groups that `LocalSlopes` covers, and the movement of all other groups."""
        moved = self._moving_tensors(movement)
        try:
            with measuring(gradient=True) as (run, leaves):
                tensors = {name: leaves.tensors[name] for name in moved}
                parts = []
                for batch in batches:
                    mode = LocalSlopes(tensors, moved, examples_in(batch))
                    with mode:
                        loss = run(batch)
                    slopes = mode.slopes(loss.sum() if at_once else examples_in(batch) * loss)
                    self.wrong |= mode.uncovered
                    parts.append((loss.detach() if at_once else _single_losses(run, batch), slopes))
        except DataError as error:
            if not isinstance(error.__cause__, RuntimeError | NotImplementedError):
                raise
            self.local = False
            return None, movement
        ids = {name: int(owner) for name, owner in zip(self._layout.names, movement.groups.ids, strict=True)}
        found = joined_slopes(movement, [_by_group(movement, ids, *part) for part in parts])
        self._compare(found, batches[0], {name: ids[name] for name in moved}, one_by_one)
        left = sorted({ids[name] for name in moved if name in self.wrong})
        found.slopes[left] = 0
        return found, GroupMovement(self._only(movement, left), movement.groups, movement.chunk)

    def _compare(
        self,
        found: ExampleSlopes,
        batch: PyTree,
        ids: Mapping[str, int],
        one_by_one: Callable[[PyTree], ExampleSlopes],
    ) -> None:
        """Compare the slopes of tensors not yet checked with those from gradients, on the first examples.

        A batch of a single example is not used: all rows belong to it, so the check says nothing about other
        batches.
        """
        new = {name: owner for name, owner in ids.items() if name not in self.right | self.wrong}
        if not new or examples_in(batch) == 1:
            return
        few = one_by_one(take(batch, slice(0, _FEW)))
        eps = float(np.finfo(np.float32).eps)
        scale = float(np.abs(few.slopes).sum() + np.abs(few.losses).sum())
        gaps = np.abs(found.slopes[:, : len(few.losses)] - few.slopes).max(axis=1)
        for name, owner in new.items():
            (self.right if gaps[owner] <= rebatched(scale, eps) else self.wrong).add(name)

    def _moving_tensors(self, movement: GroupMovement) -> dict[str, Tensor]:
        names = zip(self._layout.names, movement.groups.ids, strict=True)
        tensors: Mapping[str, Tensor] = self._layout.unflatten(movement.vector.detach())
        return {name: tensors[name] for name, owner in names if int(owner) in movement.moving}

    def _only(self, movement: GroupMovement, numbers: Sequence[int]) -> Tensor:
        """The movement of the groups with these indices, and 0 elsewhere."""
        vector: Tensor = torch.zeros_like(movement.vector)
        for name, owner in zip(self._layout.names, movement.groups.ids, strict=True):
            if int(owner) in numbers:
                at = self._layout.names.index(name)
                part = slice(self._layout.offsets[at], self._layout.offsets[at] + self._layout.sizes[at])
                vector[part] = movement.vector[part]
        return vector


def _single_losses(run: Any, batch: PyTree) -> Tensor:
    """The losses of the examples of a batch (n,), each evaluated as a batch of one example."""
    with torch.no_grad():
        return torch.stack([run(row) for row in single_examples([batch])])


def _by_group(
    movement: GroupMovement, ids: Mapping[str, int], losses: Tensor, slopes: Mapping[str, Tensor]
) -> ExampleSlopes:
    """The slopes of one batch, with one row for each group that changed."""
    sums = np.zeros((len(movement.groups), len(losses)))
    for name, slope in slopes.items():
        sums[ids[name]] += slope.double().cpu().numpy()
    return ExampleSlopes(losses.double().cpu().numpy(), sums[movement.moving])
