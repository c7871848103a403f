"""Incorrect objectives whose defect shows in a series of calls: caches, batches, ranges, global state."""

import os
import random
import threading
import warnings
from dataclasses import replace

import numpy as np

from lca.reference import Batch, DatasetLoss, mlp
from lca.reference._models import L2Penalty
from lca.testing._objective_subject import ObjectiveSubject
from tests.meta.animals import Passing, Wrong

_rng = np.random.default_rng(11)
X, Y = _rng.normal(size=(17, 3)), _rng.integers(3, size=17)
CUTS = [slice(0, 5), slice(5, 10), slice(10, 15), slice(15, 17)]  # the last one is ragged


def batches():
    """New batches, which an objective may spoil."""
    return [(float(len(X[cut])), Batch(X[cut].copy(), Y[cut].copy())) for cut in CUTS]


def dataset_loss():
    """The right one that is spoilt below."""
    return DatasetLoss(mlp((3, 4, 3), activation="tanh"), X, Y, batch_size=5)


def subject_of(kind, base=dataset_loss):
    """The subject of a wrapper class around the right objective."""
    return lambda: ObjectiveSubject(lambda: kind(base()), batches=batches())


class BothWays(Passing):
    """``loss`` is the first half of ``loss_and_grad``, so that they agree."""

    def loss(self, theta, batch=None):
        return self.loss_and_grad(theta, batch)[0]


# --- batches ---------------------------------------------------------------------------------------------


class BatchLossSummed(Passing):
    def loss(self, theta, batch=None):
        return super().loss(theta, batch) * (1 if batch is None else len(batch))


class BatchGradientOfTheWhole(Passing):
    """The gradient of a batch divided by N instead of by its size, made up for by the weights."""

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, grad if batch is None else grad * theta.dtype.type(len(batch) / len(X))


class OwnCursor(BothWays):
    """Takes the next batch of its own loader, whichever is passed."""

    def __init__(self, objective):
        super().__init__(objective)
        self._next = 0

    def loss_and_grad(self, theta, batch=None):
        if batch is None:
            return self.objective.loss_and_grad(theta)
        cut = CUTS[self._next % len(CUTS)]
        self._next += 1
        return self.objective.loss_and_grad(theta, Batch(X[cut], Y[cut]))

    def loss(self, theta, batch=None):
        return self.objective.loss(theta, batch)


class ExhaustedLoader(BothWays):
    """Serves as many batches as one epoch has, then returns 0."""

    def __init__(self, objective):
        super().__init__(objective)
        self._left = 2 * len(CUTS)

    def loss_and_grad(self, theta, batch=None):
        loss, grad = self.objective.loss_and_grad(theta, batch)
        self._left -= batch is not None
        return (0.0, 0 * grad) if self._left < 0 and batch is not None else (loss, grad)


class BatchInItsOwnDtype(Passing):
    """A float64 batch turns the gradient of float32 parameters into a float64 one."""

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, grad if batch is None else grad.astype(np.result_type(theta, batch.x))


class BatchCentredInPlace(BothWays):
    def loss_and_grad(self, theta, batch=None):
        if batch is not None:
            batch.x[...] *= 0.99
        return self.objective.loss_and_grad(theta, batch)


class BatchKnownByItsLength(BothWays):
    def __init__(self, objective):
        super().__init__(objective)
        self._known = {}

    def loss_and_grad(self, theta, batch=None):
        if batch is not None:
            batch = self._known.setdefault(len(batch), batch)
        return self.objective.loss_and_grad(theta, batch)


# --- caches ----------------------------------------------------------------------------------------------


class Cached(BothWays):
    """Keeps results by a key of θ and of the batch, and returns copies of them."""

    def __init__(self, objective):
        super().__init__(objective)
        self._known = {}

    def key(self, theta, batch):
        return theta.dtype, theta.shape, theta.tobytes(), id(batch)

    def loss_and_grad(self, theta, batch=None):
        key = self.key(theta, batch)
        if key not in self._known:
            # θ and the batch are kept, so that an identity is not given out twice.
            self._known[key] = (*self.objective.loss_and_grad(theta, batch), theta, batch)
        loss, grad, *_ = self._known[key]
        return loss, grad.copy()


class CachedByIdentity(Cached):
    def key(self, theta, batch):
        return id(theta), id(batch)


class CachedByPrefix(Cached):
    def key(self, theta, batch):
        return theta.dtype, theta[:8].tobytes(), id(batch)


class CachedBySum(Cached):
    def key(self, theta, batch):
        return theta.dtype, float(theta.sum()), id(batch)


class CachedByNorm(Cached):
    def key(self, theta, batch):
        return theta.dtype, round(float(np.linalg.norm(theta)), 6), id(batch)


class CachedByCloseness(Cached):
    def key(self, theta, batch):
        return theta.dtype, tuple(np.round(theta, 6)), id(batch)


class CachedWithoutBatch(Cached):
    def key(self, theta, batch):
        return theta.dtype, theta.tobytes(), batch is None


class CachedWithoutDtype(Cached):
    """A float64 point gets the gradient that was computed at its float32 neighbour."""

    def key(self, theta, batch):
        return theta.astype(np.float32).tobytes(), id(batch)

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, grad.astype(theta.dtype)


class StaleBackward(Passing):
    """The backward pass of the graph that the last ``loss`` has built."""

    graph = None

    def loss(self, theta, batch=None):
        self.graph = theta.copy()
        return super().loss(theta, batch)

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        stale = self.graph is not None and self.graph.dtype == theta.dtype and self.graph.shape == theta.shape
        return loss, super().loss_and_grad(self.graph, batch)[1] if stale else grad


# --- numbers and ranges ----------------------------------------------------------------------------------


class LossRounded(Passing):
    """The loss of float64 parameters goes through float32."""

    def loss(self, theta, batch=None):
        return float(np.float32(super().loss(theta, batch)))

    def loss_and_grad(self, theta, batch=None):
        return self.loss(theta, batch), super().loss_and_grad(theta, batch)[1]


class LossInFloat32(Passing):
    def loss(self, theta, batch=None):
        return super().loss(theta.astype(np.float32), batch)

    def loss_and_grad(self, theta, batch=None):
        return self.loss(theta, batch), super().loss_and_grad(theta, batch)[1]


class ThetaInFloat16(BothWays):
    """Autocast: float32 parameters are rounded to float16 before the forward pass."""

    def loss_and_grad(self, theta, batch=None):
        half = theta.astype(np.float16).astype(np.float32) if theta.dtype == np.float32 else theta
        return self.objective.loss_and_grad(half, batch)


class LossInFloat16(Passing):
    """The loss of float32 parameters goes through float16; the gradient does not."""

    def loss(self, theta, batch=None):
        loss = super().loss(theta, batch)
        return float(np.float16(loss)) if theta.dtype == np.float32 else loss

    def loss_and_grad(self, theta, batch=None):
        return self.loss(theta, batch), super().loss_and_grad(theta, batch)[1]


class GradientInBfloat16(Passing):
    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        if theta.dtype == np.float32:
            grad = (grad.view(np.uint32) & 0xFFFF0000).view(np.float32)
        return loss, grad


class LargeGradientClipped(Passing):
    """``clip_grad_norm_`` left in, which acts only where the gradient is large."""

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, grad / theta.dtype.type(max(1.0, float(np.linalg.norm(grad)) / 2))


class LossClamped(Passing):
    """The loss is clamped and the gradient is not."""

    def loss(self, theta, batch=None):
        return min(super().loss(theta, batch), 3.0)

    def loss_and_grad(self, theta, batch=None):
        return self.loss(theta, batch), super().loss_and_grad(theta, batch)[1]


class ThetaClipped(Passing):
    """Parameters are clipped to ±2 in the forward pass, with a straight-through gradient."""

    def loss(self, theta, batch=None):
        return super().loss(np.clip(theta, -2, 2), batch)

    def loss_and_grad(self, theta, batch=None):
        return super().loss_and_grad(np.clip(theta, -2, 2), batch)


class OneEntryDetached(Passing):
    """The gradient of a single entry is 0."""

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        grad[-1] = 0
        return loss, grad


class OnlyBatchGradientDetached(Passing):
    """A tensor is detached in the gradient of a batch, and not in that of the whole data."""

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        if batch is not None:
            self.layout.unflatten(grad)["fc1.weight"][...] = 0
        return loss, grad


# --- vectors of another model, and NaN -------------------------------------------------------------------


class Resized(Passing):
    """Makes a vector fit, whatever its length."""

    def fit(self, theta):
        return np.resize(theta, self.layout.size)

    def loss(self, theta, batch=None):
        return super().loss(self.fit(theta), batch)

    def loss_and_grad(self, theta, batch=None):
        return super().loss_and_grad(self.fit(theta), batch)


class ShortOnesPadded(Resized):
    def fit(self, theta):
        if theta.size > self.layout.size:
            return theta
        return np.concatenate([theta, np.zeros(self.layout.size - theta.size, theta.dtype)])


class OneNumberBroadcast(Resized):
    def fit(self, theta):
        return np.broadcast_to(theta, self.layout.size) if theta.size == 1 else theta


class MatrixRavelled(Resized):
    def fit(self, theta):
        return theta.ravel()


class CheckedOnlyWithGradient(Passing):
    """``loss`` truncates; ``loss_and_grad`` refuses."""

    def loss(self, theta, batch=None):
        return super().loss(theta[: self.layout.size], batch)


class OneNanHidden(Passing):
    """A NaN among the biases is replaced by 0."""

    def _healed(self, theta):
        healed = theta.copy()
        healed[12:16] = np.nan_to_num(theta[12:16])
        return healed

    def loss(self, theta, batch=None):
        return super().loss(self._healed(theta) if theta.shape == (self.layout.size,) else theta, batch)

    def loss_and_grad(self, theta, batch=None):
        return super().loss_and_grad(
            self._healed(theta) if theta.shape == (self.layout.size,) else theta, batch
        )


class LastFiniteLoss(Passing):
    """``loss`` returns the last finite loss in place of NaN."""

    last = 0.0

    def loss(self, theta, batch=None):
        loss = super().loss(theta, batch)
        self.last = loss if np.isfinite(loss) else self.last
        return self.last


# --- global state ----------------------------------------------------------------------------------------


class ErrorsIgnored(Passing):
    def loss_and_grad(self, theta, batch=None):
        np.seterr(over="ignore", invalid="ignore")
        return super().loss_and_grad(theta, batch)


class WarningsIgnored(Passing):
    def loss(self, theta, batch=None):
        warnings.simplefilter("ignore")
        return super().loss(theta, batch)


class GeneratorSeeded(Passing):
    def loss(self, theta, batch=None):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - the bug
        return super().loss(theta, batch)


class ThreadLeft(Passing):
    """Each call leaves a thread behind, which waits for work."""

    def loss(self, theta, batch=None):
        threading.Thread(target=STOP.wait, args=(60,), daemon=True).start()
        return super().loss(theta, batch)


class EnvironmentChanged(Passing):
    def loss(self, theta, batch=None):
        os.environ["LCA_ZOO"] = str(1 + int(os.environ.get("LCA_ZOO", "0")))
        return super().loss(theta, batch)


STOP = threading.Event()
"""Ends the threads of `ThreadLeft`."""


class SpoilsBatchGenerator(Passing):
    """Only the evaluation of a batch draws random numbers."""

    def loss_and_grad(self, theta, batch=None):
        if batch is not None:
            np.random.permutation(17)  # noqa: NPY002 - the bug
        return super().loss_and_grad(theta, batch)


# --- samples and scores ----------------------------------------------------------------------------------


class Sampling(Passing):
    """The right members of a `Scored` objective, with weights of the examples."""

    def __init__(self, objective=None):
        super().__init__(objective or replace(dataset_loss(), weight=np.linspace(0.5, 2.0, 17)))

    @property
    def n_examples(self):
        return self.objective.n_examples

    @property
    def weight(self):
        return self.objective.weight

    def batch(self, index, weight=None):
        return self.objective.batch(index, weight)

    @property
    def labels(self):
        return self.objective.labels

    def scores(self, theta, batch=None):
        return self.objective.scores(theta, batch)


class SampleWeightsIgnored(Sampling):
    def batch(self, index, weight=None):
        return self.objective.batch(index)


class SampleWeightsTwice(Sampling):
    """The weights of the data count in a sample, although the estimator has divided by them."""

    def batch(self, index, weight=None):
        own = self.objective.weight[index]
        return self.objective.batch(index, own if weight is None else own * weight)


class RepeatsDropped(Sampling):
    def batch(self, index, weight=None):
        index, first = np.unique(index, return_index=True)
        return self.objective.batch(index, None if weight is None else weight[first])


class OneExampleShort(Sampling):
    @property
    def n_examples(self):
        return self.objective.n_examples - 1


class SquaredWeights(Sampling):
    @property
    def weight(self):
        return self.objective.weight**2


class ShuffledExamples(Sampling):
    """The examples were shuffled, and their weights were not."""

    def batch(self, index, weight=None):
        order = np.random.default_rng(0).permutation(17)
        return self.objective.batch(order[index], weight)


class SampleDividedByCount(Sampling):
    """``Σ v ℓ / n`` instead of ``Σ v ℓ / Σ v``."""

    def batch(self, index, weight=None):
        made = self.objective.batch(index, weight)
        self.factor = {**getattr(self, "factor", {}), id(made): 1.0 if weight is None else np.mean(weight)}
        self.kept = [*getattr(self, "kept", []), made]
        return made

    def loss(self, theta, batch=None):
        return super().loss(theta, batch) * float(getattr(self, "factor", {}).get(id(batch), 1.0))

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        factor = float(getattr(self, "factor", {}).get(id(batch), 1.0))
        return loss * factor, grad * theta.dtype.type(factor)


class NegativeScores(Sampling):
    """Log-probabilities as scores."""

    def scores(self, theta, batch=None):
        return np.log(1 - super().scores(theta, batch))


class SortedScores(Sampling):
    def scores(self, theta, batch=None):
        return np.sort(super().scores(theta, batch))


class ScoresOfTheWhole(Sampling):
    def scores(self, theta, batch=None):
        return super().scores(theta)


class ConfidenceAsScore(Sampling):
    """``p_model(label)`` instead of ``1 - p_model(label)``: well-known examples are drawn most."""

    def scores(self, theta, batch=None):
        return 1 - super().scores(theta, batch)


class OneHotLabels(Sampling):
    @property
    def labels(self):
        return np.eye(3)[self.objective.labels]


# --- state and selection ---------------------------------------------------------------------------------


class Scheduled(Passing):
    """A right stateful objective: the loss times a factor that moves during the run."""

    def __init__(self, objective=None, factor=1.5):
        super().__init__(objective or dataset_loss())
        self._factor = np.array([factor])

    def state(self):
        return {"factor": self._factor.copy()}

    def at_state(self, state):
        return Scheduled(self.objective, float(state["factor"][0]))

    def loss(self, theta, batch=None):
        return float(self._factor[0]) * super().loss(theta, batch)

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return float(self._factor[0]) * loss, grad * theta.dtype.type(self._factor[0])


class StateNotCopied(Scheduled):
    def state(self):
        return {"factor": self._factor}


class StateAssigned(Scheduled):
    """``at_state`` puts the objective itself into the state."""

    def at_state(self, state):
        self._factor = state["factor"]
        return self


class StateIgnored(Scheduled):
    def at_state(self, state):
        return self


class Selecting(L2Penalty):
    """A right selective objective: differentiates the weights, and what is asked for."""

    differentiated = frozenset({"fc1.weight", "fc2.weight"})

    def differentiating(self, names):
        other = type(self)(self.layout, self.coefficient)
        object.__setattr__(other, "differentiated", frozenset(names))
        return other

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        for name, part in self.layout.unflatten(grad).items():
            part[...] *= name in self.differentiated
        return loss, grad


class SelectionIgnored(Selecting):
    def differentiating(self, names):
        return self


def _selecting(kind):
    return lambda: ObjectiveSubject(lambda: kind(dataset_loss().layout, 0.3))


HISTORY = "earlier_calls_change_no_result"
SAMPLES = "samples_are_means_of_their_examples"
WEIGHTED = "weighted_samples_are_weighted_means"
WHOLE = "whole_is_the_mean_of_its_examples"
SCORES = "scores_belong_to_their_examples"
STATE = "state_is_copied_and_used"

WRONG_CALLS: dict[str, Wrong] = {
    # batches
    "batch loss summed": Wrong(
        "reduction='sum' in `loss` of a batch, 'mean' in `loss_and_grad`",
        "loss_agrees_with_loss_and_grad",
        subject_of(BatchLossSummed),
    ),
    "batch gradient of the whole": Wrong(
        "the gradient of a batch divided by N instead of by its size",
        "gradient_matches_finite_differences",
        subject_of(BatchGradientOfTheWhole),
    ),
    "batch gradient detached": Wrong(
        "a tensor detached in the gradient of a batch only",
        "gradient_matches_finite_differences",
        subject_of(OnlyBatchGradientDetached),
    ),
    "own cursor": Wrong(
        "the next batch of an own loader is evaluated, whichever is passed", HISTORY, subject_of(OwnCursor)
    ),
    "exhausted loader": Wrong(
        "batches beyond the first epochs have loss 0", HISTORY, subject_of(ExhaustedLoader)
    ),
    "batch known by its length": Wrong(
        "batches cached by their number of examples", HISTORY, subject_of(BatchKnownByItsLength)
    ),
    "batch in its own dtype": Wrong(
        "a float64 batch makes the gradient of float32 parameters float64",
        "gradient_is_like_theta",
        subject_of(BatchInItsOwnDtype),
    ),
    "batch normalised in place": Wrong(
        "the features of a batch normalised in place", "calls_change_nothing", subject_of(BatchCentredInPlace)
    ),
    # caches
    "cached by identity": Wrong(
        "results cached by id(θ), which is updated in place", HISTORY, subject_of(CachedByIdentity)
    ),
    "cached by prefix": Wrong(
        "results cached by the first entries of θ", HISTORY, subject_of(CachedByPrefix)
    ),
    "cached by sum": Wrong("results cached by the sum of θ", HISTORY, subject_of(CachedBySum)),
    "cached by norm": Wrong("results cached by the norm of θ", HISTORY, subject_of(CachedByNorm)),
    "cached by closeness": Wrong(
        "results reused at points closer than 1e-6", HISTORY, subject_of(CachedByCloseness)
    ),
    "cached without batch": Wrong(
        "results cached by θ, the same for every batch", HISTORY, subject_of(CachedWithoutBatch)
    ),
    "cached without dtype": Wrong(
        "results of float64 parameters cached by their float32 values",
        HISTORY,
        subject_of(CachedWithoutDtype),
    ),
    "stale backward": Wrong(
        "the backward pass of the graph that an earlier call built", HISTORY, subject_of(StaleBackward)
    ),
    # numbers and ranges
    "loss in float32": Wrong(
        "the loss of float64 parameters computed in float32, their gradient in float64",
        "gradient_matches_finite_differences",
        subject_of(LossInFloat32),
    ),
    "loss rounded": Wrong(
        "the loss of float64 parameters rounded to float32",
        "works_in_the_precision_of_theta",
        subject_of(LossRounded),
    ),
    "parameters in float16": Wrong(
        "float32 parameters rounded to float16 before the forward pass",
        "float32_agrees_with_float64",
        subject_of(ThetaInFloat16),
    ),
    "loss in float16": Wrong(
        "the loss of float32 parameters, alone, in float16",
        "float32_agrees_with_float64",
        subject_of(LossInFloat16),
    ),
    "gradient in bfloat16": Wrong(
        "a gradient kept in bfloat16", "float32_agrees_with_float64", subject_of(GradientInBfloat16)
    ),
    "large gradients clipped": Wrong(
        "clipping by the norm, which acts only on large gradients",
        "whole_is_the_mean_of_its_batches",
        subject_of(LargeGradientClipped),
    ),
    "loss clamped": Wrong(
        "a loss clamped to 3, with the gradient of the loss before",
        "gradient_matches_finite_differences",
        subject_of(LossClamped),
    ),
    "parameters clipped": Wrong(
        "parameters clipped to ±2 in the forward pass and not in the backward pass",
        "gradient_matches_finite_differences",
        subject_of(ThetaClipped),
    ),
    "one entry detached": Wrong(
        "the gradient of the last entry of θ is 0",
        "gradient_matches_finite_differences",
        subject_of(OneEntryDetached),
    ),
    # other vectors, and NaN
    "vectors resized": Wrong(
        "numpy.resize makes every vector fit", "wrong_vectors_are_refused", subject_of(Resized)
    ),
    "short vectors padded": Wrong(
        "a vector that is too short padded with zeros",
        "wrong_vectors_are_refused",
        subject_of(ShortOnesPadded),
    ),
    "one number broadcast": Wrong(
        "a vector of one entry broadcast to all parameters",
        "wrong_vectors_are_refused",
        subject_of(OneNumberBroadcast),
    ),
    "matrices ravelled": Wrong(
        "a matrix with K entries taken for a vector", "wrong_vectors_are_refused", subject_of(MatrixRavelled)
    ),
    "loss alone truncates": Wrong(
        "`loss` truncates what `loss_and_grad` refuses",
        "wrong_vectors_are_refused",
        subject_of(CheckedOnlyWithGradient),
    ),
    "one NaN hidden": Wrong(
        "a NaN in one tensor replaced by 0", "non_finite_numbers_are_not_hidden", subject_of(OneNanHidden)
    ),
    "last finite loss": Wrong(
        "`loss` returns the last finite loss in place of NaN",
        "non_finite_numbers_are_not_hidden",
        subject_of(LastFiniteLoss),
    ),
    # global state
    "errors ignored": Wrong(
        "numpy.seterr called and not undone", "calls_change_nothing", subject_of(ErrorsIgnored)
    ),
    "warnings ignored": Wrong(
        "warnings.simplefilter called and not undone", "calls_change_nothing", subject_of(WarningsIgnored)
    ),
    "generators seeded": Wrong(
        "random generators seeded while measuring", "calls_change_nothing", subject_of(GeneratorSeeded)
    ),
    "threads left": Wrong("a thread started by each call", "calls_change_nothing", subject_of(ThreadLeft)),
    "environment changed": Wrong(
        "an environment variable set while measuring", "calls_change_nothing", subject_of(EnvironmentChanged)
    ),
    "batch consumes the generator": Wrong(
        "random numbers drawn for batches only", "calls_change_nothing", subject_of(SpoilsBatchGenerator)
    ),
    # samples and scores
    "sample weights ignored": Wrong(
        "importance weights of a sample ignored", WEIGHTED, lambda: ObjectiveSubject(SampleWeightsIgnored)
    ),
    "sample weights twice": Wrong(
        "the weights of the data count again in a sample",
        WEIGHTED,
        lambda: ObjectiveSubject(SampleWeightsTwice),
    ),
    "repeats dropped": Wrong(
        "an example that is drawn twice counts once", SAMPLES, lambda: ObjectiveSubject(RepeatsDropped)
    ),
    "sample divided by its count": Wrong(
        "a weighted sample divided by its size instead of by its weight",
        WEIGHTED,
        lambda: ObjectiveSubject(SampleDividedByCount),
    ),
    "one example short": Wrong(
        "n_examples is one too small", WHOLE, lambda: ObjectiveSubject(OneExampleShort)
    ),
    "squared weights": Wrong(
        "the weights of the examples reported after squaring", WHOLE, lambda: ObjectiveSubject(SquaredWeights)
    ),
    "examples shuffled": Wrong(
        "examples in another order than their weights", WHOLE, lambda: ObjectiveSubject(ShuffledExamples)
    ),
    "negative scores": Wrong("log-probabilities as scores", SCORES, lambda: ObjectiveSubject(NegativeScores)),
    "sorted scores": Wrong("scores in order of size", SCORES, lambda: ObjectiveSubject(SortedScores)),
    "scores of the whole": Wrong(
        "the scores of all examples for any batch", SCORES, lambda: ObjectiveSubject(ScoresOfTheWhole)
    ),
    "confidence as score": Wrong(
        "p(label) instead of 1 - p(label) as score", SCORES, lambda: ObjectiveSubject(ConfidenceAsScore)
    ),
    "one-hot labels": Wrong("labels as a one-hot matrix", SCORES, lambda: ObjectiveSubject(OneHotLabels)),
    # state and selection
    "state not copied": Wrong(
        "state() returns the live array", STATE, lambda: ObjectiveSubject(StateNotCopied)
    ),
    "state assigned": Wrong(
        "at_state() changes the objective itself", STATE, lambda: ObjectiveSubject(StateAssigned)
    ),
    "state ignored": Wrong("at_state() returns the same loss", STATE, lambda: ObjectiveSubject(StateIgnored)),
    "selection ignored": Wrong(
        "differentiating() returns the objective as it is",
        "asked_tensors_are_differentiated",
        _selecting(SelectionIgnored),
    ),
}
RIGHT_CALLS = {
    "samples and scores": ObjectiveSubject(Sampling),
    "scheduled": ObjectiveSubject(Scheduled, batches=batches()),
    "selecting": ObjectiveSubject(lambda: Selecting(dataset_loss().layout, 0.3)),
    "cached": ObjectiveSubject(lambda: Cached(dataset_loss()), batches=batches()),
}
