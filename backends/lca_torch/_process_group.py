"""`MeasuringRanks`: the ranks that share the evaluations of an objective."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import torch
from torch import Tensor

from lca.errors import LCAError, LCAWarning
from lca_torch._exchange import END, GRACE, Exchange

TIMEOUT = 600.0
"""Seconds to wait for another rank, by default."""


class MeasuringRanks:
    """The ranks that share the evaluations of an objective.

    Parameters
    ----------
    group
        The process group of these ranks.
    timeout
        Seconds to wait for another rank.

    Attributes
    ----------
    group, timeout
        As given.
    rank, count
        The rank of this process in the group, and the size of the group.
    exchange
        For messages between these ranks.
    """

    def __init__(self, group: Any, timeout: float) -> None:
        self.group, self.timeout = group, timeout
        self.exchange = Exchange.of(group)
        self.rank, self.count = self.exchange.rank, self.exchange.count

    def gather(self, call: str, value: Any) -> list[Any]:
        """`Exchange.gather` with the timeout of these ranks."""
        return self.exchange.gather(call, value, self.timeout)

    def end(self, how: str | float | None) -> None:
        """State how an evaluation has ended, in place of the next `gather`.

        Parameters
        ----------
        how
            The error of this rank; or for how many seconds it has waited in a transfer that was not finished;
            ``None`` if it has a result.

        Raises
        ------
        LCAError
            If it has ended otherwise on another rank, or one was too late: with the same message on all.
        """
        waited = how if isinstance(how, float) else 0.0
        told = self.exchange.gather(END, how, max(GRACE, self.timeout - waited), waited)
        waits = [own for own in told if isinstance(own, float)]
        if len({type(own) for own in told}) > 1:
            rank, why = next((pair for pair in enumerate(told) if isinstance(pair[1], str)), (0, ""))
            why = why or "a transfer between the ranks was not finished"
            raise LCAError(f"rank {rank} measures no more: {why.rstrip('.')}.")
        if waits and max(waits) >= self.timeout:
            raise LCAError(
                f"rank {told.index(min(waits))} was more than {self.timeout:g} s late in the middle of an "
                "evaluation; raise rank_timeout if it was slow, and make the objective again."
            )

    def add(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place; call it only after a `gather`, so that all ranks take part."""
        with _transferring():
            torch.distributed.all_reduce(tensor, group=self.group)
        return tensor

    def of_all(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks, of one shape; call it only after a `gather`."""
        with _transferring():
            found = [torch.empty_like(tensor) for _ in range(self.count)]
            torch.distributed.all_gather(found, tensor, group=self.group)
        return found

    def from_first(self, tensor: Tensor) -> Tensor:
        """A new tensor with the values of rank 0 of the group; call it only after a `gather`."""
        with _transferring():
            copy = tensor.detach().clone().contiguous()
            first = torch.distributed.get_process_group_ranks(self.group)[0]
            torch.distributed.broadcast(copy, first, group=self.group)
        return copy


def measuring_ranks(process_group: Any, timeout: float) -> MeasuringRanks | None:
    """The ranks that measure together; ``None`` if this process measures alone.

    Parameters
    ----------
    process_group
        ``"auto"``: all ranks, if `torch.distributed` is initialised, else only this process. ``None``: only
        this process. Or a process group that this process belongs to.
    timeout
        Seconds to wait for another rank.

    Raises
    ------
    LCAError
        If ``process_group`` is neither ``"auto"``, ``None`` nor a process group of this process, or
        ``timeout`` is not positive and finite.
    """
    if not 0 < timeout < inf:
        raise LCAError(f"rank_timeout must be a positive number of seconds, got {timeout!r}.")
    if process_group is None:
        return None
    distributed = torch.distributed
    if not _is_ready():
        if not isinstance(process_group, str):
            raise LCAError("process_group needs torch.distributed.init_process_group(...) first.")
        _warn_of_start()
        return None
    group: Any = distributed.group.WORLD if process_group == "auto" else process_group
    if isinstance(group, str):
        raise LCAError(f"process_group must be 'auto', None or a process group, got {group!r}.")
    if distributed.get_rank(group) < 0:
        raise LCAError(
            f"rank {distributed.get_rank()} is not in this process_group; pass a group that it is in, or "
            "process_group=None to measure on this rank alone."
        )
    return MeasuringRanks(group, timeout) if distributed.get_world_size(group) > 1 else None


def processes() -> int:
    """How many processes `torch.distributed` connects."""
    return torch.distributed.get_world_size() if _is_ready() else 1


def _is_ready() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _warn_of_start() -> None:
    """Warn if a launcher has started several processes that are not yet connected."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count.isdigit() and int(count) > 1:
        warnings.warn(
            f"this is one of {count} processes, and torch.distributed is not initialised, so that each of "
            "them measures all data. To share the work, call torch.distributed.init_process_group() before "
            "the objective is made; process_group=None says that this is meant.",
            LCAWarning,
            stacklevel=4,
        )


@contextmanager
def _transferring() -> Iterator[None]:
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    except RuntimeError as error:
        raise LCAError(
            "the tensors of the ranks could not be combined "
            f"({' '.join(str(error).split())[:200]}); has a process ended, or does the process group have no "
            'backend for this device (init_process_group("cpu:gloo,cuda:nccl"))?'
        ) from error
