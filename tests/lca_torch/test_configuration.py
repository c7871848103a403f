"""What the loss reads besides θ is followed through a run, and booked apart; or it is refused by name."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import lca
from lca.errors import LayoutError
from lca.testing import tolerances
from lca_torch import Objective, Tracker
from lca_torch._configuration import Configuration
from lca_torch._copies import Pair


def numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


X, Y = numbers(12, 4), torch.arange(12) % 3
STRENGTH = 0.1
ACCURACY = 1e-9
NODES, WEIGHTS = np.polynomial.legendre.leggauss(12)


class Table:
    """Holds a tensor where no copy of the loss reaches it."""

    scale = torch.ones(3, dtype=torch.float64)


class Scaled(nn.Module):
    """Reads an attribute, a boolean and an integer buffer."""

    def __init__(self):
        super().__init__()
        self.layer, self.beta = nn.Linear(4, 3), 0.1
        self.register_buffer("mask", torch.ones(3, dtype=torch.bool))
        self.register_buffer("power", torch.ones((), dtype=torch.int64))

    def forward(self, x):
        return self.layer(x) * self.mask * (1 + self.beta) ** self.power


class Global(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) * (1 + STRENGTH)


def plain(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def attribute():
    model = Scaled()
    return model, plain, lambda t: setattr(model, "beta", 0.1 * t)


def integer_buffer():
    model = Scaled()
    return model, plain, lambda t: model.power.add_(1)


def boolean_buffer():
    model = Scaled()
    return model, plain, lambda t: model.mask.__setitem__(t % 3, t % 2 == 0)


def global_number():
    return Global(), plain, lambda t: globals().__setitem__("STRENGTH", 0.1 * t)


def class_tensor():
    def loss(model, batch):
        return cross_entropy(model(batch[0]) * Table.scale, batch[1])

    return nn.Linear(4, 3), loss, lambda t: Table.scale.mul_(1.1)


def class_tensor_assigned():
    model, loss, _ = class_tensor()
    return model, loss, lambda t: setattr(Table, "scale", Table.scale * 1.1)


def captured():
    encoder, beta = nn.Linear(4, 4).double(), 1.0

    def loss(model, batch):
        return cross_entropy(model(encoder(batch[0])), batch[1]) * beta

    def move(t):
        nonlocal beta
        beta += 0.1
        with torch.no_grad():
            encoder.weight.mul_(1.05)

    return nn.Linear(4, 3), loss, move


def module_replaced():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    return model, plain, lambda t: model.__setitem__(1, nn.Tanh() if t % 2 else nn.Sigmoid())


CASES = [
    attribute,
    integer_buffer,
    boolean_buffer,
    global_number,
    class_tensor,
    class_tensor_assigned,
    captured,
    module_replaced,
]


@pytest.fixture(autouse=True)
def restored():
    yield
    globals()["STRENGTH"] = 0.1
    Table.scale = torch.ones(3, dtype=torch.float64)


def trained(case, *, tracked, steps=4):
    """θ at the end, and for every step: its first loss and its integral; or the rows of a tracker."""
    globals()["STRENGTH"], Table.scale = 0.1, torch.ones(3, dtype=torch.float64)
    torch.manual_seed(0)
    model, loss, move = case()
    model.double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)
    truth = []

    def one(t):
        before = loss(model, (X, Y))
        move(t)
        optimizer.zero_grad()
        loss(model, (X, Y)).backward()
        start = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        optimizer.step()
        if not tracked:
            truth.append((before.item(), integral(model, loss, start)))

    if not tracked:
        for t in range(1, steps + 1):
            one(t)
        return nn.utils.parameters_to_vector(model.parameters()).detach(), truth
    objective = Objective(model, None, (X, Y), batch_loss=loss, batch_size=12)
    with Tracker(model, optimizer, objective, lca.estimators.Adaptive(ACCURACY), on_error="raise") as tracker:
        for t in range(1, steps + 1):
            one(t)
    return nn.utils.parameters_to_vector(model.parameters()).detach(), tracker.views["train"].trace.rows


def integral(model, loss, start):
    """∫ ∇L · Δ along the last update, in the model as it is, by plain autograd."""
    end = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    total = 0.0
    for node, weight in zip((NODES + 1) / 2, WEIGHTS / 2, strict=True):
        nn.utils.vector_to_parameters(torch.lerp(start, end, float(node)), model.parameters())
        grads = torch.autograd.grad(loss(model, (X, Y)), list(model.parameters()), allow_unused=True)
        flat = torch.cat([g.reshape(-1) for g in grads])
        total += float(weight * (flat * (end - start)).sum())
    nn.utils.vector_to_parameters(end, model.parameters())
    return total


@pytest.mark.parametrize("case", CASES)
def test_what_moves_besides_theta_is_state_and_the_books_close(case):
    theta, truth = trained(case, tracked=False)
    found, rows = trained(case, tracked=True)
    assert torch.equal(found, theta)  # bit for bit
    losses = np.array([before for before, _ in truth])
    assert np.abs(rows["loss_start"] - losses).max() <= tolerances.summed(2.0, tolerances.EPS64)
    assert np.abs(rows["total"] - [change for _, change in truth]).max() <= ACCURACY
    assert np.abs(rows["state_change"]).max() > 1e-5


# --- identity --------------------------------------------------------------------------------------------


def replace(model):
    model[0] = nn.Linear(4, 4).double()


def assign(model):
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)


def reshape(model):
    model[0].weight.data = torch.zeros(2, 4, dtype=torch.float64)


def add(model):
    model.append(nn.Linear(3, 3).double())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace, r"'0\.weight' is no longer the object"),
        (assign, r"'0\.weight' is no longer the object"),
        (reshape, r"'0\.weight' has shape \(2, 4\) now, but had \(4, 4\)"),
        (add, r"a parameter '3\.bias' now that it did not have"),
    ],
)
def test_parameters_that_are_others_now_are_named(change, message):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    objective = Objective(model, cross_entropy, (X, Y))
    theta = objective.theta()
    change(model)
    for call in (objective.check, objective.theta, lambda: objective.loss(theta)):
        with pytest.raises(
            LayoutError, match=message + ".*make the optimizer, the objective and the tracker again"
        ):
            call()


def test_other_numbers_in_the_same_parameter_are_fine():
    model = nn.Linear(4, 3).double()
    objective = Objective(model, cross_entropy, (X, Y))
    model.weight.data = numbers(3, 4)
    loss = objective.loss(objective.theta())
    assert abs(loss - cross_entropy(model(X), Y).item()) <= tolerances.summed(1.0, tolerances.EPS64)


def test_the_content_of_what_finds_tensors_is_not_compared_but_that_it_does_is():
    model = nn.Linear(4, 3)
    held = {"rates": {p: 0.1 for p in model.parameters()}, "later": {}, "counts": {"a": 1}}
    configuration = Configuration([Pair("held", held, dict(held))], model, {})
    held["rates"][model.weight] = 0.2
    assert not configuration.changes()
    held["counts"]["a"] = 2
    assert configuration.changes().keys() == {"held.counts"}
    held["later"][model.weight] = 0.1
    assert configuration.changes().keys() == {"held.later"}
    held["rates"].clear()
    assert configuration.changes().keys() == {"held.rates"}


def test_a_counter_that_the_loss_does_not_read_changes_nothing():
    model = Scaled().double()
    model.calls = 0
    objective = Objective(model, cross_entropy, (X, Y))
    before = objective.state()
    for _ in range(20):
        model.calls += 1
        assert objective.state()["configuration"] is before["configuration"]
    model.beta = 0.5
    assert objective.state()["configuration"] is not before["configuration"]
    assert "beta changed from 0.1 to 0.5" in objective.what_changed()


@pytest.mark.parametrize("change", ["list", "inner", "renamed", "array"])
def test_what_containers_hold_is_followed(change):
    """The same object with other contents: in a list, in a list in a tuple, another key, an array."""

    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.weights, self.inner = [1.0, 2.0], ([1.0],)
            self.named, self.array = {"a": 1.0}, np.ones(2)

        def forward(self, x):
            factor = sum(self.weights) + self.inner[0][0] + self.named.get("a", 3.0) + self.array[0]
            return self.layer(x) * float(factor)

    model = Weighted().double()
    objective = Objective(model, cross_entropy, (X, Y))
    before, loss = objective.state(), objective.loss(objective.theta())
    if change == "list":
        model.weights[0] = 5.0
    elif change == "inner":
        model.inner[0][0] = 5.0
    elif change == "renamed":
        model.named["b"] = model.named.pop("a")
    else:
        model.array[0] = 5.0
    after = objective.state()
    assert after["configuration"][0] > before["configuration"][0]
    assert objective.loss(objective.theta()) != loss
    assert objective.at_state(before).loss(objective.theta()) == loss
