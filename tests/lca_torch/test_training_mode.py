"""Modules that compute something else in training are named where an estimator takes its gradients."""

import random
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, dropout
from torch.utils.checkpoint import checkpoint

import lca
from lca.errors import LCAWarning
from lca.estimators import LaggedCrossFit, NextBatch, SameBatch
from lca_torch import Objective, Penalty, Tracker

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(3, (60,), generator=torch.Generator().manual_seed(2))


class EarlyExit(nn.Module):
    """Two outputs in training, one in evaluation."""

    def __init__(self):
        super().__init__()
        self.body, self.early, self.late = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        h = self.body(x).tanh()
        late = self.late(h)
        return (self.early(h), late) if self.training else late + 0 * self.early(h)


class Noise(nn.Module):
    """Draws from a generator of its own, from torch, NumPy and Python, and counts and keeps what it does."""

    calls = Counter()

    def __init__(self, scale=0.3):
        super().__init__()
        self.scale, self.kept = scale, []
        self.own, self.numpy = torch.Generator().manual_seed(5), np.random.default_rng(6)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if not self.training:
            return x
        self.calls["forward"] += 1
        self.kept.append(len(x))
        self.seen += 1
        drawn = torch.randn(x.shape, generator=self.own) + torch.rand_like(x) + np.random.normal()  # noqa: NPY002
        return x + self.scale * (drawn + self.numpy.normal() + random.gauss(0, 1))


class Attention(nn.Module):
    """As those of transformers: hands the rate of a dropout layer to a function."""

    def __init__(self, rate):
        super().__init__()
        self.drop = nn.Dropout(rate)

    def forward(self, x):
        return dropout(self.drop(x), self.drop.p, self.training)


class Fixed(nn.Module):
    """For batches of one size, with noise in training."""

    def forward(self, x):
        return x.reshape(60, -1) + (torch.randn(60, 1) if self.training else 0)


class Checkpointed(nn.Module):
    """Computes the same in both modes, in training with checkpoints and a hook on a tensor."""

    def forward(self, x):
        if not self.training:
            return x.tanh()
        x = checkpoint(torch.tanh, x, use_reentrant=False)
        x.register_hook(lambda grad: None)
        return x


class Recurrent(nn.LSTM):
    """Two steps of three inputs, to six outputs."""

    def __init__(self):
        super().__init__(3, 6, 2, batch_first=True)

    def forward(self, x):
        return super().forward(x.reshape(-1, 2, 3))[0][:, -1]


class ZeroAtFirst(nn.Module):
    """Noise times a parameter that is 0 when training begins."""

    def __init__(self):
        super().__init__()
        self.scale, self.noise = nn.Parameter(torch.zeros(6)), Noise()

    def forward(self, x):
        return x + self.scale * self.noise(x)


def of(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), *layers, nn.Linear(6, 3))


def loss_of(model, x, y):
    outputs = model(x)
    return sum(cross_entropy(out, y) for out in (outputs if isinstance(outputs, tuple) else (outputs,)))


def train(model, estimator=None, *, after_pass=lambda model: None, training=True, batch=60, **options):
    """Four updates; what was said of training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(x, y) for _ in range(4) for x, y in zip(X.split(batch), Y.split(batch), strict=True)][:4]
    tracker = None
    if estimator is not None:
        objective = Objective(model, cross_entropy, (X, Y), batch_size=60, **options)
        tracker = Tracker(model, optimizer, objective, estimator, check_every=None, on_error="raise")
        tracker.__enter__()
        batches = tracker.batches(batches)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for x, y in batches:
            optimizer.zero_grad()
            loss_of(model.train(training), x, y).backward()
            after_pass(model)
            optimizer.step()
    if tracker:
        tracker.__exit__(None, None, None)
    return [
        str(one.message) for one in said if one.category is LCAWarning and "gradients of training" in str(one)
    ]


NAMES = {
    "early exit": (EarlyExit, "(EarlyExit)"),
    "noise": (lambda: of(Noise()), "(1 (Noise))"),
    "torch's own": (lambda: of(nn.RReLU(), nn.Tanh(), nn.RReLU()), "(1 (RReLU), 3 (RReLU))"),
    "batches of one size": (lambda: of(Fixed()), "(1 (Fixed))"),
    "beside dropout at 0": (lambda: of(nn.Dropout(0.0), Noise()), "(2 (Noise))"),
    "from the second update": (lambda: of(ZeroAtFirst()), "(1.noise (Noise))"),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_module_that_computes_something_else_in_training_is_named_once(case):
    make, names = NAMES[case]
    [said] = train(make(), SameBatch())
    assert "in training mode the model computes another loss than the measured one, or outputs" in said
    assert f"cannot take {names}, and SameBatch allocates by the gradients of training" in said
    assert not train(make(), SameBatch(), training=False)


@pytest.mark.parametrize("estimator", [LaggedCrossFit(), NextBatch()], ids=["lagged", "next"])
def test_all_estimators_on_training_batches_say_so(estimator):
    [said] = train(of(Noise(0.01)), estimator, batch=20)
    assert f"(1 (Noise)), and {type(estimator).__name__} allocates" in said


SAME = {
    "linear": lambda: of(nn.Tanh()),
    "batch statistics": lambda: of(nn.BatchNorm1d(6)),
    "noise of 0": lambda: of(Noise(0.0)),
    "recurrent": lambda: of(Recurrent()),
    "attention": lambda: of(nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)),
    "spectral norm": lambda: of(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))),
    "spectral norm in a hook": lambda: of(nn.utils.spectral_norm(nn.Linear(6, 6))),
    "checkpoints and hooks": lambda: of(Checkpointed()),
}


@pytest.mark.parametrize("case", SAME)
def test_modules_that_compute_the_same_are_no_warning(case):
    assert not train(SAME[case](), SameBatch())


def test_what_is_reported_by_its_class_is_not_reported_twice():
    [said] = train(of(Attention(0.1)), SameBatch())
    assert "trains with dropout or noise (1.drop)" in said
    [said] = train(of(nn.BatchNorm1d(6)), SameBatch(), batch_norm="frozen")
    assert "trains with batch statistics (1)" in said


def test_the_modes_are_those_of_the_backward_pass():
    """Some loops call eval() before the update."""
    for layer, words in (
        (nn.Dropout(0.1), "dropout or noise (1)"),
        (nn.BatchNorm1d(6), "batch statistics (1)"),
        (Noise(), "cannot take (1 (Noise))"),
    ):
        [said] = train(
            of(layer),
            SameBatch(),
            after_pass=nn.Module.eval,
            batch_norm={"1": "frozen"} if isinstance(layer, nn.BatchNorm1d) else "batch",
        )
        assert words in said
        assert not train(of(layer), SameBatch(), training=False, after_pass=nn.Module.train)


def left_by(estimator):
    """All that training leaves behind."""
    Noise.calls.clear()
    model = of(nn.BatchNorm1d(6), Noise(), nn.Dropout(0.1))
    model[2].seen = torch.zeros(1 << 19)  # so large that copies share it unless they are written
    seen = []
    for module in (model, model[2]):
        module.register_forward_hook(
            lambda module, args, out: seen.append((module.training, float(out.sum())))
        )
    said = train(model, estimator)
    noise = model[2]
    tensors = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
    return said, (
        [tensor.tolist() for tensor in tensors],
        [module.training for module in model.modules()],
        seen,
        dict(Noise.calls),
        noise.kept,
        noise.numpy.bit_generator.state,
        noise.own.get_state().tolist(),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        random.getstate(),
    )


def test_training_stays_the_same_bit_for_bit():
    said, left = left_by(SameBatch())
    assert len(said) == 2
    assert left == left_by(None)[1]


@pytest.mark.parametrize("forgets", [True, False], ids=["forgotten", "added"])
def test_a_loop_that_forgets_a_term_of_a_sum_is_told(forgets):
    torch.manual_seed(0)
    model, loss = nn.Linear(4, 3), nn.CrossEntropyLoss()
    x, y = torch.randn(24, 4), torch.arange(24) % 3
    ridge = lambda tensors: 0.1 * sum(tensor.square().sum() for tensor in tensors.values())  # noqa: E731
    objective = lca.Sum({"data": Objective(model, loss, (x, y)), "ridge": Penalty(model, ridge)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with Tracker(model, optimizer, objective, LaggedCrossFit(), check_every=None) as tracker:
            for own, labels in tracker.batches([(x[i::6], y[i::6]) for i in range(6)]):
                optimizer.zero_grad()
                value = loss(model(own), labels)
                (value if forgets else value + ridge(dict(model.named_parameters()))).backward()
                optimizer.step()
    found = [str(one.message) for one in said if "as a whole" not in str(one.message)]
    assert len(found) == forgets
    assert all("measured loss without the term 'ridge'" in text for text in found)
