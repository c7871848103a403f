"""`Exchange`: short messages between the ranks of a process group; an error of one rank reaches all.

Messages go through the key-value store of `torch.distributed`. It works with every backend, waits no longer
than it is told, and knows who has not answered, which no collective operation does.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from time import monotonic, sleep
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch

from lca import errors
from lca.errors import LCAError

SHORTEST, LONGEST, GROWTH = 1e-4, 0.02, 1.2
"""Seconds between two looks for an answer, and by which factor they grow."""
GRACE = 5.0
"""Seconds that rank 0, which names those who are missing, is waited for beyond the limit."""
_made: Counter[str] = Counter()
_exchanges: "WeakKeyDictionary[Any, Exchange]" = WeakKeyDictionary()


@dataclass(frozen=True)
class _Message:
    """What a rank says in one round: what it calls, with which value, or why it does not."""

    call: str
    value: Any = None
    error: str = ""
    kind: str = ""

    @property
    def text(self) -> str:
        return json.dumps([self.call, self.value, self.error, self.kind])


class Exchange:
    """Rounds in which every rank of a group says something, and all learn what all have said.

    Rank 0 of the group collects the messages and answers. The first answer to a round is final, whoever
    gives it: a rank that waits too long answers in place of rank 0, so no two ranks can disagree about it.
    A round costs two requests to the store for each rank, and holds no memory afterwards.

    Parameters
    ----------
    group
        The process group.

    Attributes
    ----------
    rank, count
        The number of this rank in the group, and how many there are.
    """

    def __init__(self, group: Any) -> None:
        distributed: Any = torch.distributed
        self.rank, self.count = distributed.get_rank(group), distributed.get_world_size(group)
        members = distributed.get_process_group_ranks(group)
        store = distributed.distributed_c10d._get_default_store()
        if hasattr(store, "clone"):
            store = store.clone()  # a connection of its own: a rank that waits keeps nobody else waiting
        name = _short(members)
        _made[name] += 1  # the store may hold what was said before torch.distributed was started anew
        self._store = distributed.PrefixStore(f"lca/{name}/{_made[name]}", store)
        self._rounds = count()
        self._told = False  # whether all ranks know that the last round has failed

    @classmethod
    def of(cls, group: Any) -> "Exchange":
        """The exchange of a group; there is one, which counts its rounds."""
        if group not in _exchanges:
            _exchanges[group] = cls(group)
        return _exchanges[group]

    def gather(self, call: str, value: Any, timeout: float) -> list[Any]:
        """The values of all ranks in order, numbers, strings, lists and mappings of them.

        Parameters
        ----------
        call
            What this rank does, in words; all must do the same.
        value
            What it says.
        timeout
            Seconds to wait for the others.

        Raises
        ------
        LCAError
            If a rank has reported an error (of the class of that error, if it is one of this library), does
            something else, or has not answered in time.
        """
        self._told = False
        key = str(next(self._rounds))
        self._say(key, _Message(call, value))
        answer = json.loads(self._answer(key, call, timeout))
        if isinstance(answer, list):
            self._forget(key)
            return answer
        self._told = True
        raise _error(answer)

    def tell(self, error: str, kind: str = "") -> None:
        """Tell the others in place of the next round why this rank takes part no more; waits for nobody.

        Nothing is said if all know already that the last round has failed.
        """
        if self._told:
            return
        self._told = True
        key, message = str(next(self._rounds)), _Message("", error=error, kind=kind)
        try:
            self._say(key, message)
            if self.rank == 0:
                self._decide(key, _failure(0, message))
        except RuntimeError:  # nobody is left to be told
            pass

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell the others of an error inside, unless it came from them."""
        self._told = False
        try:
            yield
        except BaseException as error:
            self.tell(f"{type(error).__name__}: {error}", type(error).__name__)
            raise

    def _say(self, key: str, message: _Message) -> None:
        self._store.set(f"{key}/{self.rank}", message.text)

    def _decide(self, key: str, answer: str) -> None:
        """Answer a round, unless it has an answer."""
        self._store.compare_set(f"{key}/answer", "", answer)

    def _answer(self, key: str, call: str, timeout: float) -> str:
        """The answer to a round: by rank 0 from all messages, by the others read."""
        answer, end = f"{key}/answer", monotonic() + timeout
        try:
            if self.rank == 0:
                keys = [f"{key}/{rank}" for rank in range(self.count)]
                self._wait(lambda: self._store.check(keys) or self._store.check([answer]), end)
                if not self._store.check([answer]):
                    missing = [rank for rank, own in enumerate(keys) if not self._store.check([own])]
                    texts = [] if missing else [self._store.get(own) for own in keys]
                    messages = [_Message(*json.loads(text)) for text in texts]
                    self._decide(key, _late(call, missing, timeout) if missing else _joined(messages))
            elif not self._wait(lambda: self._store.check([answer]), end + GRACE):
                self._decide(key, _late(call, [0], timeout))
            found: bytes = self._store.get(answer)
            return found.decode()
        except RuntimeError as error:
            _lost(call, error)

    def _wait(self, there: Callable[[], bool], end: float) -> bool:
        """Ask again and again until it is there or the time is over; whether it is there."""
        pause = SHORTEST
        while not there():
            if monotonic() > end:
                return there()
            sleep(pause)
            pause = min(GROWTH * pause, LONGEST)
        return True

    def _forget(self, key: str) -> None:
        """Delete what everybody has read: the messages of this round, and the answer of the one before."""
        self._store.delete_key(f"{key}/{self.rank}")
        if self.rank == 0:
            self._store.delete_key(f"{int(key) - 1}/answer")


def _short(members: Sequence[int]) -> str:
    """A name of a group of ranks.

    >>> _short([0, 1]), _short(range(1000))
    ('0,1', '0-999 (1000)')
    """
    text = ",".join(map(str, members))
    return text if len(text) <= 200 else f"{members[0]}-{members[-1]} ({len(members)})"  # noqa: PLR2004


def _joined(messages: Sequence[_Message]) -> str:
    """The answer to a round that all have taken part in."""
    for rank, message in enumerate(messages):
        if message.error:
            return _failure(rank, message)
    calls = [message.call for message in messages]
    for rank, call in enumerate(calls):
        if call != calls[0]:
            text = (
                f"the ranks do not measure the same: rank 0 is at {calls[0]}, rank {rank} at {call}. Make "
                "the same objectives and trackers on every rank and call them in the same order, or measure "
                "on one rank alone with process_group=None"
            )
            return json.dumps({"text": text})
    return json.dumps([message.value for message in messages])


def _failure(rank: int, message: _Message) -> str:
    return json.dumps({"text": f"rank {rank} measures no more: {message.error}", "kind": message.kind})


def _late(call: str, missing: Sequence[int], timeout: float) -> str:
    who = f"rank {missing[0]}" if len(missing) == 1 else f"ranks {', '.join(map(str, missing))}"
    text = (
        f"{who} did not take part in {call} within {timeout:g} s; has it ended, or does it not measure? Make "
        "objective and tracker on every rank, raise rank_timeout if it was slow, or measure on one rank "
        "alone with process_group=None"
    )
    return json.dumps({"text": text})


def _lost(call: str, error: Exception) -> NoReturn:
    raise LCAError(
        f"the connection between the ranks was lost during {call} ({' '.join(str(error).split())[:200]}); a "
        "process has ended."
    ) from error


def _error(answer: dict[str, str]) -> LCAError:
    """The error of this library that another rank has reported, or an `LCAError`."""
    kind = getattr(errors, answer.get("kind", ""), LCAError)
    plain = isinstance(kind, type) and issubclass(kind, LCAError) and kind.__init__ is LCAError.__init__
    return (kind if plain else LCAError)(answer["text"].rstrip(".") + ".")
