"""θ is in place of the model's own parameters for as long as it is needed, whatever the model does."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from lca.errors import LCAError
from lca.testing import check_objective, tolerances
from lca_torch import Objective

EPS64 = tolerances.EPS64


def numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


X, Y = numbers(12, 3), torch.arange(12) % 2


class Blocks(nn.Module):
    """A block that may be computed again during backward."""

    def __init__(self, *, again: bool) -> None:
        super().__init__()
        self.first, self.last, self.again = nn.Linear(3, 4), nn.Linear(4, 2), again

    def forward(self, x):
        hidden = checkpoint(self.block, x, use_reentrant=False) if self.again else self.block(x)
        return self.last(hidden)

    def block(self, x):
        return torch.tanh(self.first(x)) ** 2


class Recurrent(nn.Module):
    """An LSTM keeps a list of its own weights beside its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.last = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.lstm(x)[0][:, -1])


def test_a_checkpointed_block_is_computed_again_at_theta():
    plain, again = (
        Objective(Blocks(again=flag).double(), cross_entropy, (X, Y), batch_size=5) for flag in (False, True)
    )
    theta = numbers(plain.layout.size)
    (loss, grad), (loss_again, grad_again) = plain.loss_and_grad(theta), again.loss_and_grad(theta)
    assert loss_again == loss
    assert (grad_again - grad).abs().max() <= tolerances.repeat(grad.abs().max().item(), EPS64)


@pytest.mark.parametrize("early", [False, True], ids=["later block", "first block"])
def test_reentrant_checkpointing_is_refused_with_its_cause(early):
    class Again(Blocks):
        def forward(self, x):
            given = x.requires_grad_() if early else x * self.first.bias[:1]
            return self.last(checkpoint(self.block, given, use_reentrant=True))

    with pytest.raises(LCAError, match="reentrant activation checkpointing .* pass use_reentrant=False"):
        Objective(Again(again=True).double(), cross_entropy, (X, Y), batch_size=5)


@pytest.mark.parametrize("normalised", [False, True], ids=["LSTM", "weight norm"])
def test_models_that_keep_their_weights_elsewhere_pass_the_kit(normalised):
    def make():
        torch.manual_seed(0)
        model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)) if normalised else Recurrent()
        x = X if normalised else numbers(12, 4, 3)
        return Objective(model.double(), cross_entropy, (x, Y), batch_size=5)

    check_objective(make, vector=torch.tensor, samples=2)


def test_a_loss_that_holds_the_models_own_tensors_is_a_function_of_theta_or_refused():
    model = nn.Linear(3, 2).double()
    own = list(model.parameters())

    def of_list(model, batch):
        return cross_entropy(model(batch[0]), batch[1]) + sum(p.square().sum() for p in own)

    def of_model(model, batch):
        return cross_entropy(model(batch[0]), batch[1]) + sum(p.square().sum() for p in model.parameters())

    first, second = (Objective(model, None, (X, Y), batch_loss=loss) for loss in (of_list, of_model))
    theta = numbers(first.layout.size)
    (loss, grad), (expected, gradient) = first.loss_and_grad(theta), second.loss_and_grad(theta)
    assert loss == expected
    assert torch.equal(grad, gradient)

    for tensor in (model.weight, model.weight.data.t()):
        square = tensor.square  # a method of the tensor, which leads to it unseen

        def loss(model, _, square=square):
            return model(X).sum() * square().sum()

        with pytest.raises(LCAError, match="the model's own weight"):
            Objective(model, None, (X, Y), batch_loss=loss)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_whatever_the_callers_mode_is(mode):
    objective = Objective(nn.Linear(3, 2).double(), cross_entropy, (X, Y), batch_size=5)
    expected = objective.loss_and_grad(objective.theta())
    with mode():
        loss, grad = objective.loss_and_grad(objective.theta())
        made_here, batch = objective.theta() + 0, (X + 0, Y + 0)
        of_batch, grad_of_batch = objective.loss_and_grad(made_here, batch)
    assert (loss, of_batch) == (expected[0], expected[0])
    assert torch.equal(grad, expected[1])
    assert torch.equal(grad_of_batch, expected[1])
    assert not grad.is_inference()


def test_a_model_that_moves_away_is_named():
    model = nn.Linear(3, 2).double()
    objective = Objective(model, cross_entropy, (X, Y), batch_size=5)
    theta = objective.theta()
    model.to("meta")
    with pytest.raises(
        LCAError, match="'weight' is torch.float64 on meta now, but was torch.float64 on cpu when"
    ):
        objective.loss(theta)


class Detector(nn.Module):
    """Returns losses in training mode, and predictions in evaluation mode, as models of detection do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x, y):
        out = self.inner(x)
        return (
            {"class": cross_entropy(out, y), "size": out.square().mean()} if self.training else out.argmax(1)
        )


def test_a_model_that_returns_losses_in_training_mode_only_is_told_how_to_be_measured():
    model = Detector().double()
    with pytest.raises(LCAError, match=r"measured in evaluation mode.* that calls model.train\(\) first"):
        Objective(model, None, (X, Y), batch_loss=lambda own, batch: sum(own(*batch).values()))
    found = Objective(model, None, (X, Y), batch_loss=lambda own, batch: sum(own.train()(*batch).values()))
    expected = sum(model(X, Y).values()).item()
    assert abs(found.loss(found.theta()) - expected) <= tolerances.summed(expected, EPS64)
    with pytest.raises(LCAError) as caught:  # raises in both modes
        Objective(model, cross_entropy, (X, Y))
    assert "training mode" not in str(caught.value)
