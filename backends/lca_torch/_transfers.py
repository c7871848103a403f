"""`Transfers`: tensors sent between ranks that measure together; if one of them fails, none waits for it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from threading import Thread
from time import monotonic, sleep
from typing import Any

import torch

from lca.errors import LCAError
from lca_torch._exchange import GROWTH, LONGEST, SHORTEST
from lca_torch._process_group import MeasuringRanks

_LOOK = 0.25
"""Seconds between two looks for an error of another rank, while a transfer takes its time."""
_COLLECTIVES = (
    "allgather",
    "_allgather_base",
    "allgather_into_tensor_coalesced",
    "all_gather_single",
    "all_gather_single_coalesced",
    "allreduce",
    "allreduce_coalesced",
    "alltoall",
    "alltoall_base",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "gather",
    "reduce",
    "reduce_scatter",
    "_reduce_scatter_base",
    "reduce_scatter_single",
    "reduce_scatter_single_coalesced",
    "reduce_scatter_tensor_coalesced",
    "scatter",
)
"""Methods of a process group in which all of its ranks take part, with their names in old and new torch."""
_ProcessGroup: Any = getattr(torch.distributed, "ProcessGroup", object)  # not in every torch


class TransferError(LCAError):
    """A transfer between the ranks was not finished."""


class Transfers:
    """Transfers between some of the ranks that measure, in a process group of their own.

    If a rank stops measuring in the middle of a pass, the tensors that it and the others send in training
    thus cannot be taken for those of the pass, and the others notice it while they wait.

    Parameters
    ----------
    members
        The numbers of these ranks among those that measure; each of them must make the object.
    ranks
        All ranks that measure.

    Attributes
    ----------
    group
        The process group.
    waited
        For how many seconds this rank waited in a transfer that was not finished, after which no other can
        begin; ``None`` if all were finished.
    """

    def __init__(self, members: Sequence[int], ranks: MeasuringRanks) -> None:
        distributed = torch.distributed
        every = distributed.get_process_group_ranks(ranks.group)
        self._ranks = ranks
        self.group: Any = distributed.new_group(
            [every[rank] for rank in members],
            timeout=timedelta(seconds=ranks.timeout),
            use_local_synchronization=len(members) < distributed.get_world_size(),
        )
        self.waited: float | None = None

    def run(self, begin: Callable[[], Any]) -> Any:
        """Begin a transfer and wait until it is finished, unless another rank has failed; return its handle.

        Raises
        ------
        TransferError
            If it was not finished: another rank has failed, has ended, or did not come in time.
        """
        self.require_sound()
        start = monotonic()
        try:
            with torch.inference_mode(False), torch.no_grad():
                work = begin()
                done, finish = _progress(work)
                self._wait(done)
                finish()
        except BaseException as error:
            self.waited = monotonic() - start
            if not isinstance(error, RuntimeError):
                raise
            raise TransferError(
                "tensors could not be sent between the ranks in the middle of an evaluation "
                f"({' '.join(str(error).split())[:200]})."
            ) from error
        return work

    def _wait(self, done: Callable[[], bool]) -> None:
        pause, look, end = SHORTEST, monotonic() + _LOOK, monotonic() + self._ranks.timeout
        while not done():
            if monotonic() > look:
                if self._ranks.exchange.has_failed():
                    raise TransferError("another rank has stopped in the middle of an evaluation.")
                if monotonic() > end:
                    raise TransferError("another rank did not come in time in the middle of an evaluation.")
                look = monotonic() + _LOOK
            sleep(pause)
            pause = min(GROWTH * pause, LONGEST)

    def require_sound(self) -> None:
        """Raise `TransferError` if an earlier transfer was not finished."""
        if self.waited is not None:
            raise TransferError(
                "an earlier evaluation was interrupted while tensors were on their way between the ranks; "
                "make the objective again."
            )

    def refuse(self, reason: str) -> TransferError:
        """The error of a transfer whose result is of no use, after which no other can begin."""
        self.waited = 0.0
        return TransferError(reason)


def _progress(work: Any) -> tuple[Callable[[], bool], Callable[[], object]]:
    """Whether a transfer is done, and what completes it or raises its error."""
    # Not `is_completed` of the work: it waits for a lock without releasing that of Python.
    try:
        return work.get_future().done, work.wait
    except RuntimeError:  # as of reduce-scatter in gloo
        waiting = Future[None]()
        Thread(target=_complete, args=(work, waiting), daemon=True).start()
        return waiting.done, waiting.result


def _complete(work: Any, waiting: "Future[None]") -> None:
    try:
        with torch.no_grad():
            work.wait()
    except Exception as error:
        waiting.set_exception(error)
    else:
        waiting.set_result(None)


class LayerTransfers:
    """The transfers of the layers of a tensor-parallel model, while it is measured.

    The layers find their process group by its name. Inside of `in_place`, this name leads to a group of the
    ranks that measure, so that the group of training has no part in the measuring.

    Parameters
    ----------
    meshes
        On which the layers compute.
    ranks
        All ranks that measure.
    """

    def __init__(self, meshes: Iterable[Any], ranks: MeasuringRanks) -> None:
        distributed = torch.distributed
        every, known = distributed.get_process_group_ranks(ranks.group), dict[tuple[int, ...], Transfers]()
        self._groups: dict[str, _Group] = {}
        for trained in (mesh.get_group(axis) for mesh in meshes for axis in range(mesh.ndim)):
            members = tuple(every.index(rank) for rank in distributed.get_process_group_ranks(trained))
            if trained.group_name not in self._groups and len(members) > 1:
                if members not in known:
                    known[members] = Transfers(members, ranks)
                self._groups[trained.group_name] = _Group(trained, known[members])
        self.all = list(known.values())

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the layers use these transfers."""
        with ExitStack() as stack:
            for name, group in self._groups.items():
                stack.callback(_put, name, _put(name, group))
            yield


class _Group(_ProcessGroup):  # type: ignore[misc]
    """Replaces a process group of training: its collectives are those of `Transfers`.

    It equals the group of training, so that torch finds what it knows of that group.
    """

    def __init__(self, trained: Any, transfers: Transfers) -> None:
        own = transfers.group
        super().__init__(own.rank(), own.size())
        self._trained, self._transfers = trained, transfers
        self._set_group_name(trained.group_name)
        # For messages from one rank to another, which need not come in order; they end after `rank_timeout`.
        kinds = _ProcessGroup.BackendType
        for device in own._device_types:
            backend = own._get_backend(device)
            self._register_backend(device, getattr(kinds, backend.name().upper(), kinds.CUSTOM), backend)

    def __eq__(self, other: object) -> bool:
        return other is self or bool(other == self._trained)

    def __hash__(self) -> int:
        return hash(self._trained)


def _watched(name: str) -> Callable[..., Any]:
    def collective(self: _Group, *args: Any, **options: Any) -> Any:
        transfers = self._transfers
        return transfers.run(lambda: getattr(transfers.group, name)(*args, **options))

    return collective


for _name in _COLLECTIVES:
    if hasattr(_ProcessGroup, _name):
        setattr(_Group, _name, _watched(_name))


def _put(name: str, group: Any) -> Any:
    """Let a name lead to a process group; return the group to which it led."""
    registry: Any = torch._C._distributed_c10d
    before = registry._resolve_process_group(name)
    registry._unregister_process_group(name)
    registry._register_process_group(name, group)
    return before
