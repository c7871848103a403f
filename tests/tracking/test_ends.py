"""The ends of a run: what moved θ or the state where no update was seen is booked, and told."""

import warnings

import numpy as np
import pytest

import lca
from lca.errors import LayoutError, LCAError, LCAWarning, NonFiniteError
from lca.estimators import NextBatch, SampledPathIntegral
from lca.record import RecordError, close_record
from lca.reference import DatasetLoss, L2Penalty, Quadratic, logistic_regression
from lca.runs._balance import check_conservation
from lca.runs._run import Run
from lca.tolerances import EPS64, summed
from lca.tracking import FunctionalTracker

BOWL = Quadratic(np.diag([1.0, 2.0, 3.0]))
SUM = lca.Sum({"data": BOWL, "penalty": L2Penalty(BOWL.layout, 0.5)})
RULE = lca.PathIntegral(lca.SIMPSON)
START = np.array([2.0, 1.0, -1.0])
AVERAGE = np.array([0.1, 0.1, 0.1])


def trained(objective, *, steps=5, end=None, **options):
    """A run of gradient descent, after which the parameters are replaced by ``end``."""
    theta = START.copy()
    options = {"on_error": "raise", **options}
    with FunctionalTracker(theta, objective, options.pop("estimator", RULE), **options) as tracker:
        for _ in range(steps):
            theta = theta - 0.1 * BOWL.loss_and_grad(theta)[1]
            tracker.update(theta)
        if end is not None:
            tracker.set_params(end)
    return tracker, theta if end is None else end


def entered(params, objective, estimator=RULE, *, on_error="raise"):
    return FunctionalTracker(params, objective, estimator, on_error=on_error).__enter__()


def test_a_run_that_does_not_begin_leaves_its_record_to_the_next(tmp_path):
    """Also while the error is kept, as in a notebook."""
    path = tmp_path / "run"
    with pytest.raises(LayoutError) as kept:
        FunctionalTracker({"theta": np.ones(2)}, BOWL, record=path)  # the parameters are others
    with pytest.raises(KeyError) as also_kept:
        _Unattached(START, BOWL, record=path).__enter__()
    unused = FunctionalTracker(START, BOWL, record=path)
    unused.close()
    trained(BOWL, record=path)
    assert lca.open_record(path).attrs["complete"]
    assert kept.tb is not None
    assert also_kept.tb is not None


class _Unattached(FunctionalTracker):
    def _attach(self):
        raise KeyError("attach")


def test_a_tracker_that_was_left_in_use_can_be_closed_by_its_record(tmp_path):
    tracker = FunctionalTracker(START, BOWL, record=lca.Record(tmp_path / "run")).__enter__()
    tracker.update(0.5 * START)
    with pytest.raises(RecordError, match=r"being written in this process.*lca\.record\.close_record\("):
        lca.Record(tmp_path / "run", mode="a")
    close_record(tmp_path / "run")
    found = lca.open_record(tmp_path / "run")
    assert (found.sizes["step"], found.attrs["complete"]) == (1, False)
    with pytest.raises(LCAError, match="outside `with tracker:`"):
        tracker.update(0.25 * START)


def assert_closed(summary, start, end):
    booked = sum(summary[name] for name in ("lca_total", "state_change", "residual", "unmeasured_change"))
    assert (summary["loss_start"], summary["loss_end"]) == (start, end)
    limit = summed(summary["mass"] + abs(start) + abs(end), EPS64)
    assert abs(end - start - booked) <= limit


def test_weights_put_in_after_the_last_step_are_booked_and_told(tmp_path):
    losses = {"train": SUM, "heldout": BOWL}
    message = r"parameters changed after the last update that was seen, step 4;.*\(train [-+0-9.e]+, heldout "
    with pytest.warns(LCAWarning, match=message):
        tracker, end = trained(losses, end=AVERAGE, record=tmp_path / "run")
    summary = tracker.summary()
    each = {"train": SUM, "heldout": BOWL} | {f"train/{name}": term for name, term in SUM.terms.items()}
    for name, objective in each.items():
        assert_closed(summary[name], objective.loss(START), objective.loss(end))
        assert summary[name]["unmeasured_change"] != 0
    record = lca.open_record(tmp_path / "run")
    assert record.attrs["final_losses"] == {name: objective.loss(end) for name, objective in each.items()}
    check = check_conservation(Run(record), "train")
    assert (check.end, check.unmeasured_change) == (
        summary["train"]["loss_end"],
        summary["train"]["unmeasured_change"],
    )


def test_a_record_that_is_continued_has_no_old_end(tmp_path):
    with pytest.warns(LCAWarning, match="after the last update"):
        trained(BOWL, end=AVERAGE, record=tmp_path / "run")
    with pytest.warns(LCAWarning, match="did not continue from the end"):
        trained(BOWL, record=lca.Record(tmp_path / "run", mode="a"))
    record = lca.open_record(tmp_path / "run")
    assert (record.attrs["final_losses"], record.attrs["complete"]) == ({}, True)
    assert check_conservation(Run(record), "train").end == record.loss_end.values[-1, 0]


@pytest.mark.parametrize(
    ("every", "tail"), [(1, False), (2, False), (3, True), (lambda t: t in (1, 2), True)]
)
def test_unmeasured_steps_at_the_end_are_booked_without_a_word(every, tail):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker, end = trained(BOWL, every=every)
    summary = tracker.summary()["train"]
    start = tracker.views["train"].trace.rows["loss_start"][0]
    assert_closed(summary, start, BOWL.loss(end))
    assert (tracker.views["train"].trace.rows["loss_end"][-1] != BOWL.loss(end)) == tail


def test_a_run_that_ends_where_its_last_step_did_costs_nothing_more():
    class Counting(Quadratic):
        losses = 0

        def loss(self, theta, batch=None):
            self.losses += 1
            return super().loss_and_grad(theta)[0]

    objective = Counting(np.diag([1.0, 2.0, 3.0]))
    theta = START.copy()
    with FunctionalTracker(theta, objective, RULE, on_error="raise") as tracker:
        tracker.update(theta / 2)
    assert objective.losses == 0


def test_a_run_that_ended_in_an_error_is_left_as_it_is():
    tracker = entered(START, BOWL)
    tracker.update(START / 2)
    tracker.set_params(AVERAGE)
    tracker.close(complete=False)
    assert tracker.summary()["train"]["loss_end"] == BOWL.loss(START / 2)


class Stated:
    """``scale · ½ |θ|²`` with a state, and a number that may move after the last step."""

    layout = BOWL.layout

    def __init__(self, scale=1.0, unused=0):
        self.scale, self.unused = scale, unused

    def loss(self, theta, batch=None):
        return self.scale * float(theta @ theta) / 2

    def loss_and_grad(self, theta, batch=None):
        return self.loss(theta), self.scale * theta

    def state(self):
        return {"scale": np.array([self.scale]), "unused": np.array(self.unused)}

    def at_state(self, state):
        return Stated(float(state["scale"][0]))


def test_a_state_that_moves_after_the_last_step_is_booked_and_told():
    objective = Stated()
    tracker = entered(np.ones(3), objective)
    tracker.update(np.array([1.0, 0.0, 0.0]))
    objective.scale = 4.0
    with pytest.warns(LCAWarning, match=r"the state that the loss depends on changed.*\(train \+1.5, a part"):
        tracker.close()
    assert_closed(tracker.summary()["train"], 1.5, 2.0)
    assert tracker.summary()["train"]["unmeasured_change"] == 1.5


def test_a_state_that_moves_the_loss_by_nothing_is_not_told():
    objective = Stated()
    with warnings.catch_warnings(), FunctionalTracker(np.ones(3), objective, RULE) as tracker:
        warnings.simplefilter("error")
        tracker.update(np.zeros(3))
        objective.unused = 1
    assert tracker.summary()["train"]["unmeasured_change"] == 0.0


def test_of_a_sampled_run_the_movement_is_told_without_losses():
    objective = DatasetLoss(logistic_regression(2, 2), np.eye(2), np.array([0, 1]))
    tracker = entered(np.zeros(6), objective, SampledPathIntegral(size=4))
    tracker.update(np.ones(6))
    tracker.set_params(np.zeros(6))
    with pytest.warns(LCAWarning, match=r"the resulting loss change is not allocated\. Were averaged"):
        tracker.close()
    assert tracker.error is None


def test_an_end_without_a_loss_is_an_error():
    with pytest.raises(NonFiniteError, match="the loss 'train' is nan at the end of the run"):
        trained(BOWL, end=np.array([np.nan, 0.0, 0.0]))


@pytest.mark.parametrize("estimator", [RULE, lca.Adaptive()], ids=["simpson", "adaptive"])
def test_parameters_that_move_without_an_update_are_an_error(estimator):
    tracker = entered(START, BOWL, estimator)
    assert not tracker._follower.moved_unseen()
    tracker.set_params(AVERAGE)
    assert tracker._follower.moved_unseen()
    with pytest.raises(LCAError, match=r"but no update was seen: another opt.*itself, or .*\(such as SAM\)"):
        tracker.close()
    tracker = entered(START, BOWL, estimator, on_error="warn")
    tracker.set_params(AVERAGE)
    with pytest.warns(LCAWarning, match="measuring stopped at step 0"):
        tracker.close()
    with pytest.raises(LCAError, match="no step was measured: LCAError: the parameters changed during"):
        tracker.summary()


def test_an_error_that_was_caught_is_not_followed_by_another_at_the_end():
    objective = Careful(np.diag([1.0, 2.0, 3.0]))
    with FunctionalTracker(START, objective, RULE, on_error="raise") as tracker:
        objective.moved = True
        with pytest.raises(LayoutError, match="the model was moved"):
            tracker.update(AVERAGE)
    assert (tracker.steps, tracker.error) == (0, None)
    objective.moved = False
    tracker.__enter__()
    tracker.set_params(AVERAGE)
    with pytest.raises(LCAError, match="but no update was seen"):  # of a new run
        tracker.close()


@pytest.mark.parametrize("t", [0, 2])
def test_a_step_that_waits_for_the_next_is_not_measured_after_an_error(t):
    """The error comes from the start of the next step; what is measured then would be anything."""
    objective = Careful(np.diag([1.0, 2.0, 3.0]))
    with FunctionalTracker(START, objective, NextBatch(lca.RIGHT)) as tracker:
        for i in range(t + 1):
            tracker.update(START / (i + 2), gradient=START)
        objective.moved = True
        with pytest.warns(LCAWarning, match=f"measuring stopped at step {t + 1}.*the model was moved"):
            tracker.update(START / 9, gradient=START)
    assert len(tracker.views["train"].trace.rows) == t


def test_a_run_without_movement_is_no_error():
    with FunctionalTracker(START, BOWL, RULE, on_error="raise") as tracker:
        pass
    assert (tracker.steps, tracker.error) == (0, None)


def test_movement_between_updates_is_seen_while_it_happens():
    with FunctionalTracker(START, BOWL, RULE, every=2, on_error="raise") as tracker:
        tracker.update(START / 2)
        assert not tracker._follower.moved_unseen()
        tracker.set_params(START / 3)
        assert tracker._follower.moved_unseen()
        tracker.update(START / 4)
        tracker.set_params(START / 5)
        assert not tracker._follower.moved_unseen()  # this step was not measured, so nothing is known


class Careful(Quadratic):
    moved = False
    checks = 0

    def check(self):
        self.checks += 1
        if self.moved:
            raise LayoutError("the model was moved; make the objective anew.")


@pytest.mark.parametrize(
    "wrap", [lambda o: o, lambda o: {"a": BOWL, "b": lca.Sum({"c": lca.Scaled(o, 0.5)})}]
)
def test_objectives_check_themselves_before_each_measured_step(wrap):
    objective = Careful(np.diag([1.0, 2.0, 3.0]))
    with FunctionalTracker(START, wrap(objective), RULE, every=2) as tracker:
        for t in range(5):
            tracker.update(START / (t + 2))
        assert objective.checks == 3
        objective.moved = True
        tracker.update(START / 8)
        assert tracker.error is None
        with pytest.warns(LCAWarning, match="measuring stopped at step 6.*the model was moved"):
            tracker.update(START / 9)
    assert isinstance(tracker.error, LayoutError)
    assert tracker.steps == 7


class StraightThrough(Quadratic):
    """Its gradient is that of another loss, as a straight-through estimator's is."""

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta)
        return loss, 0.5 * grad


def test_a_run_whose_allocations_miss_much_of_its_change_says_so():
    objective = StraightThrough(np.diag([1.0, 2.0, 3.0]))
    with pytest.warns(LCAWarning, match=r"'train' miss 50% of its change.*5 of 5 steps.*straight-through"):
        tracker, _ = trained(objective, estimator=lca.Adaptive(tol=1e-6, max_gradients=3))
    assert tracker.error is None


def test_an_estimator_without_a_tolerance_is_known_by_its_residual():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(StraightThrough(np.diag([1.0, 2.0, 3.0])))


def test_the_end_of_an_earlier_run_of_the_tracker_is_not_that_of_a_later_one():
    theta, tracker = START.copy(), FunctionalTracker(START, BOWL, RULE, every=2, on_error="raise")
    for updates in (2, 1):  # the first run ends behind its last measured step, the second one with it
        with tracker:
            for _ in range(updates):
                theta = theta / 2
                tracker.update(theta)
    assert tracker.summary()["train"]["loss_end"] == BOWL.loss(theta)


def test_an_error_that_the_loop_catches_is_counted_and_ends_the_record_incomplete(tmp_path):
    objective = Careful(np.diag([1.0, 2.0, 3.0]))
    with FunctionalTracker(START, objective, RULE, on_error="raise", record=tmp_path / "run") as tracker:
        tracker.update(START / 2)
        with pytest.raises(NonFiniteError):
            tracker.update(np.full(3, np.nan))
        tracker.set_params(START / 2)
        tracker.update(START / 3)
    assert tracker.steps == 3
    record = lca.open_record(tmp_path / "run")
    assert record.step.values.tolist() == [0, 2]
    assert not record.attrs["complete"]
