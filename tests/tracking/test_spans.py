"""Straight lines over several updates: states, chosen lines, errors, and records that go on."""

import numpy as np
import pytest

import lca
from lca.errors import LCAWarning
from lca.estimators import SampledPathIntegral
from lca.reference import DatasetLoss, Quadratic, logistic_regression
from lca.tolerances import EPS64, summed
from lca.tracking import FunctionalTracker
from tests.tracking.test_moving_state import POINTS, Moving, value
from tests.tracking.test_self_check import BOWL, Stated, path, tracked

SIMPSON = lca.PathIntegral(lca.SIMPSON)


def test_a_line_is_taken_in_the_state_of_its_first_update():
    loss, points = Stated(np.diag([1.0, 2.0, 3.0])), path(BOWL, 5)
    with FunctionalTracker(points[0], loss, SIMPSON, span=2, on_error="raise") as tracker:
        for t, point in enumerate(points[1:]):
            loss.scale = 1.0 + t
            tracker.update(point)
    rows = tracker.views["train"].trace.rows
    ends, first, losses = [1.0, 2.0, 4.0, 5.0], [1.0, 3.0, 5.0], [BOWL.loss(points[t]) for t in (0, 2, 4, 5)]
    for k, row in enumerate(rows):
        assert row["loss_start"] == ends[k] * losses[k]
        assert row["loss_end"] == ends[k + 1] * losses[k + 1]
        limit = summed(8 * ends[k + 1] * losses[0], EPS64)
        assert abs(row["total"] - first[k] * (losses[k + 1] - losses[k])) <= limit
        moved = (first[k] - ends[k]) * losses[k] + (ends[k + 1] - first[k]) * losses[k + 1]
        assert abs(row["state_change"] - moved) <= limit
    assert len(rows) == 3


def test_a_line_of_samples_is_checked_like_a_step():
    loss = DatasetLoss(logistic_regression(2, 2), np.eye(2), np.array([0, 1]))
    points = path(loss, 7)
    estimator = SampledPathIntegral(size=8, micro_batches=2)
    summary = tracked(estimator, loss, points=points, span=3, check_every=1).summary()["train"]
    changes = [window["change"] for window in summary["checked_windows"]]
    losses = [loss.loss(points[t]) for t in (0, 3, 6, 7)]
    assert np.abs(changes - np.diff(losses)).max() <= summed(1.0, EPS64)


def test_updates_are_measured_on_lines_one_two_four_and_so_on(tmp_path):
    tracked(SIMPSON, steps=2 * 20, span=2, record=tmp_path / "run")
    difference = lca.open_record(tmp_path / "run").path_difference.values[:, 0]
    assert (np.flatnonzero(np.isfinite(difference)) + 1).tolist() == [1, 2, 4, 8, 16]
    assert tracked(SIMPSON, steps=2, span=5).summary()["train"]["path_difference_steps"] == 1


def test_updates_are_measured_again_after_the_longest_gap(tmp_path, monkeypatch):
    monkeypatch.setattr("lca.tracking._spans.LONGEST", 3)
    tracked(SIMPSON, steps=2 * 13, span=2, record=tmp_path / "run")
    difference = lca.open_record(tmp_path / "run").path_difference.values[:, 0]
    assert (np.flatnonzero(np.isfinite(difference)) + 1).tolist() == [1, 2, 3, 4, 6, 8, 9, 12]


def test_a_line_that_is_not_measured_is_in_no_sum_and_costs_nothing():
    class Counting(Quadratic):
        calls = 0

        def loss_and_grad(self, theta, batch=None):
            self.calls += 1
            return super().loss_and_grad(theta)

    loss, points = Counting(np.diag([1.0, 2.0, 3.0])), path(BOWL, 11)
    tracker = tracked(SIMPSON, loss, points=points, span=2, every=lambda line: line == 3)
    assert tracker.steps == 11
    [row] = tracker.views["train"].trace.rows
    assert (row["step"], row["loss_start"], row["loss_end"]) == (
        3,
        BOWL.loss(points[6]),
        BOWL.loss(points[8]),
    )
    tests = 2 + 2 + 1  # of both sessions at their first step, and of the second at its second step
    assert loss.calls == 3 + 5 + tests + 1  # the line, its updates, and the loss at the end of the run
    summary = tracker.summary()["train"]
    assert summary["unmeasured_change"] == BOWL.loss(points[11]) - BOWL.loss(points[8])


def test_a_continued_record_counts_lines(tmp_path):
    tracked(SIMPSON, steps=5, span=2, record=tmp_path / "run")
    with pytest.warns(LCAWarning, match="training did not continue from the end of step 2"):
        again = tracked(SIMPSON, steps=4, span=2, record=lca.Record(tmp_path / "run", mode="a"))
    found = lca.open_record(tmp_path / "run")
    assert found.step.values.tolist() == [0, 1, 2, 3, 4]
    assert np.isfinite(found.path_difference.values[:, 0]).tolist() == [True, True, False, True, True]
    assert again.steps == 4


def test_an_error_in_a_line_ends_the_measuring_and_not_the_training():
    points = [*path(BOWL, 5), np.full(3, np.nan), np.zeros(3), np.zeros(3)]
    with pytest.warns(LCAWarning, match="measuring stopped at step 2, training goes on: NonFiniteError"):
        tracker = tracked(SIMPSON, points=points, span=2, on_error="warn")
    assert (tracker.steps, tracker.summary()["train"]["steps"]) == (8, 2)


def test_a_run_that_ends_in_an_error_does_not_measure_its_last_line():
    points = path(BOWL, 3)
    tracker = FunctionalTracker(points[0], BOWL, SIMPSON, span=2, on_error="raise").__enter__()
    for point in points[1:]:
        tracker.update(point)
    tracker.close(complete=False)
    assert tracker.summary()["train"]["loss_end"] == BOWL.loss(points[2])


def test_the_lines_that_are_measured_count_for_the_comparison():
    """With every second line, those of even number are never measured."""
    summary = tracked(SIMPSON, steps=2 * 16, span=2, every=2).summary()["train"]
    assert (summary["steps"], summary["path_difference_steps"]) == (
        8,
        4,
    )  # the 1st, 2nd, 4th and 8th measured


def test_a_line_that_ends_late_ends_in_the_state_of_its_last_update():
    loss = Moving()
    with FunctionalTracker(POINTS[0], loss, SIMPSON, span=5, on_error="raise") as tracker:
        for point in POINTS[1:]:
            tracker.update(point)
        loss.c[...] = 7.0  # after the last update: no part of the line
        with pytest.warns(
            LCAWarning, match="the state that the loss depends on changed after the last update"
        ):
            tracker.close()
    [row] = tracker.views["train"].trace.rows
    summary = tracker.summary()["train"]
    assert row["loss_end"] == value(POINTS[-1], 1.0, 0.0)
    assert summary["loss_end"] == value(POINTS[-1], 7.0, 0.0)
    assert summary["state_change"] == 0


def test_a_record_that_goes_on_where_it_ended_keeps_what_its_first_line_says(tmp_path):
    points = path(BOWL, 8)
    for part in (points[:5], points[4:]):
        mode = "x" if part is not points[4:] and not (tmp_path / "run").exists() else "a"
        record = lca.Record(tmp_path / "run", mode=mode)
        with FunctionalTracker(part[0], BOWL, SIMPSON, span=2, record=record, on_error="raise") as tracker:
            for point in part[1:]:
                tracker.update(point)
    difference = lca.open_record(tmp_path / "run").path_difference.values[:, 0]
    assert np.isfinite(difference).tolist() == [True, True, True, True]
