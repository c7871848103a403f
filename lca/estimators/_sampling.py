"""Draws examples: uniformly, by their error, or by their error spread evenly over strata."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from lca.errors import LCAError, LCAWarning, UnknownNameError
from lca.objective import Batch, Objective, Sampled, Scored
from lca.step import ExampleScores

Array = np.ndarray
Sampling: TypeAlias = Literal["uniform", "importance", "stratified"]


@dataclass(frozen=True, eq=False)
class Sample:
    """``size`` examples, independent of other samples; the mean of ``factor · g_batch(θ)`` is ∇L(θ)."""

    batch: Batch
    factor: float
    size: int
    part: bool = False
    """Whether the sample is one of several parts of all the data, so that the mean over the parts is
    exact."""


class Sampler:
    """Draws samples of a data set, and keeps the importance scores of its examples.

    An example is drawn with ``p_n ∝ (1 - floor) w_n s_n / Σ w s + floor w_n / Σ w`` and has the weight
    ``1 / p_n``, so that the mean gradient is that of the data for any scores s: bad scores raise the variance
    and cause no bias. The floor bounds the weight of an example whose error has grown since it was last
    seen. The score of an example is the mean of its newest error and its score before: a single error, which
    may be an epoch old, says less. An example without a score gets the mean error of the last batch.

    ``stratified`` draws systematically: the examples are sorted by class and score, and one is drawn at
    every ``1/size``-th of the total probability, from a random start.

    Parameters
    ----------
    objective
        The data to draw from; it must implement `lca.objective.Sampled`.
    sampling
        ``"uniform"``, ``"importance"`` or ``"stratified"``.
    floor
        The part of the probability that does not depend on scores, in (0, 1].
    seed
        The seed of the random numbers.

    Raises
    ------
    LCAError
        If the objective cannot be sampled.

    Examples
    --------
    >>> from lca.reference import Batch, DatasetLoss, logistic_regression
    >>> loss = DatasetLoss(logistic_regression(2, 3), np.eye(2), np.array([0, 2]))
    >>> [sample] = Sampler(loss, "uniform", floor=1.0, seed=0).draw([4])
    >>> len(sample.batch)
    4
    """

    def __init__(self, objective: Objective, sampling: Sampling, floor: float, seed: int) -> None:
        self.objective = check_sampled(objective)
        self.sampling, self.floor = sampling, floor
        self._seed = [seed, 0x1CA]  # never the numbers of a training loop with this seed
        self.rng = np.random.default_rng(self._seed)
        n = self.objective.n_examples
        weight = self.objective.weight
        self._share = np.full(n, 1 / n) if weight is None else weight / weight.sum()
        self._scores = np.full(n, np.nan)
        self._unseen = 1.0
        self._changed = n
        self._warned = False  # of scores that are not finite
        self.everything, self.weighted = np.arange(n), np.flatnonzero(self._share)
        self._order = self.everything
        self._p, self._upto = self._share, np.cumsum(self._share)

    def begin(self, step: int) -> None:
        """Begin a run at this step: one that is continued draws other samples than its beginning did.

        Raises
        ------
        LCAError
            If samples are weighted and the loss takes no weights. Later it might be noticed after many steps,
            as where the first ones take all data.
        """
        if self.sampling != "uniform":
            self.objective.batch(self.everything[:1], np.ones(1))
        if step:
            self.rng = np.random.default_rng([*self._seed, step])

    def learn(self, scores: ExampleScores) -> None:
        """Update the scores of some examples from their newest errors.

        Raises
        ------
        LCAError
            If an index is outside the data.
        """
        index, n = scores.index, len(self._scores)
        outside = index[(index < 0) | (index >= n)]
        if len(outside):
            raise LCAError(f"scores belong to example {outside[0]}, but the measured data are 0..{n - 1}.")
        index, values = self._finite(scores)
        if not len(index):
            return
        known = self._scores[index]
        self._scores[index] = np.where(np.isnan(known), values, (known + values) / 2)
        self._unseen = float(values.mean())
        self._changed += len(index)

    def restart(self, scores: ExampleScores) -> None:
        """Take these errors, those of all examples at present, for their scores."""
        index, values = self._finite(scores)
        self._scores[index] = values
        self._changed = len(self._scores)

    def _finite(self, scores: ExampleScores) -> tuple[Array, Array]:
        """Index and values of the scores that are finite; warns of the first others."""
        finite = np.isfinite(scores.values)
        if finite.all():
            return scores.index, scores.values
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{np.count_nonzero(~finite)} of {len(finite)} scores are NaN or infinite; these and later "
                "ones are ignored. The examples keep the scores that they had, which may raise the variance "
                "and causes no bias. Do the data hold NaN or Inf?",
                LCAWarning,
                stacklevel=2,
            )
        return scores.index[finite], scores.values[finite]

    def draw(self, sizes: Sequence[int]) -> list[Sample]:
        """Independent samples of these sizes."""
        if self.sampling != "uniform" and self._changed >= len(self._scores) / 8:
            self._update()  # not at every draw: old tables only raise the variance, sorting takes time
        return [self._draw(size) for size in sizes]

    def split(self, parts: int) -> list[Sample]:
        """All examples with a weight, in random parts of equal size, whose mean is exact."""
        weight, found = self.objective.weight, []
        for index in np.array_split(self.rng.permutation(self.weighted), parts):
            batch = self.objective.batch(index, None if weight is None else weight[index])
            found.append(Sample(batch, parts * float(self._share[index].sum()), len(index), part=True))
        return found

    def _draw(self, size: int) -> Sample:
        if self.sampling == "stratified":
            at = (self.rng.random() + np.arange(size)) / size
        else:
            at = self.rng.random(size)
        # Rounding may leave the last sum below 1.
        rank = np.searchsorted(self._upto[:-1], at * self._upto[-1], side="right")
        index = self._order[rank]
        if self.sampling == "uniform":
            return Sample(self.objective.batch(index), 1.0, size)
        weight = self._share[index] / self._p[index]
        return Sample(self.objective.batch(index, weight), float(weight.mean()), size)

    def _update(self) -> None:
        """Compute the probabilities from the scores, and for strata the order."""
        scores = np.where(np.isnan(self._scores), self._unseen, self._scores)
        wanted = self._share * scores
        total = wanted.sum()
        self._p = (1 - self.floor) * wanted / total + self.floor * self._share if total > 0 else self._share
        if self.sampling == "stratified":
            labels = self.objective.labels if isinstance(self.objective, Scored) else None
            # One key for both, as classes are whole numbers: the scores are scaled into [0, 1/2].
            key = scores / (2 * scores.max() or 1.0)
            self._order = np.argsort(key if labels is None else labels + key, kind="stable")
        self._upto = np.cumsum(self._p[self._order])
        self._changed = 0


def check_sampled(objective: Objective) -> Sampled:
    """The objective itself; raises `LCAError` unless examples can be drawn from it."""
    if not isinstance(objective, Sampled):
        raise LCAError(
            f"drawing examples needs an objective that is a mean over examples (lca.objective.Sampled: "
            f"n_examples, weight, batch), which {type(objective).__name__} is not; measure the terms of a "
            "Sum one by one, or use an estimator on training batches (lca.estimators.NextBatch(lca.RIGHT))."
        )
    return objective


def check_sampling(sampling: str, floor: float) -> None:
    """Raise `LCAError` unless these are options of a `Sampler`."""
    if sampling not in get_args(Sampling):
        raise UnknownNameError("sampling", sampling, get_args(Sampling))
    if not 0 < floor <= 1:
        raise LCAError(
            f"floor must lie in (0, 1], got {floor!r}; without it an example could never be drawn again."
        )
