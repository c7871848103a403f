"""Buffers of the model: those that its forward pass writes, and those that the loop sets for the next one."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import lca
from lca import tolerances
from lca.errors import DataError
from lca.estimators import SampledPathIntegral
from lca_torch import Objective, Tracker
from tests.laws.runs import Kept

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(2))


class Network(nn.Module):
    """In training, ``mean`` and the long ``wide`` are written and ``calls`` is replaced; ``turn`` is not."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 4))
        self.register_buffer("turn", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("wide", torch.zeros(200_000))

    def forward(self, x):
        outputs = self.body(x)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * outputs.detach().mean(0))
            self.calls = self.calls + 1
            self.wide[0] += 1
        return outputs + self.mean + 0 * (self.calls + self.wide[0])


class Tasks(nn.Module):
    """Two tasks, one of which is trained at a time."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        self.register_buffer("turn", torch.zeros(()))

    def loss(self, x, y):
        outputs = self.body(x)
        return (1 - self.turn) * cross_entropy(outputs, y) + self.turn * (outputs**2).mean()


class Observed(nn.Module):
    """Scales by the largest input seen so far, which each pass notes, as the observers of torch.ao do."""

    def __init__(self, *, reassigns):
        super().__init__()
        self.body, self.reassigns, self.observes = nn.Linear(6, 4), reassigns, True
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x):
        if self.observes:
            largest = torch.maximum(self.largest, x.detach().abs().max())
            if self.reassigns:
                self.largest = largest
            else:
                self.largest.copy_(largest)
        return self.body(x / self.largest)


@pytest.mark.parametrize("weight", [None, lambda batch: float(len(batch[0]))])
@pytest.mark.parametrize("reassigns", [False, True])
def test_a_loss_that_moves_what_it_reads_in_evaluation_mode_is_refused_by_the_names_of_the_buffers(
    reassigns, weight
):
    torch.manual_seed(0)
    model = Observed(reassigns=reassigns).double()
    with pytest.raises(
        DataError, match=r"writes into largest, also in evaluation mode.* batch_size="
    ) as found:
        Objective(model, cross_entropy, (X, Y), batch_weight=weight)
    assert "pass batch_weight" not in str(found.value)
    model.largest.fill_(2.0)

    def without_observing(model, batch):
        model.observes = False
        return cross_entropy(model(batch[0]), batch[1])

    objective = Objective(model, None, (X, Y), batch_loss=without_observing, batch_weight=weight)
    assert model.observes
    expected = cross_entropy(model.body(X / 2), Y).item()
    assert abs(objective.loss(objective.theta()) - expected) <= tolerances.summed(expected, tolerances.EPS64)


def measured(model, **options):
    return Objective(model, None, (X, Y), batch_loss=lambda model, batch: model.loss(*batch), **options)


def test_buffers_that_a_forward_pass_of_training_writes_are_found_on_a_copy():
    torch.manual_seed(0)
    model = Network().double()
    objective = Objective(model, cross_entropy, (X, Y), batch_size=40)
    before = {name: (buffer.clone(), buffer._version) for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    statistics = {f"body.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert objective.moved_by_forward == statistics | {"mean", "calls", "wide"}
    assert torch.equal(state, torch.get_rng_state())
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name][0])
        assert buffer._version == before[name][1]


def test_all_buffers_count_as_moved_where_training_cannot_be_tried():
    class Fails(Network):
        def forward(self, x):
            if self.training:
                raise RuntimeError("no batch of training")
            return super().forward(x)

    model = Fails().double()
    objective = Objective(model, cross_entropy, (X, Y), batch_norm="frozen")
    assert objective.moved_by_forward == {name for name, _ in model.named_buffers()}


@pytest.mark.parametrize(
    "estimator", [lca.Adaptive(), SampledPathIntegral(size=4000)], ids=["all", "sampled"]
)
def test_a_step_is_measured_in_the_state_that_the_loop_has_set_for_it(estimator):
    torch.manual_seed(0)
    model = Tasks().double()
    optimizer, changes = torch.optim.SGD(model.parameters(), lr=0.05), []
    with Tracker(model, optimizer, measured(model), estimator, views=Kept) as tracker:
        for number in range(8):
            model.turn.fill_(number % 2)
            optimizer.zero_grad()
            before = model.loss(X, Y)
            before.backward()
            optimizer.step()
            changes.append(float((model.loss(X, Y) - before).detach()))
    for row, change in zip(tracker.views["train"].rows, changes, strict=True):
        if estimator.target == "full":
            tolerance = tolerances.summed(
                abs(row.loss_start) + abs(row.loss_end) + row.mass, tolerances.EPS64
            )
            assert abs(float(row.values.sum()) + row.residual - change) <= tolerance
        assert row.values.sum() * change > 0
