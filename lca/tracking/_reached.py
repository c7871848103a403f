"""`ReachedSets`: finds domains or tasks that take turns, by the parameters that gradients reach."""

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence, Set
from math import lgamma, log

LONGEST = 32
"""The longest period that is looked for, in updates."""
RARE = 2.5e-3
"""Significance level: a period that is less likely than that by chance is not taken for chance."""

_Update = tuple[int, ...]
"""The sets that the micro-batches of an update reach, each as its hash, in ascending order."""


class ReachedSets:
    """Compares the parameters that gradients of training reach, from micro-batch to micro-batch.

    A layer of one domain (an adapter, a head, a normalisation) is reached by the batches of this domain
    alone. Where domains take turns, these sets repeat in a period. A difference by chance is not an error: a
    router leaves out an expert, layers are dropped, or a domain is drawn at random for each batch, which is
    then a random sample of all of them. So a period counts only if chance is an unlikely explanation for the
    number of updates that equal those a period before. By chance, each micro-batch draws one of the sets as
    often as the last updates had it. Two domains in turn are seen after 14 updates, two in the two
    micro-batches of each after 10.

    Attributes
    ----------
    differ_in_update
        Whether the micro-batches of an update reach different parameters, and not by chance.
    take_turns
        Whether updates reach different parameters, in turn.

    Examples
    --------
    >>> domains, sets = [{0, 1}, {0, 2}], ReachedSets()
    >>> for update in range(14):
    ...     sets.add("SGD", [domains[update % 2]])
    >>> sets.take_turns, sets.differ_in_update
    (True, False)
    """

    def __init__(self) -> None:
        self.differ_in_update = self.take_turns = False
        self._of: dict[Hashable, _Periods] = {}

    def add(self, optimizer: Hashable, sets: Iterable[Set[int]]) -> None:
        """The micro-batches of an update of this optimizer reach these parameters."""
        if self.differ_in_update or self.take_turns:
            return
        if optimizer not in self._of:
            self._of[optimizer] = _Periods()
        period = self._of[optimizer].add(tuple(sorted(hash(frozenset(own)) for own in sets)))
        self.differ_in_update |= any(len(set(update)) > 1 for update in period)
        self.take_turns |= len(set(map(frozenset, period))) > 1


class _Periods:
    """The periods in which the updates of one optimizer may repeat.

    Each period T, and each of its beginnings, is a try. The k-th has ``1 / (k T)²`` of the level, so that all
    together have less than three times of it, however long the run.
    """

    def __init__(self) -> None:
        self._last = deque[_Update](maxlen=LONGEST + 1)
        self._counts = Counter[int]()  # how often these reach each set
        self._evidence = [0.0] * (LONGEST + 1)  # -log of the chance that updates are like those before
        self._begun = [1] * (LONGEST + 1)  # how often that began anew

    def add(self, update: _Update) -> Sequence[_Update]:
        """Returns the updates of a period that is not due to chance; empty if there is no such period."""
        full = len(self._last) > LONGEST
        if full and len(self._counts) == 1 and update == self._last[-1]:
            return ()  # all are alike
        if full:
            self._counts -= Counter(self._last[0])
        self._counts += Counter(update)
        self._last.append(update)
        if len(self._counts) == 1:
            return ()
        recent, evidence = [*self._last], -self._log_probability(update)
        for period in range(1, len(recent)):
            if recent[-1 - period] != update:
                self._evidence[period], self._begun[period] = 0.0, self._begun[period] + 1
                continue
            self._evidence[period] += evidence
            limit = log((self._begun[period] * period) ** 2 / RARE)
            if self._evidence[period] >= limit and len(set().union(*recent[-period:])) > 1:
                return recent[-period:]
        return ()

    def _log_probability(self, update: _Update) -> float:
        """The log probability that an update reaches these sets in any order, each drawn by itself."""
        own, total = Counter(update), self._counts.total()
        orders = lgamma(len(update) + 1) - sum(lgamma(number + 1) for number in own.values())
        return orders + sum(number * log(self._counts[one] / total) for one, number in own.items())
