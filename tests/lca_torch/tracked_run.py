"""A training loop in torch, for the laws of trackers (`tests.laws.trackers`)."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lca_torch import Objective, Tracker
from lca_torch._network import module_of
from tests.laws.runs import NETWORK, OPTIMIZERS, THETA, Untracked, X, Y

SGD, ADAM = OPTIMIZERS["momentum"], OPTIMIZERS["adam"]
MAKE = {
    "momentum": lambda p: torch.optim.SGD(p, lr=SGD.lr, momentum=SGD.momentum),
    "adam": lambda p: torch.optim.Adam(p, lr=ADAM.lr),
}


class TorchFramework:
    """See `tests.laws.runs.ModelFramework`."""

    Tracker = Tracker
    optimizers = ("momentum", "adam")
    loss = nn.CrossEntropyLoss()
    advice = {
        "batch": r"loop over tracker\.batches\(loader\)",
        "micro_batches": r"loop over tracker\.micro_batches\(batch, M\) before .* call backward for each",
        "scores": r"call tracker\.scores\(index, outputs, labels\) at every step, or give .* refresh=n",
    }

    def run(self, estimator=None, **options):
        return TorchRun(self, estimator, **options)

    def untracked(self, **options):
        return TorchRun(self, tracked=False, **options)

    def model(self):
        model = module_of(NETWORK).double()
        nn.utils.vector_to_parameters(torch.tensor(THETA), model.parameters())
        return model

    def other_model(self):
        return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)).double().requires_grad_()

    def optimizer(self, model):
        return MAKE["momentum"](model.parameters())

    def objective_of(self, model):
        return Objective(model, cross_entropy, (torch.tensor(X), torch.tensor(Y)), batch_size=60)

    def array(self, array):
        return torch.tensor(array)


class TorchRun:
    """See `tests.laws.runs.ModelRun`."""

    def __init__(self, framework, estimator=None, *, optimizer="momentum", tracked=True, **options):
        self.model = framework.model()
        self.optimizer = MAKE[optimizer](self.model.parameters())
        self.objective = framework.objective_of(self.model)
        self.tracker = self.tracker_of(self.objective, estimator, **options) if tracked else None

    def tracker_of(self, objective, estimator=None, **options):
        return Tracker(self.model, self.optimizer, objective, estimator, **options)

    def data(self, batch):
        return torch.tensor(X[batch]), torch.tensor(Y[batch])

    def update(self, *batches, pieces=1, known=True, scores=False, clip=""):
        self.optimizer.zero_grad()
        self.backward(batches, pieces, known, scores)
        if clip == "norm":
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.01)
        if clip == "value":
            nn.utils.clip_grad_value_(self.model.parameters(), 0.01)
        self.optimizer.step()

    def backward(self, batches, pieces=1, known=True, scores=False):
        tracker = self.tracker or Untracked()
        told = tracker.batches if known else list
        for batch, data in zip(batches, told(map(self.data, batches)), strict=True):
            start = 0
            for (x, y), weight in tracker.micro_batches(data, pieces) if pieces > 1 else [(data, 1.0)]:
                outputs = self.model(x)
                if scores:
                    tracker.scores(batch[start : start + len(x)], outputs, y)
                start += len(x)
                (weight / len(batches) * cross_entropy(outputs, y)).backward()

    def give_up(self, batch, *, gradients):
        if gradients:
            self.optimizer.zero_grad()
            self.backward([batch], pieces=2)
        else:
            for _ in self.tracker.batches([self.data(batch)]):
                pass

    def displace(self, value):
        with torch.no_grad():
            next(self.model.parameters()).data.view(-1)[0] += (
                value  # through .data: no version counter sees it
            )

    def fail(self):
        self.optimizer.zero_grad()
        self.backward([range(12)])
        next(self.model.parameters()).grad[0, 0] = torch.nan
        self.optimizer.step()

    def theta(self):
        return self.objective.theta()

    def numpy(self, vector):
        return vector.numpy()

    def examples(self, batch):
        x, y = batch
        return x.numpy(), y.numpy()

    def left(self):
        states = self.optimizer.state_dict()["state"].values()
        moments = [torch.as_tensor(value) for state in states for value in state.values()]
        parameters = [*self.model.parameters(), *(p.grad for p in self.model.parameters())]
        return [tensor.detach().numpy().copy() for tensor in (*parameters, *moments)]
