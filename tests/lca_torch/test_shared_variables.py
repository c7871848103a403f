"""A schedule may live in a class, a module or a property; the loss is that of its value at each step."""

# ruff: noqa: PLW0108 - a lambda that names what the loss reads, as users write it

import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from lca.errors import LCAError
from lca.estimators import PathIntegral
from lca.quadrature import gauss_legendre
from lca.tolerances import EPS32, allocation, repeat
from lca_torch import Objective, Tracker
from tests.lca_torch import settings_module as settings

GLOBAL = 0.0
PHASE = "warm"
NODES = 64
STEPS = 5


class Called:
    """Reads a global from a special method."""

    def __call__(self) -> float:
        return GLOBAL


class Property:
    """Reads a global from a property."""

    @property
    def beta(self) -> float:
        return GLOBAL

    def value(self) -> float:
        return self.beta


class Static:
    """Reads a global from static and class methods."""

    @staticmethod
    def half() -> float:
        return GLOBAL / 2

    @classmethod
    def other_half(cls) -> float:
        return GLOBAL / 2

    def value(self) -> float:
        return self.half() + self.other_half()


class Holder:
    """Keeps everything in the class."""

    number = 0.0
    options = {"beta": 0.0}  # noqa: RUF012 - users write this
    array = np.zeros(2)


class AttributeDictionary(dict):
    """Of the kind that many configurations are."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def set_global(name, value):
    globals()[name] = value


def by_dictionary():
    config = AttributeDictionary(deep=AttributeDictionary(beta=0.0))
    return lambda: config.deep.beta, lambda value: setattr(config.deep, "beta", value)


def by_closure_of_a_method():
    held = {"beta": 0.0}

    class Own:
        def value(self) -> float:
            return held["beta"]

    return Own().value, lambda value: held.update(beta=value)


PLACES = {
    "special method": lambda: (Called(), functools.partial(set_global, "GLOBAL")),
    "property": lambda: (Property().value, functools.partial(set_global, "GLOBAL")),
    "static methods": lambda: (Static().value, functools.partial(set_global, "GLOBAL")),
    "phase": lambda: (
        lambda: float(PHASE == "main"),
        lambda value: set_global("PHASE", "main" if value else "warm"),
    ),
    "class by name": lambda: (lambda: Holder.number, lambda value: setattr(Holder, "number", value)),
    "class dictionary": lambda: (
        lambda: Holder.options["beta"],
        lambda value: Holder.options.update(beta=value),
    ),
    "class array": lambda: (lambda: float(Holder.array[1]), lambda value: Holder.array.fill(value)),
    "module number": lambda: (lambda: settings.BETA, lambda value: setattr(settings, "BETA", value)),
    "module function": lambda: (lambda: settings.beta(), lambda value: setattr(settings, "BETA", value)),
    "module dictionary": lambda: (
        lambda: settings.OPTIONS["beta"],
        lambda value: settings.OPTIONS.update(beta=value),
    ),
    "module list": lambda: (
        lambda: settings.TABLE[0],
        lambda value: settings.TABLE.__setitem__(0, value),
    ),
    "module array": lambda: (lambda: float(settings.WEIGHTS[0]), lambda value: settings.WEIGHTS.fill(value)),
    "module object": lambda: (
        lambda: settings.CONFIG.beta,
        lambda value: setattr(settings.CONFIG, "beta", value),
    ),
    "attribute dictionary": by_dictionary,
    "closure of a method": by_closure_of_a_method,
}


def exact(model, loss, start, end):
    """``Σ_i Δ_i ∫ ∂_i L`` by tensor, by plain autograd."""
    named = dict(model.named_parameters())
    found = dict.fromkeys(named, 0.0)
    points, weights = np.polynomial.legendre.leggauss(NODES)
    for point, weight in zip(0.5 + points / 2, weights / 2, strict=True):
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(torch.lerp(start[name], end[name], float(point)))
        grads = torch.autograd.grad(loss(), list(named.values()))
        for name, grad in zip(named, grads, strict=True):
            found[name] += float(weight * (grad * (end[name] - start[name])).sum())
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(end[name])
    return found


def copied(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def trained(read, write, *, measured):
    """Five steps; β is raised before the fourth. The truth by tensor, or the summary of a tracker."""
    torch.manual_seed(0)
    write(0.0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(12, 4).double(), torch.randint(3, (12,))
    optimizer = torch.optim.SGD(model.parameters(), 0.2)

    def loss(out, y):
        return F.cross_entropy(out, y) + read() * out.square().mean()

    truth = dict.fromkeys(copied(model), 0.0)
    tracker = Tracker(
        model, optimizer, Objective(model, loss, (x, y)), estimator=PathIntegral(gauss_legendre(8))
    )
    with tracker if measured else torch.enable_grad():
        for step in range(STEPS):
            if step == STEPS - 2:
                write(1.0)
            optimizer.zero_grad()
            loss(model(x[step::2]), y[step::2]).backward()
            start = copied(model)
            optimizer.step()
            if not measured:
                own = exact(model, lambda: loss(model(x), y), start, copied(model))
                truth = {name: truth[name] + own[name] for name in truth}
    write(0.0)
    return (tracker.summary()["train"]["per_tensor"] if measured else truth), copied(model)


@pytest.mark.parametrize("place", PLACES)
def test_a_schedule_is_followed_wherever_it_lives(place):
    read, write = PLACES[place]()
    truth, expected = trained(read, write, measured=False)
    found, parameters = trained(read, write, measured=True)
    assert all(torch.equal(parameters[name], expected[name]) for name in expected)
    for name, value in truth.items():
        assert abs(found[name] - value) <= allocation(1.0, 1e-12)


def test_classes_and_modules_are_as_they_were_after_each_evaluation():
    settings.OPTIONS["beta"] = 0.5
    before = settings.OPTIONS, Holder.options, Holder.array, settings.beta, Property.value
    model, (x, y) = nn.Linear(2, 3), (torch.eye(2), torch.tensor([0, 2]))

    class Loss:
        def value(self, out, y):
            Holder.number += 1.0
            settings.OPTIONS["calls"] = 1
            return F.cross_entropy(out, y) + Holder.options["beta"] * settings.beta()

    objective = Objective(model, Loss().value, (x, y))
    objective.loss_and_grad(objective.theta())
    assert Holder.number == 0.0
    assert settings.OPTIONS == {"beta": 0.5}
    now = settings.OPTIONS, Holder.options, Holder.array, settings.beta, Property.value
    assert all(a is b for a, b in zip(before, now, strict=True))
    settings.OPTIONS["beta"] = 0.0


class Cached(nn.Module):
    """Computes a weight when it is switched to evaluation."""

    def __init__(self):
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.ones(5, 1))
        self.head = nn.Linear(5, 3)
        self.register_buffer("effective", torch.zeros(5, 2))

    def train(self, mode=True):
        super().train(mode)
        if not mode:
            self.effective = (self.weight * self.scale).detach()
        return self

    def forward(self, x):
        return self.head(F.linear(x, self.weight * self.scale if self.training else self.effective).tanh())


@pytest.mark.parametrize("mode", [True, False])
def test_a_weight_that_eval_computes_is_refused(mode):
    model = Cached().train(mode)
    with pytest.raises(
        LCAError, match=r"train\(\) or eval\(\) of the model computes values from its parameters"
    ):
        Objective(model, F.cross_entropy, (torch.eye(2), torch.tensor([0, 2])))


def test_a_train_of_the_users_that_computes_nothing_is_no_reason_to_refuse():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.norm, self.head = nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

        def train(self, mode=True):
            super().train(mode)
            self.norm.eval()
            return self

        def forward(self, x):
            return self.head(self.norm(self.body(x)))

    model = Frozen().train()
    objective = Objective(model, F.cross_entropy, (torch.eye(2), torch.tensor([0, 2])))
    expected = F.cross_entropy(model(torch.eye(2)), torch.tensor([0, 2])).item()
    assert abs(objective.loss(objective.theta()) - expected) <= repeat(expected, EPS32)


class Rotation(nn.Module):
    """Caches what it computes from a weight until the cache is cleared."""

    def __init__(self):
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(2, 2)), nn.Linear(2, 3)
        self.kept = None

    @functools.cached_property
    def rotation(self):
        return torch.linalg.matrix_exp(self.weight - self.weight.T)

    def forward(self, x):
        return self.head(x @ (self.rotation if self.kept is None else self.kept))


def test_a_cached_property_is_computed_anew_at_each_point():
    model, data = Rotation(), (torch.eye(2), torch.tensor([0, 2]))
    fresh = Objective(model, F.cross_entropy, data)
    expected = fresh.loss_and_grad(fresh.theta())[1]
    model(data[0])
    assert "rotation" in vars(model)
    found = Objective(model, F.cross_entropy, data)
    assert torch.equal(found.loss_and_grad(found.theta())[1], expected)


def test_what_was_computed_from_a_weight_before_is_refused():
    model = Rotation()
    model.kept = model.rotation
    with pytest.raises(
        LCAError, match="the loss reads kept, which an earlier forward pass has computed from"
    ):
        Objective(model, F.cross_entropy, (torch.eye(2), torch.tensor([0, 2])))


def test_weights_are_not_those_that_parametrize_has_cached():
    model, data = weight_norm(nn.Linear(2, 3)), (torch.eye(2), torch.tensor([0, 2]))
    objective = Objective(model, F.cross_entropy, data)
    theta = objective.theta()
    expected = [objective.loss_and_grad(factor * theta) for factor in (1.0, 2.0)]
    with parametrize.cached():
        model(data[0])
        kept = dict(parametrize._cache)
        found = [objective.loss_and_grad(factor * theta) for factor in (1.0, 2.0)]
        assert parametrize._cache_enabled == 1
        assert parametrize._cache == kept
    for (loss, grad), (same, other) in zip(found, expected, strict=True):
        assert loss == same
        assert torch.equal(grad, other)


def test_a_compiled_function_is_measured_as_it_is_written():
    loss = torch.compile(lambda out, y: F.cross_entropy(out, y) + out.square().mean(), backend="eager")
    model, (x, y) = nn.Linear(2, 3), (torch.eye(2), torch.tensor([0, 2]))
    objective = Objective(model, loss, (x, y))
    out = model(x)
    expected = (F.cross_entropy(out, y) + out.square().mean()).item()
    assert abs(objective.loss(objective.theta()) - expected) <= repeat(expected, EPS32)
