"""Optimizers that take turns under one tracker, with one loss or with losses of their own."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from lca import RIGHT, PathIntegral
from lca.errors import LCAError, LCAWarning
from lca.estimators import LaggedCrossFit, NextBatch, SameBatch, SampledPathIntegral
from lca_torch import Objective, Tracker

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
OWN_LOSSES = "one of the two takes no gradient of what the other moves.*make a tracker for each model"


class TwoHeads(nn.Module):
    """An actor and a critic, say, on one trunk."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.actor, self.critic = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 1)
        self.double()

    def losses(self, x):
        seen = self.trunk(x).tanh()
        return mse_loss(self.actor(seen)[:, 0], x[:, 0]), mse_loss(self.critic(seen)[:, 0], x[:, 1])


def objective_of(model):
    return Objective(model, None, (X,), batch_loss=lambda m, batch: sum(m.losses(batch[0])))


def train(model, optimizers, losses, estimator, **options):
    """Update ``i`` is made by the optimizer ``i % 2``, from the loss of this number."""
    tracker = Tracker(model, optimizers, objective_of(model), estimator, on_error="raise", **options)
    with tracker:
        for i, x in enumerate(X.split(10)):
            model.zero_grad()
            losses[i % 2](x).backward()
            optimizers[i % 2].step()
    return tracker


def optimizers_of(model, *, trunk):
    """One for each head; both move the trunk, or none does."""
    shared = list(model.trunk.parameters()) if trunk else []
    return [torch.optim.SGD([*head.parameters(), *shared], lr=0.1) for head in (model.actor, model.critic)]


@pytest.mark.parametrize("trunk", [False, True])
@pytest.mark.parametrize("estimator", [NextBatch(RIGHT), LaggedCrossFit()], ids=["next", "lagged"])
def test_a_step_is_not_judged_by_the_loss_of_another_optimizer(estimator, trunk):
    model = TwoHeads()
    own = [lambda x, which=which: model.losses(x)[which] for which in (0, 1)]
    with pytest.warns(
        LCAWarning, match=rf"step 0: .*update 1 is made by another optimizer, and {OWN_LOSSES}"
    ):
        tracker = train(model, optimizers_of(model, trunk=trunk), own, estimator)
    with pytest.raises(LCAError, match="no step was measured: 6 skipped"):
        tracker.summary()


@pytest.mark.parametrize("estimator", [NextBatch(RIGHT), LaggedCrossFit(), SameBatch()])
def test_optimizers_of_one_loss_take_turns_without_a_word(estimator):
    model = TwoHeads()
    with warnings.catch_warnings(action="error"):
        tracker = train(
            model, optimizers_of(model, trunk=True), [lambda x: sum(model.losses(x))] * 2, estimator
        )
    assert tracker.summary()["train"]["steps"] >= 4


def test_an_estimator_on_the_gradient_of_the_step_alone_warns_once_if_losses_differ():
    model = TwoHeads()
    own = [lambda x, which=which: model.losses(x)[which] for which in (0, 1)]
    with pytest.warns(LCAWarning, match="the optimizers take turns, and one takes no gradient") as caught:
        train(model, optimizers_of(model, trunk=False), own, SameBatch(), check_every=None)
    assert len(caught) == 1


def test_optimizers_of_phases_do_not_take_turns():
    """Each freezes what the one before has moved, and trains on the same loss."""
    model = TwoHeads()
    parts = [model.trunk, model.actor, model.critic]
    made = [torch.optim.SGD(part.parameters(), lr=0.1) for part in parts]
    tracker = Tracker(model, made, objective_of(model), SameBatch(), on_error="raise")
    with warnings.catch_warnings(action="error"), tracker:
        for i, x in enumerate(X.split(10)):
            for k, part in enumerate(parts):
                part.requires_grad_(k == i // 2)
            model.zero_grad()
            sum(model.losses(x)).backward()
            made[i // 2].step()
    assert tracker.summary()["train"]["steps"] == 6


@pytest.mark.filterwarnings("ignore:no gradient reaches")
@pytest.mark.parametrize("estimator", [PathIntegral(), SampledPathIntegral(size=20)])
def test_a_step_of_what_a_loss_does_not_read_changes_nothing(estimator):
    model = TwoHeads()
    model.trunk.requires_grad_(False)
    heads = [model.actor, model.critic]
    made = [torch.optim.SGD(head.parameters(), lr=0.1) for head in heads]
    measured = {
        name: Objective(model, None, (X,), batch_loss=lambda m, batch, which=which: m.losses(batch[0])[which])
        for which, name in enumerate(["actor", "critic"])
    }
    with Tracker(model, made, measured, estimator, on_error="raise", check_every=None) as tracker:
        for i, x in enumerate(X.split(10)):
            for k, head in enumerate(heads):
                head.requires_grad_(k == i % 2)
            model.zero_grad()
            model.losses(x)[i % 2].backward()
            made[i % 2].step()
    for which, name in enumerate(measured):
        totals = tracker.views[name].trace.rows["total"]
        assert totals[which::2].all()
        assert not totals[1 - which :: 2].any()


def test_a_loss_that_is_constant_in_all_that_is_trained_now_is_refused():
    model = TwoHeads()
    model.trunk.requires_grad_(False)
    model.actor.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objective = Objective(model, None, (X,), batch_loss=lambda m, batch: m.losses(batch[0])[1])
    with Tracker(model, optimizer, objective, PathIntegral(), on_error="raise"):
        model.actor.requires_grad_(True)
        model.critic.requires_grad_(False)
        model.losses(X)[0].backward()
        with pytest.raises(
            LCAError, match=r"reaches the parameters that are trained now \(actor.bias, actor.weight\)"
        ):
            optimizer.step()


def test_the_refusal_of_gradients_left_by_another_optimizer_names_both_remedies():
    model = TwoHeads()
    first, second = optimizers_of(model, trunk=False)

    def update(optimizer):
        optimizer.zero_grad()
        sum(model.losses(X[:10])).backward()
        optimizer.step()

    with Tracker(model, [first, second], objective_of(model), SameBatch(), on_error="raise"):
        update(first)
        with pytest.raises(
            LCAError, match=r"if each has a loss of its own .*, make a tracker for each model"
        ):
            update(second)


@pytest.mark.parametrize("new", [False, True], ids=["one optimizer", "a new one"])
def test_the_step_before_a_layer_is_frozen_is_skipped_and_those_after_it_are_measured(new):
    model = TwoHeads()
    kept = [*model.actor.parameters(), *model.critic.parameters()]
    made = [torch.optim.SGD(own, lr=0.1) for own in (model.parameters(), kept)]
    tracker = Tracker(model, made, objective_of(model), NextBatch(RIGHT), on_error="raise")

    def run():
        for i, x in enumerate(X.split(10)):
            model.trunk.requires_grad_(i < 3)
            now = made[new and i >= 3]
            now.zero_grad()  # of a new one, the frozen layer keeps the gradient of the last update
            sum(model.losses(x)).backward()
            now.step()

    with tracker, pytest.warns(LCAWarning, match=r"update 3 lacks the gradient of parameters .* frozen"):
        run()
    assert (tracker.steps, tracker.skipped_steps) == (6, 2)  # and the last one, which has no next
    assert new == (model.trunk.weight.grad is not None)


def test_the_discriminator_of_a_gan_is_measured_though_the_other_pass_leaves_gradients_in_it():
    """The loop of DCGAN in the tutorials of PyTorch: ``zero_grad`` of a model before its own passes."""
    torch.manual_seed(0)
    maker, judge = (
        nn.Linear(4, 2).double(),
        nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double(),
    )
    of_maker, of_judge = (torch.optim.SGD(model.parameters(), lr=0.1) for model in (maker, judge))
    real, fake = X[:, :2] + 1, X[:, 2:]

    def loss(logits, target):
        return binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    def judged(model, batch):
        return loss(model(batch[0]), 1.0) + loss(model(batch[1]), 0.0)

    objective = Objective(judge, None, (real, fake), batch_loss=judged)
    tracker = Tracker(judge, of_judge, objective, NextBatch(RIGHT), on_error="raise", check_every=None)
    with tracker:
        for rows in range(0, 60, 10):
            made = maker(X[rows : rows + 10])
            judge.zero_grad()
            loss(judge(real[rows : rows + 10]), 1.0).backward()
            loss(judge(made.detach()), 0.0).backward()
            of_judge.step()
            maker.zero_grad()
            loss(judge(made), 1.0).backward()
            of_maker.step()
    assert tracker.summary()["train"]["steps"] == 5
