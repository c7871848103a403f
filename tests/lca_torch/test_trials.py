"""A weight that rises from 0 in the course of a run: a buffer, a Python attribute, a global of the loss."""

import pytest
import torch
from torch import nn

from lca import tolerances
from lca.errors import DataError, LCAError
from lca.estimators import SampledPathIntegral
from lca_torch import Objective, Tracker

X, Y = torch.randn(48, 4, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3
AMOUNT = 0.0
SAME = tolerances.rebatched(1.0, tolerances.EPS32)


class Diverse(nn.Module):
    """A classifier whose loss has a term of the mean prediction of its batch."""

    def __init__(self):
        super().__init__()
        self.linear, self.plain = nn.Linear(4, 3), 0.0
        self.register_buffer("buffer", torch.tensor(0.0))

    def loss(self, batch):
        out = self.linear(batch[0])
        amount = self.buffer + self.plain + AMOUNT
        return nn.functional.cross_entropy(out, batch[1]) + amount * out.softmax(1).mean(0).square().sum()


def in_buffer(model, monkeypatch):
    model.buffer.fill_(0.5)


def in_attribute(model, monkeypatch):
    model.plain = 0.5


def in_global(model, monkeypatch):
    monkeypatch.setitem(globals(), "AMOUNT", 0.5)


RISES = {
    in_buffer: "'buffer' from 0 to 0.5",
    in_attribute: "plain changed from 0.0 to 0.5",
    in_global: "AMOUNT.* changed from 0.0 to 0.5",
}


@pytest.mark.parametrize("rise", RISES)
def test_samples_are_refused_when_a_term_of_the_whole_batch_gets_a_weight(rise, monkeypatch):
    torch.manual_seed(0)
    model = Diverse()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objective = Objective(model, None, (X, Y), batch_loss=Diverse.loss)

    def trained():
        with Tracker(model, optimizer, objective, SampledPathIntegral(size=16), on_error="raise"):
            for step in range(6):
                if step == 3:
                    rise(model, monkeypatch)
                optimizer.zero_grad()
                model.loss((X[step::6], Y[step::6])).backward()
                optimizer.step()
                reached.append(step)

    reached = []
    with pytest.raises(LCAError, match=f"{RISES[rise]}, and now the loss is not a mean over examples"):
        trained()
    assert reached == [0, 1, 2]


def test_a_state_is_measured_with_no_other_weights_of_its_batches():
    """`batch_weight` reads what is now: refused in an earlier state, unless one batch is all the data."""
    torch.manual_seed(0)
    model, loss_fn = nn.Linear(4, 3), nn.CrossEntropyLoss(weight=torch.ones(3))

    def weight(batch):
        return float(loss_fn.weight[batch[1]].sum())

    cut = Objective(model, loss_fn, (X, Y), batch_weight=weight, batch_size=7)
    whole = Objective(model, loss_fn, (X, Y), batch_weight=weight, batch_size=48)
    theta, before = cut.theta(), cut.state()
    assert cut.state() is before
    loss = cut.at_state(before).loss(theta)
    earlier = whole.state()
    loss_fn.weight[:] = torch.tensor([1.0, 5.0, 1.0])
    with pytest.raises(DataError, match="batch_weight gives .* for a batch to which it gave"):
        cut.at_state(before).loss(theta)
    assert float(whole.at_state(earlier).loss(theta)) == pytest.approx(loss, rel=SAME)
    expected = loss_fn(model(X), Y).item()
    assert cut.at_state(cut.state()).loss(theta) == pytest.approx(expected, rel=SAME)


def test_a_trial_of_the_mean_leaves_theta_as_it_is():
    """Under autocast a loss is tried at points that are further away than θ is rounded."""
    model = nn.Linear(4, 3)

    def loss(out, y):
        return nn.functional.cross_entropy(out.float(), y).clamp(min=20.0)

    objective = Objective(model, loss, (X, Y), autocast=torch.bfloat16)
    theta = 300 * objective.theta()
    before, sample = theta.clone(), objective.batch(torch.arange(8).numpy())
    with pytest.raises(LCAError, match="now the loss is not a mean"):
        _ = [objective.loss(theta, sample) for _ in range(2)]
    assert torch.equal(theta, before)
