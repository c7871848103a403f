"""`Tracker`: training with it is training without it, bit for bit, and what it allocates adds up."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import lca
from lca.errors import LayoutError, LCAError, LCAWarning, NonDeterministicError, NonFiniteError
from lca.testing import tolerances
from lca_torch import Objective, Penalty, Tracker

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(3, (60,), generator=torch.Generator().manual_seed(2))
RK4 = lca.PathIntegral(lca.RK4)


def network(*, norm=True):
    """Dropout and, if asked for, BatchNorm: what a careless measurement would disturb."""
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))


def groups(model):
    return [{"params": model[0].parameters()}, {"params": [*model[1:].parameters()], "lr": 0.02}]


def closure_of(model, optimizer, x, y):
    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    return closure


class Plain:
    """An ordinary loop; its variants override one step."""

    def optimizer(self, model):
        return torch.optim.SGD(groups(model), lr=0.05, momentum=0.9, weight_decay=1e-3)

    def step(self, model, optimizer, x, y, index):
        closure_of(model, optimizer, x, y)()
        optimizer.step()


class AdamForeach(Plain):
    def optimizer(self, model):
        return torch.optim.Adam(groups(model), lr=0.01, foreach=True)


class AdamWFused(Plain):
    def optimizer(self, model):
        return torch.optim.AdamW(groups(model), lr=0.01, fused=True)


class Closure(Plain):
    def optimizer(self, model):
        return torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)

    def step(self, model, optimizer, x, y, index):
        optimizer.step(closure_of(model, optimizer, x, y))


class Accumulated(Plain):
    """Two batches a step, gradients clipped, a schedule."""

    def optimizer(self, model):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        self.schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        return optimizer

    def step(self, model, optimizer, x, y, index):
        cross_entropy(model(x), y).backward()
        if index % 2:
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            self.schedule.step()


class Averaged(Plain):
    """An exponential moving average of the weights beside the training."""

    def optimizer(self, model):
        self.average = torch.optim.swa_utils.AveragedModel(model)
        return super().optimizer(model)

    def step(self, model, optimizer, x, y, index):
        super().step(model, optimizer, x, y, index)
        self.average.update_parameters(model)


class ScaledUnfused(Plain):
    """A GradScaler; the third step has an infinite gradient and is skipped."""

    fused = False

    def optimizer(self, model):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        return torch.optim.AdamW(model.parameters(), lr=0.01, fused=self.fused)

    def step(self, model, optimizer, x, y, index):
        optimizer.zero_grad()
        self.scaler.scale(cross_entropy(model(x), y)).backward()
        if index == 2:
            model[0].weight.grad[0, 0] = float("inf")
        self.scaler.step(optimizer)
        self.scaler.update()


class ScaledFused(ScaledUnfused):
    fused = True


LOOPS = [Plain, AdamForeach, AdamWFused, Closure, Accumulated, Averaged, ScaledUnfused, ScaledFused]


def run(loop_class, *, tracked, norm=True, every=1, **options):
    """One epoch; everything that training leaves behind, and the tracker."""
    model = network(norm=norm)
    loop, tracker = loop_class(), None
    optimizer = loop.optimizer(model)
    if tracked:
        objective = Objective(model, cross_entropy, (X, Y), batch_size=25)
        tracker = Tracker(model, optimizer, objective, RK4, every=every, on_error="raise", **options)
        tracker.__enter__()
    torch.manual_seed(3)
    for index, (x, y) in enumerate(DataLoader(TensorDataset(X, Y), batch_size=10, shuffle=True)):
        loop.step(model, optimizer, x, y, index)
    if tracker:
        tracker.__exit__(None, None, None)
    left = {**model.state_dict(), "generator": torch.get_rng_state()}
    left |= {f"grad {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    left |= {
        f"state {i} {name}": torch.as_tensor(value)
        for i, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    return {name: value.clone() for name, value in left.items()}, tracker


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
    assert tracker.jumps == 0
    # Every step begins where the one before ended, and Simpson leaves little on a smooth network.
    assert np.array_equal(rows["loss_start"][1:], rows["loss_end"][:-1])
    assert np.abs(rows["residual"]).max() < 1e-3 * rows["mass"].max()
    assert (rows["full_gradients"][1:] == 2).all()
    model = network()
    first = Objective(model, cross_entropy, (X, Y), batch_size=25)
    assert rows["loss_start"][0] == first.loss(first.theta())


def test_only_the_steps_asked_for_are_measured():
    _, tracker = run(Plain, tracked=True, every=3)
    assert list(tracker.views["train"].trace.rows["step"]) == [0, 3]
    _, tracker = run(Plain, tracked=True, every=lambda step: step in (1, 2))
    assert list(tracker.views["train"].trace.rows["step"]) == [1, 2]
    assert tracker.steps == 6


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
    assert set(summary) == {"train", "heldout"}
    theta = data.theta()
    assert summary["train"]["loss_end"] == data.loss(theta) + decay.loss(theta)
    assert summary["heldout"]["loss_end"] == heldout.loss(theta)


def test_a_jump_between_steps_is_reported():
    model = network(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objective = Objective(model, cross_entropy, (X, Y), batch_size=60)
    with Tracker(model, optimizer, objective, RK4) as tracker:
        for i in range(4):
            closure_of(model, optimizer, X, Y)()
            if i == 2:
                with torch.no_grad():
                    model[0].weight.data.mul_(0.5)  # through .data: no version counter sees it
                with pytest.warns(LCAWarning, match="changed between steps 1 and 2, outside"):
                    optimizer.step()
            else:
                optimizer.step()
    assert tracker.jumps == 1
    rows = tracker.views["train"].trace.rows
    assert rows["loss_start"][2] != rows["loss_end"][1]
    assert rows["loss_start"][3] == rows["loss_end"][2]


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
    with pytest.raises(LCAError, match="no step was measured"):
        Tracker(model, optimizer, objective).summary()


def test_what_does_not_belong_together_is_refused():
    model = network(norm=False)
    objective = Objective(model, cross_entropy, (X, Y), batch_size=60)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    foreign = torch.optim.SGD(copy.deepcopy(model).parameters(), lr=0.1)
    with pytest.raises(LCAError, match="owns none of the parameters of this Sequential"):
        Tracker(model, foreign, objective)
    with pytest.raises(LayoutError, match="'train' is about '0.weight'.*which the model has not"):
        Tracker(nn.ModuleDict({"net": model}), optimizer, objective)
    with pytest.raises(LCAError, match=r"expected a torch\.optim\.Optimizer, got list"):
        Tracker(model, [optimizer], objective)
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


def test_a_schedule_is_asked_once_a_step_and_may_fail():
    asked = []

    def schedule(step):
        asked.append(step)
        return step % 2 == 0

    run(Plain, tracked=True, every=schedule)
    assert asked == list(range(7))  # six steps, and whether a seventh would be measured

    model = network(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objective = Objective(model, cross_entropy, (X, Y), batch_size=60)
    tracker = Tracker(model, optimizer, objective, RK4, every=lambda step: 1 // (1 - step) > 0)

    def three_steps():
        with tracker:
            for _ in range(3):
                closure_of(model, optimizer, X, Y)()
                optimizer.step()

    with pytest.warns(LCAWarning, match="ZeroDivisionError"):
        three_steps()
    assert tracker.steps == 3
    assert len(tracker.views["train"].trace.rows) == 1


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


def test_losses_of_different_models_are_refused():
    model, other = network(norm=False), nn.Sequential(nn.Linear(6, 3))
    losses = {
        "one": Objective(model, cross_entropy, (X, Y), batch_size=60),
        "other": Objective(other, cross_entropy, (X, Y), batch_size=60),
    }
    with pytest.raises(LayoutError, match="the measured losses must share one layout"):
        Tracker(model, torch.optim.SGD(model.parameters(), lr=0.1), losses)
