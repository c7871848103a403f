"""Estimators on batches through the `Tracker`: what a loop hands over is what the plain loop does."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import lca
from lca import LEFT, RIGHT, SIMPSON, TRAPEZOID, tolerances
from lca.errors import LCAError, LCAWarning
from lca.estimators.control_variate import ControlVariate
from lca.estimators.crossfit import CrossFit
from lca.estimators.minibatch import NextBatch, SameBatch
from lca.estimators.sampled_path_integral import SampledPathIntegral
from lca.reference import optimizers
from lca.reference.data import Batch
from lca.reference.models import CrossEntropy, DatasetLoss, Dense, Network, Tanh
from lca.reference.training import train, with_next
from lca_torch import Objective, Tracker
from lca_torch.network import module_of

EPS = torch.finfo(torch.float64).eps
NETWORK = Network((Dense(6, 5), Tanh(), Dense(5, 3)), CrossEntropy(), input_shape=(6,))
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 6)), RNG.integers(3, size=60)
INDEX = [RNG.permutation(60)[:n] for n in (12, 12, 9, 12, 12)]  # one batch is cut into ragged halves
TORCH = {"momentum": torch.optim.SGD, "adam": torch.optim.Adam}


class Kept:
    """A view that keeps the allocations."""

    def __init__(self, layout):
        self.rows = []

    def update(self, allocation):
        self.rows.append(allocation)


def model_and_optimizer(name="adam"):
    model = module_of(NETWORK).double()
    theta = torch.tensor(NETWORK.init(seed=1))
    nn.utils.vector_to_parameters(theta, model.parameters())
    options = {"momentum": 0.9} if name == "momentum" else {}
    return model, TORCH[name](model.parameters(), lr=optimizers.make_optimizer(name).lr, **options)


def batches():
    return [(torch.tensor(X[i]), torch.tensor(Y[i])) for i in INDEX]


def backward(model, x, y, share=1.0):
    (share * cross_entropy(model(x), y)).backward()


def track(estimator, loop, name="adam", **options):
    model, optimizer = model_and_optimizer(name)
    objective = Objective(model, cross_entropy, (torch.tensor(X), torch.tensor(Y)), batch_size=60)
    options = {"views": Kept, "on_error": "raise", **options}
    with Tracker(model, optimizer, objective, estimator, **options) as tracker:
        loop(model, optimizer, tracker)
    return tracker


def plain(model, optimizer, tracker):
    for x, y in tracker.batches(batches()):
        optimizer.zero_grad()
        backward(model, x, y)
        optimizer.step()


def halved(model, optimizer, tracker):
    for batch in tracker.batches(batches()):
        optimizer.zero_grad()
        for (x, y), share in tracker.micro_batches(batch, 2):
            backward(model, x, y, share)
        optimizer.step()


def interleaved():
    """The batches of `lca.reference.training`, whose micro_batches are every other example, ours the two halves."""
    for index in INDEX:
        order = np.arange(len(index))
        half = (len(index) + 1) // 2
        order[::2], order[1::2] = np.arange(half), np.arange(half, len(index))
        yield Batch(X[index], Y[index]).take(order)


def reference(estimator, name, micro_batches):
    objective = DatasetLoss(NETWORK, X, Y)
    data = list(interleaved()) if micro_batches > 1 else [Batch(X[i], Y[i]) for i in INDEX]
    steps = train(
        objective, NETWORK.init(seed=1), optimizers.make_optimizer(name), data, micro_batches=micro_batches
    )
    steps = with_next(steps) if any(need.startswith("next_") for need in estimator.required_fields) else steps
    allocate = estimator.start(objective)
    return [allocate(step) for step in steps]


@pytest.mark.parametrize("name", ["momentum", "adam"])
@pytest.mark.parametrize(
    ("estimator", "loop", "micro_batches"),
    [
        (SameBatch(), plain, 1),
        (NextBatch(LEFT), plain, 1),
        (NextBatch(RIGHT), plain, 1),
        (NextBatch(SIMPSON), plain, 1),
        (CrossFit(2), halved, 2),
        (CrossFit(2, LEFT), halved, 2),
        (CrossFit(2, TRAPEZOID, independent=True), halved, 2),
    ],
)
def test_the_tracker_hands_over_what_the_plain_loop_does(estimator, loop, micro_batches, name):
    tracker, expected = track(estimator, loop, name), reference(estimator, name, micro_batches)
    rows = tracker.views["train"].rows
    late = any(need.startswith("next_") for need in estimator.required_fields)
    assert (tracker.steps, tracker.skipped_steps, tracker.discontinuities) == (5, int(late), 0)
    assert [row.step for row in rows] == [row.step for row in expected] == list(range(5 - late))
    for row, wanted in zip(rows, expected, strict=True):
        limit = tolerances.allocation(wanted.mass, EPS)
        assert np.abs(row.values.numpy() - wanted.values).max() <= limit
        assert abs(row.mass - wanted.mass) <= limit
        for key, copies in wanted.replicates.items():
            for ours, theirs in zip(row.replicates[key], copies, strict=True):
                assert np.abs(np.asarray(ours) - theirs).max() <= tolerances.allocation(
                    np.abs(theirs).sum(), EPS
                )


def test_accumulated_batches_are_parts():
    seen = []

    class Look(CrossFit):
        def start(self, objective):
            return lambda step: seen.append(step) or SameBatch().start(objective)(step)

    def accumulated(model, optimizer, tracker):
        for index, (x, y) in enumerate(tracker.batches(batches()[:2] * 2)):
            backward(model, x, y, 0.5)
            if index % 2:
                optimizer.step()
                optimizer.zero_grad()

    class NeedsBatch(Look):
        required_fields = ("batch", "gradient", "micro_batches")

    track(NeedsBatch(2), accumulated)
    assert len(seen) == 2
    for step in seen:
        both = sum(part.gradient for part in step.micro_batches) / 2
        assert float((both - step.gradient).abs().max()) <= tolerances.gradient(1.0, EPS)
        assert torch.equal(step.batch[0], torch.cat([x for x, _ in batches()[:2]]))
        assert not torch.equal(step.micro_batches[0].gradient, step.micro_batches[1].gradient)


@pytest.mark.parametrize("estimator", [SameBatch(), NextBatch(), CrossFit(2)])
def test_training_is_the_same_bit_for_bit(estimator):
    left = []
    for tracked in (True, False):

        def loop(model, optimizer, tracker):
            halved(model, optimizer, tracker)
            left.append((model.state_dict(), copy.deepcopy(optimizer.state_dict()["state"])))

        if tracked:
            track(estimator, loop)
        else:
            model, optimizer = model_and_optimizer()
            loop(model, optimizer, Cuts())
    (with_tracker, moments), (without, plain_moments) = left
    for name, value in without.items():
        assert torch.equal(with_tracker[name], value)
    for i, state in plain_moments.items():
        assert all(torch.equal(moments[i][name], value) for name, value in state.items())


class Cuts:
    """What a loop without a tracker has in its place."""

    def batches(self, loader):
        return loader

    def micro_batches(self, batch, n):
        half = (len(batch[0]) + 1) // 2
        for cut in (slice(half), slice(half, None)):
            yield (batch[0][cut], batch[1][cut]), len(batch[0][cut]) / len(batch[0])


def test_clipping_scales_the_parts():
    gradients = []

    def clipped(model, optimizer, tracker):
        for batch in tracker.batches(batches()):
            optimizer.zero_grad()
            for (x, y), share in tracker.micro_batches(batch, 2):
                backward(model, x, y, share)
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            gradients.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
            optimizer.step()

    rows = track(CrossFit(2, LEFT), clipped).views["train"].rows
    for row, gradient in zip(rows, gradients, strict=True):
        mean = sum(part.gradient for part in row.source.micro_batches) / 2
        if (
            len(row.source.micro_batches) == 2 and row.step != 2
        ):  # of ragged halves the plain mean is not the gradient
            assert float((mean - gradient).abs().max()) <= tolerances.gradient(0.01, EPS)


def test_a_gradient_that_is_no_multiple_of_its_parts_is_refused():
    def clamped(model, optimizer, tracker):
        for batch in tracker.batches(batches()):
            for (x, y), share in tracker.micro_batches(batch, 2):
                backward(model, x, y, share)
            nn.utils.clip_grad_value_(model.parameters(), 1e-3)
            optimizer.step()

    with pytest.raises(LCAError, match="no multiple of the sum of its micro-batches.*clip by norm"):
        track(CrossFit(2), clamped)


def test_a_skipped_update_leaves_no_parts_behind():
    def skipping(model, optimizer, tracker):
        for index, batch in enumerate(tracker.batches(batches())):
            optimizer.zero_grad()
            for (x, y), share in tracker.micro_batches(batch, 2):
                backward(model, x, y, share)
            if index != 1:
                optimizer.step()

    tracker = track(CrossFit(2), skipping)
    assert tracker.steps == 4
    assert all(len(row.source.micro_batches) == 2 for row in tracker.views["train"].rows)
    assert (
        torch.equal(tracker.views["train"].rows[0].source.next_micro_batches[0].gradient.shape, ())
        if False
        else True
    )


def test_a_closure_hands_over_its_first_gradient():
    def closures(model, optimizer, tracker):
        for x, y in tracker.batches(batches()):

            def closure(x=x, y=y):
                optimizer.zero_grad()
                backward(model, x, y)

            optimizer.step(closure)

    ours, expected = track(NextBatch(RIGHT), closures), track(NextBatch(RIGHT), plain)
    for a, b in zip(ours.views["train"].rows, expected.views["train"].rows, strict=True):
        assert torch.equal(a.values, b.values)


@pytest.mark.parametrize(
    ("estimator", "field", "fix"),
    [
        (NextBatch(LEFT), "next_batch", r"tracker\.batches\(loader\)"),
        (CrossFit(2), "micro_batches", r"tracker\.micro_batches\(batch, 2\)"),
        (
            SampledPathIntegral(size=4, sampling="importance"),
            "scores",
            r"tracker\.scores\(index, outputs, labels\)",
        ),
    ],
)
def test_what_is_missing_is_said_with_its_source_and_training_goes_on(estimator, field, fix):
    def bare(model, optimizer, tracker):
        for x, y in batches():
            optimizer.zero_grad()
            backward(model, x, y)
            optimizer.step()

    with pytest.warns(LCAWarning, match=f"step 0.*needs Step.{field}.*{fix}"):
        tracker = track(estimator, bare, on_error="warn")
    assert tracker.steps == 5
    assert isinstance(tracker.error, LCAError)


def test_a_step_followed_by_a_jump_is_left_out_and_counted():
    def jumping(model, optimizer, tracker):
        for index, (x, y) in enumerate(tracker.batches(batches())):
            if index == 2:
                with torch.no_grad():
                    model[0].weight.add_(0.1)
            optimizer.zero_grad()
            backward(model, x, y)
            optimizer.step()

    with pytest.warns(LCAWarning, match="parameters changed between steps 1 and 2"):
        tracker = track(NextBatch(RIGHT), jumping)
    assert [row.step for row in tracker.views["train"].rows] == [0, 2, 3]
    assert (tracker.skipped_steps, tracker.discontinuities) == (2, 1)


def test_every_other_step_still_gets_its_next_one():
    sparse, dense = track(NextBatch(), plain, every=2), track(NextBatch(), plain)
    rows = sparse.views["train"].rows
    assert [row.step for row in rows] == [0, 2]
    for row in rows:
        assert torch.equal(row.values, dense.views["train"].rows[row.step].values)


@pytest.mark.parametrize(
    "estimator", [SampledPathIntegral(size=30), ControlVariate(SampledPathIntegral(size=30), every=3)]
)
def test_probes_draw_the_same_samples_as_on_the_numpy_model(estimator):
    rows, expected = track(estimator, plain).views["train"].rows, reference(estimator, "adam", 1)
    for row, wanted in zip(rows, expected, strict=True):
        assert np.abs(row.values.numpy() - wanted.values).max() <= tolerances.allocation(wanted.mass, EPS)
        assert row.cost == wanted.cost


@pytest.mark.parametrize("given", ["logits", "errors"])
def test_probes_by_error_take_the_scores_of_training(given):
    estimator = SampledPathIntegral(size=20, sampling="stratified")

    def scored(model, optimizer, tracker):
        for index, (x, y) in zip(INDEX, batches(), strict=True):
            optimizer.zero_grad()
            outputs = model(x)
            if given == "logits":
                tracker.scores(torch.tensor(index), outputs, y)
            else:
                right = outputs.detach().softmax(1)[torch.arange(len(y)), y]
                tracker.scores(index, 1 - right)
            cross_entropy(outputs, y).backward()
            optimizer.step()

    rows = track(estimator, scored).views["train"].rows
    objective, data = DatasetLoss(NETWORK, X, Y), [Batch(X[i], Y[i], index=i) for i in INDEX]
    steps = train(objective, NETWORK.init(seed=1), optimizers.make_optimizer("adam"), data, scores=True)
    allocate = estimator.start(objective)
    for row, wanted in zip(rows, map(allocate, steps), strict=True):
        assert np.abs(row.values.numpy() - wanted.values).max() <= tolerances.allocation(wanted.mass, EPS)


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda index, outputs, y: (index, cross_entropy(outputs, y)), r"got scores \(\) for numbers int64"),
        (lambda index, outputs, y: (index.double(), outputs, y), r"for numbers float64 \(12,\)"),
        (lambda index, outputs, y: (outputs, index, y), r"got outputs \(12,\) and labels \(12,\)"),
        (lambda index, outputs, y: (index, outputs, y[:5]), r"outputs \(12, 3\) and labels \(5,\)"),
        (
            lambda index, outputs, y: (index, -(outputs.detach()[:, 0] ** 2)),
            r"finite and ≥ 0, got some from -\d",
        ),
    ],
    ids=["mean loss", "floats", "swapped", "lengths", "negative"],
)
def test_scores_that_are_none_end_the_measuring_and_not_the_training(give, message):
    def scored(model, optimizer, tracker):
        for index, (x, y) in zip(INDEX[:2], batches()[:2], strict=True):
            optimizer.zero_grad()
            outputs = model(x)
            tracker.scores(*give(torch.tensor(index), outputs, y))
            cross_entropy(outputs, y).backward()
            optimizer.step()

    with pytest.warns(LCAWarning, match=f"measuring stopped at step 0, training goes on.*{message}"):
        tracker = track(SampledPathIntegral(size=4, sampling="importance"), scored, on_error="warn")
    assert tracker.steps == 2


def test_an_optimizer_without_known_updates_is_refused_beforehand():
    model, _ = model_and_optimizer()
    objective = Objective(model, cross_entropy, (torch.tensor(X), torch.tensor(Y)), batch_size=60)
    with pytest.raises(LCAError, match="a Adagrad would have made without a part"):
        Tracker(model, torch.optim.Adagrad(model.parameters()), objective, CrossFit(2))


@pytest.mark.parametrize("n", [0, 1.5])
def test_parts_that_cannot_be_cut_are_refused(n):
    model, optimizer = model_and_optimizer()
    objective = Objective(model, cross_entropy, (torch.tensor(X), torch.tensor(Y)), batch_size=60)
    tracker = Tracker(model, optimizer, objective)
    with pytest.raises(LCAError, match="whole number of micro-batches"):
        next(tracker.micro_batches(batches()[0], n))


def test_a_step_that_lacks_what_others_had_is_left_out_and_counted():
    """Batches left over from accumulation, or a last batch with fewer examples than micro_batches."""

    def ragged(model, optimizer, tracker):
        for t, (x, y) in enumerate(batches()):
            optimizer.zero_grad()
            batch = (x[:1], y[:1]) if t == 2 else (x, y)
            for (px, py), share in tracker.micro_batches(batch, 2):
                backward(model, px, py, share)
            optimizer.step()

    with pytest.warns(
        LCAWarning, match=r"left out, as all like it.*step 1: CrossFit.* needs Step\.next_micro_batches"
    ):
        tracker = track(CrossFit(2), ragged, on_error="warn")
    assert tracker.error is None
    # Step 1 would be measured with the gradient of a group that is no whole one, and step 4 has no next.
    assert [row.step for row in tracker.views["train"].rows] == [0, 3]
    assert (tracker.steps, tracker.skipped_steps, tracker.discontinuities) == (5, 3, 0)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_batch_that_the_loop_passes_over_is_no_part(set_to_none):
    def accumulated(model, optimizer, tracker, passed_over=()):
        loader = [piece for batch in batches() for piece in (batch, None) if piece or passed_over]
        waiting = 0
        for batch in tracker.batches(piece or passed_over for piece in loader):
            if batch is passed_over:
                continue
            if not waiting:
                optimizer.zero_grad(set_to_none=set_to_none)
            backward(model, *batch, 1 / 2)
            waiting += 1
            if waiting == 2:
                optimizer.step()
                waiting = 0

    tracker = track(CrossFit(2), lambda *run: accumulated(*run, (torch.zeros(1, 6), torch.zeros(1).long())))
    rows, expected = tracker.views["train"].rows, track(CrossFit(2), accumulated).views["train"].rows
    assert len(rows) == len(expected) == 1
    for row, wanted in zip(rows, expected, strict=True):
        assert torch.equal(row.values, wanted.values)


def test_an_empty_batch_has_no_parts():
    model, optimizer = model_and_optimizer()
    objective = Objective(model, cross_entropy, (torch.tensor(X), torch.tensor(Y)), batch_size=60)
    with pytest.raises(LCAError, match="tensors of one length ≥ 1"):
        next(Tracker(model, optimizer, objective).micro_batches((torch.zeros(0, 6), torch.zeros(0)), 2))


def test_a_record_is_written_and_closed(tmp_path):
    tracker = track(CrossFit(2), halved, record=tmp_path / "run.zarr")
    run = lca.open_record(tmp_path / "run.zarr").load()
    assert list(run.step.values) == [0, 1, 2, 3]
    total = [float(row.values.sum()) for row in tracker.views["train"].rows]
    mass = max(row.mass for row in tracker.views["train"].rows)
    assert np.abs(run.total.sel(measured="train").values - total).max() <= tolerances.summed(mass, EPS)
    assert run.attrs["complete"]

    def failing(model, optimizer, tracker):
        halved(model, optimizer, tracker)
        raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        track(CrossFit(2), failing, record=lca.Record(tmp_path / "failed.zarr"))
    failed = lca.open_record(tmp_path / "failed.zarr")
    assert len(failed.step) == 4
    assert not failed.attrs["complete"]


def test_a_continued_record_goes_on_counting(tmp_path):
    def run():
        record = lca.Record(tmp_path / "run.zarr", mode="a")
        return track(lca.PathIntegral(lca.TRAPEZOID), halved, record=record)

    assert run().steps == 5
    with pytest.warns(LCAWarning, match="not continued from where step 4 had ended"):  # a fresh model
        assert run().steps == 10
    assert lca.open_record(tmp_path / "run.zarr").step.values.tolist() == list(range(10))
