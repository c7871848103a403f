"""Training loops of every kind, run with a tracker and without, which the tests of `Tracker` share."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import lca
from lca_torch import Objective, Tracker

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(3, (60,), generator=torch.Generator().manual_seed(2))
RK4 = lca.PathIntegral(lca.RK4)


def network(*, norm=True):
    """Dropout and, if asked for, BatchNorm: what a careless measurement would disturb."""
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))


def groups(model):
    return [{"params": model[0].parameters()}, {"params": [*model[1:].parameters()], "lr": 0.02}]


def closure_of(model, optimizer, x, y):
    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    return closure


class Plain:
    """An ordinary loop; its variants override one step."""

    def optimizer(self, model):
        return torch.optim.SGD(groups(model), lr=0.05, momentum=0.9, weight_decay=1e-3)

    def step(self, model, optimizer, x, y, index):
        closure_of(model, optimizer, x, y)()
        optimizer.step()


class AdamForeach(Plain):
    def optimizer(self, model):
        return torch.optim.Adam(groups(model), lr=0.01, foreach=True)


class AdamWFused(Plain):
    def optimizer(self, model):
        return torch.optim.AdamW(groups(model), lr=0.01, fused=True)


class Closure(Plain):
    def optimizer(self, model):
        return torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)

    def step(self, model, optimizer, x, y, index):
        optimizer.step(closure_of(model, optimizer, x, y))


class Accumulated(Plain):
    """Two batches a step, gradients clipped, a schedule."""

    def optimizer(self, model):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        self.schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        return optimizer

    def step(self, model, optimizer, x, y, index):
        cross_entropy(model(x), y).backward()
        if index % 2:
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            self.schedule.step()


class Averaged(Plain):
    """An exponential moving average of the weights beside the training."""

    def optimizer(self, model):
        self.average = torch.optim.swa_utils.AveragedModel(model)
        return super().optimizer(model)

    def step(self, model, optimizer, x, y, index):
        super().step(model, optimizer, x, y, index)
        self.average.update_parameters(model)


class ScaledUnfused(Plain):
    """A GradScaler; the third step has an infinite gradient and is skipped."""

    fused = False

    def optimizer(self, model):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        return torch.optim.AdamW(model.parameters(), lr=0.01, fused=self.fused)

    def step(self, model, optimizer, x, y, index):
        optimizer.zero_grad()
        self.scaler.scale(cross_entropy(model(x), y)).backward()
        if index == 2:
            model[0].weight.grad[0, 0] = float("inf")
        self.scaler.step(optimizer)
        self.scaler.update()


class ScaledFused(ScaledUnfused):
    fused = True


LOOPS = [Plain, AdamForeach, AdamWFused, Closure, Accumulated, Averaged, ScaledUnfused, ScaledFused]


def run(loop_class, *, tracked, norm=True, every=1, **options):
    """One epoch; everything that training leaves behind, and the tracker."""
    model = network(norm=norm)
    loop, tracker = loop_class(), None
    optimizer = loop.optimizer(model)
    if tracked:
        objective = Objective(model, cross_entropy, (X, Y), batch_size=25)
        tracker = Tracker(model, optimizer, objective, RK4, every=every, on_error="raise", **options)
        tracker.__enter__()
    torch.manual_seed(3)
    for index, (x, y) in enumerate(DataLoader(TensorDataset(X, Y), batch_size=10, shuffle=True)):
        loop.step(model, optimizer, x, y, index)
    if tracker:
        tracker.__exit__(None, None, None)
    left = {**model.state_dict(), "generator": torch.get_rng_state()}
    left |= {f"grad {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    left |= {
        f"state {i} {name}": torch.as_tensor(value)
        for i, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    return {name: value.clone() for name, value in left.items()}, tracker
