"""A warning of the self-check gives the advice that applies to the estimator, and that it has not taken."""

from contextlib import nullcontext

import numpy as np
import pytest

import lca
from lca.errors import LCAWarning
from lca.estimators import (
    AdaptiveSampleSize,
    ControlVariate,
    CrossFit,
    LaggedCrossFit,
    NextBatch,
    SameBatch,
    SampledPathIntegral,
)
from lca.reference import bowl
from lca.step import MicroBatch
from lca.tracking import FunctionalTracker
from lca.tracking._causes import likely_causes
from lca.tracking._epochs import EpochLength

PROBE = SampledPathIntegral(size=8)
ADVICE = {
    "cross-fit": (
        CrossFit(),
        ["pass epoch=, the updates", "samples of one loss", "are not in random order"],
        ["epoch=20"],
    ),
    "with an epoch": (
        CrossFit(epoch=20),
        ["another number of updates than epoch=20; shuffled epochs have more bias"],
        ["pass epoch=", "as a rule"],
    ),
    "independent": (
        CrossFit(independent=True),
        [
            "omit independent=True, and pass the updates in an epoch as epoch=; a batch is drawn without "
            "replacement: pass epoch= as well"
        ],
        ["shuffled"],
    ),
    "full batches": (
        CrossFit(independent=True, epoch=1),
        ["steps are too large for the rule"],
        ["independent", "shuffled", "epoch="],
    ),
    "without replacement": (
        CrossFit(independent=True, epoch=2.5),
        ["omit independent=True"],
        ["shuffled", "without replacement", "2.5"],
    ),
    "own pass": (CrossFit(own_pass=True), ["are not in random order"], ["samples of one loss"]),
    "one end": (
        CrossFit(rule=lca.LEFT),
        ["use lca.TRAPEZOID", "micro-batches are not samples of one loss"],
        ["too large", "are not in random order"],
    ),
    "lagged": (
        LaggedCrossFit(),
        ["as with SGD: use CrossFit", "pass epoch=", "too large", "in random order"],
        ["epoch=None", "samples of one"],
    ),
    "same batch": (
        SameBatch(),
        ["use CrossFit or LaggedCrossFit", "the measured data are not"],
        ["epoch", "random order"],
    ),
    "next batch": (NextBatch(), ["NextBatch(lca.SIMPSON)", "in random order"], ["refine="]),
    "next batch, Simpson": (NextBatch(lca.SIMPSON), ["lca.Adaptive"], ["NextBatch(lca.SIMPSON)"]),
    "samples": (
        PROBE,
        ["use refine=0.03", "micro_batches=4 for error bars", "gradient reversal"],
        ["epoch", "dropout", "data are"],
    ),
    "in a control variate": (ControlVariate(PROBE), ["use refine=0.03"], ["epoch"]),
    "of a size": (AdaptiveSampleSize(PROBE, examples=8), ["use refine=0.03"], ["epoch"]),
    "with error bars": (SampledPathIntegral(size=8, micro_batches=2), ["larger size"], ["error bars"]),
    "refined": (SampledPathIntegral(size=8, refine=0.03), ["lca.Adaptive"], ["refine="]),
    "Simpson": (SampledPathIntegral(lca.SIMPSON, size=8), ["lca.Adaptive"], ["refine=", "SIMPSON"]),
}


@pytest.mark.parametrize(("estimator", "given", "not_given"), ADVICE.values(), ids=ADVICE)
def test_the_advice_is_that_which_the_settings_have_not_taken(estimator, given, not_given):
    text = "; ".join(likely_causes(estimator, -0.9, -1.0))
    assert [part for part in given if part not in text] == []
    assert [part for part in not_given if part in text] == []


def test_refined_samples_with_error_bars_name_the_gradient_before_the_steps():
    bars = {"size": 8, "micro_batches": 4}
    first = [likely_causes(SampledPathIntegral(**bars, refine=r), -2.0, -1.0)[0] for r in (0.03, None)]
    assert first[0].startswith("the gradient of the measured loss is not its derivative")
    assert first[1].startswith("steps are too large")


@pytest.mark.parametrize("estimator", [SameBatch(), NextBatch(), LaggedCrossFit(), CrossFit(own_pass=True)])
def test_the_noise_of_batches_is_a_cause_where_no_error_bars_know_it(estimator):
    assert "gradients of batches are noisy" in "; ".join(likely_causes(estimator, -0.5, -1.0))
    assert likely_causes(estimator, -5.2, -1.0)[0].startswith("gradients of batches are noisy")
    assert "noisy" not in "; ".join(likely_causes(CrossFit(independent=True), -0.5, -1.0))


IN_FIT = {
    "lagged": (LaggedCrossFit(), "batches come from shuffled epochs: pass epoch="),
    "lagged, with an epoch": (LaggedCrossFit(epoch=4), "an epoch has another number of updates than epoch=4"),
    "same batch": (SameBatch(), "SameBatch judges a step by the batch that caused it: use LaggedCrossFit"),
    "one end": (NextBatch(lca.RIGHT), "batches come from shuffled epochs: use LaggedCrossFit(epoch=...)"),
}


@pytest.mark.parametrize(("estimator", "first"), IN_FIT.values(), ids=IN_FIT)
def test_what_the_loop_cannot_supply_is_no_advice(estimator, first):
    causes = likely_causes(estimator, -0.5, -1.0, supplied={"gradient", "update_slope"})
    assert causes[0].startswith(first)
    text = "; ".join(causes)
    assert [part for part in ("use CrossFit", "micro-batch", "lca.TRAPEZOID") if part in text] == []
    assert "SampledPathIntegral" in text


@pytest.mark.parametrize(("estimator", "percent"), [(CrossFit(epoch=20), 9), (LaggedCrossFit(epoch=20), 12)])
def test_the_usual_error_in_shuffled_epochs_is_the_first_cause_where_it_has_this_size(estimator, percent):
    usual = f"{type(estimator).__name__} is off by 1 to {percent} % in shuffled epochs as a rule"
    for total in (-1 + 0.0099 * percent, -1 - 0.0099 * percent):
        causes = likely_causes(estimator, total, -1.0)
        assert causes[0].startswith(usual)
        assert causes[1] == "an epoch has another number of updates than epoch=20"
    assert "as a rule" not in "".join(likely_causes(estimator, -1 + 0.0101 * percent, -1.0))


def test_the_length_of_an_epoch_that_was_seen_is_no_cause_if_it_is_right_and_named_if_not():
    for total in (-0.95, -0.7):
        right = "; ".join(likely_causes(CrossFit(epoch=20), total, -1.0, updates=19))
        assert "bias" in right or "as a rule" in right
        assert "number of updates" not in right
        assert likely_causes(CrossFit(epoch=20), total, -1.0, updates=10)[0] == (
            "an epoch has 10 updates, and not epoch=20: pass epoch=10"
        )
    assert "pass epoch=10, the updates" in likely_causes(CrossFit(), -0.95, -1.0, updates=10)[0]


@pytest.mark.parametrize(
    ("total", "change", "told"),
    [
        (-1.904, -1.0, "2 times too large"),
        (3.2, 1.0, "3 times too large"),
        (-0.26, -1.0, "4 times too small"),
        (-1.5, -1.0, None),
        (-0.9, -1.0, None),
        (2.0, -1.0, None),
        (0.0, -1.0, None),
        (-1.0, 0.0, None),
    ],
)
def test_a_sum_that_is_a_multiple_of_the_change_tells_of_a_factor(total, change, told):
    for estimator in (CrossFit(5), LaggedCrossFit(), NextBatch(lca.RIGHT)):
        text = "; ".join(likely_causes(estimator, total, change))
        assert told in text if told else "the sum is as if" not in text
    assert "the sum is as if" not in "".join(likely_causes(PROBE, total, change))


@pytest.mark.parametrize(
    "estimator",
    [CrossFit(), CrossFit(epoch=20), LaggedCrossFit(), LaggedCrossFit(epoch=20), NextBatch()],
    ids=str,
)
def test_shuffled_epochs_are_no_likely_cause_of_a_sum_that_is_far_too_large(estimator):
    for total, change in ((-1.2, -1.0), (4.0, 1.0)):
        first, *_, last = likely_causes(estimator, total, change)
        assert "the trained loss is not the measured" in first
        assert "epoch" in last
    for total, change in ((-0.7, -1.0), (-1.1, -1.0), (0.2, -1.0)):
        assert "epoch" in likely_causes(estimator, total, change)[0]


def test_a_factor_comes_first_only_where_it_is_the_number_of_micro_batches():
    """Most ratios are near a whole number, as this one of a straight-through estimator."""
    total, change = -0.266, -0.068
    assert "4 times too large" in likely_causes(CrossFit(4), total, change)[0]
    for estimator in (CrossFit(2), LaggedCrossFit(), NextBatch(lca.RIGHT)):
        first, second, *causes = likely_causes(estimator, total, change)
        assert "the trained loss is not" in first
        assert "4 times too large" in second
        assert any("straight-through" in cause for cause in causes)
    assert "2 times too large" in likely_causes(CrossFit(own_pass=True), -2.0, -1.0)[1]  # which compares


@pytest.mark.parametrize(
    ("rule", "total", "told"),
    [
        (lca.TRAPEZOID, -1.5, "2 times too large"),
        (lca.TRAPEZOID, -0.75, "2 times too small"),
        (lca.SIMPSON, -1.5, "4 times too large"),
        (lca.LEFT, -2.0, None),
        (lca.TRAPEZOID, -0.4, None),
    ],
    ids=str,
)
def test_of_the_nodes_on_the_next_batch_the_end_alone_has_a_gradient_of_training(rule, total, told):
    text = "; ".join(likely_causes(NextBatch(rule), total, -1.0))
    assert told in text if told else "the sum is as if" not in text


@pytest.mark.parametrize(
    "estimator", [PROBE, ControlVariate(PROBE), CrossFit()], ids=lambda one: type(one).__name__
)
def test_a_state_that_has_moved_is_a_cause(estimator):
    assert "mean over examples" in likely_causes(estimator, -2.0, -1.0, moved=True)[-1]
    assert "mean over examples" not in "".join(likely_causes(estimator, -2.0, -1.0))


class WithoutPieces(FunctionalTracker):
    _supplied = frozenset({"gradient"})


def run(factor, tracker_type=FunctionalTracker, epoch=None):
    """A run in which all gradients of training are ``factor`` times those of the measured loss."""
    theta = np.array([4.0])
    with tracker_type(theta, bowl(1), CrossFit(epoch=epoch)) as tracker:
        tracker._session.epoch.begin(0)
        for step in range(18):
            if step == 6:
                tracker._session.epoch.end(step)
            gradient, update = factor * theta, -0.1 * theta
            theta = theta + update
            tracker.update(theta, gradient=gradient, micro_batches=[MicroBatch(gradient, update)] * 2)


def test_a_forgotten_weight_is_named_in_the_warning():
    with pytest.warns(
        LCAWarning, match="the likeliest first:\n- the sum is as if .* 2 times too large: if an update"
    ):
        run(2.0)


def test_a_tracker_tells_the_self_check_what_its_loop_supplies():
    with pytest.warns(LCAWarning, match="the likeliest first:\n- the trained loss is not"):
        run(2.0, WithoutPieces)


def test_a_tracker_tells_the_self_check_how_long_an_epoch_is():
    with pytest.warns(LCAWarning, match="the likeliest first:\n- shuffled epochs have more bias") as caught:
        run(0.7, epoch=6)
    [warning] = caught
    assert "another number" not in str(warning.message)


def test_a_loop_over_repeated_data_is_not_taken_for_an_epoch_of_another_length():
    length = EpochLength(CrossFit(epoch=12))
    for begun in (0, 48):
        length.begin(begun)
        with nullcontext() if begun else pytest.warns(LCAWarning, match=r"right .* 4 passes .*epoch=48"):
            length.end(begun + 48)
    assert length.updates is None
    length.begin(96)
    length.end(108)
    assert length.updates == 12
    other = EpochLength(CrossFit(epoch=12))
    other.begin(0)
    with pytest.warns(LCAWarning, match="made 18 updates in an epoch, .*; pass epoch=18"):
        other.end(18)
    assert other.updates == 18
