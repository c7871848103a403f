"""What loops do to parameters, gradients and weights around an update: noticed, or of no consequence."""

import re
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lca import RIGHT, TRAPEZOID, Adaptive, PathIntegral, tolerances
from lca.errors import LCAError, LCAWarning, NonFiniteError
from lca.estimators import CrossFit, LaggedCrossFit, NextBatch, SameBatch, SampledPathIntegral
from lca_torch import Objective, Tracker
from tests.laws.runs import Kept, Shown

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.randint(1, 4, (60,), generator=torch.Generator().manual_seed(2))
BATCHES = [(X[at : at + 10], Y[at : at + 10]) for at in range(0, 60, 10)]
OF_GRADIENTS = [CrossFit(), LaggedCrossFit(), NextBatch(RIGHT)]
STEPS = [f"{type(one).__name__}" for one in OF_GRADIENTS]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def loss_of(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def take_gradient(tracker, model, batch):
    """In two pieces, which every estimator can use."""
    for piece, weight in tracker.micro_batches(batch, 2):
        (weight * loss_of(model, piece)).backward()


def tracked(model, optimizer, estimator, **options):
    return Tracker(model, optimizer, Objective(model, cross_entropy, (X, Y)), estimator, **options)


def moves(model, by):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data.mul_(by)


def train(tracker, model, optimizer, batches, around=lambda take: take()):
    with tracker:
        for batch in batches:
            optimizer.zero_grad()
            around(lambda batch=batch: take_gradient(tracker, model, batch))
            optimizer.step()


@pytest.mark.parametrize("estimator", OF_GRADIENTS, ids=STEPS)
def test_a_gradient_taken_elsewhere_through_data_is_refused(estimator):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def elsewhere(take):
        moves(model, 2.0)
        take()
        moves(model, 0.5)

    tracker = tracked(model, optimizer, estimator, on_error="raise")
    with pytest.raises(LCAError, match="changed between the start of the update and its backward pass"):
        train(tracker, model, optimizer, BATCHES[:2], elsewhere)


@pytest.mark.parametrize("estimator", OF_GRADIENTS, ids=STEPS)
def test_a_hook_that_moves_parameters_before_the_optimizer_does_is_refused(estimator):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    optimizer.register_step_pre_hook(lambda *args: moves(model, 0.9))
    tracker = tracked(model, optimizer, estimator, on_error="raise")
    with pytest.raises(LCAError, match="may move the parameters before the optimizer does"):
        train(tracker, model, optimizer, BATCHES[:2])


class Momentum(nn.Module):
    """Has an encoder that follows the one that trains."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trained, self.followers = nn.Linear(6, 4), nn.Linear(6, 4).requires_grad_(False)
        self.double()

    def forward(self, x):
        return self.trained(x) + 0.1 * self.followers(x)

    def follow(self, *, counted):
        for own, other in zip(self.followers.parameters(), self.trained.parameters(), strict=True):
            with torch.no_grad():
                (own if counted else own.data).lerp_(other, 0.1)


def follow_between_updates(frozen):
    """The texts of the warnings of a run."""
    model = Momentum()
    optimizer = torch.optim.SGD(model.trained.parameters(), lr=0.1)
    objective = Objective(model, cross_entropy, (X, Y), frozen=frozen)
    tracker = Tracker(model, optimizer, objective, NextBatch(RIGHT), check_every=None)

    def after_following(take):
        model.follow(counted=True)
        take()

    with pytest.warns(LCAWarning, match="followers") as warned:
        train(tracker, model, optimizer, BATCHES, after_following)
    assert tracker.summary()["train"]["steps"] == len(BATCHES) - 1
    return [str(warning.message) for warning in warned]


def test_an_encoder_that_follows_between_updates_is_named_with_the_remedy():
    named = r"followers\.weight, followers\.bias changed between updates.* pass frozen='omit'"
    with pytest.raises(LCAError, match=f"no step was measured: .*{named}"):
        follow_between_updates("zero")
    assert not re.search(named, " ".join(follow_between_updates("omit")))


@pytest.mark.parametrize("counted", [True, False], ids=["in place", "data"])
def test_an_encoder_that_follows_inside_an_update_is_refused_with_the_remedy(counted):
    model = Momentum()
    optimizer = torch.optim.SGD(model.trained.parameters(), lr=0.1)
    tracker = tracked(model, optimizer, CrossFit(2), on_error="raise")

    def within(take):
        take()
        model.follow(counted=counted)

    with pytest.raises(LCAError, match=r"no optimizer moves were changed.*pass frozen='omit'"):
        train(tracker, model, optimizer, BATCHES[:2], within)


def test_parameters_that_train_and_are_changed_between_updates_are_not_called_followers():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tracker = tracked(model, optimizer, Adaptive())

    def elsewhere(take):
        moves(model, 0.9)
        take()

    with pytest.warns(LCAWarning, match="changed between steps 0 and 1") as warned:
        train(tracker, model, optimizer, BATCHES[:2], elsewhere)
    assert "omit" not in str(warned[0].message)


def test_accumulated_batches_differ_in_weight_by_the_weight_of_the_objective():
    """The label that the loss ignores is 0 here, which only batch_weight knows."""
    model, labels = network(), Y.clone()
    labels[:3] = 0

    def mean(outputs, target):
        return cross_entropy(outputs, target, ignore_index=0)

    def count(batch):
        return float((batch[1] != 0).sum())

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objective = Objective(model, mean, (X, labels), batch_weight=count)
    batches = [(X[at : at + 10], labels[at : at + 10]) for at in (0, 10)]

    def accumulate(**weight):
        optimizer.zero_grad()
        with Tracker(model, optimizer, objective, CrossFit(), on_error="raise") as tracker:
            for inputs, targets in tracker.batches(batches, **weight):
                (mean(model(inputs), targets) * count((inputs, targets)) / 17).backward()
            optimizer.step()

    with pytest.raises(LCAError, match="pass weight= to tracker.batches"):
        accumulate()
    accumulate(weight=count)


@pytest.mark.parametrize("period", [3, 9])
def test_what_training_adds_at_every_nth_update_is_seen_in_the_halves(period):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def penalised(tracker):
        with tracker:
            for number, batch in enumerate(tracker.batches(BATCHES * 2), 1):
                optimizer.zero_grad()
                penalty = sum(p.square().sum() for p in model.parameters()) * (number % period == 0)
                (loss_of(model, batch) + penalty).backward()
                optimizer.step()

    tracker = tracked(model, optimizer, CrossFit(own_pass=True), on_error="raise")
    with pytest.raises(LCAError, match="the loss of training is not the measured one"):
        penalised(tracker)
    assert tracker.steps in (period - 1, period)


def test_a_micro_batch_of_weight_zero_is_no_part_of_the_update():
    """As the last, the first or the middle one; the others are the micro-batches that they are without it."""
    found, weights = [], dict(zip(BATCHES, (0.25, 0.75, 0.0), strict=False))
    for order in ([0, 1], [0, 2, 1], [2, 0, 1], [0, 1, 2]):
        model, shown = network(), Shown(("micro_batches",))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with tracked(model, optimizer, shown, on_error="raise") as tracker:
            for batch in tracker.batches([BATCHES[i] for i in order], weight=weights.get):
                (weights[batch] * loss_of(model, batch)).backward()
            optimizer.step()
        found.append([(part.weight, part.gradient) for part in shown.steps[0].micro_batches])
    for other in found[1:]:
        assert [weight for weight, _ in other] == [0.25, 0.75]
        for (_, ours), (_, expected) in zip(other, found[0], strict=True):
            assert torch.equal(ours, expected)


def test_a_batch_in_which_nothing_counts_is_split_by_rows_and_ends_no_training():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objective = Objective(
        model, cross_entropy, (X, Y), batch_weight=lambda batch: float((batch[1] >= 0).sum())
    )
    nothing = (X[:5], torch.full((5,), -100))
    with Tracker(model, optimizer, objective) as tracker:
        parts = [(len(x), part) for (x, _), part in tracker.micro_batches(nothing, np.int64(2))]
    assert parts == [(3, 3 / 5), (2, 2 / 5)]


@pytest.mark.filterwarnings("ignore:skipped")
def test_an_update_from_a_batch_in_which_nothing_counts_is_skipped():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def safe(outputs, labels):
        return cross_entropy(outputs, labels, reduction="sum") / max(1, int((labels >= 0).sum()))

    objective = Objective(model, safe, (X, Y), batch_weight=lambda batch: float((batch[1] >= 0).sum()))
    nothing = (X[:10], torch.full((10,), -100))
    with Tracker(model, optimizer, objective, NextBatch()) as tracker:
        for inputs, labels in tracker.batches([*BATCHES[:3], nothing, *BATCHES[3:]]):
            optimizer.zero_grad()
            safe(model(inputs), labels).backward()
            optimizer.step()
    assert (tracker.steps, tracker.skipped_steps, tracker.error) == (7, 2, None)


@pytest.mark.parametrize("how", ["set to 0", "never taken"])
@pytest.mark.parametrize(
    ("estimator", "at"),
    [(SameBatch(), 0), (NextBatch(RIGHT), 1), (LaggedCrossFit(), 0), (LaggedCrossFit(), 5)],
    ids=lambda own: type(own).__name__,
)
def test_an_update_without_a_gradient_is_skipped(estimator, at, how):
    """The optimizer may move on by its momentum."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def run():
        with tracked(model, optimizer, estimator) as tracker:
            for number, batch in enumerate(tracker.batches(BATCHES * 2)):
                if number != at or how == "set to 0":
                    loss_of(model, batch).backward()
                if number == at:
                    optimizer.zero_grad(set_to_none=False)
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
        return tracker

    with pytest.warns(
        LCAWarning, match=f"and update {at} has no gradient, or one that the loop has set to 0"
    ):
        tracker = run()
    assert (tracker.error, tracker.steps) == (None, 12)
    assert 1 <= tracker.skipped_steps <= 3  # the steps that need its gradient


@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("split", [True, False], ids=["split", "accumulated"])
def test_an_update_with_a_micro_batch_of_weight_zero_is_skipped_wherever_it_comes(split, at):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def weight(piece):
        return float((piece[1] >= 0).sum())

    def run():
        with tracked(model, optimizer, CrossFit(), views=Kept) as tracker:
            for number, (x, labels) in enumerate(BATCHES):
                y = labels.clone()
                y[:5] = -100 if number == at else y[:5]
                whole, pieces = (x, y), [(x[:5], y[:5]), (x[5:], y[5:])]
                if split:
                    parts = tracker.micro_batches(whole, 2, weight=weight)
                else:
                    parts = ((own, weight(own) / weight(whole)) for own in tracker.batches(pieces, weight))
                optimizer.zero_grad()
                for (inputs, targets), part in parts:
                    loss = cross_entropy(model(inputs), targets, reduction="sum")
                    (part * loss / max(1.0, weight((inputs, targets)))).backward()
                optimizer.step()
        return tracker

    with pytest.warns(LCAWarning, match=f"and update {at} has a batch, half or micro-batch of weight 0"):
        tracker = run()
    measured = [row.step for row in tracker.views["train"].rows]
    assert measured == [step for step in range(5) if step != at]


def left_over(numbers, estimator, *, told=True, **options):
    """The measured steps of a run that makes its updates from so many batches, with losses divided by 3."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = iter(BATCHES * 4)
    with tracked(model, optimizer, estimator, views=Kept, **options) as tracker:
        for number in numbers:
            optimizer.zero_grad()
            own = [next(loader) for _ in range(number)]
            for batch in tracker.batches(own) if told else own:
                (loss_of(model, batch) / 3).backward()
            optimizer.step()
    return [row.step for row in tracker.views["train"].rows]


@pytest.mark.parametrize(
    ("told", "estimator", "numbers", "measured"),
    [
        (True, SameBatch(), [3, 2, 3, 3, 2], [0, 2, 3]),
        (True, CrossFit(3), [3, 2, 3, 3, 2], [2]),
        (True, SameBatch(), [3, 1, 2, 3], [0, 3]),  # a batch that follows those left over gave no gradient
        (False, SameBatch(), [3, 2, 3, 3, 2], [0, 2, 3]),
        (False, LaggedCrossFit(), [3, 2, 3, 3, 3], [2, 3]),
    ],
    ids=str,
)
def test_an_update_from_batches_left_over_is_skipped_with_its_cause(told, estimator, numbers, measured):
    """Two of five at the end of an epoch."""
    what = "micro-batches" if told else "backward passes"
    with pytest.warns(LCAWarning, match=rf"and update 1 was made from \d of the usual 3 {what}"):
        assert left_over(numbers, estimator, told=told) == measured


def updates_from_three(length, how, *, counted_on):
    """The measured steps of four epochs of so many batches, where every third one makes an update."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tracked(model, optimizer, SameBatch(), views=Kept) as tracker:
        number = 0
        for _ in range(4):
            number = number if counted_on else 0
            epoch = (BATCHES * 2)[:length]
            for batch in tracker.batches(epoch) if how == "batches" else epoch:
                number += 1
                if how == "begin_batch":
                    tracker.begin_batch(batch)
                (loss_of(model, batch) / 3).backward()
                if number % 3 == 0:
                    optimizer.step()
                    optimizer.zero_grad()
    return [row.step for row in tracker.views["train"].rows]


@pytest.mark.parametrize(
    ("how", "measured"),
    [("batches", [0, 1, 3, 5, 7]), ("begin_batch", [0, 1, 3, 5]), ("passes", [0, 1, 3, 5])],
)
def test_an_update_to_which_batches_left_over_were_added_is_skipped_with_its_cause(how, measured):
    """Of 7 batches: 3, 3, then 1 + 3, 3, ...; in the end 3 is no usual number where epochs are not told."""
    with pytest.warns(LCAWarning, match="and update 2 was made from 4 .*, others from 3: .*left over"):
        assert updates_from_three(7, how, counted_on=False) == measured


def test_where_every_update_begins_in_the_epoch_before_nothing_but_the_first_is_measured():
    with pytest.warns(LCAWarning, match="and update 1 was made from 5 batches, .* are of 2 epochs"):
        assert updates_from_three(5, "batches", counted_on=False) == [0]


@pytest.mark.filterwarnings("error")
def test_updates_from_one_number_of_batches_may_span_epochs():
    assert updates_from_three(5, "batches", counted_on=True) == [0, 1, 2, 3, 4, 5]
    assert updates_from_three(2, "batches", counted_on=True) == [0, 1]


def test_updates_of_steps_that_are_not_measured_tell_how_many_batches_are_usual():
    """`RIGHT` takes no gradient of the first update; `every` may measure only those that end epochs."""
    with pytest.warns(LCAWarning, match="step 0: .*, and update 1 was made from 2 of the usual 3"):
        assert left_over([3, 2, 3, 3], NextBatch(RIGHT)) == [1, 2]
    with pytest.warns(LCAWarning, match="step 1: .*, and update 1 was made from 2 of the usual 3"):
        assert left_over([3, 2, 3, 2, 3], SameBatch(), every=lambda step: step in (1, 3, 4)) == [4]


@pytest.mark.parametrize("estimator", [CrossFit(3), LaggedCrossFit()], ids=str)
def test_a_first_update_from_batches_left_over_is_skipped(estimator):
    """As where a run is resumed at the end of an epoch; a step that is measured at once is warned of."""
    with pytest.warns(LCAWarning, match="step 0: .*, and update 0 was made from 2 of the usual 3"):
        assert left_over([2, 3, 3, 3], estimator) == [1, 2]
    with pytest.warns(LCAWarning, match="the first measured step has was made from 2 of the usual 3 micro-b"):
        assert left_over([2, 3, 3, 3], SameBatch()) == [0, 1, 2, 3]


@pytest.mark.filterwarnings("error")
def test_optimizers_that_take_turns_may_take_other_numbers_of_backward_passes():
    model = network()
    two, one = (torch.optim.SGD(own.parameters(), lr=0.1) for own in (model[0], model[-1]))
    with tracked(model, [two, one], SameBatch(), views=Kept) as tracker:
        for first, second in pairwise(BATCHES):
            for optimizer, batches in ((two, (first, second)), (one, (first,))):
                model.zero_grad()
                for batch in batches:
                    loss_of(model, batch).backward()
                optimizer.step()
    assert tracker.skipped_steps == 0


@pytest.mark.parametrize("how", ["clipped", "scaled"])
@pytest.mark.parametrize("estimator", [SameBatch(), CrossFit()], ids=["SameBatch", "CrossFit"])
def test_gradients_of_what_no_optimizer_moves_do_not_matter(estimator, how):
    """They may be left unclipped and with the scale of the loss."""
    totals = []
    for trained in (True, False):
        model = network()
        model[0].requires_grad_(trained)
        optimizer = torch.optim.SGD(model[2].parameters(), lr=0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=512.0, enabled=how == "scaled")
        with tracked(model, optimizer, estimator, on_error="raise") as tracker:
            for batch in BATCHES:
                model.zero_grad()
                for piece, weight in tracker.micro_batches(batch, 2):
                    scaler.scale(weight * loss_of(model, piece)).backward()
                if how == "clipped":
                    nn.utils.clip_grad_norm_(model[2].parameters(), 0.1)
                scaler.step(optimizer)
                scaler.update()
        totals.append(tracker.summary()["train"]["lca_total"])
    assert totals[0] < 0
    assert abs(totals[0] - totals[1]) <= tolerances.summed(abs(totals[0]), tolerances.EPS64)


def test_a_gradient_of_nan_is_told_as_such():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tracker = tracked(model, optimizer, CrossFit(), on_error="raise")
    broken = (X[:10] * torch.nan, Y[:10])
    with pytest.raises(NonFiniteError):
        train(tracker, model, optimizer, [BATCHES[0], broken, BATCHES[1]])


def test_a_weight_that_cannot_be_found_names_the_way_to_pass_one():
    model = network()
    objective = Objective(model, cross_entropy, (X, Y), batch_weight=lambda batch: float(len(batch[1])))
    tracker = Tracker(model, torch.optim.SGD(model.parameters(), lr=0.1), objective)
    with pytest.raises(LCAError, match="pass weight=, a function of a micro-batch"):
        next(tracker.micro_batches({"x": X[:4], "y": Y[:4]}, 2))


@pytest.mark.parametrize("how", ["pieces", "own_pass", "accumulated"])
def test_micro_batches_whose_examples_are_in_no_random_order_are_warned_of(how):
    """A batch that is sorted by class judges each class by the others."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    order = Y.argsort()
    batches = [(X[own], Y[own]) for own in (order[start::3] for start in range(3))] * 3
    halves = [[(x[:10], y[:10]), (x[10:], y[10:])] for x, y in batches]

    def run():
        with tracked(model, optimizer, CrossFit(own_pass=how == "own_pass")) as tracker:
            for batch, parts in zip(batches, halves, strict=True):
                optimizer.zero_grad()
                if how == "accumulated":
                    for part in tracker.batches(parts):
                        (loss_of(model, part) / 2).backward()
                elif how == "pieces":
                    take_gradient(tracker, model, batch)
                else:
                    tracker.begin_batch(batch)
                    loss_of(model, batch).backward()
                optimizer.step()

    with pytest.warns(LCAWarning, match="independent samples of the data.* differ in their labels"):
        run()


OF_EXAMPLES = {
    "distinct": "share no example.* pass epoch=60/20 as well",
    "full": "made from all 60 examples.* Pass independent=True and epoch=1",
    "balanced": "the numbers of examples of each class of a batch are nearly the same",
}
DRAWS = {
    "with": lambda rng: rng.integers(60, size=20),
    "without": lambda rng: rng.permutation(60)[:20],
    "full": lambda rng: rng.permutation(60),
    "balanced": lambda rng: rng.permutation(
        np.concatenate([rng.choice(np.flatnonzero(Y.numpy() == c), 6) for c in (1, 2, 3)])
    ),
}
INDEPENDENT = CrossFit(independent=True)


@pytest.mark.parametrize(
    ("draw", "estimator", "found"),
    [
        ("with", INDEPENDENT, []),
        ("without", INDEPENDENT, ["distinct"]),
        ("without", CrossFit(independent=True, own_pass=True), ["distinct"]),
        ("without", CrossFit(independent=True, epoch=3), []),
        ("without", CrossFit(epoch=3), []),
        ("full", INDEPENDENT, ["full"]),
        ("full", CrossFit(), ["full"]),
        ("full", CrossFit(independent=True, epoch=3), ["full"]),
        ("full", CrossFit(independent=True, epoch=1), []),
        ("balanced", INDEPENDENT, ["balanced"]),
        ("balanced", CrossFit(epoch=3), ["balanced"]),
        ("balanced", NextBatch(), []),
    ],
)
def test_batches_without_replacement_or_balanced_ones_are_warned_of_once(draw, estimator, found):
    model, rng = network(), np.random.default_rng(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def run():
        with tracked(model, optimizer, estimator, on_error="raise", check_every=None) as tracker:
            for _ in range(30):
                index = torch.as_tensor(DRAWS[draw](rng))
                optimizer.zero_grad()
                if getattr(estimator, "own_pass", False):
                    tracker.begin_batch((X[index], Y[index]))
                    loss_of(model, (X[index], Y[index])).backward()
                else:
                    take_gradient(tracker, model, (X[index], Y[index]))
                optimizer.step()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run()
    texts = [str(one.message) for one in told if issubclass(one.category, LCAWarning)]
    assert len(texts) == len(found)
    assert all(re.search(OF_EXAMPLES[name], text) for name, text in zip(found, texts, strict=True))


def test_the_self_check_names_full_batches_first_and_epoch_1_is_right_for_them():
    """The values are those of the trapezoid on all data."""
    totals, texts = [], []
    exact = PathIntegral(TRAPEZOID)
    for estimator, updates in ((CrossFit(), 33), (CrossFit(independent=True, epoch=1), 33), (exact, 32)):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            tracker = tracked(model, optimizer, estimator, on_error="raise")
            train(tracker, model, optimizer, [(X, Y)] * updates)
        totals.append(tracker.summary()["train"]["lca_total"])
        texts.append([str(one.message) for one in told if issubclass(one.category, LCAWarning)])
    (first, *_, last), quiet, _ = texts
    assert "made from all 60 examples" in first
    assert "the likeliest first:\n- each update is made from all examples: pass independent=True" in last
    assert quiet == []
    assert abs(totals[1] - totals[2]) <= tolerances.summed(32 * abs(totals[2]), tolerances.EPS64)
    assert totals[0] > 0 > totals[2]


@pytest.mark.parametrize(
    "estimator", [NextBatch(), LaggedCrossFit(), SameBatch()], ids=lambda one: type(one).__name__
)
def test_an_estimator_that_takes_the_gradient_of_another_task_at_the_end_of_a_step_warns(estimator):
    """Two tasks take turns; the same batch judges a step in its own state, but for a constant."""
    model, turn = network(), torch.zeros((), dtype=torch.float64)

    def loss(outputs, labels):
        return (1 - turn) * cross_entropy(outputs, labels) + turn * (outputs**2).mean()

    def run():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Tracker(model, optimizer, Objective(model, loss, (X, Y)), estimator) as tracker:
            for number, (x, y) in enumerate(BATCHES * 2):
                turn.fill_(number % 2)
                tracker.begin_batch((x, y))
                optimizer.zero_grad()
                loss(model(x), y).backward()
                optimizer.step()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run()
    found = [str(one.message) for one in told if "such as that of another task" in str(one.message)]
    assert len(found) == (not isinstance(estimator, SameBatch))
    assert all("turn" in text and "moved before 4 of 5 measured steps" in text for text in found)


def test_running_statistics_are_no_other_task():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    objective = Objective(model, cross_entropy, (X, Y), batch_size=10)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with Tracker(model, optimizer, objective, NextBatch(), check_every=None) as tracker:
            for batch in tracker.batches(BATCHES * 2):
                optimizer.zero_grad()
                loss_of(model, batch).backward()
                optimizer.step()
    assert tracker.steps == 12
    assert not [one for one in told if "take turns" in str(one.message)]


@pytest.mark.parametrize("sampling", ["importance", "stratified"])
def test_a_batch_that_is_skipped_as_its_outputs_are_nan_does_not_end_the_measuring(sampling):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    estimator = SampledPathIntegral(size=12, sampling=sampling)
    index = torch.arange(60).split(10)
    tracker = tracked(model, optimizer, estimator, on_error="raise")

    def run():
        with tracker:
            for t, (x, y) in enumerate(tracker.batches(BATCHES)):
                optimizer.zero_grad()
                out = model(x * float("nan") if t in {2, 4} else x)
                tracker.scores(index[t], out, y)
                loss = cross_entropy(out, y)
                if loss.isfinite():
                    loss.backward()
                    optimizer.step()

    with pytest.warns(LCAWarning, match="^10 of 20 scores are NaN or infinite"):
        run()
    assert tracker.steps == tracker.summary()["train"]["steps"] == 4


def test_halves_of_a_batch_at_diverged_parameters_are_not_blamed_on_the_loop():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    tracker = tracked(model, optimizer, CrossFit(own_pass=True), on_error="raise")

    def diverge():
        with tracker:
            for t, (x, y) in enumerate(tracker.batches(BATCHES)):
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                if t == 3:
                    optimizer.param_groups[0]["lr"] = float("inf")
                optimizer.step()

    with pytest.raises(NonFiniteError, match=r"^step 3: NaN or Inf in the parameters at the end.*diverged"):
        diverge()
