"""The laws of trackers, for every framework: a plain NumPy loop, torch and TensorFlow.

`LAWS` hold for all trackers, `MODEL_LAWS` for those of ``(model, optimizer, objective)``. Each takes a
framework (`tests.laws.runs`) and an empty folder.
"""

import re

import numpy as np
import pytest

import lca
from lca import LEFT, RIGHT, SIMPSON, TRAPEZOID, tolerances
from lca.analysis import checked_windows, group_names, group_totals
from lca.errors import LayoutError, LCAError, LCAWarning, NonFiniteError
from lca.estimators import (
    ControlVariate,
    CrossFit,
    LaggedCrossFit,
    NextBatch,
    SameBatch,
    SampledPathIntegral,
)
from lca.reference import DatasetLoss
from lca.tolerances import EPS64
from lca.views import GroupTotals, Trace
from tests.laws.runs import (
    BATCHES,
    NETWORK,
    OPTIMIZERS,
    Kept,
    KeptLog,
    Shown,
    X,
    Y,
    reference_allocations,
    reference_steps,
)

RULE = lca.PathIntegral(SIMPSON)
REFERENCE = DatasetLoss(NETWORK, X, Y)
IMPORTANCE = SampledPathIntegral(size=4, sampling="importance")


def tracked(framework, estimator=RULE, *, update=None, batches=BATCHES, **options):
    """A run over ``batches`` under a tracker that raises errors and keeps allocations."""
    run = framework.run(estimator, **{"on_error": "raise", "views": Kept, **options})
    with run.tracker:
        for batch in batches:
            run.update(batch, **(update or {}))
    return run


def rows_of(run):
    return run.tracker.views["train"].rows


def measured_steps(run):
    return [row.step for row in rows_of(run)]


# --- steps -----------------------------------------------------------------------------------------------


def every_update_is_a_step_from_where_the_last_one_ended(framework, folder):
    run = framework.run(RULE, on_error="raise")
    first = run.objective.loss(run.theta())
    with run.tracker as tracker:
        for batch in BATCHES:
            run.update(batch)
    trace = tracker.views["train"].trace.rows
    assert trace["step"].tolist() == list(range(5))
    assert trace["loss_start"][0] == first
    assert trace["loss_start"][1:].tolist() == trace["loss_end"][:-1].tolist()
    assert trace["loss_end"][-1] == run.objective.loss(run.theta())
    assert (trace["full_gradients"][1:] == 2).all()  # what was computed at the end is reused at the start
    assert np.abs(trace["residual"]).max() < 1e-3 * trace["mass"].max()
    assert (tracker.steps, tracker.discontinuities, tracker.skipped_steps, tracker.error) == (5, 0, 0, None)
    assert tracker.summary()["train"]["steps"] == 5


def training_is_the_same_bit_for_bit(framework, folder):
    for estimator, pieces in ((RULE, 1), (SameBatch(), 2), (NextBatch(), 2), (CrossFit(2), 2)):
        for optimizer in OPTIMIZERS:
            run = tracked(framework, estimator, update={"pieces": pieces}, optimizer=optimizer)
            plain = framework.untracked(optimizer=optimizer)
            for batch in BATCHES:
                plain.update(batch, pieces=pieces)
            for ours, theirs in zip(run.left(), plain.left(), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def only_the_steps_asked_for_are_measured(framework, folder):
    for every, expected in ((2, [0, 2, 4]), (3, [0, 3]), (lambda step: step in (1, 2), [1, 2])):
        run = tracked(framework, every=every)
        assert measured_steps(run) == expected
        assert (run.tracker.steps, run.tracker.discontinuities) == (5, 0)


def a_step_between_unmeasured_ones_starts_at_the_parameters_before_it(framework, folder):
    all_rows, few = rows_of(tracked(framework)), rows_of(tracked(framework, every=2))
    for row in few:
        np.testing.assert_array_equal(np.asarray(row.values), np.asarray(all_rows[row.step].values))


def the_schedule_is_asked_once_a_step(framework, folder):
    asked = []
    tracked(framework, every=lambda step: asked.append(step) or True)
    assert asked == list(range(6))  # five steps, and whether a sixth would be measured


def parameters_changed_between_updates_are_a_discontinuity(framework, folder):
    run = framework.run(RULE, on_error="raise")
    with run.tracker as tracker:
        run.update(BATCHES[0])
        run.update(BATCHES[1])
        run.displace(0.1)
        with pytest.warns(LCAWarning, match=r"changed between steps 1 and 2.*attribute discontinuities"):
            run.update(BATCHES[2])
        run.update(BATCHES[3])
    trace = tracker.views["train"].trace.rows
    assert (tracker.steps, tracker.discontinuities) == (4, 1)
    assert trace["loss_start"][2] != trace["loss_end"][1]
    assert trace["loss_start"][3] == trace["loss_end"][2]
    summary = tracker.summary()["train"]
    assert summary["unmeasured_change"] == trace["loss_start"][2] - trace["loss_end"][1]


def a_displacement_that_moves_nothing_is_no_discontinuity(framework, folder):
    run = framework.run(RULE, on_error="raise")
    with run.tracker as tracker:
        for batch in BATCHES:
            run.update(batch)
            run.displace(0.0)
    assert (tracker.steps, tracker.discontinuities) == (5, 0)


def several_losses_and_terms_are_measured_along_one_run(framework, folder):
    run = framework.run()
    loss = run.objective
    losses = {"both": lca.Sum({"one": loss, "half": lca.Scaled(loss, 0.5)}), "alone": loss}
    run.tracker = run.tracker_of(losses, RULE, on_error="raise")
    with run.tracker as tracker:
        run.update(BATCHES[0])
    summary = tracker.summary()
    assert set(summary) == {"both", "both/one", "both/half", "alone"}
    assert summary["both"]["loss_end"] == 1.5 * summary["alone"]["loss_end"]
    assert summary["both/one"]["per_tensor"] == summary["alone"]["per_tensor"]


# --- the self-check of sampled estimators ----------------------------------------------------------------


def points_of(
    framework, estimator=RULE, *, update=None, batches=BATCHES, after=lambda run, t: None, **options
):
    """A run under a tracker with its default views, and the parameters before and after every update."""
    run = framework.run(estimator, **{"on_error": "raise", **options})
    points = [np.array(run.numpy(run.theta()))]
    with run.tracker:
        for t, batch in enumerate(batches):
            run.update(batch, **(update or {}))
            points.append(np.array(run.numpy(run.theta())))
            after(run, t)
    return run, points


def losses_at(points):
    return [REFERENCE.loss(point) for point in points]


CHECKED = [
    (SampledPathIntegral(size=30, micro_batches=2), 1, 5),
    (SampledPathIntegral(size=30), 1, 5),
    (SameBatch(), 1, 5),
    (NextBatch(), 1, 4),
    (CrossFit(2), 2, 4),
]
"""Estimators, pieces of a batch, and how many of five steps they measure."""


def sampled_sums_are_compared_with_the_change_of_the_loss(framework, folder):
    for number, (estimator, pieces, steps) in enumerate(CHECKED):
        path = folder / str(number) if number in (0, 3) else None
        run, points = points_of(framework, estimator, update={"pieces": pieces}, check_every=2, record=path)
        losses, summary = losses_at(points), run.tracker.summary()["train"]
        ends = sorted({0, 2, 4, steps})
        totals = run.tracker.views["train"].trace.rows["total"]
        windows = summary["checked_windows"]
        limit = tolerances.summed(summary["mass"] + max(losses), EPS64)
        assert [(w["first_step"], w["last_step"] + 1) for w in windows] == list(
            zip(ends, ends[1:], strict=False)
        )
        for window, first, end in zip(windows, ends, ends[1:], strict=False):
            assert abs(window["change"] - (losses[end] - losses[first])) <= limit
            assert abs(window["total"] - totals[first:end].sum()) <= limit
        assert summary["checked_steps"] == steps
        assert abs(summary["checked_change"] - (losses[steps] - losses[0])) <= limit
        assert abs(summary["checked_total"] - summary["lca_total"]) <= limit
        if path is not None:
            recorded, margin = checked_windows(lca.open_record(path))
            assert [vars(w) | {"margin": none_for_nan(w.margin)} for w in recorded] == windows
            assert none_for_nan(margin) == summary["checked_margin"]
        bars = getattr(estimator, "micro_batches", 1) > 1 and isinstance(estimator, SampledPathIntegral)
        assert (summary["checked_margin"] is not None) == bars


def none_for_nan(number):
    return None if np.isnan(number) else number


def the_default_check_is_at_both_ends_of_a_short_run(framework, folder):
    run, points = points_of(framework, SameBatch())
    [window] = run.tracker.summary()["train"]["checked_windows"]
    assert (window["first_step"], window["last_step"]) == (0, 4)
    without = points_of(framework, SameBatch(), check_every=None)[0].tracker.summary()["train"]
    assert (without["checked_windows"], without["checked_change"], without["checked_steps"]) == ([], None, 0)
    full = points_of(framework, RULE)[0].tracker.summary()["train"]
    assert not [key for key in full if key.startswith("checked")]


def checks_leave_training_and_values_as_they_are(framework, folder):
    for every in (None, 1, "doubling"):
        run = tracked(framework, SampledPathIntegral(size=30), check_every=every)
        plain = framework.untracked()
        for batch in BATCHES:
            plain.update(batch)
        for ours, theirs in zip(run.left(), plain.left(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        found = [run.numpy(row.values) for row in rows_of(run)]
        if every is None:
            values = found
        np.testing.assert_array_equal(found, values)


def a_window_ends_where_a_step_is_missing(framework, folder):
    def windows(**options):
        run, points = points_of(framework, **options)
        found = run.tracker.summary()["train"]["checked_windows"]
        losses = losses_at(points)
        for w in found:
            change = losses[w["last_step"] + 1] - losses[w["first_step"]]
            assert abs(w["change"] - change) <= tolerances.summed(max(losses), EPS64)
        return [(w["first_step"], w["last_step"]) for w in found]

    def chosen(step):
        return step != 2

    probe = SampledPathIntegral(size=30)
    assert windows(estimator=probe, every=chosen, check_every=1) == [(0, 0), (1, 1), (3, 3), (4, 4)]
    assert windows(estimator=probe, every=chosen, check_every=3) == [(0, 1), (4, 4)]
    assert windows(estimator=probe, every=2, check_every=1) == [(0, 0), (2, 2), (4, 4)]
    assert windows(estimator=NextBatch(), every=chosen, check_every=3) == [(0, 1)]
    assert windows(estimator=NextBatch(), every=chosen) == [(0, 1), (3, 3)]


def a_displacement_is_part_of_no_window(framework, folder):
    def displace(run, t):
        if t == 1:
            run.displace(0.25)

    for estimator, last in ((SampledPathIntegral(size=30), 1), (NextBatch(RIGHT), 0)):
        with pytest.warns(LCAWarning, match="changed between steps 1 and 2"):
            run, points = points_of(framework, estimator, after=displace)
        losses = losses_at(points)
        window, *later = run.tracker.summary()["train"]["checked_windows"]
        assert (window["first_step"], window["last_step"]) == (0, last)
        assert all(other["first_step"] > 1 for other in later)
        change = losses[last + 1] - losses[0]
        assert abs(window["change"] - change) <= tolerances.summed(max(losses), EPS64)


# --- straight lines over several updates -----------------------------------------------------------------


def a_span_is_the_straight_line_between_its_ends(framework, folder):
    for span, ends in ((2, [0, 2, 4, 5]), (5, [0, 5]), (7, [0, 5])):
        run, points = points_of(framework, RULE, span=span, record=folder / f"{span}")
        summary, losses = run.tracker.summary()["train"], losses_at(points)
        expected = list(lca.allocate(REFERENCE, lca.Trajectory([points[end] for end in ends]), RULE))
        rows = run.tracker.views["train"].trace.rows
        assert (run.tracker.steps, run.tracker.discontinuities) == (5, 0)
        assert rows["step"].tolist() == list(range(len(ends) - 1))
        limit = tolerances.allocation(summary["mass"] + max(losses), EPS64)
        for row, wanted in zip(rows, expected, strict=True):
            assert abs(row["total"] - wanted.values.sum()) <= limit
            assert abs(row["residual"] - wanted.residual) <= limit
        change = summary["lca_total"] + summary["residual"]
        assert abs(change - (losses[-1] - losses[0])) <= limit
        assert (summary["unmeasured_change"], summary["span"]) == (0, span)
        found = lca.open_record(folder / f"{span}")
        assert found.attrs["settings"]["span"] == span
        assert found.attrs["complete"]


def lines_are_compared_with_their_updates(framework, folder):
    run, points = points_of(framework, RULE, span=2, record=folder / "run")
    summary, layer = run.tracker.summary()["train"], REFERENCE.layout.groups("layer")

    def layers(trajectory):
        return np.array([layer.total(a.values) for a in lca.allocate(REFERENCE, trajectory, RULE)])

    single, lines = layers(lca.Trajectory(points)), layers(lca.Trajectory([points[t] for t in (0, 2, 4, 5)]))
    path = np.add.reduceat(single, [0, 2, 4])
    audited, limit = (
        slice(0, 2),
        tolerances.allocation(8 * summary["mass"] / np.abs(path[:2]).sum(1).min(), EPS64),
    )
    wanted = np.abs((lines - path)[audited].sum(0)).sum() / np.abs(path[audited].sum(0)).sum()
    assert abs(summary["path_difference"] - wanted) <= limit
    assert summary["path_difference_steps"] == 2  # the first and the second of three lines
    each = lca.open_record(folder / "run").path_difference.sel(measured="train").values
    assert np.abs(each[:2] - (np.abs(lines - path).sum(1) / np.abs(path).sum(1))[:2]).max() <= limit
    assert np.isnan(each[2])
    gradients = run.tracker.views["train"].trace.rows["full_gradients"]
    assert gradients.tolist() in (
        [3 + 5, 2 + 4, 2],
        [3 + 5, 2 + 5, 2],
    )  # with those of the updates under a line


def a_span_leaves_training_as_it_is(framework, folder):
    for optimizer in OPTIMIZERS:
        run = tracked(framework, RULE, span=2, optimizer=optimizer)
        plain = framework.untracked(optimizer=optimizer)
        for batch in BATCHES:
            plain.update(batch)
        for ours, theirs in zip(run.left(), plain.left(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def a_line_ends_where_something_else_moves_the_parameters(framework, folder):
    def displace(run, t):
        if t == 2:
            run.displace(0.25)

    with pytest.warns(LCAWarning, match="changed between the lines of span=2 with the numbers 1 and 2"):
        run, points = points_of(framework, RULE, span=2, after=displace)
    losses, rows = losses_at(points), run.tracker.views["train"].trace.rows
    limit = tolerances.summed(max(losses), EPS64)
    for row, start, end in ((0, 0, 2), (1, 2, 3), (2, None, 5)):  # the lines 0-2, 2-3 and 3-5
        assert abs(rows["loss_end"][row] - losses[end]) <= limit
        assert start is None or abs(rows["loss_start"][row] - losses[start]) <= limit
    assert (len(rows), run.tracker.steps, run.tracker.discontinuities) == (3, 5, 1)
    summary = run.tracker.summary()["train"]
    assert abs(summary["unmeasured_change"] - (rows["loss_start"][2] - losses[3])) <= limit


def a_change_after_the_last_update_is_part_of_no_line(framework, folder):
    def displace(run, t):
        if t == 4:
            run.displace(0.25)

    with pytest.warns(LCAWarning, match="the parameters changed after the last update"):
        run, points = points_of(framework, RULE, span=2, after=displace)
    losses, rows = losses_at(points), run.tracker.views["train"].trace.rows
    assert abs(rows["loss_end"][-1] - losses[5]) <= tolerances.summed(max(losses), EPS64)
    summary = run.tracker.summary()["train"]
    end = run.objective.loss(run.theta())
    assert abs(summary["unmeasured_change"] - (end - losses[5])) <= tolerances.summed(max(losses), EPS64)


def lines_are_chosen_by_every(framework, folder):
    run = tracked(framework, RULE, span=2, every=2)
    assert (measured_steps(run), run.tracker.steps) == ([0, 2], 5)


# --- step fields -----------------------------------------------------------------------------------------

ESTIMATORS = [
    (SameBatch(), 1),
    (NextBatch(LEFT), 1),
    (NextBatch(RIGHT), 1),
    (NextBatch(SIMPSON), 1),
    (CrossFit(2), 2),
    (CrossFit(2, LEFT), 2),
    (CrossFit(2, TRAPEZOID, independent=True), 2),
    (LaggedCrossFit(), 1),
    (LaggedCrossFit(epoch=5), 2),
    (SampledPathIntegral(size=30), 1),
    (ControlVariate(SampledPathIntegral(size=30), every=3), 1),
    (SampledPathIntegral(size=20, sampling="stratified"), 1),
]


def allocations_are_those_of_the_reference_loop(framework, folder):
    for estimator, pieces in ESTIMATORS:
        for optimizer in framework.optimizers:
            scores = "scores" in estimator.required_fields
            update = {"pieces": pieces, "scores": scores}
            run = tracked(framework, estimator, update=update, optimizer=optimizer)
            expected = reference_allocations(estimator, optimizer, pieces, scores=scores)
            delayed = int(any(name.startswith("next_") for name in estimator.required_fields))
            assert (run.tracker.steps, run.tracker.skipped_steps, run.tracker.discontinuities) == (
                5,
                delayed,
                0,
            )
            assert measured_steps(run) == [row.step for row in expected] == list(range(5 - delayed))
            for row, wanted in zip(rows_of(run), expected, strict=True):
                limit = tolerances.allocation(wanted.mass, EPS64)
                assert np.abs(run.numpy(row.values) - wanted.values).max() <= limit, estimator
                assert abs(row.mass - wanted.mass) <= limit
                assert row.cost == wanted.cost
                for key, copies in wanted.replicates.items():
                    for ours, theirs in zip(row.replicates[key], copies, strict=True):
                        limit = tolerances.allocation(np.abs(theirs).sum(), EPS64)
                        assert np.abs(run.numpy(ours) - theirs).max() <= limit


def step_fields_are_those_of_the_reference_loop(framework, folder):
    fields = ("batch", "gradient", "micro_batches", "update_slope", "scores")
    estimator = Shown((*fields, "next_batch", "next_gradient", "next_micro_batches"))
    for optimizer in framework.optimizers:
        estimator.steps.clear()
        run = tracked(framework, estimator, update={"pieces": 2, "scores": True}, optimizer=optimizer)
        expected = reference_steps(estimator, optimizer, 2, scores=True)
        assert len(estimator.steps) == len(expected) == 4
        for step, wanted in zip(estimator.steps, expected, strict=True):
            for name in ("start", "end", "gradient", "next_gradient"):
                assert_close(run, getattr(step, name), getattr(wanted, name))
            assert_close(run, step.update_slope * step.gradient, wanted.update_slope * wanted.gradient)
            for name in ("batch", "next_batch"):
                (x, y), known = run.examples(getattr(step, name)), getattr(wanted, name)
                order, same = np.argsort(x[:, 0]), np.argsort(known.x[:, 0])
                np.testing.assert_array_equal(x[order], known.x[same])
                np.testing.assert_array_equal(y[order], known.y[same])
            for name in ("micro_batches", "next_micro_batches"):
                for ours, theirs in zip(getattr(step, name), getattr(wanted, name), strict=True):
                    assert_close(run, ours.gradient, theirs.gradient)
                    assert_close(run, ours.update, theirs.update)
            assert sorted(step.scores.index) == sorted(wanted.scores.index)
            for index, value in zip(step.scores.index, step.scores.values, strict=True):
                [same] = wanted.scores.values[wanted.scores.index == index]
                assert abs(value - same) <= tolerances.gradient(1.0, EPS64)


def assert_close(run, ours, theirs):
    """Parameters and movements, differences of parameters of order 1."""
    assert np.abs(run.numpy(ours) - theirs).max() <= tolerances.gradient(4.0, EPS64)


def every_other_step_still_gets_its_next_one(framework, folder):
    sparse, dense = tracked(framework, NextBatch(), every=2), tracked(framework, NextBatch())
    assert measured_steps(sparse) == [0, 2]
    for row in rows_of(sparse):
        np.testing.assert_array_equal(np.asarray(row.values), np.asarray(rows_of(dense)[row.step].values))


def a_step_before_a_discontinuity_is_skipped_and_counted(framework, folder):
    run = framework.run(NextBatch(RIGHT), on_error="raise", views=Kept)
    with run.tracker as tracker:
        for t, batch in enumerate(BATCHES):
            if t == 2:
                run.displace(0.1)
                with pytest.warns(LCAWarning, match="steps 1 and 2.* Step 1 is skipped, as are later"):
                    run.update(batch)
            else:
                run.update(batch)
    assert measured_steps(run) == [0, 2, 3]
    assert (tracker.skipped_steps, tracker.discontinuities) == (2, 1)


def a_step_that_lacks_what_others_had_is_skipped_and_counted(framework, folder):
    """A last batch with fewer examples than micro-batches, or a batch left over from accumulation."""
    run = framework.run(CrossFit(2), views=Kept)

    def unequal():
        with run.tracker:
            for t, batch in enumerate(BATCHES):
                run.update(batch[:1] if t == 2 else batch, pieces=2)

    with pytest.warns(LCAWarning, match=r"skipped, as are later.*step 2: CrossFit.*Step\.micro_batches"):
        unequal()
    # Step 1 needs only the gradient of the update without micro-batches, and step 4 has no next.
    assert measured_steps(run) == [0, 1, 3]
    assert run.tracker.error is None
    assert (run.tracker.steps, run.tracker.skipped_steps, run.tracker.discontinuities) == (5, 2, 0)


def a_missing_field_is_reported_with_its_source_and_training_goes_on(framework, folder):
    for estimator, field in (
        (NextBatch(LEFT), "next_batch"),
        (CrossFit(2), "micro_batches"),
        (IMPORTANCE, "scores"),
    ):
        run = framework.run(estimator)
        advice = framework.advice[field.removeprefix("next_")]

        def bare(run=run):
            with run.tracker:
                for batch in BATCHES:
                    run.update(batch, known=False)

        with pytest.warns(LCAWarning, match=rf"(?s)stopped at step.*step 0.*Step\.{field}.*{advice}"):
            bare()
        assert run.tracker.steps == 5
        assert isinstance(run.tracker.error, LCAError)

        def raising(estimator=estimator):
            run = framework.run(estimator, on_error="raise")
            with run.tracker:
                run.update(BATCHES[0], known=False)
                run.update(BATCHES[1], known=False)

        with pytest.raises(LCAError, match=advice):
            raising()


# --- errors ----------------------------------------------------------------------------------------------


def failing(framework, on_error, **options):
    run = framework.run(RULE, on_error=on_error, **options)
    with run.tracker:
        run.update(BATCHES[0])
        run.update(BATCHES[1])
        run.fail()
        run.update(BATCHES[3])
    return run.tracker


def an_error_in_measuring_ends_the_measuring_and_not_the_training(framework, folder):
    with pytest.warns(LCAWarning, match="stopped at step 2, training goes on: NonFiniteError: "):
        tracker = failing(framework, "warn", record=folder / "run")
    assert framework.run().objective.layout.names[0] in str(tracker.error)
    assert isinstance(tracker.error, NonFiniteError)
    assert (tracker.steps, tracker.summary()["train"]["steps"]) == (4, 2)
    assert not lca.open_record(folder / "run").attrs["complete"]


def an_error_in_measuring_is_raised_if_asked_for(framework, folder):
    with pytest.raises(NonFiniteError, match="step 2: NaN or Inf in the parameters at the end"):
        failing(framework, "raise", record=folder / "run")
    found = lca.open_record(folder / "run")
    assert (found.sizes["step"], found.attrs["complete"]) == (2, False)


def an_error_at_the_beginning_is_handled_like_any_other(framework, folder):
    def impossible(step):
        raise ZeroDivisionError("no schedule")

    run = framework.run(RULE, every=impossible)
    with pytest.warns(LCAWarning, match="stopped at step 0, training goes on: ZeroDivisionError"):
        run.tracker.__enter__()
    run.update(BATCHES[0])
    run.tracker.__exit__(None, None, None)
    assert run.tracker.steps == 1
    with pytest.raises(LCAError, match=r"no step was measured: ZeroDivisionError: no schedule\.$"):
        run.tracker.summary()
    raising = framework.run(RULE, every=impossible, on_error="raise")
    with pytest.raises(ZeroDivisionError):
        raising.tracker.__enter__()


def an_error_of_a_schedule_in_the_run_ends_the_measuring(framework, folder):
    run = framework.run(RULE, every=lambda step: 1 // (1 - step) > 0, views=Kept)

    def three():
        with run.tracker:
            for batch in BATCHES[:3]:
                run.update(batch)

    with pytest.warns(LCAWarning, match="ZeroDivisionError"):
        three()
    assert (run.tracker.steps, measured_steps(run)) == (3, [0])


def an_error_of_the_loop_passes_through(framework, folder):
    run = framework.run(CrossFit(2), on_error="raise", record=lca.Record(folder / "run"))

    def fail_after_two_steps():
        with run.tracker:
            for batch in BATCHES[:3]:
                run.update(batch, pieces=2)
            raise KeyError("the user's own")

    with pytest.raises(KeyError, match="the user's own"):
        fail_after_two_steps()
    found = lca.open_record(folder / "run")
    assert (found.sizes["step"], found.attrs["complete"]) == (2, False)
    run.tracker.__enter__()  # a tracker that let go can be entered again


# --- records and summaries -------------------------------------------------------------------------------


def a_record_is_written_and_closed(framework, folder):
    run = tracked(framework, CrossFit(2), update={"pieces": 2}, record=folder / "run")
    found = lca.open_record(folder / "run").load()
    assert found.step.values.tolist() == [0, 1, 2, 3]
    assert found.attrs["complete"]
    total = [run.numpy(row.values).sum() for row in rows_of(run)]
    limit = tolerances.summed(max(row.mass for row in rows_of(run)), EPS64)
    assert np.abs(found.total.sel(measured="train").values - total).max() <= limit


def a_continued_record_goes_on_counting(framework, folder):
    def again():
        record = lca.Record(folder / "run", mode="a")
        return tracked(framework, SampledPathIntegral(size=30), record=record).tracker

    assert again().steps == 5
    with pytest.warns(LCAWarning, match="training did not continue from the end of step 4"):  # θ starts anew
        assert again().steps == 10
    found = lca.open_record(folder / "run").load()
    assert found.step.values.tolist() == list(range(10))
    assert found.step[found.displaced].values.tolist() == [5]


def a_summary_says_why_there_is_none(framework, folder):
    run = framework.run(RULE)
    with pytest.raises(LCAError, match="never entered; put the training loop inside `with tracker:`"):
        run.tracker.summary()
    with run.tracker:
        pass
    with pytest.raises(LCAError, match="no step was measured"):
        run.tracker.summary()
    run = framework.run(NextBatch(RIGHT))
    with run.tracker:
        run.update(BATCHES[0])
    with pytest.raises(LCAError, match="no step was measured: 1 skipped, as the estimator requires"):
        run.tracker.summary()
    assert tracked(framework).tracker.summary()  # whatever its views are


def sums_over_groups_add_up_in_summary_and_record(framework, folder):
    groups = {"bias": "bias$", "kind": {"weights": lambda name: not name.endswith("bias")}}
    run = tracked(framework, groups=groups, record=folder / "run")
    summary, record = run.tracker.summary()["train"], lca.open_record(folder / "run")
    tensors, limit = summary["per_tensor"], tolerances.summed(summary["mass"], EPS64)
    biases = sum(total for name, total in tensors.items() if name.endswith("bias"))
    assert list(summary["per_group"]) == ["group", "kind"]
    for division, found in summary["per_group"].items():
        assert abs(sum(found.values()) - summary["lca_total"]) <= limit
        recorded = group_totals(record, division).sum(axis=0)
        assert np.abs(recorded - [found[name] for name in group_names(record, division)]).max() <= limit
    assert abs(summary["per_group"]["group"]["bias"] - biases) <= limit
    assert abs(summary["per_group"]["kind"]["other"] - biases) <= limit


def several_views_are_beside_the_summary(framework, folder):
    run = framework.run(RULE)
    makers = [lambda layout: Trace(), lambda layout: GroupTotals(layout.groups("layer"))]
    run.tracker = run.tracker_of({"train": run.objective}, RULE, on_error="raise", views=makers)
    with run.tracker as tracker:
        run.update(BATCHES[0])
    trace, layers = tracker.views["train"]
    summary = tracker.summary()["train"]
    limit = tolerances.summed(summary["mass"], EPS64)
    assert abs(trace.rows["total"].sum() - summary["lca_total"]) <= limit
    assert abs(layers.totals.sum() - summary["lca_total"]) <= limit


def views_are_made_for_each_loss(framework, folder):
    run = framework.run()
    losses = {"one": run.objective, "two": run.objective}
    tracker = run.tracker_of(losses, views=lambda layout: Trace())
    assert list(tracker.views) == ["one", "two"]
    assert tracker.views["one"] is not tracker.views["two"]


# --- arguments -------------------------------------------------------------------------------------------


def wrong_options_are_refused(framework, folder):
    run = framework.run()
    for options, message in (
        ({"on_error": "ignore"}, "unknown on_error 'ignore'; known: raise, warn"),
        ({"every": 0}, "every must be a positive integer or a function of the step's index, got 0"),
        ({"every": 1.5}, "every must be a positive integer"),
        ({"span": 0}, "span must be a whole number of updates ≥ 1, got 0"),
        (
            {"span": 2, "estimator": CrossFit(2)},
            "span=2 measures straight lines.*requires Step.micro_batches",
        ),
        ({"check_every": 0}, "check_every must be a whole number of steps ≥ 1, 'doubling', or None.*got 0"),
        ({"check_examples": 1}, "check_examples must be a whole number ≥ 2, or None for all data, got 1"),
        ({"estimator": lca.Adaptive}, "expected an Estimator"),
    ):
        with pytest.raises(LCAError, match=message):
            run.tracker_of(run.objective, **options)
    with pytest.raises(LCAError, match="measuring needs at least one objective"):
        run.tracker_of({})
    for wrong in (len, {"train": run.objective, "heldout": len}, type(run.objective)):
        with pytest.raises(LCAError, match="the objective is of type .*; the order is .*Tracker"):
            run.tracker_of(wrong)


def a_tracker_in_use_cannot_be_entered(framework, folder):
    run = framework.run(RULE)
    with run.tracker, pytest.raises(LCAError, match="already in use; make another one"):
        run.tracker.__enter__()


def an_estimate_and_what_is_shown_leave_training_as_it_is(framework, folder):
    logger = KeptLog()
    run = framework.run(RULE, on_error="raise", progress=len(BATCHES), log_to=logger)
    plain = framework.untracked()
    before = np.array(run.theta())
    assert run.tracker.estimate().step_seconds is None
    np.testing.assert_array_equal(np.array(run.theta()), before)
    with run.tracker as tracker:
        for batch in BATCHES:
            run.update(batch)
            plain.update(batch)
            found = tracker.estimate()
    for ours, theirs in zip(run.left(), plain.left(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (tracker.steps, tracker.discontinuities) == (len(BATCHES), 0)
    assert found.steps == len(BATCHES)
    assert found.step_seconds > 0
    assert found.rows[0].name == "this: PathIntegral"
    assert [(step, loss) for step, loss, _ in logger.calls] == [(t, "train") for t in range(len(BATCHES))]
    losses = tracker.views["train"].trace.rows["loss_end"]
    assert [values["loss"] for _, _, values in logger.calls] == losses.tolist()
    assert logger.closed == 1


LAWS = [
    an_estimate_and_what_is_shown_leave_training_as_it_is,
    every_update_is_a_step_from_where_the_last_one_ended,
    training_is_the_same_bit_for_bit,
    only_the_steps_asked_for_are_measured,
    a_step_between_unmeasured_ones_starts_at_the_parameters_before_it,
    the_schedule_is_asked_once_a_step,
    parameters_changed_between_updates_are_a_discontinuity,
    a_displacement_that_moves_nothing_is_no_discontinuity,
    several_losses_and_terms_are_measured_along_one_run,
    sampled_sums_are_compared_with_the_change_of_the_loss,
    the_default_check_is_at_both_ends_of_a_short_run,
    checks_leave_training_and_values_as_they_are,
    a_window_ends_where_a_step_is_missing,
    a_displacement_is_part_of_no_window,
    a_span_is_the_straight_line_between_its_ends,
    lines_are_compared_with_their_updates,
    a_span_leaves_training_as_it_is,
    a_line_ends_where_something_else_moves_the_parameters,
    a_change_after_the_last_update_is_part_of_no_line,
    lines_are_chosen_by_every,
    allocations_are_those_of_the_reference_loop,
    step_fields_are_those_of_the_reference_loop,
    every_other_step_still_gets_its_next_one,
    a_step_before_a_discontinuity_is_skipped_and_counted,
    a_step_that_lacks_what_others_had_is_skipped_and_counted,
    a_missing_field_is_reported_with_its_source_and_training_goes_on,
    an_error_in_measuring_ends_the_measuring_and_not_the_training,
    an_error_in_measuring_is_raised_if_asked_for,
    an_error_at_the_beginning_is_handled_like_any_other,
    an_error_of_a_schedule_in_the_run_ends_the_measuring,
    an_error_of_the_loop_passes_through,
    a_record_is_written_and_closed,
    a_continued_record_goes_on_counting,
    a_summary_says_why_there_is_none,
    views_are_made_for_each_loss,
    sums_over_groups_add_up_in_summary_and_record,
    several_views_are_beside_the_summary,
    wrong_options_are_refused,
    a_tracker_in_use_cannot_be_entered,
]


# --- of models and optimizers ----------------------------------------------------------------------------


def what_does_not_belong_together_is_refused(framework, folder):
    Tracker, model, other = framework.Tracker, framework.model(), framework.other_model()
    optimizer, objective = framework.optimizer(model), framework.objective_of(model)
    order = r"the order is Tracker\(model, optimizer, objective\), with a .*, one .* or a list of those that"
    for arguments, name, kind in (
        ((model, [], objective), "optimizer", "list"),
        ((model, [optimizer, objective], objective), "optimizer", "Objective"),
        ((model, objective, optimizer), "optimizer", "Objective"),
        ((optimizer, model, objective), "model", type(optimizer).__name__),
        ((model, optimizer, framework.loss), "objective", type(framework.loss).__name__),
    ):
        with pytest.raises(LCAError, match=f"the {name} is of type {kind}; {order}"):
            Tracker(*arguments)
    for foreign in (framework.optimizer(framework.model()), framework.optimizer(other)):
        with pytest.raises(LCAError, match="the optimizer owns none of the parameters of this Sequential"):
            Tracker(model, foreign, objective)
    with pytest.raises(LayoutError, match="'train' refers to '.*', which are not parameters of the model"):
        Tracker(other, framework.optimizer(other), objective)
    twin = framework.objective_of(framework.model())
    for wrong in (twin, lca.Sum({"half": lca.Scaled(twin, 0.5)})):
        with pytest.raises(LayoutError, match="'heldout' was made from another model of the same form"):
            Tracker(model, optimizer, {"train": objective, "heldout": wrong})


def updates_outside_the_block_are_not_seen(framework, folder):
    run = framework.run(RULE, on_error="raise")
    run.update(BATCHES[0])
    with run.tracker as tracker:
        run.update(BATCHES[1])
    run.update(BATCHES[2])
    assert (tracker.steps, tracker.summary()["train"]["steps"]) == (1, 1)


def accumulated_batches_are_micro_batches(framework, folder):
    estimator = Shown(("batch", "gradient", "micro_batches"))
    run = framework.run(estimator, on_error="raise", views=Kept)
    with run.tracker as tracker:
        run.update(BATCHES[0], BATCHES[1])
        run.update(BATCHES[3], BATCHES[4])
    assert tracker.steps == len(estimator.steps) == 2
    for step in estimator.steps:
        first, second = (run.numpy(part.gradient) for part in step.micro_batches)
        gap = np.abs((first + second) / 2 - run.numpy(step.gradient)).max()
        assert gap <= tolerances.gradient(1.0, EPS64)
        assert not np.array_equal(first, second)
    x, y = run.examples(estimator.steps[1].batch)
    np.testing.assert_array_equal(x, np.concatenate([X[batch] for batch in BATCHES[3:]]))
    np.testing.assert_array_equal(y, np.concatenate([Y[batch] for batch in BATCHES[3:]]))


def an_epoch_of_another_length_than_told_is_warned_of_once(framework, folder):
    def train(epoch, *loaders):
        run = framework.run(Shown(epoch=epoch), on_error="raise", views=Kept)
        with run.tracker as tracker:
            for loader in loaders:
                for batch in tracker.batches(loader):
                    run.update(batch, known=False)

    with pytest.warns(LCAWarning, match="made 5 updates in an epoch, and Shown was given epoch=20") as caught:
        train(20, BATCHES, BATCHES)
    assert len(caught) == 1
    train(5, BATCHES, iter(BATCHES[:3]))  # a stream may be a part of an epoch


def the_rest_of_an_interrupted_epoch_is_not_compared(framework, folder):
    """The loop passes over the batches that were trained on before; the next epoch is compared."""
    run = framework.untracked()

    def train(*passes, done=0):
        record = lca.Record(folder / "run", mode="a")
        run.tracker = run.tracker_of(run.objective, Shown(epoch=20), record=record, on_error="raise")
        with run.tracker as tracker:
            for batches in passes:
                for number, batch in enumerate(tracker.batches(batches)):
                    if number >= done:
                        run.update(batch, known=False)
                done = 0

    train(iter(BATCHES[:2]))
    with pytest.warns(LCAWarning, match="made 4 updates in an epoch, and Shown was given epoch=20") as caught:
        train(BATCHES, BATCHES[1:], done=2)
    assert len(caught) == 1


def clipping_by_norm_is_part_of_the_update_and_not_of_the_gradient(framework, folder):
    found, plain = Shown(("gradient", "micro_batches")), Shown(("gradient", "micro_batches"))
    tracked(framework, plain, update={"pieces": 2}, batches=BATCHES[:1])
    run = tracked(framework, found, update={"pieces": 2, "clip": "norm"})
    lr = OPTIMIZERS["momentum"].lr
    np.testing.assert_array_equal(
        run.numpy(found.steps[0].gradient), run.numpy(plain.steps[0].gradient)
    )  # before it was clipped
    for ours, theirs in zip(found.steps[0].micro_batches, plain.steps[0].micro_batches, strict=True):
        np.testing.assert_array_equal(run.numpy(ours.gradient), run.numpy(theirs.gradient))
        update = run.numpy(theirs.update)
        wanted = lr * 0.01 * update / np.linalg.norm(update)  # clipped without the micro-batch
        assert np.abs(run.numpy(ours.update) - wanted).max() <= 1e-4 * lr * 0.01
    for step, batch in zip(found.steps, BATCHES, strict=True):
        middle = (len(batch) + 1) // 2
        weights = np.array([middle, len(batch) - middle]) / len(batch)
        mean = sum(w * run.numpy(part.gradient) for w, part in zip(weights, step.micro_batches, strict=True))
        assert np.abs(mean - run.numpy(step.gradient)).max() <= tolerances.gradient(1.0, EPS64)


def batches_of_different_sizes_need_their_weights(framework, folder):
    def accumulate(run, *pairs):
        with run.tracker as tracker:
            for first, second in pairs:
                run.update(BATCHES[first], BATCHES[second])
        return tracker

    weights = "update was made from batches that differ in size.*: pass weight= to tracker.batches"
    with pytest.raises(LCAError, match=f"this {weights}"):
        accumulate(framework.run(CrossFit(2), on_error="raise"), (0, 2), (1, 3))
    later = framework.run(CrossFit(2, LEFT), on_error="raise", views=Kept)
    with pytest.warns(LCAWarning, match=f"skipped, as are later.*step 1.*, and {weights[:6]} 1{weights[6:]}"):
        tracker = accumulate(later, (0, 1), (2, 3), (3, 4))
    assert measured_steps(later) == [0, 2]
    assert (tracker.steps, tracker.skipped_steps) == (3, 1)


def a_gradient_that_is_no_multiple_of_the_sum_is_refused(framework, folder):
    with pytest.raises(LCAError, match="not a multiple of the sum over its micro-batches.*clip by norm"):
        tracked(framework, CrossFit(2), update={"pieces": 2, "clip": "value"})


def a_gradient_clipped_by_value_is_that_of_the_loss(framework, folder):
    """Where the estimator does not ask what single examples do in the update."""
    found, plain = Shown(("gradient",)), Shown(("gradient",))
    tracked(framework, found, update={"pieces": 2, "clip": "value"}, batches=BATCHES[:1])
    run = tracked(framework, plain, update={"pieces": 2}, batches=BATCHES[:1])
    np.testing.assert_array_equal(run.numpy(found.steps[0].gradient), run.numpy(plain.steps[0].gradient))


def a_batch_without_an_update_is_forgotten(framework, folder):
    for gradients in (False, True):
        estimator = Shown(("batch", "micro_batches"))
        run = framework.run(estimator, on_error="raise")
        with run.tracker as tracker:
            for t, batch in enumerate(BATCHES[:4]):
                if t % 2:
                    run.give_up(batch, gradients=gradients)
                else:
                    run.update(batch, pieces=2)
        assert tracker.steps == 2
        for step, batch in zip(estimator.steps, BATCHES[:4:2], strict=True):
            np.testing.assert_array_equal(run.examples(step.batch)[0], X[batch])
            assert len(step.micro_batches) == 2


def halves_by_a_pass_of_its_own_are_those_of_a_loop_that_splits(framework, folder):
    """Batches of 12 and of 9, whose halves have unequal weights; clipped or not."""
    for optimizer in framework.optimizers:
        for clip in ("", "norm"):
            split = tracked(framework, CrossFit(2), update={"pieces": 2, "clip": clip}, optimizer=optimizer)
            whole = tracked(framework, CrossFit(2, own_pass=True), update={"clip": clip}, optimizer=optimizer)
            assert measured_steps(whole) == measured_steps(split) == list(range(4))
            for ours, theirs in zip(rows_of(whole), rows_of(split), strict=True):
                # A half is a difference of gradients, and the update of Adam amplifies its error.
                limit = 4096 * tolerances.allocation(theirs.mass, EPS64)
                assert np.abs(run_numpy(whole, ours) - run_numpy(split, theirs)).max() <= limit
                assert ours.cost.batch_gradients == 0.5


def run_numpy(run, row):
    return run.numpy(row.values)


def halves_are_refused_where_the_loss_of_training_is_another(framework, folder):
    run = framework.run(CrossFit(2, own_pass=True), on_error="raise")
    measured = run.tracker._context.gradient_on
    run.tracker._context.gradient_on = lambda batch: 1.01 * measured(batch)

    def one_update():
        with run.tracker:
            run.update(BATCHES[0])

    with pytest.raises(LCAError, match="loss of training is not the measured one on its batch"):
        one_update()


def batches_are_split_into_a_whole_number_of_micro_batches(framework, folder):
    run = framework.run(RULE)
    for n in (0, 1.5):
        with pytest.raises(LCAError, match=f"a whole number of micro-batches ≥ 1, got {n}"):
            next(run.tracker.micro_batches(run.data(BATCHES[0]), n))
    pieces = list(run.tracker.micro_batches(run.data(BATCHES[2]), 2))
    assert [(len(x), weight) for (x, _), weight in pieces] == [(5, 5 / 9), (4, 4 / 9)]
    assert len(list(run.tracker.micro_batches(run.data(BATCHES[0][:3]), 5))) == 3
    with pytest.raises(LCAError, match="cannot be split into micro-batches"):
        next(run.tracker.micro_batches(run.data(BATCHES[0][:0]), 2))
    x, y = run.data(BATCHES[0])
    with pytest.raises(
        LCAError, match=r"requires tensors of one length.* loop over tracker\.batches\(pieces, weight\)"
    ):
        next(run.tracker.micro_batches((x, y[:-1]), 2, weight=len))


def scores_of_another_form_end_the_measuring(framework, folder):
    batch = BATCHES[0]
    logits, labels = np.random.default_rng(1).normal(size=(12, 3)), np.arange(12) % 3
    for arguments, message in (
        ((batch, logits.mean()), r"got scores \(\) with an index int64"),
        ((batch.astype(float), logits, labels), r"with an index float64 \(12,\)"),
        ((logits, batch, labels), r"expects logits \(n, C\).*got outputs \(12,\) and labels \(12,\)"),
        ((batch, logits, labels[:5]), r"outputs \(12, 3\) and labels \(5,\)"),
        ((batch, logits, labels + 1), "labels that are integers from 0 to 2.* got int64 from 1 to 3"),
        ((batch, logits, labels * 0.5), "labels that are integers from 0 to 2.* got float64"),
        ((batch, -(logits[:, 0] ** 2)), r"scores must be ≥ 0, got -\d"),
    ):
        run = framework.run(IMPORTANCE)
        given = [framework.array(np.asarray(argument)) for argument in arguments]
        with run.tracker as tracker:
            with pytest.warns(LCAWarning, match=f"measuring stopped at step 0, training goes on.*{message}"):
                tracker.scores(*given)
            run.update(batch)
        assert tracker.steps == 1


def scores_are_accepted_in_every_form(framework, folder):
    estimator = Shown(("scores",))
    run = framework.run(estimator, on_error="raise")
    logits = np.random.default_rng(1).normal(size=(12, 3))
    labels = np.arange(12) % 3
    errors = 1 - (np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[np.arange(12), labels]
    with run.tracker as tracker:
        for arguments in ((logits, labels), (logits, labels[:, None]), (errors,)):
            tracker.scores(list(BATCHES[0]), *map(framework.array, arguments))
            run.update(BATCHES[0])
        tracker.scores(list(BATCHES[0]), logits, labels)  # of NumPy
        run.update(BATCHES[0])
        left_out = np.arange(12) < 3
        tracker.scores(list(BATCHES[0]), *map(framework.array, (logits, np.where(left_out, -100, labels))))
        run.update(BATCHES[0])
    for step, wanted in zip(estimator.steps, [errors] * 4 + [np.where(left_out, 0, errors)], strict=True):
        assert step.scores.index.tolist() == BATCHES[0].tolist()
        assert np.abs(step.scores.values - wanted).max() <= tolerances.gradient(1.0, EPS64)


def a_record_knows_the_optimizer_the_modules_and_the_versions(framework, folder):
    tracked(framework, record=folder / "run")
    about = lca.open_record(folder / "run").attrs
    assert re.fullmatch(r"SGD\(.*(lr|learning_rate)=0\.\d+.*\)", about["settings"]["optimizer"])
    assert "params" not in about["settings"]["optimizer"]
    assert about["training"]["modules"]
    assert {kind for kind in about["training"]["modules"].values()} <= {"Linear", "Dense"}
    assert {"python", "numpy"} < set(about["training"]["versions"])
    mine = lca.Record(folder / "mine", settings={"optimizer": "my own"})
    tracked(framework, record=mine)
    assert lca.open_record(folder / "mine").attrs["settings"]["optimizer"] == "my own"


MODEL_LAWS = [
    a_record_knows_the_optimizer_the_modules_and_the_versions,
    what_does_not_belong_together_is_refused,
    updates_outside_the_block_are_not_seen,
    accumulated_batches_are_micro_batches,
    an_epoch_of_another_length_than_told_is_warned_of_once,
    the_rest_of_an_interrupted_epoch_is_not_compared,
    clipping_by_norm_is_part_of_the_update_and_not_of_the_gradient,
    batches_of_different_sizes_need_their_weights,
    a_gradient_that_is_no_multiple_of_the_sum_is_refused,
    a_gradient_clipped_by_value_is_that_of_the_loss,
    a_batch_without_an_update_is_forgotten,
    halves_by_a_pass_of_its_own_are_those_of_a_loop_that_splits,
    halves_are_refused_where_the_loss_of_training_is_another,
    batches_are_split_into_a_whole_number_of_micro_batches,
    scores_of_another_form_end_the_measuring,
    scores_are_accepted_in_every_form,
]
