"""Neither measuring nor trying a model in training mode moves what training uses, wherever it is."""

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import lca
from lca.errors import LCAError, LCAWarning
from lca.estimators import SameBatch
from lca_torch import Objective, Tracker
from tests.lca_torch import counting_module
from tests.lca_torch.counting_module import WAYS, kept_counter

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(3, (60,), generator=torch.Generator().manual_seed(2))


class Counting(nn.Module):
    """Computes with a counter in training."""

    def __init__(self, way):
        super().__init__()
        self.body, self.head, self.way = nn.Linear(6, 5), nn.Linear(5, 3), way
        self.register_buffer("own", torch.zeros(()))

    def forward(self, x):
        x = self.body(x).tanh()
        if self.training:
            x = x * (1 + 0.1 * math.sin(self.way()))
            self.own += 1
        return self.head(x)


class CountingAlways(Counting):
    """Counts in both modes."""

    def forward(self, x):
        number = self.way()
        x = self.body(x).tanh()
        return self.head(x * (1 + 0.1 * math.sin(number)) if self.training else x)


def local_of_a_module():
    counting_module.LOCAL.count += 1
    return counting_module.LOCAL.count


def context_of_a_module():
    counting_module.NUMBER.set(counting_module.NUMBER.get() + 1)
    return counting_module.NUMBER.get()


def generator_of_a_module():
    return next(counting_module.GENERATOR)


def file_of_a_module():
    return int(counting_module.FILE.readline())


def drawn_by_what_is_kept():
    """A setting that is kept, read in both modes."""
    return kept_counter().count


OF_A_MODULE = [local_of_a_module, context_of_a_module, generator_of_a_module, file_of_a_module]


def train(model_of, estimator, *, batch_size=60):
    """Four updates; the parameters, and what was said of training."""
    counting_module.reset()
    torch.manual_seed(0)
    model = model_of()
    optimizer, tracker = torch.optim.SGD(model.parameters(), lr=0.1), None
    if estimator:
        objective = Objective(model, cross_entropy, (X, Y), batch_size=batch_size)
        tracker = Tracker(model, optimizer, objective, estimator, check_every=None, on_error="raise")
        tracker.__enter__()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(4):
            optimizer.zero_grad()
            cross_entropy(model(X), Y).backward()
            optimizer.step()
    if tracker:
        tracker.__exit__(None, None, None)
    said = [str(one.message) for one in said if one.category is LCAWarning]
    return [parameter.tolist() for parameter in model.parameters()], said


UNTOLD = {
    "by_kept_results": "kept_counter",
    "by_context": "way.NUMBER (ContextVar)",
    "by_what_a_context_holds": "way.HOLDER (ContextVar)",
    "by_generator": "way.GENERATOR (generator)",
    "by_file": "way.FILE (TextIOWrapper)",
    "by_modules": "sys.modules",
    "context_of_a_module": "tests.lca_torch.counting_module.NUMBER (ContextVar)",
    "generator_of_a_module": "tests.lca_torch.counting_module.GENERATOR (generator)",
    "file_of_a_module": "tests.lca_torch.counting_module.FILE (TextIOWrapper)",
}


@pytest.mark.parametrize("way", [*WAYS, *OF_A_MODULE], ids=lambda way: way.__name__)
def test_trying_the_training_mode_moves_nothing_and_says_what_keeps_it_from_trying(way):
    expected, _ = train(lambda: Counting(way), None)
    found, said = train(lambda: Counting(way), SameBatch())
    assert found == expected
    [said] = [text for text in said if "gradients of training" in text]
    if way.__name__ in UNTOLD:
        assert f"would change objects that training uses ({UNTOLD[way.__name__]}). SameBatch" in said
    else:
        assert "computes another loss than the measured one, or outputs" in said
        assert "cannot take (Counting)" in said


UNSEEN = {"by_kept_results", "by_modules"}
"""Of which docs/decisions/nothing-silent.md tells."""
REFUSED = UNTOLD.keys() - UNSEEN


@pytest.mark.parametrize(
    "way", [way for way in (*WAYS, *OF_A_MODULE) if way.__name__ not in UNSEEN], ids=lambda way: way.__name__
)
def test_measuring_moves_nothing_that_only_training_uses(way):
    expected, _ = train(lambda: CountingAlways(way), None)
    if way.__name__ in REFUSED:
        with pytest.raises(LCAError, match="cannot be copied"):
            train(lambda: CountingAlways(way), lca.Adaptive(), batch_size=None)
    else:
        assert train(lambda: CountingAlways(way), lca.Adaptive(), batch_size=None)[0] == expected


class Reading(Counting):
    """Reads a setting that is kept, and a number and a name in a context, in both modes."""

    def __init__(self, *, draws):
        super().__init__(drawn_by_what_is_kept)
        self.draws = draws

    def forward(self, x):
        x = self.body(x).tanh() * (1 + self.way() + counting_module.NUMBER.get())
        if self.training and self.draws:
            kept_counter().next()
            x = x + kept_counter().count
        return self.head(x)


@pytest.mark.parametrize("draws", [False, True])
def test_what_is_kept_and_read_in_both_modes_does_not_keep_from_trying(draws):
    expected, _ = train(lambda: Reading(draws=draws), None)
    found, said = train(lambda: Reading(draws=draws), SameBatch())
    assert found == expected
    assert [("another loss than the measured one, or outputs" in text) for text in said] == [True] * draws


def test_a_name_that_is_new_in_the_pass_is_gone():
    counting_module.reset()
    before = {owner: set(vars(owner)) for owner in (counting_module, counting_module.Inherits)}

    def loss(model, batch):
        counting_module.by_subclass()
        counting_module.by_new_global()
        return cross_entropy(model(batch[0]), batch[1])

    objective = Objective(nn.Linear(6, 3), None, (X, Y), batch_loss=loss)
    objective.loss_and_grad(objective.theta())
    assert before == {owner: set(vars(owner)) for owner in before}
