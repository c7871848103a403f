"""`Session`: what every tracker and callback has in common; the summary of a loss and of its terms."""

import numpy as np
import pytest

import lca
from lca.errors import LCAError, LCAWarning
from lca.reference import L2Penalty, Quadratic
from lca.summary import RunViews
from lca.tolerances import EPS64, summed
from lca.tracking import Session
from lca.views import Trace

PATH = np.random.default_rng(0).normal(size=(6, 3))
BOWL = Quadratic(np.diag([1.0, 2.0, 3.0]))
TERMS = {"data": BOWL, "penalty": L2Penalty(BOWL.layout, 0.5)}
SUM = lca.Sum(TERMS)
SIMPSON = lca.PathIntegral(lca.SIMPSON)


def measured(objective, **options):
    measurement = Session(objective, SIMPSON, **options)
    for step in lca.Trajectory(PATH):
        if measurement.wants(step.index):
            measurement.measure(step)
    return measurement


def test_the_terms_of_a_sum_have_summaries_that_add_up_and_are_those_of_each_alone():
    found = measured({"train": SUM, "other": BOWL}).summary()
    assert list(found) == ["train", "train/data", "train/penalty", "other"]
    alone = measured(TERMS).summary()
    for term in TERMS:
        assert found[f"train/{term}"]["per_tensor"] == alone[term]["per_tensor"]
        assert found[f"train/{term}"]["loss_end"] == alone[term]["loss_end"]
    rest = found["train"]["lca_total"] - sum(found[f"train/{term}"]["lca_total"] for term in TERMS)
    assert abs(rest) <= summed(found["train"]["mass"], EPS64)


def test_views_of_ones_own_are_made_for_the_measured_losses_only():
    made = []

    def make(layout):
        made.append(Trace())
        return made[-1]

    assert list(measured(SUM, views=make).views) == ["train"]
    assert [len(trace.rows) for trace in made] == [5]


def test_a_view_that_tells_a_summary_makes_those_of_the_terms_ordinary_ones():
    class Logged(RunViews):
        pass

    views = measured(SUM, views=Logged.of).views
    assert [type(view) for view in views.values()] == [Logged, RunViews, RunViews]


def test_an_estimator_that_does_not_keep_terms_apart_leaves_them_out_and_says_so():
    class Whole(lca.PathIntegral):
        def start(self, objective):
            return super().start(lca.Scaled(BOWL, 1.0))

    measurement = Session(SUM, Whole(lca.SIMPSON))
    with pytest.warns(LCAWarning, match="Whole allocates a loss as a whole: train/data, train/penalty have"):
        measurement.measure(next(iter(lca.Trajectory(PATH))))
    assert list(measurement.summary()) == ["train"]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_the_account_is_closed_whichever_steps_are_measured(every):
    s = measured(SUM, every=every).summary()["train"]
    booked = s["lca_total"] + s["state_change"] + s["residual"] + s["unmeasured_change"]
    limit = summed(s["mass"] + s["loss_start"], EPS64)
    assert abs(s["loss_end"] - s["loss_start"] - booked) <= limit
    assert abs(s["residual"]) <= limit
    assert (s["unmeasured_change"] == 0) == (every == 1)


def test_an_error_is_told_with_one_full_stop():
    measurement = Session(BOWL)
    with pytest.warns(LCAWarning, match="stopped at step 0"), measurement.guarded(0):
        raise LCAError("this is wrong.")
    with pytest.raises(LCAError, match=r"no step was measured: LCAError: this is wrong\.$"):
        measurement.summary()


def test_the_view_of_a_summary_sees_each_step_once_in_a_list_too():
    run = measured(SUM, views=[RunViews.of, lambda layout: Trace()])
    alone = measured(SUM, views=RunViews.of)
    assert run.summary()["train"] == alone.summary()["train"]
