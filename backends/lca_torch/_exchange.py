"""`Exchange`: short messages between the ranks of a process group; an error on one rank reaches all ranks.

Messages go through the key-value store of `torch.distributed`. Unlike collective operations, the store works
with every backend, allows any timeout, and shows which ranks have not answered.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch

from lca import errors
from lca.errors import LCAError

SHORTEST, LONGEST, GROWTH = 1e-4, 0.02, 1.2
"""The shortest and longest pause in seconds between two polls, and the factor by which pauses grow."""
GRACE = 5.0
"""Extra seconds that the other ranks wait for rank 0 after the timeout.

Rank 0 reports which ranks are missing.
"""
END = "the end of an evaluation"
"""The call of a round in which ranks state how an evaluation has ended, with ``None`` if it has a result."""
_made: Counter[str] = Counter()
_exchanges: "WeakKeyDictionary[Any, Exchange]" = WeakKeyDictionary()


@dataclass(frozen=True)
class _Message:
    """The message of a rank in one round: its call and value, or the error that prevents the call."""

    call: str
    value: Any = None
    error: str = ""
    kind: str = ""

    @property
    def text(self) -> str:
        return json.dumps([self.call, self.value, self.error, self.kind])

    @classmethod
    def of(cls, text: bytes) -> "_Message":
        return cls(*json.loads(text))


class Exchange:
    """Rounds of messages, in which every rank of a group sends a value and receives those of all ranks.

    Rank 0 of the group collects the messages and answers. The first answer to a round is final, whichever
    rank gives it: a rank that has waited too long answers in place of rank 0, so no two ranks see different
    answers. A round takes two requests to the store per rank, and its messages are deleted afterwards.

    Parameters
    ----------
    group
        The process group.

    Attributes
    ----------
    rank, count
        The rank of this process in the group, and the size of the group.
    """

    def __init__(self, group: Any) -> None:
        distributed: Any = torch.distributed
        self.rank, self.count = distributed.get_rank(group), distributed.get_world_size(group)
        members = distributed.get_process_group_ranks(group)
        store = distributed.distributed_c10d._get_default_store()
        if hasattr(store, "clone"):
            store = store.clone()  # a separate connection: a rank that waits does not block others
        name = _short(members)
        _made[name] += 1  # the store may hold messages from before torch.distributed was restarted
        self._store = distributed.PrefixStore(f"lca/{name}/{_made[name]}", store)
        self._next = 0  # the number of the next round
        self._told = False  # whether all ranks know that the last round has failed

    @classmethod
    def of(cls, group: Any) -> "Exchange":
        """The exchange of a group; there is exactly one per group, which numbers its rounds."""
        if group not in _exchanges:
            _exchanges[group] = cls(group)
        return _exchanges[group]

    def gather(self, call: str, value: Any, timeout: float, waited: float = 0.0) -> list[Any]:
        """Return the values of all ranks in order.

        Parameters
        ----------
        call
            A description of the operation; it must be the same on all ranks.
        value
            What this rank sends: a number or string, or a list or mapping of these.
        timeout
            Seconds to wait for the others.
        waited
            Seconds for which this rank has waited already.

        Raises
        ------
        LCAError
            If a rank reported an error, made a different call, or did not answer in time. A reported error of
            this library is raised as its own class.
        """
        self._told = False
        key = self._begin()
        self._say(key, _Message(call, value))
        answer = json.loads(self._answer(key, call, timeout, waited))
        if isinstance(answer, list):
            self._forget(key)
            return answer
        self._told = True
        raise _error(answer)

    def tell(self, error: str, kind: str = "") -> None:
        """Tell the other ranks, in the next round, why this rank no longer takes part; does not block.

        Sends nothing if all ranks already know that the last round has failed.
        """
        if self._told:
            return
        self._told = True
        key, message = self._begin(), _Message("", error=error, kind=kind)
        try:
            self._say(key, message)
            if self.rank == 0:
                self._decide(key, _failure(0, message))
        except RuntimeError:  # no other rank is left
            pass

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Inside this context, an error is sent to the other ranks, unless it came from them."""
        self._told = False
        try:
            yield
        except BaseException as error:
            self.tell(f"{type(error).__name__}: {error}", type(error).__name__)
            raise

    def has_failed(self) -> bool:
        """Whether another rank has told of an error, or stated one at the end of an evaluation."""
        keys = [f"{self._next}/{rank}" for rank in range(self.count)]
        told = [_Message.of(self._store.get(key)) for key in keys if self._store.check([key])]
        return any(one.error or (one.call == END and one.value is not None) for one in told)

    def _begin(self) -> str:
        """The key of the next round."""
        self._next += 1
        return str(self._next - 1)

    def _say(self, key: str, message: _Message) -> None:
        self._store.set(f"{key}/{self.rank}", message.text)

    def _decide(self, key: str, answer: str) -> None:
        """Answer a round, unless it already has an answer."""
        self._store.compare_set(f"{key}/answer", "", answer)

    def _answer(self, key: str, call: str, timeout: float, waited: float) -> str:
        """The answer to a round: rank 0 makes it from all messages, the other ranks read it."""
        answer, end = f"{key}/answer", monotonic() + timeout
        try:
            if self.rank == 0:
                keys = [f"{key}/{rank}" for rank in range(self.count)]
                self._wait(lambda: self._store.check(keys) or self._store.check([answer]), end)
                if not self._store.check([answer]):
                    there = [rank for rank, own in enumerate(keys) if self._store.check([own])]
                    messages = {rank: _Message.of(self._store.get(keys[rank])) for rank in there}
                    self._decide(key, _joined(messages, range(self.count), timeout + waited))
            elif not self._wait(lambda: self._store.check([answer]), end + GRACE):
                self._decide(key, _late(call, [0], timeout + waited))
            found: bytes = self._store.get(answer)
            return found.decode()
        except RuntimeError as error:
            _lost(call, error)

    def _wait(self, there: Callable[[], bool], end: float) -> bool:
        """Poll until ``there()`` is true or the deadline has passed; return whether it is true."""
        pause = SHORTEST
        while not there():
            if monotonic() > end:
                return there()
            sleep(pause)
            pause = min(GROWTH * pause, LONGEST)
        return True

    def _forget(self, key: str) -> None:
        """Delete what all ranks have read: the messages of this round, and the answer of the previous one."""
        self._store.delete_key(f"{key}/{self.rank}")
        if self.rank == 0:
            self._store.delete_key(f"{int(key) - 1}/answer")


def _short(members: Sequence[int]) -> str:
    """A short name for a group of ranks.

    >>> _short([0, 1]), _short(range(1000))
    ('0,1', '0-999 (1000)')
    """
    text = ",".join(map(str, members))
    return text if len(text) <= 200 else f"{members[0]}-{members[-1]} ({len(members)})"  # noqa: PLR2004


def _joined(messages: Mapping[int, _Message], every: Sequence[int], waited: float) -> str:
    """The answer to a round from the messages that have arrived, of rank 0 among others."""
    for rank, message in messages.items():
        if message.error:
            return _failure(rank, message)
    missing = [rank for rank in every if rank not in messages]
    if missing:
        return _late(messages[0].call, missing, waited)
    calls = [messages[rank].call for rank in every]
    for rank, call in enumerate(calls):
        if call != calls[0]:
            text = (
                f"the ranks do not measure the same: rank 0 is at {calls[0]}, rank {rank} at {call}. Make "
                "the same objectives and trackers on every rank and call them in the same order, or measure "
                "on one rank alone with process_group=None"
            )
            return json.dumps({"text": text})
    return json.dumps([messages[rank].value for rank in every])


def _failure(rank: int, message: _Message) -> str:
    return json.dumps({"text": f"rank {rank} measures no more: {message.error}", "kind": message.kind})


def _late(call: str, missing: Sequence[int], timeout: float) -> str:
    who = f"rank {missing[0]}" if len(missing) == 1 else f"ranks {', '.join(map(str, missing))}"
    text = (
        f"{who} did not take part in {call} within {round(timeout, 1):g} s; has it ended, does it not "
        "measure, or has it fewer batches (DistributedDataParallel.join, join_uneven_inputs)? Make "
        "objective and tracker on every rank, give every rank the same number of batches, raise "
        "rank_timeout if it was slow, or measure on one rank alone with process_group=None"
    )
    return json.dumps({"text": text})


def _lost(call: str, error: Exception) -> NoReturn:
    raise LCAError(
        f"the connection between the ranks was lost during {call} ({' '.join(str(error).split())[:200]}); a "
        "process has ended."
    ) from error


def _error(answer: dict[str, str]) -> LCAError:
    """The error that another rank reported, in its own class if it is one of this library."""
    kind = getattr(errors, answer.get("kind", ""), LCAError)
    plain = isinstance(kind, type) and issubclass(kind, LCAError) and kind.__init__ is LCAError.__init__
    return (kind if plain else LCAError)(answer["text"].rstrip(".") + ".")
