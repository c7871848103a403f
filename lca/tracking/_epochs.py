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
        That of the run; without an ``epoch`` nothing is compared.

    Examples
    --------
    >>> from lca.estimators import CrossFit
    >>> length = EpochLength(CrossFit(epoch=50))
    >>> length.begin(steps=0)
    >>> length.end(steps=49)  # the last batch was dropped; of 25 it would warn
    """

    def __init__(self, estimator: Estimator | None) -> None:
        self._name, self._told = type(estimator).__name__, getattr(estimator, "epoch", None)
        self._begun: int | None = None

    def begin(self, steps: int) -> None:
        """An epoch begins, after so many updates."""
        self._begun = steps

    def end(self, steps: int) -> None:
        """An epoch has ended, after so many updates; not compared if it was not seen to begin."""
        made, self._begun = steps - (steps if self._begun is None else self._begun), None
        if self._told is None or made < 2 or abs(made - self._told) <= max(1, TOLERATED * self._told):
            return
        warnings.warn(
            f"the loop made {made} updates in an epoch, and {self._name} was given epoch={self._told}, by "
            f"which it corrects; pass epoch={made}. If these batches are not one pass over the data, ignore "
            "this.",
            LCAWarning,
            stacklevel=3,
        )
        self._told = None
