"""The laws of callbacks, for every framework that calls back: Keras, Lightning, transformers, a plain loop.

Each takes a `CallbackFramework` and an empty folder.
"""

import re
import warnings
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any, Protocol

import numpy as np
import pytest

import lca
from lca.errors import LCAError, LCAWarning
from lca.estimators import CrossFit, NextBatch, SampledPathIntegral
from lca.record import close_record
from lca.tolerances import EPS32, summed
from lca.tracking import TrackerBase
from tests.laws.runs import Kept, KeptLog, Shown


class CallbackFramework(Protocol):
    """A short fit that always starts from the same model, and callbacks for it."""

    updates: int
    """How many updates a fit makes."""
    tells_updates: bool
    """Whether the framework tells its callbacks how many updates a fit makes."""
    epoch: int | None
    """How many updates an epoch of the fit has; ``None`` if the fit does not tell."""
    lasts_as_its_call: bool
    """Whether a fit that has failed is known to be over; a loop that calls the callbacks itself may go on."""
    advice: dict[str, str]
    """What the error says about a field of `lca.Step` that is missing, as a regular expression."""

    def callback(self, *, impossible: bool = False, **options: Any) -> Any:
        """A callback with these options; if ``impossible``, making its objective raises an error."""

    def fit(self, callback: Any | None, *, stop_after: int | None = None) -> list[np.ndarray]:
        """Fit with this callback or without one; return the parameters.

        ``stop_after``: raise a `KeyError` in training when so many updates have been made.
        """


@contextmanager
def one_warning(match):
    """Check for one warning of this library, whatever the frameworks warn of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", LCAWarning)
        warnings.filterwarnings("ignore", "the model trains with")
        yield
    [warning] = caught
    assert re.search(match, str(warning.message), re.DOTALL), warning.message


class Failing(Shown):
    """Raises an error at step 2."""

    def allocate(self, step):
        if step.index == 2:
            raise LCAError("this step cannot be measured.")
        return super().allocate(step)


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def every_update_is_measured_and_training_is_the_same(framework, folder):
    callback = framework.callback(on_error="raise")
    assert_same(framework.fit(callback), framework.fit(None))
    assert callback.steps == callback.tracker.steps == framework.updates
    assert callback.summary()["train"]["steps"] == framework.updates
    assert list(callback.views) == ["train"]
    assert (callback.discontinuities, callback.skipped_steps, callback.error) == (0, 0, None)
    assert isinstance(callback.tracker, TrackerBase)


def every_fit_is_a_run_of_its_own(framework, folder):
    callback = framework.callback(every=3, on_error="raise")
    for _ in range(2):
        framework.fit(callback)
        steps = callback.views["train"].trace.rows["step"].tolist()
        assert steps == list(range(0, framework.updates, 3))
        assert callback.steps == framework.updates


def nothing_is_measured_before_a_fit(framework, folder):
    callback = framework.callback()
    assert (callback.steps, callback.discontinuities, callback.skipped_steps) == (0, 0, 0)
    assert (callback.views, callback.error, callback.tracker) == ({}, None, None)
    with pytest.raises(LCAError, match=r"no step was measured: no run has begun\."):
        callback.summary()


def what_cannot_begin_is_a_warning_unless_asked_otherwise(framework, folder):
    callback = framework.callback(impossible=True)
    with one_warning("measuring did not begin, training goes on: "):
        left = framework.fit(callback)
    assert_same(left, framework.fit(None))
    assert isinstance(callback.error, LCAError)
    assert (callback.steps, callback.views, callback.tracker) == (0, {}, None)
    with pytest.raises(LCAError, match=f"no step was measured: .*{re.escape(str(callback.error))}"):
        callback.summary()
    with pytest.raises(LCAError, match=re.escape(str(callback.error))):
        framework.fit(framework.callback(impossible=True, on_error="raise"))


def an_error_in_measuring_ends_the_measuring_and_not_the_training(framework, folder):
    callback = framework.callback(estimator=Failing(), views=Kept)
    with one_warning("measuring stopped at step 2, training goes on: LCAError: this step"):
        left = framework.fit(callback)
    assert_same(left, framework.fit(None))
    assert str(callback.error) == "this step cannot be measured."
    assert (callback.steps, len(callback.views["train"].rows)) == (framework.updates, 2)
    with pytest.raises(LCAError, match="this step cannot be measured"):
        framework.fit(framework.callback(estimator=Failing(), views=Kept, on_error="raise"))


def an_epoch_of_another_length_than_told_is_warned_of(framework, folder):
    if framework.epoch is not None:
        with one_warning(f"made {framework.epoch} updates in an epoch, and Shown was given epoch=20"):
            framework.fit(framework.callback(estimator=Shown(epoch=20), views=Kept, on_error="raise"))
    framework.fit(framework.callback(estimator=Shown(epoch=framework.epoch), views=Kept, on_error="raise"))


def a_fit_is_recorded(framework, folder):
    framework.fit(framework.callback(record=folder / "run", on_error="raise"))
    found = lca.open_record(folder / "run")
    assert (found.sizes["step"], found.attrs["complete"]) == (framework.updates, True)


def the_record_of_a_fit_that_failed_is_incomplete(framework, folder):
    """At the latest when the next fit begins, as some frameworks do not tell callbacks of an error."""
    callback = framework.callback(record=folder / "run")
    with pytest.raises(KeyError, match="enough"):
        framework.fit(callback, stop_after=2)
    assert callback.steps == 2
    with one_warning(f"measuring did not begin.*{re.escape(str(folder / 'run'))}"):
        framework.fit(callback)
    found = lca.open_record(folder / "run")
    assert (found.sizes["step"], found.attrs["complete"]) == (2, False)


def the_rows_of_a_fit_that_failed_are_there_and_its_record_can_be_continued(framework, folder):
    """While the callback still exists, as after an error in a notebook."""
    failed = framework.callback(record=folder / "run", on_error="raise")
    with pytest.raises(KeyError, match="enough"):
        framework.fit(failed, stop_after=2)
    if framework.lasts_as_its_call:
        assert lca.open_record(folder / "run").sizes["step"] == 2
    else:
        close_record(folder / "run")
    again = framework.callback(record=lca.Record(folder / "run", mode="a"), on_error="raise")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the parameters are not those with which the record")
        framework.fit(again)
    found = lca.open_record(folder / "run")
    assert (found.sizes["step"], found.attrs["complete"]) == (2 + framework.updates, True)
    assert failed.summary()["train"]["steps"] == 2


def the_next_fit_ends_the_run_of_a_fit_that_failed(framework, folder):
    logger = KeptLog()
    failed = framework.callback(log_to=logger, on_error="raise")
    with pytest.raises(KeyError, match="enough"):
        framework.fit(failed, stop_after=2)
    framework.fit(framework.callback(on_error="raise"))
    assert logger.closed == framework.lasts_as_its_call
    assert failed.steps == 2


def a_missing_field_is_reported_with_its_source(framework, folder):
    for field, estimator in {
        "batch": NextBatch(lca.LEFT),
        "micro_batches": CrossFit(2),
        "scores": SampledPathIntegral(size=4, sampling="importance"),
    }.items():
        if field in framework.advice:
            with one_warning(rf"training goes on: .*Step\.(next_)?{field}.*{framework.advice[field]}"):
                framework.fit(framework.callback(estimator=estimator))


def wrong_options_are_refused_at_once(framework, folder):
    with pytest.raises(LCAError, match="every must be a positive integer or a function"):
        framework.callback(every=0)
    with pytest.raises(LCAError, match="unknown on_error 'ignore'; known: raise, warn"):
        framework.callback(on_error="ignore")


def a_fit_is_measured_in_straight_lines(framework, folder):
    callback = framework.callback(span=2, on_error="raise")
    assert_same(framework.fit(callback), framework.fit(None))
    summary = callback.summary()["train"]
    assert callback.steps == framework.updates
    assert summary["steps"] == -(-framework.updates // 2)
    assert summary["path_difference_steps"] > 0
    assert summary["unmeasured_change"] == 0
    change = summary["loss_end"] - summary["loss_start"]
    booked = summary["lca_total"] + summary["state_change"] + summary["residual"]
    assert abs(change - booked) <= summed(summary["mass"] + abs(summary["loss_start"]), EPS32)


def a_sampled_sum_is_compared_with_the_change_of_the_loss(framework, folder):
    full = framework.callback(on_error="raise")
    framework.fit(full)
    checked = framework.callback(estimator=Shown(), check_every=2, on_error="raise")
    assert_same(framework.fit(checked), framework.fit(None))
    rows, found = full.views["train"].trace.rows, checked.summary()["train"]
    steps = list(range(framework.updates))
    wanted = [steps[at : at + 2] for at in steps[::2]]
    if rows["state_change"].any():  # a window is then a single step, in the state in which it is allocated
        wanted = [window[:1] for window in wanted]
    windows = found["checked_windows"]
    assert [list(range(w["first_step"], w["last_step"] + 1)) for w in windows] == wanted
    assert found["checked_steps"] == sum(map(len, wanted))
    changes = rows["loss_end"] - rows["loss_start"] - rows["state_change"]
    for window, held in zip(windows, wanted, strict=True):
        limit = summed(np.abs(rows["loss_start"][held]).sum() + np.abs(rows["loss_end"][held]).sum(), EPS32)
        assert abs(window["change"] - changes[held].sum()) <= limit


def loggers_and_progress_follow_a_fit(framework, folder):
    logger, shown = KeptLog(), StringIO()
    callback = framework.callback(log_to=[logger], progress=True, on_error="raise")
    with redirect_stderr(shown):
        assert_same(framework.fit(callback), framework.fit(None))
    assert [step for step, _, _ in logger.calls] == list(range(framework.updates))
    assert logger.closed == 1
    assert "measuring adds at least" in shown.getvalue()
    assert (" a step (" in shown.getvalue()) != framework.tells_updates  # else the forecast is of the run
    if framework.tells_updates:
        assert callback.tracker.estimate().steps == framework.updates


def loggers_are_closed_after_a_fit_that_failed(framework, folder):
    """At the latest when the next fit begins, as some frameworks do not tell callbacks of an error."""
    logger = KeptLog()
    callback = framework.callback(log_to=logger, on_error="raise")
    with pytest.raises(KeyError, match="enough"):
        framework.fit(callback, stop_after=2)
    framework.fit(callback)
    assert len(logger.calls) == 2 + framework.updates
    assert logger.closed == 2


LAWS = [
    loggers_and_progress_follow_a_fit,
    loggers_are_closed_after_a_fit_that_failed,
    every_update_is_measured_and_training_is_the_same,
    every_fit_is_a_run_of_its_own,
    nothing_is_measured_before_a_fit,
    what_cannot_begin_is_a_warning_unless_asked_otherwise,
    an_error_in_measuring_ends_the_measuring_and_not_the_training,
    a_fit_is_measured_in_straight_lines,
    a_sampled_sum_is_compared_with_the_change_of_the_loss,
    an_epoch_of_another_length_than_told_is_warned_of,
    a_fit_is_recorded,
    the_record_of_a_fit_that_failed_is_incomplete,
    the_rows_of_a_fit_that_failed_are_there_and_its_record_can_be_continued,
    the_next_fit_ends_the_run_of_a_fit_that_failed,
    a_missing_field_is_reported_with_its_source,
    wrong_options_are_refused_at_once,
]
