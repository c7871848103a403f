"""Making and using an objective leaves everything the user has alone, whatever `forward` does."""

import random
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils import prune, spectral_norm, weight_norm

from lca.errors import LCAError
from lca.testing import tolerances
from lca_torch import Objective


def numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


X, Y = numbers(12, 4), torch.arange(12) % 3


class Twice(nn.Module):
    """One layer under two names, as after ``self.b = self.a``."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.b = self.a

    def forward(self, x):
        return self.head(self.b(torch.tanh(self.a(x))))


class Counting(nn.Module):
    """Writes Python state, a list and a buffer in every forward pass."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls, self.log = nn.Linear(4, 3), 0, []
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        self.log.append(x.mean())
        self.count += 1
        return self.layer(x)


class Holding(nn.Module):
    """Holds a lock, and its own parameters in a list, and a tensor that is no leaf of a graph."""

    def __init__(self):
        super().__init__()
        self.layer, self.lock = nn.Linear(4, 3), threading.Lock()
        self.own = [self.layer.weight, self.layer.bias]
        self.last = self.layer(torch.ones(4))

    def forward(self, x):
        return x @ self.own[0].T + self.own[1]


def listed():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(4, 3))


def normalised():
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))


def pruned():
    return prune.l1_unstructured(nn.Linear(4, 3), "weight", amount=5)


MODELS = {
    "listed twice": listed,
    "two names": Twice,
    "counting": Counting,
    "holding": Holding,
    "normalised": normalised,
    "weight_norm": lambda: weight_norm(nn.Linear(4, 3)),
    "spectral_norm": lambda: spectral_norm(nn.Linear(4, 3)),
    "parametrised": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
    "pruned": pruned,
    "data parallel": lambda: nn.DataParallel(nn.Linear(4, 3)),
    "compiled": lambda: torch.compile(nn.Linear(4, 3), backend="eager"),
}


def snapshot(model):
    """All that must stay: objects by identity, tensors by value as well."""
    found = {}
    for name, module in model.named_modules():
        for key, value in module.__dict__.items():
            found[name, key] = value
            if isinstance(value, dict | list):
                found[name, key, "inside"] = list(value.values() if isinstance(value, dict) else value)
    tensors = {n: (t, t.detach().clone(), t.grad) for n, t in model.state_dict(keep_vars=True).items()}
    return found, tensors


def same(before, after):
    (found, tensors), (now, tensors_now) = before, after
    assert found.keys() == now.keys()
    for key, value in found.items():
        if len(key) == 3:
            assert [id(v) for v in value] == [id(v) for v in now[key]], key
        else:
            assert value is now[key], key
    for name, (tensor, value, grad) in tensors.items():
        assert tensors_now[name][0] is tensor
        assert torch.equal(tensor.detach(), value)
        assert tensor.grad is grad


def generators():
    return torch.get_rng_state(), random.getstate(), np.random.get_state()[1]  # noqa: NPY002


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MODELS)
def test_the_users_model_is_the_same_object_with_the_same_values(kind):
    model = MODELS[kind]().double().train()
    before, (torch_state, python_state, numpy_state) = snapshot(model), generators()
    objective = Objective(model, cross_entropy, (X, Y), batch_size=12)
    loss, grad = objective.loss_and_grad(objective.theta())
    assert objective.loss(objective.theta()) == loss
    same(before, snapshot(model))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002

    model.eval()
    for module in model.modules():
        module.training = isinstance(module, nn.BatchNorm1d)
    parameters = [p for _, p in model.named_parameters()]
    expected = cross_entropy(model(X), Y)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(expected, parameters)])
    assert abs(loss - float(expected)) <= tolerances.summed(1.0, tolerances.EPS64)
    scale = 1 + gradient.abs().max().item()
    assert (grad - gradient).abs().max() <= tolerances.gradient(scale, tolerances.EPS64)


def test_hooks_that_store_are_dropped_and_hooks_that_change_the_loss_are_kept():
    model, stored = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).double(), []
    model[0].register_forward_hook(lambda module, args, out: stored.append(out))
    model[0].register_forward_hook(lambda module, args, out: torch.sin(out))
    objective = Objective(model, cross_entropy, (X, Y))
    loss = objective.loss(objective.theta())
    assert stored == []
    assert abs(loss - cross_entropy(model(X), Y).item()) <= tolerances.summed(1.0, tolerances.EPS64)


def test_an_embedding_that_renormalises_its_weight_is_refused_and_not_written():
    model = nn.Sequential(nn.Embedding(5, 4, max_norm=0.5), nn.Linear(4, 3)).double()
    before = model[0].weight.detach().clone()
    tokens = torch.arange(12) % 5
    with pytest.raises(LCAError, match=r"changes parameter '0\.weight' in place .* take max_norm out"):
        Objective(model, cross_entropy, (tokens, Y))
    assert torch.equal(model[0].weight, before)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_what_cannot_be_copied_is_named_when_it_is_used():
    class Drawing(Holding):
        def forward(self, x):
            return super().forward(x) * next(self.numbers)

    model = Drawing().double()
    model.numbers = (2.0 for _ in range(9))
    with pytest.raises(LCAError, match=r"the loss uses numbers \(generator\), which cannot be copied"):
        Objective(model, cross_entropy, (X, Y))
    assert len(list(model.numbers)) == 9
    with pytest.raises(LCAError, match="is a ScriptModule.*it was made from"):
        Objective(torch.jit.trace(nn.Linear(4, 3).double(), X), cross_entropy, (X, Y))


def test_a_loss_that_differentiates_inside_is_measured():
    class Force(nn.Module):
        def __init__(self):
            super().__init__()
            self.potential = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1, bias=False))

        def forward(self, x):
            x = x.requires_grad_()
            return torch.autograd.grad(self.potential(x).sum(), x, create_graph=True)[0]

    model, x = Force().double(), X.clone()
    objective = Objective(model, mse_loss, (x, X.cos()), batch_size=5)
    theta = objective.theta()
    loss, grad = objective.loss_and_grad(theta)
    assert abs(objective.loss(theta) - loss) <= tolerances.repeat(loss, tolerances.EPS64)
    assert not x.requires_grad
    expected = mse_loss(model(X.clone()), X.cos())
    expected.backward()
    flat = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    assert (grad - flat).abs().max() <= tolerances.gradient(1.0, tolerances.EPS64)


def test_a_norm_kept_in_evaluation_mode_is_frozen_unless_it_is_named():
    model = normalised().double()
    model[1].eval()
    model[1].running_mean += 1
    kept = Objective(model, cross_entropy, (X, Y))
    named = Objective(model, cross_entropy, (X, Y), batch_norm={"1": "batch"}, batch_size=12)
    theta = kept.theta()
    assert "1.running_mean" in kept.state()
    assert "1.running_mean" not in named.state()
    assert kept.loss(theta) != named.loss(theta)
