"""Schedules in torch that live in classes, modules, properties, closures; weights computed before forward."""

# ruff: noqa: E731 - a named lambda keeps a case short

import functools

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from lca_torch import Objective
from validation.wild import settings
from validation.wild.nets_torch import mlp
from validation.wild.small_torch import supervised, torch_case, vectors

BETA = 0.0


def annealed(run, read, write, *, model=None, late=False):
    """A penalty with a factor that is raised after every step, or once after the fifth of six."""
    model, (x, y) = model or mlp(6, 8, 3), vectors()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    write(0.0)

    def loss(model, batch):
        out = model(batch[0])
        return F.cross_entropy(out, batch[1]) + read() * out.square().mean()

    measured = lambda: Objective(model, None, (x, y), batch_loss=loss)
    with run.measuring(model, optimizer, measured, lambda: loss(model, (x, y))):
        for step in range(6):
            model.train()
            optimizer.zero_grad()
            loss(model, (x[step::6], y[step::6])).backward()
            optimizer.step()
            if not late or step == 4:
                write(0.5 if late else 0.1 * step)
    return model, optimizer


def set_beta(value):
    globals()["BETA"] = value


@torch_case("schedule in a class, read by its name")
def _(run):
    class Schedule:
        beta = 0.0

    return annealed(run, lambda: Schedule.beta, lambda value: setattr(Schedule, "beta", value))


@torch_case("schedule in a dictionary of a class, changed once")
def _(run):
    class Schedule:
        options = {"beta": 0.0}  # noqa: RUF012 - as users write it

        def value(self):
            return self.options["beta"]

    return annealed(run, Schedule().value, lambda value: Schedule.options.update(beta=value), late=True)


@torch_case("schedule in a NumPy array of a class, changed once")
def _(run):
    class Schedule:
        table = np.zeros(3)

        def value(self):
            return float(self.table[1])

    return annealed(run, Schedule().value, Schedule.table.fill, late=True)


@torch_case("schedule in a global number, read by a special method")
def _(run):
    class Schedule:
        def __call__(self):
            return BETA

    return annealed(run, Schedule(), set_beta)


@torch_case("schedule in a global number, read by a property, changed once")
def _(run):
    class Schedule:
        @property
        def beta(self):
            return BETA

        def value(self):
            return self.beta

    return annealed(run, Schedule().value, set_beta, late=True)


@torch_case("schedule in a global number, read by a static method")
def _(run):
    class Schedule:
        @staticmethod
        def value():
            return BETA

    return annealed(run, Schedule.value, set_beta)


@torch_case("schedule in the closure of a method")
def _(run):
    held = {"beta": 0.0}

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(6, 8, 3)

        def forward(self, x):
            return self.net(x) * (1 + held["beta"])

    return annealed(run, lambda: 0.0, lambda value: held.update(beta=value), model=Scaled())


@torch_case("schedule in a user's module of settings: a dictionary, changed once")
def _(run):
    read, write = lambda: settings.OPTIONS["beta"], lambda value: settings.OPTIONS.update(beta=value)
    return annealed(run, read, write, late=True)


@torch_case("schedule in a user's module of settings: a field of an object")
def _(run):
    return annealed(run, lambda: settings.CONFIG.beta, lambda value: setattr(settings.CONFIG, "beta", value))


@torch_case("schedule in a dictionary with attributes (a subclass of dict)")
def _(run):
    class Attributes(dict):
        __getattr__ = dict.__getitem__
        __setattr__ = dict.__setitem__

    config = Attributes(deep=Attributes(beta=0.0))
    return annealed(run, lambda: config.deep.beta, lambda value: setattr(config.deep, "beta", value))


@torch_case("class attribute annealed in forward, by the name of the class")
def _(run):
    class Tempered(nn.Module):
        temperature = 1.0

        def __init__(self):
            super().__init__()
            self.net = mlp(6, 8, 3)

        def forward(self, x):
            if self.training:
                Tempered.temperature = max(0.5, 0.9 * Tempered.temperature)
            return self.net(x) / Tempered.temperature

    return supervised(run, Tempered())


@torch_case("weight that eval() computes and forward reads in evaluation mode")
def _(run):
    class Merged(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.s, self.head = (
                nn.Parameter(torch.randn(8, 6)),
                nn.Parameter(torch.ones(8, 1)),
                nn.Linear(8, 3),
            )
            self.register_buffer("effective", torch.zeros(8, 6))

        def train(self, mode=True):
            super().train(mode)
            if not mode:
                self.effective = (self.w * self.s).detach()
            return self

        def forward(self, x):
            return self.head(F.linear(x, self.w * self.s if self.training else self.effective).tanh())

    model, (x, y) = Merged(), vectors()
    return supervised(run, model, (x, y), truth=lambda: F.cross_entropy(model.train()(x), y))


@torch_case("cached property computed from a weight, forgotten before each step")
def _(run):
    class Rotated(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.head = nn.Parameter(torch.randn(6, 6) / 3), nn.Linear(6, 3)

        @functools.cached_property
        def rotation(self):
            return torch.linalg.matrix_exp(self.w - self.w.T)

        def forward(self, x):
            return self.head(x @ self.rotation)

    model, (x, y) = Rotated(), vectors()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def fresh(x, y):
        vars(model).pop("rotation", None)
        return F.cross_entropy(model(x), y)

    measured = lambda: Objective(model, F.cross_entropy, (x, y))
    with run.measuring(model, optimizer, measured, lambda: fresh(x, y)):
        for step in range(4):
            optimizer.zero_grad()
            fresh(x[step::4], y[step::4]).backward()
            optimizer.step()
    return model.w, model.head, optimizer


@torch_case("parametrize.cached() around every step")
def _(run):
    model, (x, y) = nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3)), vectors()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    measured = lambda: Objective(model, F.cross_entropy, (x, y))

    def truth():
        parametrize._cache_enabled = 0  # in the copy of the process
        return F.cross_entropy(model(x), y)

    with run.measuring(model, optimizer, measured, truth):
        for step in range(4):
            with parametrize.cached():
                optimizer.zero_grad()
                F.cross_entropy(model(x[step::4]), y[step::4]).backward()
                optimizer.step()
    return model, optimizer


@torch_case("compiled loss function (eager backend)")
def _(run):
    loss = torch.compile(lambda out, y: F.cross_entropy(out, y) + 0.1 * out.square().mean(), backend="eager")
    return supervised(run, mlp(6, 8, 3), loss_fn=loss)
