"""`Accumulation`: whether an update was made from fewer batches than others, as at the end of an epoch."""

from collections.abc import Hashable

_NO_BATCHES = "; loop over tracker.batches(loader) if the number of passes for a batch varies"


class Accumulation:
    """Compares the numbers of batches and of micro-batches in an update with those of others.

    Batches left over at the end of an epoch make an update from fewer. Many loops divide the loss of every
    batch by a fixed number all the same, so that the gradient of such an update has another scale; with a
    ``divisor`` the scale is known. The usual number is the larger one of the last two updates.

    Attributes
    ----------
    divisor
        By how many batches the loop divides the loss of each; ``None`` if that is unknown.
    scale
        That of the gradient of the last update, divided by that of the mean loss; ``None`` if it is unknown.
    fewer
        What the last update did, if it was made from fewer; else empty.
    first
        What the first update did, if the second shows that it was made from fewer; else empty.

    Examples
    --------
    >>> accumulation, scales = Accumulation(), []
    >>> for batches in (5, 5, 3, 4, 5):
    ...     accumulation.compare(batches)
    ...     scales.append(accumulation.scale)
    >>> scales
    [1.0, 1.0, None, None, 1.0]
    """

    def __init__(self) -> None:
        self.divisor: int | None = None
        self.scale: float | None = 1.0
        self.fewer = self.first = ""
        self._updates = 0
        self._last: dict[Hashable, tuple[int, int]] = {}  # numbers of the last two updates

    def compare(self, batches: int, micro_batches: int = 0, *, passes_of: Hashable = None) -> None:
        """An update is made from so many batches, in so many micro-batches; 0 if these are not known.

        Where the loop does not tell its batches, their number is that of the backward passes for an update of
        the optimizer ``passes_of``.
        """
        usual = self._usual(passes_of, batches)
        pieces = self._usual("micro-batches", micro_batches) if micro_batches else 0
        self._updates += 1
        if self.divisor is not None:
            self.scale, self.fewer = batches / self.divisor, _fewer(batches, self.divisor)
            return
        self.scale = None if batches < usual else 1.0
        by_passes = passes_of is not None
        self.fewer = _fewer(batches, usual, by_passes) or _fewer(micro_batches, pieces)
        if self._updates == 2 and usual:
            self.first = _fewer(usual, batches, by_passes) or _fewer(pieces, micro_batches)

    def _usual(self, what: Hashable, number: int) -> int:
        """The larger one of these numbers of the last two updates."""
        before = self._last.get(what, (0, 0))
        self._last[what] = before[1], number
        return max(before)


def _fewer(number: int, usual: int, by_passes: bool = False) -> str:
    if number >= usual:
        return ""
    what, otherwise = ("backward passes", _NO_BATCHES) if by_passes else ("micro-batches", "")
    return (
        f"was made from {number} of the usual {usual} {what}: batches were left over at the end of an "
        "epoch, were too small to be split, or gave no gradient. Its gradient may have another scale, and "
        "micro-batches are missing; accumulate a number of batches that divides those of an epoch, or leave "
        f"out the last ones (drop_last=True){otherwise}"
    )
