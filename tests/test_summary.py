"""The summary of a run: its keys, its balance, and that JSON keeps it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lca import SIMPSON, Cost, Layout, PathIntegral, StepAllocation, Trajectory, allocate
from lca.reference import Quadratic
from lca.summary import RunViews, Summary, summarize, summarize_run, to_json
from lca.tolerances import EPS64, summed
from tests.sampled import sampled_allocation

LAYOUT = Layout(("fc.weight", "fc.bias"), ((1, 2), (1,)))
KEYS = {
    "steps", "loss_start", "loss_end", "lca_total", "residual", "mass", "max_step_residual",
    "unconverged_steps", "full_gradients_per_step", "helping_percent", "zero_percent", "per_tensor",
}  # fmt: skip


def views(*allocations):
    run = RunViews.of(LAYOUT)
    for allocation in allocations:
        run.update(allocation)
    return run


def two_steps():
    first = StepAllocation(
        np.array([-1.0, 0.0, 0.5]),
        2.0,
        1.75,
        residual=0.25,
        mass=1.5,
        converged=False,
        cost=Cost(full_gradients=3),
    )
    second = StepAllocation(
        np.array([-0.25, -0.25, 0.0]), 1.75, 0.75, residual=-0.5, mass=0.5, step=1, converged=False,
        cost=Cost(full_gradients=2, batch_gradients=1, examples=32),
    )  # fmt: skip
    return first, second


def test_every_number_of_a_run_that_can_be_added_up_by_hand():
    summary = summarize(views(*two_steps()))
    assert summary.keys() >= KEYS
    expected = {
        "parameters": 3, "steps": 2, "loss_start": 2.0, "loss_end": 0.75, "lca_total": -1.0,
        "residual": -0.25, "unmeasured_change": 0.0,
        "mass": 2.0, "max_step_residual": 0.5, "unconverged_steps": 2,
        "full_gradients_per_step": 2.5, "batch_gradients_per_step": 0.5, "examples_per_step": 16.0,
        "helping_percent": 75.0, "zero_percent": 100 / 3,
        "steps_without_helping_percent": 0, "per_tensor": {"fc.weight": -1.5, "fc.bias": 0.5},
        "helping_percent_per_tensor": {"fc.weight": 100.0, "fc.bias": 0.0},
    }  # fmt: skip
    assert {name: summary[name] for name in expected} == expected


def test_a_state_change_is_no_residual():
    step = StepAllocation(np.array([-1.0, 0.0, 0.0]), 2.0, 1.5, residual=0.25, state_change=0.25, mass=1.0)
    summary = summarize(views(step))
    assert (summary["state_change"], summary["residual"], summary["unconverged_steps"]) == (0.25, 0.25, 0)


def test_what_happened_between_measured_steps_is_no_residual():
    """Of three steps the middle one is left out: 1.75 to 1.25."""
    first, last = two_steps()
    last = replace(last, loss_start=1.25, loss_end=0.25, step=2)
    s = summarize(views(first, last))
    assert (s["residual"], s["unmeasured_change"], s["lca_total"]) == (-0.25, -0.5, -1.0)
    change = s["lca_total"] + s["state_change"] + s["residual"] + s["unmeasured_change"]
    assert s["loss_end"] - s["loss_start"] == change == -1.75
    assert summarize(views(*two_steps()))["unmeasured_change"] == 0.0


def test_the_summary_of_a_real_run_balances():
    run = RunViews.of(bowl := Layout(("theta",), ((3,),)))
    path = Trajectory(np.random.default_rng(0).normal(size=(20, 3)))
    objective = Quadratic(np.diag([1.0, 2.0, 3.0]))
    assert objective.layout.size == bowl.size
    for allocation in allocate(objective, path, PathIntegral(SIMPSON)):
        run.update(allocation)
    s = summarize(run)
    tolerance = summed(s["mass"], EPS64)
    assert abs(s["residual"]) <= tolerance
    assert abs(s["loss_end"] - s["loss_start"] - s["lca_total"] - s["residual"]) <= tolerance
    assert abs(sum(s["per_tensor"].values()) - s["lca_total"]) <= tolerance


def test_heldout_and_seconds_are_kept_apart_from_the_training_loss():
    first, second = two_steps()
    summary = summarize_run({"seed": 3}, views(first), views(second), seconds={"train": 1.0, "allocate": 2.0})
    assert (summary["seed"], summary["loss_end"], summary["heldout"]["loss_end"]) == (3, 1.75, 0.75)
    assert summary["heldout"].keys() >= {"loss_start", "loss_end", "lca_total", "per_tensor"}
    assert summary["seconds"] == {"train": 1.0, "allocate": 2.0}


def test_a_percentage_that_does_not_exist_is_null():
    still = StepAllocation(np.zeros(3), 2.0, 2.0, residual=0.0, mass=0.0)
    summary = json.loads(to_json(summarize(views(still))))
    assert summary["helping_percent"] is None
    assert summary["helping_percent_per_tensor"] == {"fc.weight": None, "fc.bias": None}
    assert (summary["zero_percent"], summary["steps_without_helping_percent"]) == (100.0, 1)


def test_json_keeps_every_bit_and_refuses_nan():
    assert json.loads(to_json({"x": 0.1 + 0.2}))["x"] == 0.1 + 0.2
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json({"x": float("nan")})


def test_sampled_allocations_have_no_helping_percent_but_the_reason():
    one = sampled_allocation()
    full, sampled = views(*two_steps()), views(*(replace(one, values=a.values) for a in two_steps()))
    assert "helping_percent_note" not in summarize(full)
    found = summarize(sampled)
    assert found["helping_percent"] is None
    assert set(found["helping_percent_per_tensor"].values()) == {None}
    assert "noise flips signs" in found["helping_percent_note"]
    assert found["zero_percent"] is found["steps_without_helping_percent"] is None
    assert len(sampled.signs.per_step().zero) == 0


def test_a_summary_is_a_table_that_adds_up():
    run = RunViews.of(LAYOUT)
    run.update(StepAllocation(np.array([-1.0, 0.5, 0.0]), 2.0, 1.75, residual=0.25, mass=1.5))
    summary = Summary(train=summarize(run, loss_end=1.5))
    frame = summary.to_frame()
    assert frame.index.tolist() == [
        "fc.weight", "fc.bias", "change between measured steps", "residual", "change of the loss",
    ]  # fmt: skip
    assert frame["train"].tolist() == [-0.5, 0.0, -0.25, 0.25, -0.5]
    assert frame["helping %"].tolist()[:1] == [50.0]
    assert "1 measured step," in summary.table().caption
    assert "<table>" in summary._repr_html_()
    assert Summary()._repr_html_() is None


def test_the_table_of_straight_lines_says_so_and_how_far_they_are_from_the_path():
    lines = {**summarize(views(*two_steps())), "span": 10, "path_difference": 0.0125}
    caption = Summary(train={**lines, "path_difference_steps": 1}).table().caption
    assert caption == (
        "LCA of each tensor over 2 straight lines of 10 updates, in units of the loss; negative: helping. "
        "Where the updates were measured as well (1 line), the sums by layer differ by 1.2 % from those of "
        "the lines."
    )
    for unknown in (None, np.nan):
        table = Summary(train={**lines, "path_difference": unknown, "path_difference_steps": 0}).table()
        assert table.caption.endswith("negative: helping.")


def test_the_table_of_a_sampled_run_shows_its_check():
    run = views(replace(sampled_allocation(), values=np.zeros(3)))
    check = {"checked_steps": 1, "checked_total": -0.5, "checked_change": -0.25, "checked_margin": 0.125}
    table = Summary(train={**summarize(run), **check}).table()
    assert table.columns[0].values[2:] == ["sum over 1 checked step", "change of the loss"]
    assert [table.columns[1].text(row) for row in (2, 3)] == ["−0.50 ± 0.12", "−0.25"]
    wide = "The 95 % interval is wide, ± 50 % of the change"
    assert f"helping. {wide}" in table.caption
    known = {**summarize(run), **check, "checked_margin": 0.025}
    assert "interval" not in Summary(train=known).table().caption
    assert f"helping. train: {wide}" in Summary(heldout=known, train={**known, **check}).table().caption
    part = Summary(train={**known, "checked_examples": 20}).table()
    assert part.caption.endswith("The change of the loss is that of 20 examples.")
    of_two = views(*[replace(sampled_allocation(), values=np.zeros(3), step=step) for step in (0, 1)])
    some = Summary(train={**summarize(of_two), **check}).table()
    assert some.columns[0].values[2:] == ["sum", "sum over 1 checked step", "change of the loss over these"]
    assert some.columns[1].values[2:] == [0.0, -0.5, -0.25]
    less = Summary(train={**summarize(of_two), **check, "skipped_steps": 3}).table()
    assert "3 steps more could not be measured." in less.caption
    barless = Summary(train={**summarize(run), **check, "checked_margin": None}).table()
    assert barless.columns[1].text(2) == "−0.5"
    unchecked = Summary(train=summarize(run)).table()
    assert unchecked.columns[0].values == ["fc.weight", "fc.bias"]
    assert "Not checked against the measured loss." in unchecked.caption
