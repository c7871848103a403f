"""`Accumulation`: whether every update is made from the same number of batches, also when an epoch ends."""

from collections import Counter, defaultdict, deque
from collections.abc import Hashable

_NO_BATCHES = "; loop over tracker.batches(loader) if the number of passes for a batch varies"
_REMEDY = (
    "accumulate a number of batches that divides those of an epoch, or leave out the last ones "
    "(drop_last=True)"
)
_PIECES = "micro-batches"
RECENT = 8
"""Updates whose numbers of batches tell the usual one, where the loop does not tell its epochs."""


class Accumulation:
    """Compares the numbers of batches and of micro-batches in an update with those of others.

    Batches left over at the end of an epoch make an update from fewer, or are added to those of the next
    update. Many loops divide the loss of every batch by a fixed number all the same, so that the gradient of
    such an update has another scale; with a ``divisor`` the scale is known.

    The usual number is the larger one of the last two updates inside an epoch. Where the loop does not tell
    its epochs, it is that of two thirds of the last eight updates.

    Attributes
    ----------
    divisor
        By how many batches the loop divides the loss of each; ``None`` if that is unknown.
    scale
        That of the gradient of the last update, divided by that of the mean loss; ``None`` if it is unknown.
    unusual
        What the last update did, if it was made from another number; else empty.
    first
        What the first update did, if the second shows that it was made from fewer; else empty.

    Examples
    --------
    >>> accumulation, scales = Accumulation(), []
    >>> for batches in (5, 5, 3, 4, 5):
    ...     accumulation.compare(batches, epochs=1)
    ...     scales.append(accumulation.scale)
    >>> scales
    [1.0, 1.0, None, None, 1.0]
    """

    def __init__(self) -> None:
        self.divisor: int | None = None
        self.scale: float | None = 1.0
        self.unusual = self.first = ""
        self._updates = 0
        self._last: dict[Hashable, deque[int]] = defaultdict(lambda: deque(maxlen=RECENT))

    def compare(
        self, batches: int, micro_batches: int = 0, *, epochs: int = 0, passes_of: Hashable = None
    ) -> None:
        """The numbers of batches and of micro-batches of an update; 0 micro-batches if that is not known.

        Parameters
        ----------
        batches, micro_batches
            Their numbers.
        epochs
            How many epochs these batches are of; 0 if that is unknown.
        passes_of
            The optimizer, where the loop does not tell its batches and their number is that of the backward
            passes for an update of this optimizer.
        """
        by_passes = passes_of is not None
        before, before_in_pieces = self._largest(passes_of), self._largest(_PIECES)
        usual = self._usual(passes_of, batches, epochs)
        usual_pieces = self._usual(_PIECES, micro_batches, epochs) if micro_batches else 0
        self._updates += 1
        if self.divisor is not None:
            self.scale, self.unusual = batches / self.divisor, _fewer(batches, self.divisor)
            return
        self.scale = 1.0 if batches == usual else None
        self.unusual = (
            _fewer(batches, usual or before, by_passes)
            or _fewer(micro_batches, usual_pieces)
            or _other(batches, usual, epochs, by_passes)
        )
        if self._updates == 2 and epochs < 2:
            self.first = _fewer(before, batches, by_passes) or _fewer(before_in_pieces, micro_batches)

    def _largest(self, what: Hashable) -> int:
        return max(self._last[what], default=0)

    def _usual(self, what: Hashable, number: int, epochs: int) -> int:
        """The usual one of these numbers; 0 if none is."""
        last = self._last[what]
        if epochs:
            usual = max([*last][-2:], default=number)
            if epochs == 1:
                last.append(number)
                usual = max(usual, number)
            return usual
        last.append(number)
        most = number if 2 * last.count(number) > len(last) else Counter(last).most_common(1)[0][0]
        return most if 3 * last.count(most) >= 2 * len(last) else 0


def _other(number: int, usual: int, epochs: int, by_passes: bool) -> str:
    """Describes an update made from another number of batches than usual; ``usual`` is 0 if unknown."""
    if number == usual:
        return ""
    cause = f"its batches are of {epochs} epochs: " if epochs > 1 else ""
    return (
        f"was made from {number} {'backward passes' if by_passes else 'batches'}, others from "
        f"{usual or 'other numbers'}: {cause}those left over at the end of an epoch may have been added to "
        "it. Its gradient may have another scale; set the gradients to zero after each epoch, "
        f"{_REMEDY}{_NO_BATCHES if by_passes else ''}"
    )


def _fewer(number: int, usual: int, by_passes: bool = False) -> str:
    """What an update did that was made from fewer than the usual number; a number of 0 is not known."""
    if not number or number >= usual:
        return ""
    return (
        f"was made from {number} of the usual {usual} {'backward passes' if by_passes else 'micro-batches'}: "
        "batches were left over at the end of an epoch, were too small to be split, or gave no gradient. Its "
        f"gradient may have another scale, and micro-batches are missing; {_REMEDY}"
        f"{_NO_BATCHES if by_passes else ''}"
    )
