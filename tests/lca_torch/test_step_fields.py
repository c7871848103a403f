"""Step fields, where torch is special; what all frameworks share is in `tests.laws`."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from lca import RIGHT, Sum, tolerances
from lca.errors import LCAError, LCAWarning
from lca.estimators import CrossFit, LaggedCrossFit, NextBatch, SameBatch
from lca.tracking import FunctionalTracker
from lca_torch import Objective, Penalty, Tracker
from lca_torch._gradients import Gradients
from tests.laws.runs import BATCHES, Kept, Shown
from tests.lca_torch.tracked_run import TorchFramework


def started(estimator):
    return TorchFramework().run(estimator, on_error="raise", views=Kept)


def rows_of(run):
    return run.tracker.views["train"].rows


def test_a_closure_supplies_its_first_gradient():
    ours, expected = started(NextBatch(RIGHT)), started(NextBatch(RIGHT))
    with ours.tracker, expected.tracker:
        for batch in BATCHES:
            expected.update(batch)

            def closure(batch=batch):
                ours.optimizer.zero_grad()
                ours.backward([batch])

            ours.optimizer.step(closure)
    assert len(rows_of(ours)) == 4
    for a, b in zip(rows_of(ours), rows_of(expected), strict=True):
        assert torch.equal(a.values, b.values)


def test_the_gradient_is_that_at_the_start_however_often_the_closure_is_called():
    estimator = Shown(("gradient",))
    run = started(estimator)
    optimizer = torch.optim.LBFGS(run.model.parameters(), lr=0.1, max_iter=3)
    (x, y), gradients = run.data(BATCHES[0]), []

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(run.model(x), y)
        loss.backward()
        gradients.append(torch.cat([p.grad.reshape(-1).clone() for p in run.model.parameters()]))
        return loss

    tracker = Tracker(run.model, optimizer, run.objective, estimator, on_error="raise", views=Kept)
    with tracker:
        optimizer.step(closure)
    assert len(gradients) > 1
    assert torch.equal(estimator.steps[0].gradient, gradients[0])


@pytest.mark.filterwarnings("ignore:1 of 3 updates")
@pytest.mark.parametrize("estimator", [LaggedCrossFit(), NextBatch()], ids=["lagged", "next batch"])
def test_a_second_update_from_the_same_batch(estimator):
    """Its gradient is known as that of any update, and its batch if the loop tells it; there is a warning."""

    def rows(inside):
        run = started(estimator)
        with run.tracker as tracker:
            data = [run.data(batch) for batch in BATCHES]
            for batch in tracker.batches(data) if inside else data:
                for update in range(2):
                    if isinstance(estimator, NextBatch) and (update or not inside):
                        tracker.begin_batch(batch)
                    x, y = batch
                    run.optimizer.zero_grad()
                    torch.nn.functional.cross_entropy(run.model(x), y).backward()
                    run.optimizer.step()
        return rows_of(run)

    with pytest.warns(LCAWarning, match="^1 of 3 updates were made from the batch of the update before"):
        found = rows(True)
    expected = rows(False)
    assert len(found) == 2 * len(BATCHES) - 1
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.values, theirs.values)


def updates_from(told, run, *, times=12):
    """A run of updates from the batches that ``told`` gives, by number."""
    with run.tracker as tracker:
        for number in range(times):
            x, y = told(number)
            tracker.begin_batch(x, y)
            run.optimizer.zero_grad()
            torch.nn.functional.cross_entropy(run.model(x), y).backward()
            run.optimizer.step()


def test_batches_are_the_same_only_if_they_are_not_a_new_draw():
    """Neither all of the data, nor a buffer that is filled anew, nor one that comes twice by chance."""
    run = started(NextBatch(RIGHT))
    batches = [run.data(batch) for batch in BATCHES]
    x, y = run.data(BATCHES[0])
    updates_from(lambda number: (x.copy_(batches[number % 2][0]), y), run)
    updates_from(lambda number: batches[(number - (number > 5)) % 5], started(NextBatch(RIGHT)))
    every = run.data(np.arange(60))
    updates_from(lambda number: every, started(NextBatch(RIGHT)))


def test_the_self_check_names_batches_that_repeat_or_have_another_size():
    run = started(NextBatch(RIGHT))
    batches = [run.data(batch) for batch in BATCHES]
    with pytest.warns(LCAWarning) as told:
        updates_from(lambda number: batches[number // 4], run, times=18)
    assert "the likeliest first:\n- several updates are made from one batch" in str(told[-1].message)

    def contrasted(model, batch):
        z = nn.functional.normalize(model(batch[0]), dim=1)
        return nn.functional.cross_entropy(z @ z.T / 0.1, torch.arange(len(z)))

    run = started(NextBatch(RIGHT))
    objective = Objective(run.model, None, run.data(np.arange(60)), batch_loss=contrasted, batch_size=20)
    run.tracker = run.tracker_of(objective, NextBatch(RIGHT))
    with pytest.warns(LCAWarning) as told:
        updates_from(lambda number: batches[number % 2], run, times=18)
    assert "its batches, which is 20 where it is measured and 12 in training" in str(told[-1].message)


def test_a_functional_loop_on_tensors_is_measured_as_the_model_is():
    run = started(SameBatch())
    theta = run.theta()
    functional = FunctionalTracker(theta, run.objective, SameBatch(), on_error="raise", views=Kept)
    with run.tracker, functional:
        for batch in BATCHES:
            run.update(batch)
            gradient = torch.cat([p.grad.reshape(-1) for p in run.model.parameters()])
            theta.copy_(run.theta())  # in place
            functional.update(theta, gradient=gradient)
    for ours, theirs in zip(functional.views["train"].rows, rows_of(run), strict=True):
        assert torch.equal(ours.values, theirs.values)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_batch_that_the_loop_passes_over_is_no_micro_batch(set_to_none):
    """Between batches that are accumulated; gradients of zero are no sign of one."""

    def run(passing_over):
        run = started(CrossFit(2))
        with run.tracker as tracker:
            waiting = 0
            for batch in BATCHES:
                loader = [run.data(batch), *([()] if passing_over else [])]
                for data in tracker.batches(loader, weight=lambda data: 1.0):
                    if not data:
                        continue
                    if not waiting:
                        run.optimizer.zero_grad(set_to_none=set_to_none)
                    x, y = data
                    (torch.nn.functional.cross_entropy(run.model(x), y) / 2).backward()
                    waiting += 1
                    if waiting == 2:
                        run.optimizer.step()
                        waiting = 0
        return rows_of(run)

    rows, expected = run(True), run(False)
    assert len(rows) == len(expected) == 1
    assert torch.equal(rows[0].values, expected[0].values)


@pytest.mark.usefixtures("whole_micro_batches")
def test_gradients_that_were_zeroed_instead_of_used_are_forgotten():
    run = started(CrossFit(2))
    with run.tracker:
        for t, batch in enumerate(BATCHES):
            run.optimizer.zero_grad()
            run.backward([batch], pieces=2)
            if t != 1:
                run.optimizer.step()
    assert run.tracker.steps == 4
    assert all(len(row.source.micro_batches) == 2 for row in rows_of(run))


def test_a_loop_that_reads_batches_ahead_is_told_so(recwarn):
    run = TorchFramework().run(NextBatch())
    with run.tracker as tracker:
        loader = tracker.batches(map(run.data, BATCHES))
        ahead = next(loader)
        while ahead is not None:
            (x, y), ahead = ahead, next(loader, None)
            run.optimizer.zero_grad()
            torch.nn.functional.cross_entropy(run.model(x), y).backward()
            run.optimizer.step()
    first, last = (str(one.message) for one in recwarn)
    assert "reads the next batch before it updates from this one" in first
    assert re.search("skipped.*requires Step.next_batch.*none read ahead", last)


@pytest.mark.parametrize("estimator", [NextBatch(), NextBatch(RIGHT)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_step_with_one_end_of_each_loss_is_told_of(estimator, smoothing, recwarn):
    run = TorchFramework().run(estimator, check_every=None)
    with run.tracker as tracker:
        for x, y in tracker.batches(map(run.data, BATCHES)):
            run.optimizer.zero_grad()
            torch.nn.functional.cross_entropy(run.model(x), y, label_smoothing=smoothing).backward()
            run.optimizer.step()
    found = [
        str(one.message) for one in recwarn if "one end of each step from the one loss" in str(one.message)
    ]
    assert len(found) == (smoothing > 0 and estimator == NextBatch())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_that_no_optimizer_uses_or_resets_show_no_other_loss(smoothing, recwarn):
    """Where an optimizer has the last layer alone, its ``zero_grad`` leaves those of the others."""
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    data = torch.eye(6, 3), torch.arange(6) % 2
    objective = Objective(model, nn.functional.cross_entropy, data)
    with Tracker(model, optimizer, objective, NextBatch(), check_every=None) as tracker:
        for x, y in tracker.batches([[each[i : i + 3] for each in data] for i in (0, 2, 3) * 4]):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y, label_smoothing=smoothing).backward()
            optimizer.step()
    found = [str(one.message) for one in recwarn if "one end of each step" in str(one.message)]
    assert len(found) == (smoothing > 0)


def test_a_batch_of_another_form_than_the_measured_data_is_named_as_one_of_training():
    model = nn.Linear(3, 2)
    data = torch.eye(6, 3), torch.arange(6) % 2, torch.ones(6)

    def loss(model, batch):
        return (
            batch[2] * torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        ).mean()

    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    objective = Objective(model, None, data, batch_loss=loss)
    tracker = Tracker(model, optimizer, objective, NextBatch(), on_error="raise")

    def train():
        with tracker:
            for x, y in tracker.batches(2 * [data[:2]]):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()

    with pytest.raises(LCAError, match=r"a batch of training.*another form \(tuple of .* \(6,\)\)"):
        train()


def test_a_loop_that_reads_ahead_and_accumulates_is_told_how_to_name_its_batches():
    def train(named):
        run = TorchFramework().run(CrossFit(2), on_error="raise")
        with run.tracker as tracker:
            pairs = map(run.data, BATCHES[:4])
            loader = pairs if named else tracker.batches(pairs)
            for pair in zip(loader, loader, strict=True):
                run.optimizer.zero_grad()
                for x, y in pair:
                    if named:
                        tracker.begin_batch(x, y, weight=1)
                    (torch.nn.functional.cross_entropy(run.model(x), y) / 2).backward()
                run.optimizer.step()
        return tracker.steps, tracker.skipped_steps

    with pytest.raises(LCAError, match="micro_batches.*none read ahead.*begin_batch\\(batch, weight="):
        train(named=False)
    assert train(named=True) == (2, 1)


@pytest.mark.parametrize("batch", [(torch.zeros(4, 6), torch.zeros(3)), torch.zeros(()), "text"], ids=str)
def test_a_batch_that_is_no_rows_cannot_be_split(batch):
    with pytest.raises(LCAError, match=r"of one length.*\(pieces, weight\) and use CrossFit\(\) without own"):
        next(started(CrossFit(2)).tracker.micro_batches(batch, 2))


def test_batches_of_different_structure_cannot_be_joined():
    run = started(NextBatch())
    x, y = run.data(BATCHES[0])

    def accumulating():
        with run.tracker as tracker:
            for _ in range(2):
                for _ in tracker.batches([(x, y), {"x": x, "y": y}]):
                    torch.nn.functional.cross_entropy(run.model(x), y).backward()
                run.optimizer.step()

    with pytest.raises(LCAError, match="differ in structure, dtypes or shapes.*CrossFit"):
        accumulating()


@pytest.mark.parametrize("estimator", [SameBatch(), NextBatch(RIGHT), CrossFit(micro_batches=2)])
def test_gradients_of_what_is_maximised_are_refused_beforehand(estimator):
    model, data = torch.nn.Linear(2, 3), (torch.eye(2), torch.tensor([0, 2]))
    objective = Objective(model, torch.nn.functional.cross_entropy, data)
    uphill = torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)
    Tracker(model, uphill, objective)
    with pytest.raises(LCAError, match="with maximize=True .* let the loop minimise the negative"):
        Tracker(model, uphill, objective, estimator)


def test_an_optimizer_that_begins_to_maximise_is_refused():
    run = started(SameBatch())
    with run.tracker:
        run.update(BATCHES[0])
        run.optimizer.param_groups[0]["maximize"] = True
        with pytest.raises(LCAError, match="with maximize=True"):
            run.update(BATCHES[1])


def test_an_optimizer_without_known_updates_is_refused_beforehand():
    framework = TorchFramework()
    model = framework.model()
    optimizer = torch.optim.Adagrad(model.parameters())
    with pytest.raises(
        LCAError, match="Adagrad would make with another gradient, such as one without a micro-batch, cannot"
    ):
        framework.Tracker(model, optimizer, framework.objective_of(model), CrossFit(2))


def padded(rows=24):
    """Outputs of a linear model for three tokens a row, of which the labels of some end early."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 3, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(5, (rows, 3), generator=generator)
    ends = torch.arange(rows).remainder(3).reshape(-1, 1) + 1
    return x, torch.where(torch.arange(3) < ends, y, -100)


def token_mean(outputs, labels):
    return torch.nn.functional.cross_entropy(outputs.transpose(1, 2), labels)


def tokens(batch):
    return float((batch[1] != -100).sum())


def tracked_on_tokens(estimator):
    """Six updates on batches of four rows; the gradients of the halves of each by plain autograd."""
    (x, y), halves = padded(), []
    model = torch.nn.Linear(4, 5).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    objective = Objective(model, token_mean, (x, y), batch_size=24, batch_weight=tokens)
    with Tracker(model, optimizer, objective, estimator, on_error="raise", views=Kept) as tracker:
        batches = [(x[at : at + 4], y[at : at + 4]) for at in range(0, 24, 4)]
        for inputs, labels in tracker.batches(batches):
            parts = []
            for own in (slice(0, 2), slice(2, 4)):
                loss = token_mean(model(inputs[own]), labels[own])
                gradient = torch.autograd.grad(loss, list(model.parameters()))
                parts.append((tokens((None, labels[own])), torch.cat([g.reshape(-1) for g in gradient])))
            halves.append(parts)
            optimizer.zero_grad()
            token_mean(model(inputs), labels).backward()
            optimizer.step()
    return tracker, halves


@pytest.mark.usefixtures("whole_micro_batches")
def test_the_halves_of_a_batch_weigh_as_many_tokens_as_they_have():
    tracker, expected = tracked_on_tokens(CrossFit(own_pass=True))
    rows = tracker.views["train"].rows
    assert len(rows) == 5
    for row, halves in zip(rows, expected[:-1], strict=True):
        total = sum(weight for weight, _ in halves)
        assert halves[0][0] != halves[1][0]
        for ours, (weight, gradient) in zip(row.source.halves, halves, strict=True):
            assert ours.weight == weight / total
            limit = tolerances.gradient(float(gradient.norm()), tolerances.EPS64)
            assert float((ours.gradient - gradient).abs().max()) <= limit


@pytest.mark.filterwarnings("ignore:CrossFit allocates a loss as a whole")
@pytest.mark.parametrize("decayed", [True, False], ids=["trained with the penalty", "without"])
def test_halves_are_those_of_all_terms_of_the_measured_loss(decayed):
    (x, y), model = padded(8), torch.nn.Linear(4, 5).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)

    def decay(tensors):
        return 0.01 * sum(tensor.square().sum() for tensor in tensors)

    data = Objective(model, token_mean, (x, y), batch_size=8, batch_weight=tokens)
    total = Sum({"penalty": Penalty(model, lambda named: decay(named.values())), "data": data})

    def train():
        with Tracker(model, optimizer, total, CrossFit(own_pass=True), on_error="raise") as tracker:
            for inputs, labels in tracker.batches([(x[:4], y[:4]), (x[4:], y[4:])]):
                optimizer.zero_grad()
                loss = token_mean(model(inputs), labels)
                (loss + decay(model.parameters()) if decayed else loss).backward()
                optimizer.step()
        return tracker.steps

    if decayed:
        assert train() == 2
    else:
        with pytest.raises(LCAError, match="loss of training is not the measured one on its batch"):
            train()


def test_a_half_whose_gradient_is_the_rest_of_a_difference_is_not_refused_for_rounding():
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Linear(4, 1)
    y = model(x).detach() + torch.tensor([100.0] * 4 + [1e-4] * 4).reshape(-1, 1)
    loss = torch.nn.functional.mse_loss
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    objective = Objective(model, loss, (x, y))
    full_batches = CrossFit(own_pass=True, independent=True, epoch=1)
    with Tracker(model, optimizer, objective, full_batches, on_error="raise") as tracker:
        for inputs, targets in tracker.batches([(x, y)] * 2):
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()
    assert tracker.steps == 2


class Centred(nn.Module):
    """Writes into its inputs."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 5)

    def forward(self, x):
        return self.net(x.sub_(1.0))


@pytest.mark.parametrize("how", ["never", "refilled", "after the pass", "by the model", "before the pass"])
@pytest.mark.parametrize(
    "estimator", [NextBatch(), CrossFit(), CrossFit(own_pass=True)], ids=["next", "cross", "own"]
)
def test_a_batch_that_was_written_to_is_not_measured(estimator, how):
    """Each update is made from two batches of as many tokens; with ``own_pass`` from one."""
    (x, y), own_pass = padded(24), getattr(estimator, "own_pass", False)
    x, model = x.float(), Centred() if how == "by the model" else torch.nn.Linear(4, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objective = Objective(model, token_mean, (x, y), batch_size=24, batch_weight=tokens)
    tracker = Tracker(model, optimizer, objective, estimator, on_error="raise")
    buffers, refilled = [torch.empty_like(x[:6]), torch.empty_like(y[:6])], how == "refilled"

    def loader():
        for at in range(0, 24, 6):
            batch = [x[at : at + 6].clone(), y[at : at + 6].clone()]
            if refilled:
                for buffer, tensor in zip(buffers, batch, strict=True):
                    buffer.copy_(tensor)
            yield buffers if refilled else batch

    def train():
        with tracker:
            for i, (inputs, labels) in enumerate(tracker.batches(loader())):
                if how == "before the pass":
                    labels[0] = 1
                    tracker.begin_batch(inputs, labels)
                (token_mean(model(inputs), labels) / (1 if own_pass else 2)).backward()
                if how == "after the pass":
                    labels.fill_(-1)
                if own_pass or i % 2:
                    optimizer.step()
                    optimizer.zero_grad()
        return tracker.steps

    right = how in {"never", "before the pass"} or (refilled and own_pass)
    if right:
        assert train() == (4 if own_pass else 2)
    else:
        with pytest.raises(LCAError, match="a batch was written to after the loop had begun with it"):
            train()


def test_micro_batches_weigh_as_many_tokens_as_they_have():
    (x, y), model = padded(8), torch.nn.Linear(4, 5).double()
    objective = Objective(model, token_mean, (x, y), batch_size=8, batch_weight=tokens)
    tracker = Tracker(model, torch.optim.SGD(model.parameters(), lr=0.1), objective)
    y = y.clone()
    y[2:4] = -100  # all labels of the second of four pieces

    def weights_of(labels, **weight):
        return [part for _, part in tracker.micro_batches((x, labels), 4, **weight)]

    assert weights_of(y) == [3 / 11, 5 / 11, 3 / 11]
    assert weights_of(y, weight=len) == [1 / 4] * 4
    assert weights_of(torch.full_like(y, -100)) == [1 / 4] * 4  # as in the mean over the whole batch
    with pytest.raises(LCAError, match="the weights of micro-batches are numbers ≥ 0"):
        weights_of(y, weight=lambda piece: -1.0)


def test_lagged_gradients_under_a_loss_that_is_weighed_by_tokens():
    """No examples can be drawn, so the first three steps are measured on all data."""
    tracker, _ = tracked_on_tokens(LaggedCrossFit())
    costs = [row.cost.full_gradients for row in tracker.views["train"].rows]
    assert costs == [3, 2, 2, 0, 0]


def test_gradients_are_unchanged_while_they_are_the_same_tensors_and_nothing_is_written_to_them():
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
    gradients = Gradients([first, second])

    def changed_by(change):
        first.grad, second.grad = torch.ones(2), None
        before = gradients.versions()
        assert gradients.unchanged(before)
        change()
        return not gradients.unchanged(before)

    def assigned(parameter, gradient):
        return lambda: setattr(parameter, "grad", gradient)

    assert changed_by(lambda: first.grad.add_(0))
    assert changed_by(assigned(first, torch.ones(2)))
    assert changed_by(assigned(first, None))
    assert changed_by(assigned(second, torch.ones(3)))
    assert not gradients.unchanged(None)
