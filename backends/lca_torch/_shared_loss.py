"""`SharedLoss`: a `TorchLoss` whose evaluations are shared by several ranks."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lca.errors import DataError, LayoutError, LCAError
from lca.frameworks import Measured, PyTree, examples_in, is_rows, require_weight, tensors_in
from lca.objective import State
from lca_torch._live import ParameterVector
from lca_torch._model_loss import GroupSum, TorchLoss
from lca_torch._process_group import MeasuringRanks
from lca_torch._shared_data import require_same_data, require_same_loss
from lca_torch._state import checksum

SPREAD = 0.3
"""The standard deviation of the parameters at which the losses of the ranks are compared."""


class SharedLoss(TorchLoss):
    """The same loss and gradient as `TorchLoss`, with each measuring batch evaluated by one rank only.

    Each batch of an evaluation is assigned to the rank that has the fewest examples so far; if all batches
    have the same size, rank r of W gets the batches r, r + W, r + 2W, ... The sums of the losses are added in
    float64, those of the gradients in the dtype of θ, so the result is that of one process up to rounding,
    and bitwise equal on all ranks.

    Until `share` is called, each rank evaluates all batches itself, as when the objective is tested.

    An evaluation takes one round of messages of a few hundred bytes and, with a gradient, one all-reduce of a
    vector (K,) for each group of batches. For state that changes in training (running statistics), the values
    of rank 0 are used, as in `torch.nn.parallel.DistributedDataParallel`: this takes one more round, in which
    the tensors that differ are sent.

    Parameters
    ----------
    *args, **options
        As of `TorchLoss`.
    ranks
        The ranks that share the evaluations.

    Attributes
    ----------
    teams, team
        Among how many the batches are divided, and which of them is this rank: every rank is one.
    leads
        Whether this rank states the results of its team.
    """

    meets_in_passes: ClassVar[bool] = False
    """Whether passes transfer between the teams, so that all of them make as many."""

    def __init__(self, *args: Any, ranks: MeasuringRanks, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ranks = ranks
        self.teams, self.team, self.leads = ranks.count, ranks.rank, True
        self._drawn = 0
        self._own_state: State | None = None
        self._common: tuple[list[int], State] | None = None

    def share(self, data: Measured, batch_size: int | None) -> None:
        """Divide the batches among the ranks from now on.

        Raises and warns like `require_same_data`. Raises `LCAError` if the ranks have other losses: each
        evaluates the first batch at the same point in the same state, so that an attribute of the model or an
        option of the loss function that differs is noticed.
        """
        require_same_data(self.ranks, self.layout, data, batch_size, self.teams)
        self.shares = self.ranks.count
        theta = self._somewhere()
        batch, state, loss = next(iter(data.batches(batch_size))), self.state(), math.nan
        with suppress(LCAError):  # such as a weight of 0
            [(loss, _)] = super().evaluate_each(theta, [[batch]], state, gradient=False)
        require_same_loss(self.ranks, loss, self.trainable())

    def _somewhere(self) -> Tensor:
        """The same point on all ranks, away from θ."""
        drawn = torch.randn(self.layout.size, generator=torch.Generator().manual_seed(0))
        return (SPREAD * drawn).to(self.form.device, self.form.dtype)

    def own(self, batches: Iterable[PyTree]) -> Iterable[PyTree]:
        """Mark batches that only this rank has, so that it evaluates all of them."""
        return Own(batches)

    def of_all(self, values: Sequence[float]) -> list[Sequence[float]]:
        return [values] if self.shares == 1 else self.ranks.gather("a comparison of numbers", list(values))

    def state(self) -> State:
        own = super().state()
        tensors = {name: value for name, value in own.items() if isinstance(value, Tensor)}
        if self.shares == 1 or not tensors:
            return own
        with self.ranks.exchange.telling():
            sums = [checksum(tensor) for tensor in tensors.values()]
            first, *others = self.ranks.gather("the state of a loss", sums)
            differing = [any(other[i] != first[i] for other in others) for i in range(len(first))]
            if not any(differing):
                self._common = None
                return own
            if self._common is None or own is not self._own_state or self._common[0] != first:
                pairs = zip(tensors.items(), differing, strict=True)
                sent = {name: self.ranks.from_first(tensor) for (name, tensor), other in pairs if other}
                self._own_state, self._common = own, (first, {**own, **sent})
            return self._common[1]

    def evaluate_each(
        self,
        theta: Tensor,
        groups: Sequence[Iterable[PyTree]],
        state: State | None = None,
        *,
        gradient: bool,
        names: Collection[str] | None = None,
    ) -> list[tuple[float, Tensor | None]]:
        if self.shares == 1:
            return super().evaluate_each(theta, groups, state, gradient=gradient, names=names)
        ranks, work = self.ranks, Work(self.teams)
        what = "loss and gradient" if gradient else "the loss"
        call = what if len(groups) == 1 else f"{what} of {len(groups)} parts of the data"
        with ranks.exchange.telling():
            mine = [self._mine(batches, work) for batches in groups]
            sums = self._sums(theta, mine, state, lambda weight: 1.0, gradient=gradient, names=names)
            own = [[one.loss, one.weight] for one in sums]
            told = ranks.gather(call, [self._checksums(theta), work.batches, self._drawn_since(), own])
            self._require_same_point(told)
            return [self._mean(one, [parts[i] for *_, parts in told]) for i, one in enumerate(sums)]

    def sample(self, rows: PyTree, weight: np.ndarray | None) -> PyTree:
        made = super().sample(rows, weight)
        if self.shares > 1:
            weights = [] if weight is None else [torch.as_tensor(weight)]
            self._drawn += sum(map(checksum, [*tensors_in(rows), *weights]))
        return made

    def scores(self, theta: Tensor, batches: Iterable[PyTree]) -> np.ndarray:
        if self.shares == 1:
            return super().scores(theta, batches)
        with self.ranks.exchange.telling():
            every = list(batches)
            ends = np.cumsum([0, *map(examples_in, every)])
            work = Work(self.teams)
            teams = [work.team_of(batch) for batch in every]
            mine = [i for i, team in enumerate(teams) if team == self.team]
            evaluated = [every[i] for i in mine]
            if self.meets_in_passes:
                most = max(map(teams.count, range(self.teams)))
                evaluated += every[:1] * (most - len(mine))
            own = super().scores(theta, evaluated)
            places = [np.arange(ends[i], ends[i + 1]) for i in mine]
            found = torch.zeros(int(ends[-1]), dtype=torch.float64)
            if places and self.leads:
                index = np.concatenate(places)
                found[index] = torch.as_tensor(own[: len(index)])
            place = [self._checksums(theta), len(every), self._drawn_since(), []]
            told = self.ranks.gather("the errors of the examples", place)
            self._require_same_point(told)
            scores: np.ndarray = self.ranks.add(found.to(self.device)).cpu().numpy()
        return scores

    def _mine(self, batches: Iterable[PyTree], work: "Work") -> Iterator[PyTree]:
        """The batches that this rank evaluates."""
        if isinstance(batches, Own):
            return iter(batches)
        return (batch for batch in batches if work.team_of(batch) == self.team)

    def _summed(self, gradient: Tensor) -> Tensor:
        """The sum of the gradients of all ranks."""
        return self.ranks.add(gradient)

    def _checksums(self, theta: Tensor) -> dict[str, int]:
        """Checksums of what several ranks hold of θ, by these ranks: here all hold all of it."""
        pieces = theta.pieces if isinstance(theta, ParameterVector) else [theta]
        return {"all": sum(map(checksum, pieces))}

    def _drawn_since(self) -> int:
        """A checksum of the samples drawn since the last evaluation."""
        drawn, self._drawn = self._drawn, 0
        return drawn

    def _mean(self, one: GroupSum, parts: list[list[float]]) -> tuple[float, Tensor | None]:
        """The mean over the batches of all ranks, computed from the sums of each rank."""
        losses, weights = zip(*parts, strict=True)
        total = require_weight(math.fsum(weights))
        grad = None if one.gradient is None else self._summed(one.gradient).div_(total)
        return math.fsum(losses) / total, grad

    def _require_same_point(self, told: list[Any]) -> None:
        """Raise unless all ranks have the same θ, the same samples and the same number of batches."""
        thetas, numbers, samples, _ = zip(*told, strict=True)
        known = dict[str, tuple[int, int]]()
        for rank, sums in enumerate(thetas):
            for holders, found in sums.items():
                first, expected = known.setdefault(holders, (rank, found))
                if found != expected:
                    raise LayoutError(
                        f"the parameters of rank {rank} differ from those of rank {first}, so there is no "
                        "point at which to measure; train with torch.nn.parallel.DistributedDataParallel, "
                        "give the ranks of one tensor-parallel group the same batches, or measure each model "
                        "by itself with process_group=None."
                    )
        if len(set(samples)) > 1:
            raise DataError(
                "the ranks have drawn different samples, as after tracker.scores(...) with the errors of the "
                "batch of each rank; let the estimator evaluate the errors with refresh=n, or use "
                "sampling='uniform'."
            )
        if len(set(numbers)) > 1:
            raise DataError(
                f"the measured data do not give every rank the same batches: rank 0 has read {numbers[0]}, "
                f"others {', '.join(str(n) for n in numbers[1:] if n != numbers[0])}; pass data that do, or "
                "keep them with keep=True."
            )


class Work:
    """Assigns the batches of an evaluation to teams; every rank computes the same assignment."""

    def __init__(self, teams: int) -> None:
        self._examples, self.batches = [0] * teams, 0

    def team_of(self, batch: PyTree) -> int:
        """The team that evaluates the next batch."""
        self.batches += 1
        team = self._examples.index(min(self._examples))
        self._examples[team] += examples_in(batch) if is_rows(batch) else 1
        return team


class Own:
    """Batches that only this rank has."""

    def __init__(self, batches: Iterable[PyTree]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[PyTree]:
        return iter(self.batches)
