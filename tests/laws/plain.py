"""A framework of its own in few lines of NumPy: what `lca.frameworks` asks of one, and no more."""

import numpy as np

from lca.errors import LCAError
from lca.frameworks import (
    BatchwiseLoss,
    ModelObjective,
    Rows,
    all_rows,
    batch_norm_policies,
    check_frozen,
    check_loss,
    check_theta,
    read_batches,
)
from lca.frameworks._loss_checks import unweighted
from lca.reference import Batch, BatchNorm, Network


class PlainModel:
    """Parameters θ of a `Network`, and running statistics for its BatchNorm layers, called bn1, bn2, ..."""

    def __init__(self, network, seed=0):
        self.network, self.theta = network, network.init(seed)
        norms = [layer for layer in network.layers if isinstance(layer, BatchNorm)]
        self.statistics = {f"bn{i}": (layer.mean, layer.variance) for i, layer in enumerate(norms, 1)}


class ClassWeights:
    """The mean loss over examples, weighted by their class, divided by the sum of these weights."""

    def __init__(self, weights):
        self.weights = np.asarray(weights)

    def __call__(self, losses):
        raise AssertionError("needs labels")


class PlainLoss(BatchwiseLoss):
    """Gradients by hand, from the reference; ``loss_fn`` goes from losses (n,) to a scalar, or ``None``."""

    def __init__(self, model, loss_fn, *, batch_norm, frozen, batch_weight):
        check_frozen(frozen)
        self._model, self._loss_fn = model, loss_fn or np.mean
        self._policies = batch_norm_policies(batch_norm, model.statistics)
        self._kept = [
            n for n in model.network.layout.names if frozen == "zero" or n not in model.network.frozen
        ]
        whole = model.network.layout
        where = whole.unflatten(np.arange(float(whole.size)))
        self._at = np.concatenate([where[name].ravel() for name in self._kept]).astype(int)
        self.layout = type(whole)(tuple(self._kept), tuple(where[name].shape for name in self._kept))
        self.mixes_examples = "batch" in self._policies.values()
        self.counts_examples, self._batch_weight = batch_weight is None, batch_weight

    def theta(self):
        return self._model.theta[self._at].copy()

    def state(self):
        frozen = [name for name, policy in self._policies.items() if policy == "frozen"]
        return {
            f"{n}.{k}": np.array(v) for n in frozen for k, v in enumerate(self._model.statistics[n])
        } or None

    def batch_weight(self, batch):
        if len(batch) == 3:
            return float(batch[2].sum())
        return super().batch_weight(batch) if self._batch_weight is None else float(self._batch_weight(batch))

    def evaluate_batch(self, theta, batch, state, *, gradient):
        check_theta(self.layout, theta, np.ndarray)
        x, y, *weight = batch
        if isinstance(self._loss_fn, ClassWeights):
            weight = [self._loss_fn.weights[y]]
        whole = self._model.theta.astype(theta.dtype)
        whole[self._at] = theta
        network, grad = self._network(state or self.state() or {}), np.empty_like(whole)
        losses = network.losses_and_grad(whole, Batch(x.astype(theta.dtype), y, *weight), grad)
        count = sum(weight[0]) if weight else len(x)
        loss = np.asarray(losses @ weight[0] / count if weight else self._loss_fn(losses))
        check_loss(loss, self.mean_hint)
        factor = 1 / count if weight else self._loss_fn(np.ones(len(x))) / count
        return loss.item(), (grad * factor)[self._at].astype(theta.dtype) if gradient else None

    def sample(self, rows, weight):
        if weight is None:
            return rows
        if self._loss_fn is not np.mean:
            raise unweighted(self.sample_hint)
        return (*rows, weight)

    def scores(self, theta, batches):
        if self._loss_fn is not np.mean:
            return super().scores(theta, batches)
        network = self._model.network
        found = [network.loss.value_and_grad(network.forward(theta, x), y)[1] for x, y in batches]
        return np.abs(np.concatenate(found)).sum(1) / 2

    def _network(self, state):
        layers, norm = [], 0
        for layer in self._model.network.layers:
            if isinstance(layer, BatchNorm):
                norm += 1
                name = f"bn{norm}"
                statistics = (
                    (tuple(state[f"{name}.{k}"]) for k in (0, 1)) if f"{name}.0" in state else ((), ())
                )
                layer = BatchNorm(layer.n, self._policies[name], *statistics, eps=layer.eps)  # noqa: PLW2901
            layers.append(layer)
        old = self._model.network
        return Network(tuple(layers), old.loss, old.input_shape, frozen=old.frozen, tied=old.tied)


class PlainObjective(ModelObjective):
    """`lca.frameworks.ModelObjective` of a `PlainModel`."""

    def __init__(
        self,
        model,
        loss_fn,
        data,
        *,
        batch_weight=None,
        batch_size=None,
        batch_norm="batch",
        frozen="zero",
        keep=True,
    ):
        if loss_fn is not None and not callable(loss_fn):
            raise LCAError("the order is Objective(model, loss_fn, data).")
        loss = PlainLoss(model, loss_fn, batch_norm=batch_norm, frozen=frozen, batch_weight=batch_weight)
        rows = all_rows(data) if isinstance(data, tuple) else read_batches(data, keep=keep)
        assert not isinstance(data, Rows)
        super().__init__(model, loss, rows, batch_size=batch_size)
