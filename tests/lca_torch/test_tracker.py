"""`Tracker` in loops of every kind: training is the same, bit for bit, and what it allocates adds up.

What holds for the trackers of all frameworks is in `tests.laws.trackers`.
"""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import lca
from lca import tolerances
from lca.errors import LCAWarning
from lca.estimators import SampledPathIntegral
from lca_torch import Objective, Penalty, Tracker
from tests.lca_torch.loops import LOOPS, RK4, Plain, X, Y, closure_of, network, run


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_training_is_the_same_bit_for_bit(loop):
    without, _ = run(loop, tracked=False)
    with_tracker, tracker = run(loop, tracked=True)
    assert with_tracker.keys() == without.keys()
    for name, value in without.items():
        assert torch.equal(with_tracker[name], value), name
    assert tracker.steps == {"Accumulated": 3, "ScaledUnfused": 5, "ScaledFused": 5}.get(loop.__name__, 6)


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_the_allocation_adds_up_to_the_change_of_the_loss(loop):
    _, tracker = run(loop, tracked=True)
    rows = tracker.views["train"].trace.rows
    assert len(rows) == tracker.steps
    assert list(rows["step"]) == list(range(tracker.steps))
    assert tracker.discontinuities == 0
    # Every step begins where the one before ended, and Simpson leaves little on a smooth network.
    assert np.array_equal(rows["loss_start"][1:], rows["loss_end"][:-1])
    assert np.abs(rows["residual"]).max() < 1e-3 * rows["mass"].max()
    assert (rows["full_gradients"][1:] == 2).all()
    model = network()
    first = Objective(model, cross_entropy, (X, Y), batch_size=25)
    assert rows["loss_start"][0] == first.loss(first.theta())


def test_moving_statistics_are_told_apart():
    """With frozen statistics that training moves, loss change = allocation + what they did + residual."""
    model = network().double()
    objective = Objective(model, cross_entropy, (X, Y), batch_norm="frozen", batch_size=60)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def now():
        return objective.loss(objective.theta())

    torch.manual_seed(0)
    losses = [now()]
    with Tracker(model, optimizer, objective, lca.PathIntegral(lca.gauss_lobatto(6)), on_error="raise") as t:
        for i in range(4):
            closure_of(model, optimizer, X[10 * i : 10 * i + 10].double(), Y[10 * i : 10 * i + 10])()
            optimizer.step()
            losses.append(now())
    rows = t.views["train"].trace.rows
    tolerance = tolerances.conservation(rows["mass"].max(), losses[0], tolerances.EPS64)
    assert np.abs(rows["loss_start"] - losses[:-1]).max() <= tolerance
    assert np.abs(rows["loss_end"] - losses[1:]).max() <= tolerance
    assert np.abs(rows["state_change"]).min() > 1e-4
    assert np.abs(rows["residual"]).max() < 1e-9


def test_statistics_of_the_batch_have_no_state():
    _, tracker = run(Plain, tracked=True)
    assert not tracker.views["train"].trace.rows["state_change"].any()


@pytest.mark.parametrize("estimator", [SampledPathIntegral(size=10), lca.PathIntegral()], ids=["some", "all"])
def test_parameters_left_out_that_train_later_are_named(estimator):
    model = network(norm=False)
    head = model[-1].requires_grad_(False)
    objective = Objective(model, cross_entropy, (X, Y), frozen="omit")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def trained():
        with Tracker(model, optimizer, objective, estimator, on_error="raise") as tracker:
            for step in range(4):
                head.requires_grad_(step >= 2)
                closure_of(model, optimizer, X, Y)()
                optimizer.step()
        return tracker.summary()

    with pytest.warns(LCAWarning, match="^3.bias, 3.weight moved in step 2: .* frozen='zero'") as told:
        summary = trained()
    assert len(told) == 1
    if estimator.target == "full":
        assert summary["train"]["state_change"] < 0
    else:
        assert summary["train"]["state_moved_steps"] == 2
        moved = "In 2 of them the state moved; the loss change by this is in no row."
        assert moved in summary.table().caption


def test_several_losses_and_terms_in_one_run():
    model = network(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = Objective(model, cross_entropy, (X[:40], Y[:40]), batch_size=40)
    decay = Penalty(model, lambda tensors: 0.1 * sum(t.square().sum() for t in tensors.values()))
    heldout = Objective(model, cross_entropy, (X[40:], Y[40:]), batch_size=20)
    losses = {"train": lca.Sum({"data": data, "penalty": decay}), "heldout": heldout}
    with Tracker(model, optimizer, losses, RK4, on_error="raise") as tracker:
        closure_of(model, optimizer, X, Y)()
        optimizer.step()
    summary = tracker.summary()
    assert set(summary) == {"train", "train/data", "train/penalty", "heldout"}
    theta = data.theta()
    assert summary["train"]["loss_end"] == data.loss(theta) + decay.loss(theta)
    assert summary["heldout"]["loss_end"] == heldout.loss(theta)


class Wrapped(torch.optim.Optimizer):
    """As accelerate wraps optimizers: an `Optimizer` by class, without hooks of its own."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, closure=None):
        self.optimizer.step(closure)


def test_the_optimizer_inside_a_wrapper_is_found():
    model = network(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped = Wrapped(optimizer)
    objective = Objective(model, cross_entropy, (X, Y), batch_size=60)
    with Tracker(model, wrapped, objective, RK4, on_error="raise") as tracker:
        closure_of(model, optimizer, X, Y)()
        wrapped.step()
    assert tracker.steps == 1
