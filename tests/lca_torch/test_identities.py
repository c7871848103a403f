"""What a loss finds by the identity of a parameter or module is found in the measured copy."""

import gc
import weakref
from collections import OrderedDict, defaultdict, deque
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.weak import WeakIdKeyDictionary

import lca
from lca.errors import LCAError, LCAWarning
from lca.testing import tolerances
from lca_torch import Objective, Tracker

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(12) % 3
NODES, WEIGHTS = np.polynomial.legendre.leggauss(12)
ACCURACY = 1e-9


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def plain(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


class Gain(nn.Linear):
    """Multiplies by a number that a registry holds for it."""

    registry: object

    def forward(self, x):
        return super().forward(x) * self.registry.get(self, 1.0)


class GainById(Gain):
    def forward(self, x):
        return nn.Linear.forward(self, x) * self.registry.get(id(self), 1.0)


def with_gains(kind, registry, key=lambda module: module):
    model = network()
    model[0] = kind(4, 5).double()
    model[0].registry = registry
    registry[key(model[0])] = 2.0
    return model, plain


class Inner(nn.Module):
    """Reads a parameter of the model around it."""

    def __init__(self, root):
        super().__init__()
        self.layer, self.root = nn.Linear(4, 4), [root]  # in a list, or it would be a part of this block

    def forward(self, x):
        root = self.root[0]() if isinstance(self.root[0], weakref.ReferenceType) else self.root[0]
        return torch.tanh(self.layer(x)) * root.gain


class Root(nn.Module):
    def __init__(self, refer):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.inner, self.out = Inner(refer(self)), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.inner(x))


def refers(refer):
    torch.manual_seed(0)
    return Root(refer).double(), plain


def keyed_otherwise():
    """By a tuple, a method, a function, and the number of a buffer."""
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)).double().eval()

    def activation(x):
        return torch.tanh(x)

    model.activation = activation
    by = OrderedDict[object, float]()
    by |= {(model[1], "x"): 2.0, model[1].forward: 3.0, activation: 5.0, id(model[0].running_mean): 7.0}

    def loss(model, batch):
        keys = ((model[1], "x"), model[1].forward, model.activation, id(model[0].running_mean))
        outputs = model.activation(model(batch[0]))
        return cross_entropy(outputs, batch[1]) * sum(by.get(key, 0.0) for key in keys)

    return model, loss


def anchored_by_id():
    model = network()
    anchors = {id(p): p.detach() + 0.1 for p in model.parameters()}
    return (
        model,
        lambda model, batch: (
            plain(model, batch)
            + sum((p - anchors[id(p)]).square().sum() for p in model.parameters() if id(p) in anchors)
        ),
    )


def chosen_by_hash():
    """By the hash of a parameter, a module and a pair of both."""
    model = network()
    chosen = {hash(model[0].weight), hash(model[2]), hash((model[0], model[0].bias))}

    def loss(model, batch):
        parts = [p for m in (model[0], model[2]) for p in m.parameters() if hash(p) in chosen]
        parts += [m.bias for m in (model[0], model[2]) if hash(m) in chosen or hash((m, m.bias)) in chosen]
        return plain(model, batch) + sum(p.square().sum() for p in parts)

    return model, loss


def anchored_in_attributes():
    model = network()
    for p in model.parameters():
        p.anchor, p.strength = p.detach() + 0.1, 0.2
    return (
        model,
        lambda model, batch: (
            plain(model, batch)
            + sum(
                p.strength * (p - p.anchor).square().sum() for p in model.parameters() if hasattr(p, "anchor")
            )
        ),
    )


def of_the_kind():
    return (
        network(),
        lambda model, batch: (
            plain(model, batch)
            + sum(
                0.1 * p.square().sum()
                for p in model.parameters()
                if isinstance(p, nn.Parameter) and type(p) is nn.Parameter
            )
        ),
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: with_gains(Gain, {}),
        lambda: with_gains(Gain, weakref.WeakKeyDictionary()),
        lambda: with_gains(GainById, {}, id),
        keyed_otherwise,
        lambda: refers(weakref.ref),
        lambda: refers(weakref.proxy),
        anchored_by_id,
        chosen_by_hash,
        anchored_in_attributes,
        of_the_kind,
        lambda: penalised_by(deque),
        lambda: penalised_by(lambda parameters: partial(list, parameters)),
    ],
    ids=[
        "module",
        "weak key",
        "id of a module",
        "other keys",
        "ref",
        "proxy",
        "id of a parameter",
        "hash",
        "attributes",
        "kind",
        "deque",
        "arguments of a partial",
    ],
)
def test_the_measured_loss_finds_what_the_users_finds(make):
    model, loss = make()
    objective = Objective(model, None, (X, Y), batch_loss=loss, batch_norm="frozen")
    gc.collect()
    theta = objective.theta()
    for factor in (1.0, 1.3):
        with torch.no_grad():
            nn.utils.vector_to_parameters(factor * theta, model.parameters())
        expected = loss(model, (X, Y))
        grads = torch.autograd.grad(expected, list(model.parameters()))
        found, grad = objective.loss_and_grad(factor * theta)
        assert abs(found - expected.item()) <= tolerances.summed(expected.item(), tolerances.EPS64)
        off = grad - torch.cat([g.reshape(-1) for g in grads])
        assert off.abs().max() <= ACCURACY * grad.abs().max()
    assert {"id", "hash"}.isdisjoint(globals())


class Anchors(dict):
    """A dictionary of the user's."""


class Sums(defaultdict):
    """One that says in C how it is copied."""


@pytest.mark.parametrize(
    "kind", [dict, Anchors, Sums, set, frozenset, weakref.WeakKeyDictionary, WeakIdKeyDictionary]
)
def test_what_finds_tensors_by_identity_is_refused_by_name(kind):
    model = network()
    anchors = kind()
    if isinstance(anchors, set | frozenset):
        anchors = kind(model.parameters())
    elif isinstance(anchors, defaultdict):
        anchors = kind(float, dict.fromkeys(model.parameters(), 0.1))
    else:
        anchors.update(dict.fromkeys(model.parameters(), 0.1))

    def loss(model, batch):
        return plain(model, batch) + sum(p.square().sum() for p in model.parameters() if p in anchors)

    with pytest.raises(LCAError, match=r"anchors .* finds tensors by their identity.* by name"):
        Objective(model, None, (X, Y), batch_loss=loss)


@pytest.mark.parametrize(
    "key",
    [lambda p: (p, 1), lambda p: ((1, p), 2), lambda p: frozenset([p]), weakref.ref],
    ids=["tuple", "nested", "frozenset", "reference"],
)
def test_keys_that_contain_a_tensor_or_refer_to_one_are_refused_too(key):
    model = network()
    anchors = {key(p): 0.1 for p in model.parameters()}

    def loss(model, batch):
        return plain(model, batch) + sum(p.sum() for p in model.parameters() if key(p) in anchors)

    with pytest.raises(LCAError, match=r"anchors .* finds tensors by their identity.* by name"):
        Objective(model, None, (X, Y), batch_loss=loss)


@pytest.mark.parametrize(
    "is_one_of",
    [
        lambda own, held: own == held,
        lambda own, held: own <= held,
        lambda own, held: not own - held,
        lambda own, held: not own ^ held,
        lambda own, held: held - own == set(),
        lambda own, held: len(held | own) == len(own),
        lambda own, held: bool(held & own),
    ],
)
def test_a_comparison_with_a_set_of_tensors_is_refused(is_one_of):
    model = network()
    held = set(model.parameters())

    def loss(model, batch):
        return plain(model, batch) * (2.0 if is_one_of(set(model.parameters()), held) else 1.0)

    with pytest.raises(LCAError, match=r"held .* finds tensors by their identity.* by name"):
        Objective(model, None, (X, Y), batch_loss=loss)


class Masked(nn.Module):
    """Has a mask for each parameter in a variable of the class."""

    masks: ClassVar[dict[nn.Parameter, float]] = {}

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net(x) * sum(self.masks.get(p, 1.0) for p in self.parameters())


def test_what_a_class_holds_to_find_tensors_is_refused(monkeypatch):
    model = Masked()
    monkeypatch.setattr(Masked, "masks", dict.fromkeys(model.parameters(), 2.0))
    with pytest.raises(LCAError, match=r"Masked\.masks .* finds tensors by their identity.* by name"):
        Objective(model, cross_entropy, (X, Y))
    monkeypatch.setattr(Masked, "forward", lambda self, x: self.net(x))
    objective = Objective(model, cross_entropy, (X, Y))
    expected = plain(model, (X, Y)).item()
    assert abs(objective.loss(objective.theta()) - expected) <= tolerances.summed(expected, tolerances.EPS64)


def penalised_by(make):
    model = network()
    held = make(list(model.parameters()))

    def loss(model, batch):
        chosen = held() if isinstance(held, partial) else held
        return plain(model, batch) + sum(
            p.square().sum() for p in model.parameters() if any(p is q for q in chosen)
        )

    return model, loss


def measured(model, loss, change, *, steps=6, optimizer=None):
    """Of a run: the summary, and the allocation of each tensor by many Gauss nodes.

    ``change(t)`` comes before the forward pass of step t, and the truth is taken after it.
    """
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1)
    objective = Objective(model, None, (X, Y), batch_loss=loss)
    named, truth = dict(model.named_parameters()), dict.fromkeys(dict(model.named_parameters()), 0.0)
    with Tracker(model, optimizer, objective, lca.Adaptive(tol=1e-11, nested_tol=1e-9)) as tracker:
        for t in range(steps):
            change(t)
            optimizer.zero_grad()
            loss(model, (X[t::4], Y[t::4])).backward()
            start = {name: p.detach().clone() for name, p in named.items()}
            optimizer.step()
            truth_of_step(model, loss, start, truth)
    return tracker.summary()["train"], truth


def truth_of_step(model, loss, start, truth):
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    end = {name: p.detach().clone() for name, p in named.items()}
    grads = {name: p.grad for name, p in named.items()}
    for node, weight in zip((NODES + 1) / 2, WEIGHTS / 2, strict=True):
        with torch.no_grad():
            for name, p in named.items():
                p.copy_(start[name] + node * (end[name] - start[name]))
        found = torch.autograd.grad(loss(model, (X, Y)), list(named.values()))
        for name, grad in zip(named, found, strict=True):
            truth[name] += weight * float((grad * (end[name] - start[name])).sum())
    with torch.no_grad():
        for name, p in named.items():
            p.copy_(end[name])
            p.grad = grads[name]


def attribute():
    model, loss = anchored_in_attributes()

    def change(t):
        if t == 3:
            for p in model.parameters():
                p.strength, p.anchor = 0.5, p.detach().clone()

    return model, loss, change


def flag():
    model = network()

    def change(t):
        for i in (0, 2):
            model[i].requires_grad_(t % 3 != i)

    return (
        model,
        lambda model, batch: (
            plain(model, batch) + sum(0.1 * p.square().sum() for p in model.parameters() if p.requires_grad)
        ),
        change,
    )


class Late(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net(x * self.scale if "scale" in self._buffers else x)


def late_buffer():
    model = Late()

    def change(t):
        if t == 2:
            model.register_buffer("scale", torch.full((4,), 1.5, dtype=torch.float64))
        if t == 5:
            del model.scale

    return model, plain, change


@pytest.mark.parametrize("make", [attribute, flag, late_buffer])
def test_changes_of_attributes_flags_and_late_buffers_are_followed(make):
    model, loss, change = make()
    summary, truth = measured(model, loss, change)
    for name, total in summary["per_tensor"].items():
        assert abs(total - truth[name]) <= ACCURACY * summary["mass"], name
    assert abs(summary["residual"]) <= ACCURACY * summary["mass"]
    assert summary["state_change"] != 0


class Trainer:
    """Holds what it trains with, and has the loss as a method."""

    def __init__(self, model, **held):
        self.model, self.strength = model, 0.5
        vars(self).update(held)

    def loss(self, model, batch):
        return self.strength * plain(model, batch)


def _holder(kind, model, optimizer):
    """A loss, and what happens before each step, where something holds the optimizer or finds tensors."""
    gradients = {p: torch.zeros_like(p) for p in model.parameters()}
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    held = {
        "optimizer": {"optimizer": optimizer},
        "scheduler": {"scheduler": scheduler},
        "list": {"optimizers": [optimizer], "sums": [torch.zeros(1), gradients]},
        "dictionary": {"sums": gradients},
        "nothing": {},
    }[kind]
    trainer = Trainer(model, **held)

    def change(t):
        if t:
            scheduler.step()
        for parameter in gradients:
            gradients[parameter] += t
        trainer.strength = 0.5 + 0.1 * (t > 3)

    return trainer, change


@pytest.mark.parametrize("stepped", [False, True], ids=["new", "stepped"])
@pytest.mark.parametrize("kind", ["optimizer", "scheduler", "list", "dictionary", "model"])
def test_an_object_may_hold_what_finds_tensors_if_the_loss_does_not_read_it(kind, stepped):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    if kind == "model":
        model.optimizer = optimizer
    trainer, change = _holder("nothing" if kind == "model" else kind, model, optimizer)
    if stepped:
        plain(model, (X, Y)).backward()
        optimizer.step()
    summary, truth = measured(model, trainer.loss, change, optimizer=optimizer)
    for name, total in summary["per_tensor"].items():
        assert abs(total - truth[name]) <= ACCURACY * summary["mass"], name
    assert summary["steps"] == 6


def test_a_loss_that_reads_the_settings_of_an_optimizer_is_measured_and_one_that_reads_its_state_is_not():
    model = network()
    optimizer = model.optimizer = torch.optim.Adam(model.parameters(), 0.01)

    def by_settings(model, batch):
        penalised = model.optimizer.param_groups[0]
        return plain(model, batch) + penalised["lr"] * sum(p.square().sum() for p in penalised["params"])

    def by_state(model, batch):
        found = [optimizer.state[p] for p in model.parameters()]
        return plain(model, batch) + sum(state["exp_avg"].square().sum() for state in found if state)

    def change(t):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 + t)

    summary, truth = measured(model, by_settings, change, optimizer=optimizer)
    for name, total in summary["per_tensor"].items():
        assert abs(total - truth[name]) <= ACCURACY * summary["mass"], name
    with pytest.raises(LCAError, match=r"uses optimizer\.state .* finds tensors by their identity"):
        Objective(model, None, (X, Y), batch_loss=by_state)


def test_a_loss_is_refused_once_the_optimizer_has_the_state_that_it_reads():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)

    def loss(model, batch):
        return plain(model, batch) * (1.0 if any(p in optimizer.state for p in model.parameters()) else 2.0)

    found = r"uses .*optimizer\.state .* finds tensors by their identity"
    with pytest.raises(LCAError, match=found), pytest.warns(LCAWarning, match=found):
        measured(model, loss, lambda t: None, optimizer=optimizer)


def test_a_loss_that_reads_gradients_of_training_is_refused():
    model = network()

    def loss(own, batch):
        norms = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
        return plain(own, batch) * (1 + sum(norms))

    with pytest.raises(LCAError, match=r"reads the \.grad of 0\.bias"):
        Objective(model, None, (X, Y), batch_loss=loss)


def test_a_loss_that_finds_parameters_by_their_address_is_refused():
    model = network()
    penalised = {model[0].weight.data_ptr()}

    def loss(model, batch):
        chosen = [p.square().sum() for p in model.parameters() if p.data_ptr() in penalised]
        return plain(model, batch) + sum(chosen)

    with pytest.raises(LCAError, match=r"reads the \.data_ptr\(\) of 0\.bias.* by name"):
        Objective(model, None, (X, Y), batch_loss=loss)


def test_a_loss_that_calls_the_method_behind_hash_is_refused():
    model = network()
    chosen = {hash(model[0].weight)}

    def loss(model, batch):
        return plain(model, batch) + sum(
            p.square().sum() for p in model.parameters() if p.__hash__() in chosen
        )

    with pytest.raises(LCAError, match=r"calls __hash__ by its name.* call hash"):
        Objective(model, None, (X, Y), batch_loss=loss)


def test_an_error_of_the_backward_pass_is_named():
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no way back")

    with pytest.raises(LCAError, match="backward pass of the measured loss raised RuntimeError: no way back"):
        Objective(network(), None, (X, Y), batch_loss=lambda m, b: plain(m, b) + Bad.apply(m(b[0])).mean())


def test_an_iterator_that_the_loss_uses_up_is_named():
    held = SimpleNamespace(strengths=(0.1 * n for n in range(1000)))

    def loss(model, batch):
        return plain(model, batch) * next(held.strengths)

    with pytest.raises(LCAError, match=r"strengths \(generator\), which cannot be copied"):
        Objective(network(), None, (X, Y), batch_loss=loss)


class NamedAlike(nn.Module):
    """Has attributes with names that globals of its module have, too."""

    def __init__(self):
        super().__init__()
        self.inner, self.MASKS = nn.Linear(6, 3), 2.0

    def forward(self, x):
        return self.MASKS * self.inner(x)


MASKS = {}


def test_globals_that_are_named_like_attributes_are_not_what_the_loss_reads(monkeypatch):
    """As in a script, where the optimizer or a mask for each parameter is a global."""
    model = NamedAlike()
    monkeypatch.setitem(globals(), "MASKS", {parameter: 1.0 for parameter in model.parameters()})
    monkeypatch.setitem(globals(), "inner", torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    model(torch.ones(2, 6)).sum().backward()
    globals()["inner"].step()
    objective = Objective(model, nn.functional.cross_entropy, (torch.ones(4, 6), torch.tensor([0, 1, 2, 0])))
    assert np.isfinite(objective.loss(objective.theta()))
