"""A run that was stopped and continued gives the record of a run without a stop, or the record says so."""

from functools import cache

import numpy as np
import pytest

import lca
from lca import Adaptive, PathIntegral, Record, Trajectory, allocate_each, open_record
from lca.errors import LCAWarning
from lca.estimators import AdaptiveSampleSize, ControlVariate, SampledPathIntegral
from lca.record._check import check_record
from lca.record._manifest import Manifest
from lca.reference import SGD, Batch, DatasetLoss, minibatches, mlp, train
from lca.report._overview import summary
from lca.runs._run import Run
from lca.tracking import FunctionalTracker

STEPS = 30
RNG = np.random.default_rng(3)
DATA = Batch(RNG.normal(size=(60, 4)), RNG.integers(0, 3, 60))
NETWORK = mlp((4, 6, 3))
LOSSES = {
    "train": DatasetLoss(NETWORK, DATA.x[:40], DATA.y[:40]),
    "heldout": DatasetLoss(NETWORK, DATA.x[40:], DATA.y[40:]),
}


@cache
def points():
    batches = minibatches(DATA.x[:40], DATA.y[:40], batch_size=10, steps=STEPS, seed=0)
    steps = list(train(LOSSES["train"], NETWORK.init(seed=0), SGD(lr=0.8, momentum=0.5), batches))
    return np.array([step.start for step in steps] + [steps[-1].end])


def measured(path, estimator, first, last, *, moved=0.0, **options):
    """Allocate steps from ``first`` to ``last``, as a loop of the user's own does."""
    with Record(path, LOSSES["train"].layout, estimator=estimator, block=4, **options) as record:
        steps = (step for step in Trajectory(points() + moved) if first <= step.index < last)
        for rows in allocate_each(LOSSES, steps, estimator, memory=record.memory):
            record.update(rows)
    return open_record(path).load()


def tracked(estimator, last, record):
    """The same in a tracker."""
    theta, *rest = points()[record.next_step : last + 1]
    with FunctionalTracker(theta, LOSSES, estimator, record=record, on_error="raise") as tracker:
        for point in rest:
            tracker.update(point)
    return open_record(record.path).load()


FULL = [
    Adaptive(tol=1e-3),
    Adaptive(tol=1e-3, nested_tol=1e-3, audit=8),
    Adaptive(tol=1e-2, per="run"),
    Adaptive(tol=1e-2, per="change"),
    Adaptive(audit=None),
    PathIntegral(),
]


@pytest.mark.parametrize("estimator", FULL, ids=map(str, range(len(FULL))))
@pytest.mark.parametrize("first", [1, 13])
def test_a_continued_record_is_identical(tmp_path, estimator, first):
    whole = measured(tmp_path / "whole", estimator, 0, STEPS)
    measured(tmp_path / "r", estimator, 0, first)
    again = measured(tmp_path / "r", estimator, first, STEPS, mode="a")
    assert again.identical(whole.assign_attrs(created=again.attrs["created"]))
    assert not whole.restarted.any()


@pytest.mark.parametrize("estimator", [Adaptive(tol=1e-3), Adaptive(tol=1e-2, per="run")])
def test_so_is_one_that_went_back_to_an_older_checkpoint(tmp_path, estimator):
    whole = measured(tmp_path / "r", estimator, 0, STEPS)
    again = measured(tmp_path / "r", estimator, 10, STEPS, mode="a", resume_at=10)
    assert again.identical(whole)


def test_a_tracker_continues_the_schedule_of_audits(tmp_path):
    estimator = Adaptive(tol=1e-3)
    whole = tracked(estimator, STEPS, Record(tmp_path / "whole"))
    tracked(estimator, 13, Record(tmp_path / "r"))
    again = tracked(estimator, STEPS, Record(tmp_path / "r", mode="a"))
    assert again.identical(whole.assign_attrs(created=again.attrs["created"]))


def test_without_the_memory_the_record_says_where_the_estimator_began_anew(tmp_path):
    estimator = Adaptive(tol=1e-3)
    measured(tmp_path / "r", estimator, 0, 13)
    with Record(tmp_path / "r", mode="a", estimator=estimator) as record:
        steps = (step for step in Trajectory(points()) if step.index >= 13)
        for rows in allocate_each(LOSSES, steps, estimator):  # no memory=
            record.update(rows)
    run = open_record(tmp_path / "r").load()
    assert run.step[run.restarted].values.tolist() == [13]


def test_another_estimator_is_warned_of_and_begins_anew(tmp_path):
    measured(tmp_path / "r", Adaptive(tol=1e-3), 0, 13)
    with pytest.warns(LCAWarning, match=r"by Adaptive\(tol=0\.001.* continues with Adaptive\(tol=1e-06"):
        run = measured(tmp_path / "r", Adaptive(tol=1e-6), 13, 15, mode="a")
    assert run.step[run.restarted].values.tolist() == [13]


PROBE = SampledPathIntegral(size=8)
SAMPLED = [PROBE, ControlVariate(PROBE, every=5), AdaptiveSampleSize(PROBE, examples=20)]


@pytest.mark.parametrize("estimator", SAMPLED, ids=lambda estimator: type(estimator).__name__)
def test_estimators_that_sample_begin_anew_and_the_record_says_so(tmp_path, estimator):
    measured(tmp_path / "r", estimator, 0, 13)
    run = measured(tmp_path / "r", estimator, 13, STEPS, mode="a")
    assert run.step[run.restarted].values.tolist() == [13]


@pytest.mark.parametrize("estimator", [PROBE, Adaptive(tol=1e-3)], ids=["sampled", "exact"])
def test_parameters_other_than_those_at_the_end_are_warned_of(tmp_path, estimator):
    measured(tmp_path / "r", estimator, 0, 5)
    with pytest.warns(LCAWarning, match="training did not continue from the end of step 4.*pass resume_at="):
        run = measured(tmp_path / "r", estimator, 5, 8, mode="a", moved=1e-9)
    with pytest.warns(LCAWarning, match="training did not continue from the end of step 7"):
        run = tracked(estimator, 10, Record(tmp_path / "r", mode="a"))
    assert run.step[run.displaced].values.tolist() == [5, 8]
    said = " ".join(text for _, text in summary(Run(run)).verdicts)
    assert "continued at steps 5, 8, but training did not continue from where it had ended" in said


def test_a_schedule_does_not_hide_that_training_continues_elsewhere(tmp_path):
    """After eight updates the record ends with step 6, and does not know of the next one."""

    def part(first, last):
        record = Record(tmp_path / "r", mode="a")
        with FunctionalTracker(points()[first], LOSSES, PROBE, record=record, every=3) as tracker:
            for point in points()[first + 1 : last + 1]:
                tracker.update(point)

    part(0, 8)
    with pytest.warns(LCAWarning, match="from the end of step 6.* the last steps were not measured"):
        part(8, 9)


def test_a_step_that_each_part_misses_is_warned_of_each_time(tmp_path):
    for first in (0, 5, 10):
        measured(tmp_path / "r", PROBE, first, first + 4, mode="a")
        with pytest.warns(
            LCAWarning, match=f"continues at step {first + 5} and has no row for step {first + 4}"
        ):
            Record(tmp_path / "r", mode="a", resume_at=first + 5).close()


def test_other_data_and_another_span_are_told_at_once(tmp_path):
    tracked(PROBE, 5, Record(tmp_path / "r"))
    losses = {"train": LOSSES["train"], "heldout": LOSSES["train"]}
    record = Record(tmp_path / "r", mode="a")
    with pytest.warns(LCAWarning, match="'heldout' of .* on 20 examples, and that of the run on 40 examples"):
        FunctionalTracker(points()[5], losses, PROBE, record=record)
    with pytest.raises(lca.record.RecordError, match="with span=1 and cannot be continued with span=4"):
        FunctionalTracker(points()[5], LOSSES, PROBE, record=record, span=4)


def test_new_settings_are_added_and_another_value_is_told(tmp_path):
    measured(tmp_path / "r", PROBE, 0, 3, settings={"lr": 0.1, "shape": (4, 6)})
    passed = {"lr": 0.2, "shape": (4, 6), "host": "b"}
    with pytest.warns(LCAWarning, match=r"settings\['lr'\] is 0\.1 in .* which keeps it, but 0\.2") as told:
        record = Record(tmp_path / "r", mode="a", settings=passed)
    assert len(told) == 1
    with record:
        record.begin(LOSSES["train"].layout, settings={"rank": 3, "host": "c"})
    assert open_record(tmp_path / "r").attrs["settings"] == {
        "lr": 0.1, "shape": [4, 6], "host": "b", "rank": 3
    }  # fmt: skip
    assert check_record(tmp_path / "r").whole


def test_settings_and_estimator_are_those_of_the_rows_that_are_measured_again(tmp_path):
    measured(tmp_path / "r", PROBE, 0, 3, settings={"lr": 0.1, "note": "kept"})
    run = measured(tmp_path / "r", Adaptive(), 0, 3, mode="a", resume_at=0, settings={"lr": 0.2})
    assert run.attrs["settings"] == {"lr": 0.2, "note": "kept"}
    assert run.attrs["estimator"] == repr(Adaptive())


@pytest.mark.parametrize("written", [False, True])
def test_a_writer_that_is_killed_while_it_adds_settings_leaves_a_whole_record(tmp_path, monkeypatch, written):
    measured(tmp_path / "r", PROBE, 0, 3, settings={"lr": 0.1})
    append = Manifest.append

    def killed(self, record, **entry):
        if written and "redescribing" in entry:
            append(self, record, **entry)
        elif {"redescribing", "descriptions"} & entry.keys():
            raise KeyboardInterrupt
        else:
            append(self, record, **entry)

    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            Record(tmp_path / "r", mode="a", settings={"host": "b"})
    found = {"lr": 0.1, "host": "b"} if written else {"lr": 0.1}
    assert open_record(tmp_path / "r").attrs["settings"] == found
    assert check_record(tmp_path / "r").whole
    run = measured(tmp_path / "r", PROBE, 3, 5, mode="a", settings={"host": "b"})
    assert run.attrs["settings"] == {"lr": 0.1, "host": "b"}


def test_a_trainer_that_continues_by_itself_says_at_which_step(tmp_path):
    def resumed(updates, at):
        record = Record(tmp_path / "r", mode="a")
        tracker = FunctionalTracker(points()[at], LOSSES, PROBE, record=record, on_error="raise")
        tracker._follow_trainer(updates)
        with record, tracker:
            return tracker.steps

    with pytest.warns(LCAWarning, match="continues at step 7 and has no rows for steps 0 to 6"):
        assert resumed(7, at=7) == 7  # the writer was killed before its first block
    measured(tmp_path / "r", PROBE, 0, 5)
    assert resumed(0, at=0) == 5  # it has just begun
    assert resumed(105, at=5) == 5  # it counts other updates as well
    with pytest.raises(lca.record.RecordError, match=r"after 3 updates.* to step 4; pass resume_at=3"):
        resumed(3, at=3)
    with Record(tmp_path / "r", mode="a") as record:
        record.add_metrics({"accuracy": 0.5}, step=7)
    with pytest.warns(LCAWarning, match=r"continues at step 7 and has no rows for steps 5 to 6"):
        assert resumed(7, at=7) == 7
    assert open_record(tmp_path / "r").attrs["metrics"]["accuracy"]["step"] == [7]


@pytest.mark.parametrize("mode", [None, "x", "w"])
def test_a_new_record_counts_from_the_updates_of_a_trainer_that_resumes(tmp_path, mode):
    record = None if mode is None else Record(tmp_path / "r", mode=mode)
    tracker = FunctionalTracker(points()[7], LOSSES, PROBE, record=record, on_error="raise", every=2)
    tracker._follow_trainer(7)
    with tracker:
        for point in points()[8:11]:
            tracker.update(point)
    assert tracker.steps == 10
    assert tracker.views["train"].trace.rows["step"].tolist() == [8]
    if record is not None:
        assert open_record(tmp_path / "r").step.values.tolist() == [8]
        with pytest.warns(LCAWarning, match="continues at step 12 and has no rows for steps 9 to 11"):
            Record(tmp_path / "r", mode="a", resume_at=12).close()


def test_the_bar_counts_the_steps_before_the_run_in_its_total(tmp_path):
    def totals(record, made, span=1):
        tracker = FunctionalTracker(points()[7], LOSSES, Adaptive(), record=record, progress=6, span=span)
        tracker._follow_trainer(made)
        with tracker:
            bar = tracker._session.live._bar._bar
            found = bar.n, bar.total
            tracker.expect(4)
            return (*found, bar.total)

    measured(tmp_path / "r", Adaptive(), 0, 7)
    assert totals(None, 0) == (0, 6, 4)
    assert totals(None, 7) == (7, 13, 11)
    assert totals(None, 7, span=2) == (0, 3, 2)
    assert totals(Record(tmp_path / "r", mode="a"), 0) == (7, 13, 11)
    assert totals(Record(tmp_path / "r", mode="a"), 105) == (7, 13, 11)  # it counts other updates as well


def test_a_continued_run_draws_other_samples_than_its_beginning(tmp_path):
    """Errors of both parts are independent, as their error bars take them to be."""
    still = np.array([points()[0], points()[1]])
    steps = [lca.Step(*still, index=index) for index in (0, 7)]
    first, later = (
        next(iter(allocate_each({"train": LOSSES["train"]}, [step], PROBE)))["train"] for step in steps
    )
    assert not np.array_equal(first.values, later.values)


def test_a_tracker_says_what_a_loss_is_measured_on(tmp_path):
    run = tracked(PathIntegral(), 2, Record(tmp_path / "r", settings={"note": "mine"}))
    known = {"train": "40 examples", "heldout": "20 examples"}
    assert run.attrs["settings"]["measured_on"] == known
    mine = Record(tmp_path / "own", settings={"measured_on": {"train": "my own words"}})
    assert tracked(PathIntegral(), 2, mine).attrs["settings"]["measured_on"] == {"train": "my own words"}
