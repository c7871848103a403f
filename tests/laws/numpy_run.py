"""A plain NumPy loop under a `lca.tracking.FunctionalTracker`, for the laws of trackers."""

import numpy as np

from lca.reference import Batch, DatasetLoss, leave_one_out, mean_gradient, update_slope
from lca.step import ExampleScores, MicroBatch
from lca.tracking import FunctionalTracker
from tests.laws.runs import NETWORK, OPTIMIZERS, THETA, Untracked, X, Y

DATA = Batch(X, Y, index=np.arange(len(X)))


class NumpyRun:
    """Updates one array in place, as plain loops do."""

    def __init__(self, estimator=None, *, optimizer="momentum", tracked=True, **options):
        self.objective = DatasetLoss(NETWORK, X, Y)
        self._optimizer, self._theta = OPTIMIZERS[optimizer], THETA.copy()
        self._state = self._optimizer.init(self._theta)
        self.tracker = self.tracker_of(self.objective, estimator, **options) if tracked else None

    def tracker_of(self, objective, estimator=None, **options):
        return FunctionalTracker(self._theta, objective, estimator, **options)

    def update(self, batch, *, pieces=1, known=True, scores=False):
        parts = [DATA.take(part) for (part,), _ in Untracked().micro_batches((batch,), pieces)]
        gradients = [self.objective.loss_and_grad(self._theta, part)[1] for part in parts]
        sizes = [len(part) for part in parts]
        gradient = mean_gradient(gradients, sizes, range(len(parts)))
        fields = {"gradient": gradient}
        if known:
            fields["batch"] = DATA.take(batch)
        if known and len(parts) > 1:
            updates = leave_one_out(self._optimizer, self._state, gradients, self._theta, sizes=sizes)
            fields["micro_batches"] = tuple(map(MicroBatch, gradients, updates, sizes))
        fields["update_slope"] = update_slope(self._optimizer, self._state, gradient, self._theta)
        if scores:
            fields["scores"] = ExampleScores(batch, self.objective.scores(self._theta, DATA.take(batch)))
        self._step(gradient, fields)

    def _step(self, gradient, fields):
        self._state, delta = self._optimizer.update(self._state, gradient, self._theta)
        self._theta += delta
        if self.tracker is not None:
            self.tracker.update(self._theta, **fields)

    def displace(self, value):
        self._theta[0] += value
        self.tracker.set_params(self._theta)

    def fail(self):
        gradient = np.zeros_like(self._theta)
        gradient[0] = np.nan
        self._step(gradient, {})

    def theta(self):
        return self._theta

    def numpy(self, vector):
        return vector

    def examples(self, batch):
        return batch.x, batch.y

    def left(self):
        return [self._theta]


class NumpyFramework:
    """See `tests.laws.runs.Framework`."""

    optimizers = ("momentum", "adam")
    advice = {
        "batch": r"pass batch= to tracker\.update",
        "micro_batches": r"pass micro_batches= to tracker\.update",
        "scores": r"pass scores= to tracker\.update at every step, or give the estimator refresh=n",
    }

    def run(self, estimator=None, **options):
        return NumpyRun(estimator, **options)

    def untracked(self, **options):
        return NumpyRun(tracked=False, **options)
