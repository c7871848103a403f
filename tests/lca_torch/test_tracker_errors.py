"""`Tracker`: what does not fit is refused, and what goes wrong in measuring leaves the training alone."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lca.errors import LayoutError, LCAError, LCAWarning, NonDeterministicError, NonFiniteError
from lca.estimators import SameBatch
from lca_torch import Objective, Tracker
from tests.lca_torch.loops import RK4, X, Y, closure_of, network


def diverging(on_error):
    """A loop whose parameters turn NaN at the third step."""
    model = network(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objective = Objective(model, cross_entropy, (X, Y), batch_size=60)
    tracker = Tracker(model, optimizer, objective, RK4, on_error=on_error)
    with tracker:
        for i in range(4):
            closure_of(model, optimizer, X, Y)()
            if i == 2:
                model[3].bias.grad[1] = float("nan")
            optimizer.step()
    return tracker, model


def test_an_error_in_measuring_ends_the_measuring_and_not_the_training():
    with pytest.warns(LCAWarning, match=r"stopped at step 2, training goes on: NonFiniteError: .*3.bias"):
        tracker, model = diverging("warn")
    assert tracker.steps == 4
    assert isinstance(tracker.error, NonFiniteError)
    assert len(tracker.views["train"].trace.rows) == 2
    assert tracker.summary()["train"]["steps"] == 2


def test_an_error_in_measuring_is_raised_if_asked_for():
    with pytest.raises(NonFiniteError, match=r"step 2: NaN or Inf in the parameters at the end.*3\.bias"):
        diverging("raise")


def test_random_layers_that_stay_on_are_found():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x):
            return self.linear(nn.functional.dropout(x))  # training=True by default, whatever the mode

    model = Noisy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objective = Objective(model, cross_entropy, (X, Y), batch_size=60)
    with Tracker(model, optimizer, objective, RK4, on_error="raise"):
        closure_of(model, optimizer, X, Y)()
        with pytest.raises(NonDeterministicError, match="dropout"):
            optimizer.step()


def test_hooks_are_gone_afterwards_also_after_an_error():
    model = network(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tracker = Tracker(model, optimizer, Objective(model, cross_entropy, (X, Y), batch_size=60), RK4)

    def fail_after_a_step():
        with tracker:
            closure_of(model, optimizer, X, Y)()
            optimizer.step()
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_a_step()
    optimizer.step()
    assert tracker.steps == 1
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    with tracker, pytest.raises(LCAError, match="already at work"):
        tracker.__enter__()


def test_a_summary_of_nothing_says_why():
    model = network(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objective = Objective(model, cross_entropy, (X, Y), batch_size=60)
    with Tracker(model, optimizer, objective) as tracker:
        pass
    with pytest.raises(LCAError, match="no step was measured"):
        tracker.summary()


def test_what_does_not_belong_together_is_refused():
    model = network(norm=False)
    objective = Objective(model, cross_entropy, (X, Y), batch_size=60)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    foreign = torch.optim.SGD(copy.deepcopy(model).parameters(), lr=0.1)
    with pytest.raises(LCAError, match="owns none of the parameters of this Sequential"):
        Tracker(model, foreign, objective)
    with pytest.raises(LayoutError, match="'train' is about '0.weight'.*which the model has not"):
        Tracker(nn.ModuleDict({"net": model}), optimizer, objective)
    with pytest.raises(LCAError, match="optimizer is of type list; .*each of several gets a Tracker"):
        Tracker(model, [optimizer], objective)
    order = r"the order is Tracker\(model, optimizer, objective\)"
    with pytest.raises(LCAError, match="the optimizer is of type Objective; " + order):
        Tracker(model, objective, optimizer)
    with pytest.raises(LCAError, match="the model is of type SGD; " + order):
        Tracker(optimizer, model, objective)
    with pytest.raises(LCAError, match="the objective is of type CrossEntropyLoss; " + order):
        Tracker(model, optimizer, {"train": objective, "heldout": nn.CrossEntropyLoss()})
    twin = Objective(copy.deepcopy(model), cross_entropy, (X, Y), batch_size=60)
    with pytest.raises(LayoutError, match="'heldout' was made from another model of the same form"):
        Tracker(model, optimizer, {"train": objective, "heldout": twin})
    with pytest.raises(LCAError, match="never at work; put the training loop inside `with tracker:`"):
        Tracker(model, optimizer, objective).summary()
    with pytest.raises(LCAError, match="unknown on_error 'ignore'"):
        Tracker(model, optimizer, objective, on_error="ignore")
    with pytest.raises(LCAError, match="every must be a positive integer"):
        Tracker(model, optimizer, objective, every=0)
    with pytest.raises(LCAError, match="measuring needs at least one objective"):
        Tracker(model, optimizer, {})


def test_a_model_that_moves_away_is_an_error_that_says_so():
    model = network(norm=False)
    objective = Objective(model, cross_entropy, (X, Y), batch_size=60)
    model.to("meta")
    with pytest.raises(
        LayoutError, match="'0.weight' is torch.float32 on meta now, but was torch.float32 on cpu"
    ):
        objective.loss(objective.theta())


def test_losses_of_different_models_are_refused():
    model, other = network(norm=False), nn.Sequential(nn.Linear(6, 3))
    losses = {
        "one": Objective(model, cross_entropy, (X, Y), batch_size=60),
        "other": Objective(other, cross_entropy, (X, Y), batch_size=60),
    }
    with pytest.raises(LayoutError, match="the measured losses must share one layout"):
        Tracker(model, torch.optim.SGD(model.parameters(), lr=0.1), losses)


@pytest.mark.parametrize("estimator", [RK4, SameBatch()], ids=["rk4", "same batch"])
@pytest.mark.parametrize("before_first", [True, False])
def test_a_model_that_is_converted_in_a_run_is_named(before_first, estimator):
    model = network(norm=False)
    objective = Objective(model, cross_entropy, (X, Y), batch_size=60)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Tracker(model, optimizer, objective, estimator, on_error="raise"):
        if not before_first:
            closure_of(model, optimizer, X, Y)()
            optimizer.step()
        model.double()
        closure_of(model, optimizer, X.double(), Y)()
        now = r"'0\.weight' is torch\.float64 on cpu now, but was torch\.float32 on cpu when"
        with pytest.raises(LayoutError, match=now):
            optimizer.step()
