"""The helping % of noisy values, as it is and corrected: measured here, and not good enough to offer."""

import numpy as np

from lca.allocation import StepAllocation
from lca.arrays import array_ops
from lca.errors import LCAError

Array = np.ndarray


class HelpingBracket:
    """The helping % of noisy values, as it is and with the usual correction, from two halves.

    Noise turns signs, so the share of negative values of a stochastic estimator is drawn towards 50 %: that
    is ``low`` (for a share above 50 %), and it must not be compared with a full-data figure. If every sign
    were turned with the same probability φ, then two independent halves would disagree on ``D = 2 φ (1 - φ)``
    of the parameters, and the share f of negative values in a half would be ``h (1 - φ) + (1 - h) φ``:

        φ = (1 - √(1 - 2 D)) / 2        h = (f - φ) / (1 - 2 φ)

    is ``high``. But φ is not the same for all, so the correction is biased: with probes on the digits it was
    3.9 points too low (SGD) to 3.9 too high (Adam), and with SGD the truth mostly lay outside the two
    figures. That is why the library offers no corrected helping %; this stays here as the evidence.

    Examples
    --------
    >>> bracket = HelpingBracket()
    >>> halves = [np.array([-1.0, -1.0, -1.0, -1.0, 1.0]), np.array([-1.0, -1.0, -1.0, 1.0, 1.0])]
    >>> bracket.update(StepAllocation(np.mean(halves, axis=0), 0.0, 0.0, 0.0, 0.0, replicates={0.0: halves}))
    >>> bracket.low().round(1), bracket.high().round(1)
    (array([75.]), array([75.8]))
    """

    def __init__(self) -> None:
        self._rows: list[tuple[float, float]] = []

    def update(self, allocation: StepAllocation) -> None:
        """Take in one step.

        Raises
        ------
        LCAError
            If there are not two replicates or more of every node.
        """
        nodes = list(allocation.replicates.values())
        if not nodes or min(map(len, nodes)) < 2:
            raise LCAError(
                f"step {allocation.step}: the helping % of noisy values needs two independent samples of "
                "each node; use SampledPathIntegral or ControlVariate with micro_batches=2, or an "
                "estimator on the full data."
            )
        values = array_ops(allocation.values).to_numpy(allocation.values)
        first, second = (np.sum([_half_mean(node, half) for node in nodes], axis=0) for half in (0, 1))
        self._rows.append(bracket(values, first, second))

    def low(self) -> Array:
        """The share of negative values of every step as it is, in %, (T,); NaN where all are 0."""
        return np.array([low for low, _ in self._rows])

    def high(self) -> Array:
        """The share corrected as if all signs were equally likely to be turned, in %, (T,)."""
        return np.array([high for _, high in self._rows])


def bracket(values: Array, first: Array, second: Array) -> tuple[float, float]:
    """Helping % of ``values`` as it is, and corrected by how often the two halves agree."""
    low = _percent(values[values != 0] < 0)
    both = (first != 0) & (second != 0)
    a, b = first[both] < 0, second[both] < 0
    if not len(a):
        return low, np.nan
    disagree = float(np.mean(a != b))
    if disagree >= 0.5:  # the halves know nothing of each other
        return low, np.nan
    turned = (1 - np.sqrt(1 - 2 * disagree)) / 2
    share = (float(np.mean(a)) + float(np.mean(b))) / 2
    return low, 100 * min(max((share - turned) / (1 - 2 * turned), 0.0), 1.0)


def _percent(negative: Array) -> float:
    return 100 * float(np.mean(negative)) if len(negative) else np.nan


def _half_mean(node: object, half: int) -> Array:
    replicates = list(node)[half::2]  # type: ignore[call-overload]
    arrays = [array_ops(r).to_numpy(r) for r in replicates]
    mean: Array = np.mean(arrays, axis=0)
    return mean
