"""`Tracker`: errors that only torch can make; the others are in `tests.laws.trackers`."""

import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lca import RIGHT
from lca.errors import LayoutError, LCAError, LCAWarning, NonDeterministicError
from lca.estimators import CrossFit, NextBatch, SameBatch
from lca_torch import Objective, Tracker
from tests.lca_torch.loops import RK4, X, Y, closure_of, network

pytestmark = pytest.mark.filterwarnings("ignore:the model trains with")


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


def with_embedding_noise():
    """As the Trainer of Hugging Face adds it, by a hook that reads this attribute."""
    layer = nn.Embedding(3, 3)
    layer.neftune_noise_alpha = 5.0
    return layer


def said_of_training(model, estimator, **options):
    """The warnings during two updates."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objective = Objective(
        model, None, (X, Y), batch_loss=lambda m, b: cross_entropy(m["linear"](b[0]), b[1]), **options
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with Tracker(model, optimizer, objective, estimator, on_error="raise"):
            for _ in range(2):
                optimizer.zero_grad()
                cross_entropy(model["linear"](X), Y).backward()
                optimizer.step()
    return [str(warning.message) for warning in said if warning.category is LCAWarning]


@pytest.mark.filterwarnings("ignore:no gradient reaches")
@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.1), nn.Dropout2d(0.1), nn.LSTM(6, 6, 2, dropout=0.1), with_embedding_noise()]
)
def test_dropout_in_gradients_of_training_is_said_once(layer):
    model = nn.ModuleDict({"linear": nn.Linear(6, 3), "drop": layer})
    for estimator in (SameBatch(), NextBatch(RIGHT)):
        [said] = said_of_training(model, estimator)
        by = f"{type(estimator).__name__} allocates by the gradients of training"
        assert f"trains with dropout or noise (drop), which is off in the measured loss. {by}" in said
    assert not said_of_training(model.eval(), SameBatch())
    model.train()
    layer.p = layer.dropout = layer.neftune_noise_alpha = 0.0
    assert not said_of_training(model, SameBatch())


@pytest.mark.filterwarnings("ignore:no gradient reaches")
def test_batch_statistics_in_gradients_of_training_that_are_not_measured_are_said_once():
    model = nn.ModuleDict({"linear": nn.Linear(6, 3), "norm": nn.BatchNorm1d(6)})
    [said] = said_of_training(model, SameBatch(), batch_norm="frozen")
    by = "SameBatch allocates by the gradients of training"
    assert f"statistics (norm), but the measured loss has batch_norm='frozen'. {by}" in said
    assert not said_of_training(model, SameBatch())
    model["norm"].eval()
    assert not said_of_training(model, SameBatch(), batch_norm="frozen")


def test_hooks_on_gradients_of_training_are_named():
    def look(*gradients):
        pass

    model = nn.ModuleDict({"linear": nn.Linear(6, 3)})
    linear = model["linear"]
    for register, name in (
        (linear.weight.register_hook, "linear.weight"),
        (linear.bias.register_post_accumulate_grad_hook, "linear.bias"),
        (linear.register_full_backward_hook, "linear"),
        (nn.modules.module.register_module_full_backward_hook, "all modules"),
    ):
        handle = register(look)
        [said] = said_of_training(model, SameBatch())
        handle.remove()
        assert f"hooks see the gradients of training ({name}) and may alter them, and SameBatch" in said
    linear.weight.register_hook(partial(nn.functional.hardtanh, max_val=0.5))  # as libraries do
    assert not said_of_training(model, SameBatch())


def test_a_second_loss_for_an_estimator_on_training_batches_is_refused():
    model = network(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = {name: Objective(model, cross_entropy, (X, Y), batch_size=60) for name in ("train", "heldout")}
    with pytest.raises(LCAError, match="so that 'train', 'heldout' would get the same values"):
        Tracker(model, optimizer, losses, CrossFit())


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


def test_an_objective_of_a_part_of_the_model_is_refused_with_the_remedy():
    part = network(norm=False)
    whole = nn.ModuleDict({"generator": part, "critic": nn.Linear(2, 1)})
    optimizer = torch.optim.SGD(part.parameters(), lr=0.1)
    with pytest.raises(LayoutError, match=r"'train' was made from a part of the model .* batch_loss=lambda"):
        Tracker(whole, optimizer, Objective(part, cross_entropy, (X, Y)))
