"""Domains and tasks with layers of their own: in the micro-batches of an update, or in turn."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lca import LEFT, RIGHT
from lca.errors import LCAWarning
from lca.estimators import CrossFit, LaggedCrossFit, NextBatch, SameBatch
from lca_torch import Objective, Tracker

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = (X[:, 0] > 0).long()
UPDATES = 20
IN_EACH = "the micro-batches of an update have gradients for different parameters"
IN_TURN = "updates have gradients for different parameters in turn"
BY_NEXT = {
    "next": NextBatch(RIGHT),
    "next, its left end": NextBatch(LEFT),
    "lagged": LaggedCrossFit(),
    "cross-fit": CrossFit(epoch=20),
}


class Domains(nn.Module):
    """A layer for all and one for each domain, of which the data are turned differently."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.heads = nn.Linear(4, 4), nn.ModuleList(nn.Linear(4, 2) for _ in range(3))
        self.double()

    def loss(self, batch, domain):
        x, y = batch
        return cross_entropy(self.heads[domain](self.trunk(x.roll(domain, 1)).tanh()), y)


def tracked(estimator, lr=0.1, check_every=None):
    model = Domains()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def mean(model, batch):
        return sum(model.loss(batch, k) for k in range(3)) / 3

    objective = Objective(model, None, (X, Y), batch_loss=mean)
    tracker = Tracker(model, optimizer, objective, estimator, on_error="raise", check_every=check_every)
    return model, optimizer, tracker


def drawn(seed, size=12):
    index = torch.randint(len(X), (size,), generator=torch.Generator().manual_seed(seed))
    return X[index], Y[index]


def accumulate(estimator, domains_of, updates=UPDATES, **options):
    """Each micro-batch of update ``i`` is of these domains."""
    model, optimizer, tracker = tracked(estimator, **options)
    with tracker:
        for i in range(updates):
            optimizer.zero_grad()
            for m, domains in enumerate(domains_of(i)):
                tracker.begin_batch(drawn(2 * i + m), weight=1.0)
                sum(model.loss(drawn(2 * i + m), k) / 4 for k in domains).backward()
            optimizer.step()
    return tracker


def update_in_turn(estimator, domain_of, updates=UPDATES, **options):
    """Update ``i`` is made from a batch of this domain."""
    model, optimizer, tracker = tracked(estimator, **options)
    with tracker:
        for i in range(updates):
            optimizer.zero_grad()
            batch = drawn(i)
            if isinstance(estimator, CrossFit):
                for piece, weight in tracker.micro_batches(batch, 2):
                    (weight * model.loss(piece, domain_of(i))).backward()
            else:
                tracker.begin_batch(batch)
                model.loss(batch, domain_of(i)).backward()
            optimizer.step()
    return tracker


def texts(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(one.message) for one in caught if issubclass(one.category, LCAWarning)]


@pytest.mark.parametrize("independent", [False, True])
def test_micro_batches_of_a_domain_each_are_warned_of_once(independent):
    found = texts(lambda: accumulate(CrossFit(2, independent=independent), lambda i: [[0], [1]]))
    assert [IN_EACH in text for text in found] == [True]


@pytest.mark.parametrize("estimator", [LaggedCrossFit(), NextBatch(RIGHT)])
def test_they_do_no_harm_to_an_estimator_on_the_gradient_of_the_whole_update(estimator):
    assert texts(lambda: accumulate(estimator, lambda i: [[0], [1]])) == []


@pytest.mark.parametrize(
    "domains_of",
    [lambda i: [[0, 1], [1, 0]], lambda i: [[drawn(i)[1][m].item()] for m in (0, 1)]],
    ids=["both in each", "drawn at random"],
)
def test_micro_batches_that_are_samples_of_all_domains_are_not_warned_of(domains_of):
    assert texts(lambda: accumulate(CrossFit(2, independent=True), domains_of)) == []


def test_the_self_check_names_domains_in_micro_batches_first():
    def run():
        accumulate(CrossFit(2), lambda i: [[0], [1]], updates=40, lr=2.0, check_every="doubling")

    *_, last = texts(run)
    assert "the likeliest first:\n- micro-batches are not samples of one loss" in last


@pytest.mark.parametrize("estimator", BY_NEXT.values(), ids=BY_NEXT)
@pytest.mark.parametrize("domains", [2, 3])
def test_domains_in_turn_are_warned_of_where_the_next_batch_is_the_judge(estimator, domains):
    found = texts(lambda: update_in_turn(estimator, lambda i: i % domains, updates=15))
    assert [IN_TURN in text for text in found] == [True]


@pytest.mark.parametrize("estimator", [SameBatch(), CrossFit(rule=LEFT)], ids=["same", "left"])
def test_they_are_not_where_it_is_no_judge(estimator):
    assert texts(lambda: update_in_turn(estimator, lambda i: i % 2)) == []


@pytest.mark.parametrize("estimator", BY_NEXT.values(), ids=BY_NEXT)
def test_domains_drawn_at_random_are_not_warned_of(estimator):
    assert texts(lambda: update_in_turn(estimator, lambda i: drawn(i)[1][0].item())) == []


def test_the_self_check_names_domains_in_turn_first():
    def run():
        update_in_turn(NextBatch(RIGHT), lambda i: i % 2, lr=1.0, updates=40, check_every="doubling")

    *_, last = texts(run)
    assert "the likeliest first:\n- batches are not in random order" in last


def test_layers_that_are_frozen_in_turn_are_no_domains():
    model, optimizer, tracker = tracked(LaggedCrossFit())

    def run():
        with tracker:
            for i in range(UPDATES):
                model.heads[0].requires_grad_(i % 2 == 0)
                optimizer.zero_grad()
                (model.loss(drawn(i), 0) + model.loss(drawn(i), 1)).backward()
                optimizer.step()

    found = texts(run)
    assert [text for text in found if "frozen" not in text] == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, True),
        ({"batch_size": None}, True),
        ({"shuffle": True}, False),
        ({"batch_size": 1, "batch_sampler": [[3, 1], [2, 0]] * 30}, False),
    ],
    ids=["in order", "one by one", "shuffled", "own batches"],
)
def test_the_self_check_names_a_loader_that_does_not_shuffle_first(options, named):
    loader = DataLoader(TensorDataset(X, Y), **{"batch_size": 2, **options})
    model, optimizer, tracker = tracked(NextBatch(RIGHT), lr=1.0, check_every="doubling")

    def run():
        with tracker:
            for x, y in tracker.batches(loader):
                optimizer.zero_grad()
                batch = x.reshape(-1, 4), y.reshape(-1)
                (10 * (model.loss(batch, 0) + model.loss(batch, 1))).backward()  # a forgotten division
                optimizer.step()

    *_, last = texts(run)
    first = last.partition("the likeliest first:\n- ")[2]
    assert first.startswith("batches are not in random order") == named
