"""`Accumulation`: whether an update was made from fewer batches than others, as at the end of an epoch."""

import warnings

from lca.errors import LCAWarning


class Accumulation:
    """Compares the numbers of batches and of micro-batches in an update with those of others.

    Batches left over at the end of an epoch make an update from fewer. Many loops divide the loss of every
    batch by a fixed number all the same, so that the gradient of such an update has another scale; with a
    ``divisor`` the scale is known.

    Attributes
    ----------
    divisor
        By how many batches the loop divides the loss of each; ``None`` if that is unknown.
    scale
        That of the gradient of the last update, divided by that of the mean loss; ``None`` if it is unknown.
    fewer
        What the last update did, if it was made from fewer; else empty.

    Examples
    --------
    >>> accumulation, scales = Accumulation(), []
    >>> for batches in (5, 5, 3, 5):
    ...     accumulation.compare(batches)
    ...     scales.append(accumulation.scale)
    >>> scales
    [1.0, 1.0, None, 1.0]
    """

    def __init__(self) -> None:
        self.divisor: int | None = None
        self.scale: float | None = 1.0
        self.fewer = ""
        self._updates = 0
        self._batches = self._micro_batches = 0  # of the update before

    def compare(self, batches: int, micro_batches: int = 0) -> None:
        """An update is made from so many batches, in so many micro-batches; 0 if these are not known."""
        before, pieces = self._batches, self._micro_batches
        self._batches, self._micro_batches = batches, micro_batches or pieces
        self._updates += 1
        if self.divisor is not None:
            self.scale, self.fewer = batches / self.divisor, _fewer(batches, self.divisor)
            return
        self.scale = None if batches < before else 1.0
        self.fewer = _fewer(batches, before) or _fewer(self._micro_batches, pieces)
        if self._updates == 2 and batches > before:
            warnings.warn(
                f"the first update was made from {before} batches and the second from {batches}. If the loop "
                f"divides the loss by {batches}, as where training is resumed in the middle of an epoch, the "
                "first gradient is too small, and so are the allocations that are made with it.",
                LCAWarning,
                stacklevel=2,
            )


def _fewer(number: int, usual: int) -> str:
    if number >= usual:
        return ""
    return (
        f"was made from {number} of the usual {usual} micro-batches: batches were left over at the end of an "
        "epoch, were too small to be split, or gave no gradient. Its gradient may have another scale, and "
        "micro-batches are missing; accumulate a number of batches that divides those of an epoch, or leave "
        "out the last ones (drop_last=True)"
    )
