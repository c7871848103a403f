"""A functional training loop in JAX, for the laws of trackers (`tests.laws.trackers`)."""

import jax
import jax.numpy as jnp
import numpy as np

from lca.reference import leave_one_out, mean_gradient, update_slope
from lca.step import ExampleScores, MicroBatch
from lca.tracking import FunctionalTracker
from lca_jax import Objective
from lca_jax.network import cross_entropy, model_of
from tests.laws.numpy_run import NumpyFramework
from tests.laws.runs import NETWORK, OPTIMIZERS, THETA, Untracked, X, Y

MODEL = model_of(NETWORK, "float64")
gradient_of = jax.jit(jax.grad(lambda params, x, y: cross_entropy(MODEL.apply(params, x), y)))


class JaxRun:
    """Updates a tree of immutable arrays; the tracker gets the tree."""

    def __init__(self, estimator=None, *, optimizer="momentum", tracked=True, **options):
        self._model = model_of(NETWORK, "float64")
        self.objective = Objective(self._model, cross_entropy, (X, Y))
        self._optimizer, self._vector = OPTIMIZERS[optimizer], jnp.array(THETA)
        self._state = self._optimizer.init(self._vector)
        self.tracker = self.tracker_of(self.objective, estimator, **options) if tracked else None

    @property
    def _params(self):
        return self.objective.params(self._vector)

    def tracker_of(self, objective, estimator=None, **options):
        return FunctionalTracker(self._params, objective, estimator, pack=self.objective.pack, **options)

    def update(self, batch, *, pieces=1, known=True, scores=False):
        parts = [part for (part,), _ in Untracked().micro_batches((batch,), pieces)]
        trees = [gradient_of(self._params, X[part], Y[part]) for part in parts]
        gradients, sizes = list(map(self.objective.pack, trees)), list(map(len, parts))
        gradient = mean_gradient(gradients, sizes, range(len(parts)))
        slope = update_slope(self._optimizer, self._state, gradient, self._vector)
        fields = {"gradient": self.objective.params(gradient), "update_slope": slope}
        if known:
            fields["batch"] = (X[batch], Y[batch])
        if known and len(parts) > 1:
            updates = leave_one_out(self._optimizer, self._state, gradients, self._vector, sizes=sizes)
            fields["micro_batches"] = tuple(map(MicroBatch, trees, updates, sizes))
        if scores:
            given = self.objective.scores(self._vector, (X[batch], Y[batch]))
            fields["scores"] = ExampleScores(batch, given)
        self._step(gradient, fields)

    def _step(self, gradient, fields):
        self._state, delta = self._optimizer.update(self._state, gradient, self._vector)
        self._vector = self._vector + delta
        if self.tracker is not None:
            self.tracker.update(self._params, **fields)

    def displace(self, value):
        self._vector = self._vector.at[0].add(value)
        self.tracker.set_params(self._params)

    def fail(self):
        self._step(jnp.zeros_like(self._vector).at[0].set(jnp.nan), {})

    def theta(self):
        return self._vector

    def numpy(self, vector):
        return np.asarray(vector)

    def examples(self, batch):
        return batch

    def left(self):
        state = [self._state] if isinstance(self._state, jax.Array) else vars(self._state).values()
        return [np.asarray(value) for value in (self._vector, *state)]


class JaxFramework(NumpyFramework):
    """See `tests.laws.runs.Framework`; the advice is that of every `FunctionalTracker`."""

    def run(self, estimator=None, **options):
        return JaxRun(estimator, **options)

    def untracked(self, **options):
        return JaxRun(tracked=False, **options)
