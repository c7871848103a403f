"""`ErrorBars`: standard errors of group sums over any window of steps, including shared samples."""

from collections import defaultdict

import numpy as np

from lca._freedom import satterthwaite
from lca.allocation import StepAllocation
from lca.errors import LCAError
from lca.groups import Groups
from lca.tolerances import EPS32

Array = np.ndarray
_WINDOWS = 64
"""Steps around a window from which its degrees of freedom are estimated."""


class ErrorBars:
    """Standard errors of ``Σ_{t in window} Σ_{i in group} A_{t,i}`` due to sampling, for each group.

    The sample at node t enters steps t - 1 and t, so the errors of neighbouring steps are correlated, often
    with opposite signs, and must not be combined as if they were independent. The m replicates of a node are
    therefore summed over *all* steps of the window that share it. The nodes are independent, so

        stderr² = Σ_nodes 1/(m (m - 1)) Σ_j (R_{node,j} - mean_j R_{node,j})²

    where ``R_{node,j} = Σ_t Σ_{i in group}`` of replicate j. This is the sampling error only; it does not
    contain the bias of the estimator's rule or batches.

    Parameters
    ----------
    groups
        From `lca.Layout.groups`. For the error bar of the total, put all parameters into one group.

    Notes
    -----
    A window consists of the measured steps ``start`` ≤ t < ``stop``; the default is the whole run. An empty
    window, or one that extends beyond the run, raises `LCAError`. Memory: O(m · groups) a step.

    Raises
    ------
    LCAError
        If ``groups`` is not a `Groups`, for example if the class itself is passed as ``views=`` of a tracker.

    Examples
    --------
    >>> from lca import Layout
    >>> bars = ErrorBars(Layout(("w",), ((1,),)).groups())
    >>> for step, (left, right) in enumerate([(1.0, -0.5), (0.5, -1.0)]):  # node 1 is between the two steps
    ...     pairs = {step: left, step + 1: right}
    ...     nodes = {t: [np.array([a]), np.array([-a])] for t, a in pairs.items()}
    ...     bars.update(StepAllocation(np.zeros(1), 0.0, 0.0, 0.0, 0.0, step, replicates=nodes))
    >>> bars.stderr(0, 1).round(3), bars.stderr().round(3)
    (array([1.118]), array([1.414]))
    """

    def __init__(self, groups: Groups) -> None:
        if not isinstance(groups, Groups):
            raise LCAError(
                f"ErrorBars needs groups, got a {type(groups).__name__}; e.g. layout.groups('layer'); for a "
                "tracker views=lambda layout: ErrorBars(layout.groups('layer'))."
            )
        self.groups = groups
        self._rows: list[Array] = []
        self._nodes: list[dict[float, Array]] = []

    def update(self, allocation: StepAllocation) -> None:
        """Process one step (`View.update`).

        Raises
        ------
        LCAError
            If the estimator gives no replicates.
        """
        if not allocation.replicates:
            raise LCAError(
                f"step {allocation.step}: the estimator gives no replicates, so the spread is unknown; use "
                "SampledPathIntegral or ControlVariate with micro_batches=2 or more, or "
                "CrossFit(independent=True) if batches are drawn independently."
            )
        self._rows.append(self.groups.total(allocation.values))
        self._nodes.append(
            {
                key: np.array([self.groups.total(r) for r in replicates])
                for key, replicates in allocation.replicates.items()
            }
        )

    def __len__(self) -> int:
        """The number of steps."""
        return len(self._rows)

    def totals(self, start: int | None = None, stop: int | None = None) -> Array:
        """The estimate ``Σ A`` over the window, (groups,), in units of the loss."""
        rows = self._rows[self._window(start, stop)]
        totals: Array = np.reshape(rows, (len(rows), len(self.groups))).sum(axis=0)
        return totals

    def stderr(self, start: int | None = None, stop: int | None = None) -> Array:
        """The standard error of `totals`, (groups,), in units of the loss."""
        stderr: Array = np.sqrt(self._variances(start, stop)[0].sum(axis=0))
        return stderr

    def per_step(self) -> Array:
        """The standard error of each single step, (T, groups), in units of the loss."""
        return np.reshape([self.stderr(t, t + 1) for t in range(len(self))], (len(self), len(self.groups)))

    def interval(
        self, level: float = 0.95, start: int | None = None, stop: int | None = None
    ) -> tuple[Array, Array]:
        """Confidence limits, (groups,) each: the estimate minus and plus t · stderr, with Student's t.

        The degrees of freedom are those of Welch and Satterthwaite, ``ν = (Σ_i σ_i²)² / Σ_i σ_i⁴/(m - 1)``
        over the nodes i of the window: m - 1 for a single random node, as beside an anchor of a
        `ControlVariate`; for Simpson's rule, whose midpoint has most of the weight, hardly more than m - 1 in
        a single step. With small m the variances σ_i² of one short window are known too badly to tell ν, so
        both sums are estimated without bias from all groups, each in units of its own mean, and from up to 65
        windows of this length around it whose exact nodes are at the same places.

        Parameters
        ----------
        level
            The confidence level, between 0 and 1.
        start, stop
            The window of steps.

        Raises
        ------
        LCAError
            If ``level`` is not between 0 and 1.
        """
        from scipy import stats  # noqa: PLC0415 - slow to import, and most views never need it

        if not 0 < level < 1:
            raise LCAError(f"level must lie between 0 and 1, got {level!r}; e.g. 0.95.")
        window = self._window(start, stop)
        half = stats.t.isf((1 - level) / 2, self._freedom(window)) * self.stderr(start, stop)
        middle = self.totals(start, stop)
        return middle - half, middle + half

    def _freedom(self, window: slice) -> float:
        """Satterthwaite's degrees of freedom of windows like this one."""
        length = window.stop - window.start
        own, freedom = self._variances(window.start, window.stop)
        random = _random(own)
        around = max(_WINDOWS // length, 0)
        first = min(max(window.start - around // 2, 0), max(len(self) - length - around, 0))
        alike = []
        for at in range(first, min(first + around, len(self) - length) + 1):
            variances, _ = self._variances(at, at + length)
            if np.array_equal(_random(variances), random):  # else another rule, or other exact nodes
                alike.append(variances)
        mean = np.mean(alike, axis=0).sum(axis=0)
        # Without any variation (a frozen group, say) the interval has width 0 for every t.
        if not (mean > 0).any():
            return 1.0
        relative = np.array(alike)[:, random][..., mean > 0] / mean[mean > 0]
        freedom = freedom[random]
        variance = float(np.linalg.norm(relative.sum(axis=1)))
        root = float(np.linalg.norm((relative / np.sqrt(freedom + 2)[:, None]).ravel()))
        return satterthwaite(variance, root, float(freedom.min()), float(freedom.sum()))

    def _window(self, start: int | None, stop: int | None) -> slice:
        first, last = 0 if start is None else start, len(self) if stop is None else stop
        if not 0 <= first < last <= len(self):
            raise LCAError(
                f"a window of steps needs 0 ≤ start < stop ≤ {len(self)}, the number of measured steps; got "
                f"start={first}, stop={last}."
            )
        return slice(first, last)

    def _variances(self, start: int | None, stop: int | None) -> tuple[Array, Array]:
        """The variance of the mean of each node of the window, (nodes, groups), and its m - 1, (nodes,)."""
        nodes: dict[float, Array] = defaultdict(lambda: np.zeros(()))
        for step in self._nodes[self._window(start, stop)]:
            for key, replicates in step.items():
                nodes[key] = nodes[key] + replicates
        variances = [r.var(axis=0, ddof=1) / len(r) for r in nodes.values()]
        freedom = np.array([len(r) - 1 for r in nodes.values()])
        return np.reshape(variances, (len(variances), len(self.groups))), freedom


def _random(variances: Array) -> Array:
    """Which nodes are random, (nodes,); the replicates of exact ones differ by rounding at most."""
    random: Array = (variances > EPS32 * variances.sum(axis=0)).any(axis=1)
    return random
