"""`EpochLength`: compares ``epoch=n`` of an estimator with the updates that a loop makes in an epoch."""

import warnings

from lca.allocation import Estimator
from lca.errors import LCAWarning

TOLERATED = 0.1
"""The relative difference that is not warned of: a last batch may be dropped, an update may be skipped."""


class EpochLength:
    """Warns, once, if an epoch has another number of updates than the estimator was told.

    Parameters
    ----------
    estimator
        That of the run; without the ``epoch`` of shuffled data there is no warning.

    Attributes
    ----------
    updates
        The number of updates in the last whole epoch that was seen; ``None`` before one was. A loop that may
        be several passes over the data, by what the estimator was told, is not taken for one.
    compared
        Whether epochs are compared; set it to false where batches are not what updates are counted by.
    resumed
        Whether the run goes on after an interruption, perhaps inside of an epoch; the first one is then
        compared only if it is longer.

    Examples
    --------
    >>> from lca.estimators import CrossFit
    >>> length = EpochLength(CrossFit(epoch=50))
    >>> length.begin(steps=0)
    >>> length.end(steps=49)  # the last batch was dropped; of 25 it would warn
    >>> length.updates
    49
    >>> length = EpochLength(CrossFit(independent=True, epoch=50))  # a batch has 1/50 of the data
    >>> length.begin(steps=0)
    >>> length.end(steps=25)
    """

    def __init__(self, estimator: Estimator | None) -> None:
        self._name, self._told = type(estimator).__name__, getattr(estimator, "epoch", None)
        if getattr(estimator, "independent", False):  # `epoch` is a part of the data there
            self._told = None
        self._begun: int | None = None
        self._part = False  # whether the epoch under way may be the rest of one
        self.updates: int | None = None
        self.compared, self.resumed = True, False
        self._warned = False

    def begin(self, steps: int) -> None:
        """An epoch begins after ``steps`` updates."""
        self._begun, self._part, self.resumed = steps, self.resumed, False

    def end(self, steps: int) -> None:
        """An epoch has ended after ``steps`` updates; not compared if its beginning was not seen."""
        made, self._begun = steps - (steps if self._begun is None else self._begun), None
        if not self.compared or made < 2 or (self._part and made < (self._told or made + 1)):
            return
        passes = self._passes(made)
        if passes == 1:
            self.updates = made
        if self._warned or self._told is None or is_near(made, self._told):
            return
        self._warned = True
        given = f"{self._name} was given epoch={self._told}, by which it corrects"
        text = (
            f"the loop made {made} updates in an epoch, and {given}; pass epoch={made}. If these batches are "
            "not one pass over the data, ignore this."
        )
        if passes > 1:
            text = (
                f"the loop made {made} updates in one loop over its batches, and {given}. This is right if "
                f"they are {passes} passes over the data, as after .repeat({passes}); if they are one, pass "
                f"epoch={made}."
            )
        warnings.warn(text, LCAWarning, stacklevel=3)

    def _passes(self, made: int) -> int:
        """The passes over the data in ``made`` updates, by the epoch that the estimator was given."""
        passes = round(made / (self._told or made))
        return passes if passes > 1 and is_near(made, passes * (self._told or 0)) else 1


def is_near(made: int, told: float) -> bool:
    """Whether an epoch of ``made`` updates may be meant by ``epoch=told``.

    >>> is_near(49, 50), is_near(25, 50)
    (True, False)
    """
    return abs(made - told) <= max(1, TOLERATED * told)
