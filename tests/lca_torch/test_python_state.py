"""Python state that a loss reads or writes, wherever it is kept: followed, and never moved by measuring."""

import itertools
import os
import weakref
from collections import defaultdict, deque
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy
from torch.nn.modules import module
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lca.errors import LCAError, LCAWarning, NonDeterministicError
from lca.testing import tolerances
from lca_torch import Objective, Tracker

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(12) % 3
LOG: list[int] = []
NOISE = torch.Generator()


def is_close(a, b):
    return abs(a - b) <= tolerances.summed(2 * abs(b), tolerances.EPS64)


class Slots:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


def weight_in(kind):
    """How to read and how to set a weight kept in an object of this kind."""
    if kind in (SimpleNamespace, Slots):
        holder = SimpleNamespace(value=1.0) if kind is SimpleNamespace else Slots(1.0)
        return (lambda: holder.value), (lambda value: setattr(holder, "value", value))
    if kind is partial:
        function = partial(lambda value: value, value=1.0)
        return function, lambda value: function.keywords.update(value=value)
    if kind == "default":

        def read(held=[1.0]):  # noqa: B006 - what is tested
            return held[0]

        return read, lambda value: read.__defaults__[0].__setitem__(0, value)
    if kind == "function attribute":

        def own():
            return own.value

        own.value = 1.0
        return own, lambda value: setattr(own, "value", value)
    if kind is set:
        members = {1.0}
        return (lambda: sum(members)), lambda value: (members.clear(), members.add(value))
    sequence = deque([1.0]) if kind is deque else bytearray([1])
    change = (lambda v: v) if kind is deque else int
    return (lambda: sequence[0]), lambda value: sequence.__setitem__(0, change(value))


class Keyed:
    """A descriptor that keeps values by the object they belong to."""

    def __init__(self):
        self.values = weakref.WeakKeyDictionary()

    def __get__(self, owner, kind=None):
        return self if owner is None else self.values.get(owner, 1.0)

    def __set__(self, owner, value):
        self.values[owner] = value


class Scaled(nn.Linear):
    scale = Keyed()

    def forward(self, x):
        return super().forward(x) * self.scale


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Single:
    """The only one of its class, whose copy would be itself."""

    made = None

    def __new__(cls):
        if cls.made is None:
            cls.made = super().__new__(cls)
            cls.made.values, cls.made.calls = [1.0], 0
        return cls.made


class CopiedAsItself:
    def __init__(self):
        self.values, self.calls = [1.0], 0

    def __deepcopy__(self, memo):
        return self


@pytest.mark.parametrize("kind", [Single, CopiedAsItself])
def test_an_object_whose_copy_would_be_itself_is_followed_and_stays_as_it_is(kind):
    held = kind()
    values = held.values
    model = nn.Linear(4, 3)

    def loss(out, y):
        held.calls += 1
        return cross_entropy(out, y) * held.values[0]

    tracker = trained(model, loss, lambda t: values.__setitem__(0, t + 2.0))
    assert held.calls == 4  # those of training
    assert held.values is values
    assert is_close(tracker.summary()["train"]["loss_end"], float(loss(model(X), Y).detach()))


def test_a_descriptor_of_the_user_is_followed():
    model = Scaled(4, 3)
    tracker = trained(model, cross_entropy, lambda t: setattr(model, "scale", t + 2.0))
    assert is_close(tracker.summary()["train"]["loss_end"], float(cross_entropy(model(X), Y).detach()))


def test_a_module_that_becomes_of_another_class_is_followed():
    model = nn.Sequential(nn.Linear(4, 3))
    tracker = trained(model, cross_entropy, lambda t: setattr(model[0], "__class__", Doubled))
    assert tracker.error is None
    assert tracker.summary()["train"]["state_change"] != 0
    assert is_close(tracker.summary()["train"]["loss_end"], float(cross_entropy(model(X), Y).detach()))


BETA = 1.0


@pytest.mark.parametrize("look_up", [lambda: globals()["BETA"], lambda: eval("BETA")])
def test_a_global_found_by_a_string_is_followed(look_up, monkeypatch):
    model = nn.Linear(4, 3).double()
    loss = lambda out, y: cross_entropy(out, y) * look_up()  # noqa: E731
    tracker = trained(model, loss, lambda t: monkeypatch.setitem(globals(), "BETA", 2.0 - t % 2), steps=4)
    assert tracker.error is None
    assert tracker.summary()["train"]["state_change"] != 0
    assert is_close(tracker.summary()["train"]["loss_end"], float(loss(model(X), Y).detach()))


def counted_by_a_factory(counter):
    held = defaultdict(lambda: 1.0 + 0 * next(counter))
    return lambda: held[len(held)]


def counted_by_an_iterator(counter):
    ones = map(lambda _: 1.0 + 0 * next(counter), itertools.count())
    return lambda: next(ones)


@pytest.mark.parametrize("made", [counted_by_a_factory, counted_by_an_iterator])
def test_functions_that_containers_and_iterators_call_are_copied(made):
    counter = itertools.count()
    weight = made(counter)
    trained(nn.Linear(4, 3), lambda out, y: cross_entropy(out, y) * weight())
    assert next(counter) == 4  # the calls of training


def test_what_cannot_be_copied_keeps_its_class_and_is_refused_when_used():
    numbers = (number for number in range(9))
    kind = type(numbers)
    model = nn.Linear(4, 3).double()
    loss = lambda out, y: cross_entropy(out, y) * (2 if isinstance(numbers, kind) else 1)  # noqa: E731
    objective = Objective(model, loss, (X, Y))
    assert is_close(objective.loss(objective.theta()), float(loss(model(X), Y).detach()))
    end = weakref.finalize(model, print)
    with pytest.raises(LCAError, match="finalize"):
        Objective(model, lambda out, y: cross_entropy(out, y) * (2 if end.alive else 1), (X, Y))


class Watching(TorchFunctionMode):
    def __torch_function__(self, function, kinds, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Dispatching(TorchDispatchMode):
    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_modes_of_the_user_are_refused_and_saving_hooks_do_not_run():
    packed = []
    model = nn.Linear(4, 3).double()
    objective = Objective(model, cross_entropy, (X, Y))
    with saved_tensors_hooks(lambda tensor: packed.append(1) or tensor, lambda tensor: tensor):
        objective.loss_and_grad(objective.theta())
        assert packed == []
        cross_entropy(model(X), Y)
        assert packed != []  # they are back
    with Watching(), pytest.raises(LCAError, match="Watching, a TorchFunctionMode"):
        objective.loss_and_grad(objective.theta())
    with Dispatching(), pytest.raises(LCAError, match="Dispatching, a TorchFunctionMode or TorchDispatch"):
        objective.loss_and_grad(objective.theta())


KINDS = [SimpleNamespace, Slots, partial, "default", "function attribute", set, deque, bytearray]


def trained(model, loss, between=lambda t: None, steps=4):
    model.double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Tracker(model, optimizer, Objective(model, loss, (X, Y))) as tracker:
        for t in range(steps):
            optimizer.zero_grad()
            loss(model(X[:6]), Y[:6]).backward()
            optimizer.step()
            if t < steps - 1:
                between(t)
    return tracker


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_state_in_objects_of_every_kind_is_followed(kind):
    read, write = weight_in(kind)
    model = nn.Linear(4, 3)
    loss = lambda out, y: cross_entropy(out, y) * read()  # noqa: E731
    tracker = trained(model, loss, lambda t: write(t + 2.0))
    expected = float(loss(model(X), Y).detach())
    assert is_close(tracker.summary()["train"]["loss_end"], expected)


def test_activations_stored_by_a_hook_are_those_of_the_measured_forward_pass():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    acts = {}
    model[1].register_forward_hook(lambda module, args, out: acts.__setitem__("h", out))
    loss = lambda out, y: cross_entropy(out, y) + acts["h"].square().mean()  # noqa: E731
    model(X)
    tracker = trained(model, loss)
    expected = float(loss(model(X), Y).detach())
    assert is_close(tracker.summary()["train"]["loss_end"], expected)


def test_a_forward_set_on_an_instance_is_followed():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    tracker = trained(model, cross_entropy, lambda t: t == 1 and setattr(model[1], "forward", torch.sigmoid))
    expected = float(cross_entropy(model(X), Y).detach())
    assert is_close(tracker.summary()["train"]["loss_end"], expected)


class Cached(nn.Linear):
    """Keeps what it computes from its weight until the version of that changes."""

    version = -1

    def forward(self, x):
        if self.weight._version != self.version:
            self.version, self.product = self.weight._version, self.weight.tanh()
        return x @ self.product.T + self.bias


def test_what_is_computed_from_a_weight_is_not_taken_from_an_earlier_point():
    model = Cached(4, 3).double()
    model(X)
    objective = Objective(model, cross_entropy, (X, Y))
    theta = objective.theta()
    for factor in (0.5, 2.0):
        weight, bias = factor * model.weight.detach(), factor * model.bias.detach()
        expected = float(cross_entropy(X @ weight.tanh().T + bias, Y))
        assert is_close(objective.loss(factor * theta), expected)


class Counting(nn.Linear):
    calls = 0

    def forward(self, x):
        type(self).calls += 1
        LOG.append(1)
        return super().forward(x)


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x + torch.randn(x.shape, generator=NOISE, dtype=x.dtype))


def test_measuring_moves_no_class_no_global_and_no_generator():
    Counting.calls = 0
    LOG.clear()
    Objective(Counting(4, 3).double(), cross_entropy, (X, Y)).loss_and_grad(torch.ones(15).double())
    assert (Counting.calls, LOG) == (0, [])
    before = NOISE.get_state()
    try:
        Objective(Noisy(4, 3).double(), cross_entropy, (X, Y), batch_size=12)
    finally:
        assert torch.equal(NOISE.get_state(), before)


def test_global_hooks_of_the_user_do_not_run_but_count():
    seen = []

    def double(module, args, out):
        seen.append(module)
        return 2 * out

    model = nn.Linear(4, 3).double()
    handle = register_module_forward_hook(double)
    try:
        objective = Objective(model, cross_entropy, (X, Y))
        assert seen == []
        expected = float(cross_entropy(model(X), Y).detach())
        assert seen == [model]
        assert is_close(objective.loss(objective.theta()), expected)
        assert seen == [model]
        model(X)
        assert seen == [model, model]
    finally:
        handle.remove()


def test_a_global_hook_that_the_loss_registers_is_gone_after_measuring():
    def loss(out, y):
        register_module_forward_hook(lambda *given: None)
        return cross_entropy(out, y)

    objective = Objective(nn.Linear(4, 3).double(), loss, (X, Y))
    objective.loss(objective.theta())
    assert not module._global_forward_hooks


def test_a_change_that_cannot_be_seen_stops_measuring_at_the_next_audit(monkeypatch):
    monkeypatch.setenv("BETA", "1")
    loss = lambda out, y: cross_entropy(out, y) * float(os.environ["BETA"])  # noqa: E731
    with pytest.warns(LCAWarning, match="measuring stopped"):
        tracker = trained(nn.Linear(4, 3), loss, lambda t: monkeypatch.setenv("BETA", str(t + 2.0)), steps=6)
    assert isinstance(tracker.error, NonDeterministicError)


def test_traced_modules_are_measured():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    objective = Objective(torch.fx.symbolic_trace(model), cross_entropy, (X, Y))
    assert objective.loss(objective.theta()) == float(cross_entropy(model(X), Y).detach())


class Graph:
    def __init__(self, x, y):
        self.x, self.y = x, y


def test_batches_that_are_objects_need_a_weight_and_are_measured():
    model = nn.Linear(4, 3).double()
    loss = lambda model, batch: cross_entropy(model(batch.x), batch.y)  # noqa: E731
    graphs = [Graph(X[:8], Y[:8]), Graph(X[8:], Y[8:])]
    objective = Objective(model, None, graphs, batch_loss=loss, batch_weight=lambda b: len(b.y))
    expected = float(cross_entropy(model(X), Y).detach())
    assert is_close(objective.loss(objective.theta()), expected)
    with pytest.raises(Exception, match="batch_weight"):
        Objective(model, None, graphs, batch_loss=loss)
