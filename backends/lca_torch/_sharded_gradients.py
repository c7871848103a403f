"""`ShardedGradients`: the gradients of training of a model whose parameters are spread over the ranks."""

from collections.abc import Collection, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from lca.errors import LCAError
from lca_torch._distribution import gathered
from lca_torch._gradients import ELSE, Gradients, Places, Versions
from lca_torch._kinds import holds_summands, is_sharded, local_part
from lca_torch._live import detached, flat, holds
from lca_torch._optimizers import require_inherited_step
from lca_torch._process_group import MeasuringRanks
from lca_torch._shard_vector import Shards, ShardVector
from lca_torch._state import checksum


class ShardedGradients(Gradients):
    """Reads the shards of ``.grad`` that this rank holds, as `ShardVector` s.

    FSDP2 puts the gradient of a backward pass there, averaged over the ranks, when the pass ends. The
    optimizers of which updates are known compute entry by entry, so that a rank finds the updates of its
    shards by itself.

    Parameters
    ----------
    model
        The model that is trained.
    parameters
        The measured parameters in the order of θ.
    shards
        Which entries of θ each rank holds.
    """

    def __init__(self, model: nn.Module, parameters: Sequence[nn.Parameter], shards: Shards) -> None:
        named = dict(zip(shards.layout.names, parameters, strict=True))
        super().__init__([named[name] for name in shards.names])
        self._model, self._shards = model, shards
        self._leaves: list[Tensor] = []
        self._before: Versions = [], []

    def leaves(self) -> Sequence[Tensor]:
        """The whole parameters that FSDP2 gathers for a forward pass, and gathers here once to find them."""
        if not self._leaves:
            taken = {id(own): whole for own, whole in gathered(self._model)}
            self._leaves = [taken.get(id(own), own) for own in self.parameters]
        return self._leaves

    def read(self) -> ShardVector:
        return ShardVector(flat(self._held()), self._shards)

    def equal(self, vector: Tensor) -> bool:
        """As of `Gradients`, on all ranks.

        Raises
        ------
        LCAError
            If the ranks have different gradients of a parameter that each of them holds whole.
        """
        assert isinstance(vector, ShardVector)
        ranks, parts = self._shards.ranks, self._shards.unflatten(vector.local)
        pairs = zip(parts.items(), self.parameters, strict=True)
        whole = {name: checksum(part) for (name, part), own in pairs if not is_sharded(own)}
        mine = holds(vector.local, self._held()), list(whole.values())
        told = ranks.gather("the gradient of training", mine)
        for i, name in enumerate(whole):
            if len({sums[i] for _, sums in told}) > 1:
                raise LCAError(
                    f"the gradient of {name!r}, which every rank holds whole, differs between the ranks: "
                    "FSDP2 does not reduce that of a parameter in ignored_params, and under tensor "
                    f"parallelism every rank takes the same batch. Shard this parameter, too, {ELSE}"
                )
        return all(same for same, _ in told)

    def moved(self, vector: Tensor) -> bool:
        return False  # not compared, as all ranks would have to

    def nonzero(self) -> set[int]:
        with detached():
            return {
                which
                for which, grad in enumerate(self._grads())
                if grad is not None and bool(local_part(grad).any())
            }

    def places(self) -> Places:
        with detached():
            held = [local_part(own).data_ptr() for own in self.parameters]
        return held, self._counts(self.parameters)

    def pass_begins(self, first: int, added: Tensor | None) -> None:
        self._before = self.versions()

    def pass_ended(self, reached: Collection[int]) -> None:
        unchanged = list(self._each_unchanged(self._before))
        if any(unchanged[which] for which in reached):
            raise LCAError(
                "the gradient of a micro-batch was not reduced over the ranks, because of "
                "set_requires_gradient_sync(False) or no_sync(), so that no rank has its shards in .grad; "
                "let FSDP2 reduce the gradients of every backward pass, which accumulate in .grad all the "
                f"same, {ELSE}"
            )

    def agreed(self, weights: Sequence[float], known: bool) -> tuple[Sequence[float], bool]:
        """The sum over the ranks of the weights of each micro-batch, of which every rank has a part."""
        told = self._shards.ranks.gather("the weights of micro-batches", [known, list(weights)])
        numbers = [len(own) for _, own in told]
        if len(set(numbers)) > 1:
            raise LCAError(
                f"the ranks have taken the gradients of {numbers} micro-batches for one update; give every "
                "rank the same number, in the same order."
            )
        return [sum(own) for own in zip(*(own for _, own in told), strict=True)], all(k for k, _ in told)

    def of_ranks(self, measuring: MeasuringRanks) -> NoReturn:
        raise LCAError(
            "the gradient of a single rank exists only while FSDP2 reduces it, so the batches of the ranks "
            "cannot be micro-batches of a sharded model; accumulate the gradients of several batches of "
            "tracker.batches(loader), or of the pieces of one, tracker.micro_batches(batch, M)."
        )

    def update_slope(self, optimizer: torch.optim.Optimizer, gradient: Tensor) -> Tensor | float:
        assert isinstance(gradient, ShardVector)
        slope = super().update_slope(optimizer, gradient.local)
        return ShardVector(slope, self._shards) if isinstance(slope, Tensor) else slope

    def updates_without(
        self, optimizer: torch.optim.Optimizer, gradients: Sequence[Any], weights: Sequence[float]
    ) -> list[Tensor]:
        found = super().updates_without(optimizer, [own.local for own in gradients], weights)
        return [ShardVector(update, self._shards) for update in found]

    def check_of(self, optimizer: torch.optim.Optimizer, gradient: Any) -> None:
        """Of shards no update is compared, so that it has to be known."""
        require_inherited_step(optimizer)

    def left_out(self, *args: Any, **options: Any) -> None:
        """Of shards the updates are computed at once."""

    def without(self, vector: Tensor, which: Collection[int]) -> Tensor:
        if not which:
            return vector
        assert isinstance(vector, ShardVector)
        parts = enumerate(self._shards.unflatten(vector.local).values())
        local = torch.cat([(p * 0 if i in which else p).reshape(-1) for i, p in parts])
        return ShardVector(local, self._shards)

    def _local(self) -> list[Tensor]:
        with detached():
            return [local_part(own) for own in self.parameters]

    def _held(self) -> list[Tensor]:
        """For each parameter, the gradient of the shard of this rank, in its dtype; zeros if it has none."""
        pairs = list(zip(self._known_grads(), self.parameters, strict=True))
        if any(holds_summands(grad, own) for grad, own in pairs):
            self._require_in_order()
            # An error of another rank is raised here: it would take no part in the sum.
            self._shards.ranks.gather("a sum of gradients", None)
        with detached():
            return [
                torch.zeros_like(local_part(own))
                if grad is None
                else local_part(grad, own).to_dense().to(own.dtype)
                for grad, own in pairs
            ]

    def _require_in_order(self) -> None:
        """Raise `LCAError` if ranks hold summands of the gradient of a parameter that is divided.

        Parameters that every rank holds whole are in the same order on all ranks, so that summands of their
        gradients can be added one after another.
        """
        for name, own in zip(self._shards.names, self.parameters, strict=True):
            whole = all(placement.is_replicate() for placement in getattr(own, "placements", ()))
            if not whole and holds_summands(own.grad, own):
                placements: Any = own.grad, own
                grad, parameter = (each.placements for each in placements)
                raise LCAError(
                    f"the gradient of {name!r} is divided as {grad}, and the parameter as {parameter}, which "
                    f"is not followed; leave it as the backward pass divides it, {ELSE}"
                )

    def _counts(self, tensors: Sequence[Tensor | None]) -> list[int]:
        with detached():  # FSDP2 writes past the `DTensor`
            return [-1 if own is None else own._version + local_part(own)._version for own in tensors]
