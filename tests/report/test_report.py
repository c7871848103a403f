"""The report shows the numbers of the record, works without optional data, and escapes all text."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from bokeh.embed import json_item
from scipy.stats import norm

import lca
from lca import Layout, LCAError, Record, open_record
from lca._blocks import block_starts
from lca._cli import main
from lca.analysis import checked_windows
from lca.errors import OutputError
from lca.plots._canvas import CATEGORY_COLORS, HELPING, HURTING
from lca.report import _charts as charts
from lca.report import _sections as sections
from lca.report import render_report, write_report
from lca.report._cells import EMPTY, ListGrid, MatrixGrid
from lca.report._moments import LINEAR_FRACTION, MAX_BYTES, detail_maps, encode, layer_intervals
from lca.row import CheckedWindow, rows_of
from lca.runs._balance import check_conservation
from lca.runs._format import format_signed, short_labels
from lca.runs._margins import margin_bound
from lca.runs._run import Run
from lca.views._signs import NOISY
from tests.nightly import cases
from tests.report.records import EVIL, LAYOUT, NAMES, allocation, replicates, run_values, write


@pytest.fixture
def full(tmp_path):
    """A run with two losses, all values, neurons and a histogram."""
    return Run(write(tmp_path / "run.zarr", run_values(), names=("train", "heldout"), values="float64"))


def decode(codes, limit):
    """The inverse of ``encode``, as in page.js."""
    unscaled = np.expm1(np.abs(codes) / 127 * np.log1p(1 / LINEAR_FRACTION))
    return np.sign(codes) * LINEAR_FRACTION * limit * unscaled


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text outside of scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self._raw = [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._raw = False

    def handle_data(self, data):
        if not self._raw:
            self.text += data

    def ids(self):
        return [attrs["id"] for _, attrs in self.tags if "id" in attrs]


# Conservation


def test_the_conservation_check_sums_the_record(full):
    values, check = run_values(), check_conservation(full, "train")
    assert check.allocated == values.sum()
    assert check.residual == 12 * 0.125
    assert check.change == check.allocated + check.residual
    assert (check.start, check.end, check.steps) == (2.0, 2.0 + check.change, 12)
    assert (check.max_step_residual, check.unconverged_steps, check.inconsistent_steps) == (0.125, 0, 0)
    assert (check.unmeasured_change, check.discontinuities) == (0, 0)


SMALL = {"residual": 2.0**-12}
VERDICTS = {
    "small": (
        {**SMALL, "tolerance": 2.0**-12},
        "good",
        "The parts add up: the residual (what the allocations miss) is ",
    ),
    "no tolerance": (
        SMALL,
        "warn",
        "The estimator set no tolerance; the residual (what the allocations miss) is ",
    ),
    "exceeded": ({**SMALL, "tolerance": 2.0**-13}, "warn", "3 of 3 steps exceeded their tolerance; "),
    "flagged": ({**SMALL, "tolerance": 1.0, "converged": False}, "warn", "3 of 3 steps exceeded"),
    "medium": ({"residual": 0.125, "tolerance": 1e9}, "warn", "The allocations add up only roughly: "),
    "large": (
        {"residual": 5.0, "tolerance": 1e9},
        "bad",
        "The allocations do not add up: the residual (what the",
    ),
    "large, exceeded": ({"residual": 5.0, "tolerance": 1.0}, "bad", "The allocations do not add up: 3 of 3"),
    "sampled": ({"residual": np.nan}, "warn", "Not checked: this estimator does not measure the loss"),
}


CHECKED = {
    "inside a narrow interval": (
        -1.02,
        0.05,
        "good",
        "−1.02, and the measured loss changed by −1, a difference of 2.0 %",
    ),
    "inside a wide interval": (
        -1.02,
        0.5,
        "warn",
        "a difference of 2.0 %, inside the 95 % interval of ± 0.5. The 95 % interval is wide, ± 50 % of the",
    ),
    "outside, and near": (
        -1.05,
        0.01,
        "warn",
        "a difference of 5.0 %, outside the 95 % interval of ± 0.01.",
    ),
    "outside, and far": (-0.5, 0.01, "bad", "a difference of 50.0 %"),
    "of exact gradients, and near": (
        -1.005,
        0.0,
        "good",
        "a difference of 0.5 %, small, though outside the 95 % interval of ± 0.",
    ),
    "near, without error bars": (-0.995, None, "good", "a difference of 0.5 % (no error bars, and too few"),
    "roughly, without error bars": (-0.95, None, "warn", "a difference of 5.0 % (no error bars, and too few"),
    "far, without error bars": (
        -0.2,
        None,
        "warn",
        "a difference of 80.0 % (no error bars, and too few steps to judge it)",
    ),
}


def test_steps_without_a_loss_are_estimates_if_the_record_says_so(tmp_path):
    def verdict(name, **nothing):
        with Record(tmp_path / name, LAYOUT) as record:
            for step, values in enumerate(run_values(3)):
                record.update(allocation(values, step, 2.0, **nothing if step else SMALL))
        return check_conservation(Run(open_record(tmp_path / name)), "train").verdict()

    said = "Not checked: 2 of 3 steps are estimates from batches or samples, which measure no loss."
    assert verdict("sampled", residual=np.nan, sampled=True) == ("warn", said)
    assert verdict("exact", residual=np.nan)[0] == "bad"


@pytest.mark.parametrize(("total", "margin", "tone", "said"), CHECKED.values(), ids=CHECKED)
def test_the_verdict_of_an_estimate_is_its_self_check(tmp_path, total, margin, tone, said):
    nothing = {"residual": np.nan, "sampled": True}
    with Record(tmp_path / "run", LAYOUT) as record:
        for step, values in enumerate(run_values(3)):
            [row] = rows_of({"train": allocation(values, step, np.nan, **nothing)}, LAYOUT).values()
            if step == 1:
                row.check = CheckedWindow(0, 1, change=-0.75, total=total + 0.5, margin=np.nan)
            record.write({"train": row})
        last = {"first_step": 2, "last_step": 2, "change": -0.25, "total": -0.5, "margin": None}
        record.close(final_checks={"train": {"margin": margin, "windows": [last]}})
    run = Run(open_record(tmp_path / "run"))
    check = check_conservation(run, "train")
    assert check.verdict()[0] == tone
    assert check.verdict()[1].startswith(
        "An estimate from samples: over 3 of 3 measured steps the allocations sum to "
    )
    assert said in check.verdict()[1]
    said = "train: " + check.verdict()[1]
    assert any(shown == tone and text.startswith(said) for shown, text in sections.summary(run).verdicts)


def test_a_run_in_progress_is_judged_by_a_bound_of_its_interval(tmp_path):
    with Record(tmp_path / "run", LAYOUT) as record:
        for step, values in enumerate(run_values(2)):
            [row] = rows_of({"train": allocation(values, step, np.nan, residual=np.nan)}, LAYOUT).values()
            row.check = CheckedWindow(step, step, change=-1.0, total=-1.0, margin=3.0 + step)
            record.write({"train": row})
        record.flush()
        windows, margin = checked_windows(open_record(tmp_path / "run"))
    assert (len(windows), margin) == (2, np.sqrt(2) * 5.0)


@pytest.mark.parametrize("damage", [{"windows": 3}, {"margin": "text", "windows": []}, [], {"windows": [{}]}])
def test_a_damaged_final_check_is_an_error(tmp_path, damage):
    run = write(tmp_path / "run.zarr", run_values(3))
    run.attrs["final_checks"] = {"train": damage}
    with pytest.raises(LCAError, match="the attribute 'final_checks' of the record is damaged"):
        check_conservation(Run(run), "train")


@pytest.mark.parametrize(("options", "tone", "said"), VERDICTS.values(), ids=VERDICTS)
def test_the_verdict_states_the_result_of_the_check(tmp_path, options, tone, said):
    run = Run(write(tmp_path / "run.zarr", run_values(3), extra=lambda *_: options))
    assert check_conservation(run, "train").verdict()[0] == tone
    assert check_conservation(run, "train").verdict()[1].startswith(said)
    assert sections.summary(run).verdicts[0][1].startswith("train: " + said)


def test_residuals_that_cancel_get_no_tick(tmp_path):
    extra = {"tolerance": 1e9}
    run = Run(
        write(tmp_path / "r", run_values(4), extra=lambda t, _: {**extra, "residual": 64.0 * (-1) ** t})
    )
    check = check_conservation(run, "train")
    assert check.residual == 0
    tone, said = check.verdict()
    assert tone == "bad"
    assert f"of one step up to {100 * 64 / abs(check.change):.1f} % of the loss change" in said


def test_a_loss_that_is_missing_in_some_steps_is_not_called_an_estimate(tmp_path):
    extra = {True: {"residual": np.nan}, False: SMALL}
    run = Run(write(tmp_path / "r", run_values(4), extra=lambda t, _: extra[t == 1]))
    tone, said = check_conservation(run, "train").verdict()
    assert (tone, said[:12]) == ("bad", "Not checked:")
    assert "of 1 of 4 steps is not a finite number" in said or "of 3 of 4 steps" in said


def test_a_run_that_diverged_is_named_first(tmp_path):
    run = Run(write(tmp_path / "r", -4 * run_values(12), extra=lambda *_: {**SMALL, "tolerance": 1.0}))
    [first, *_] = sections.summary(run).verdicts
    assert first[0] == "bad"
    assert first[1].startswith("train: the run diverged: the loss went from 2 to ")
    learned = Run(write(tmp_path / "s", run_values(3)))
    assert not any(" diverged" in text for _, text in sections.summary(learned).verdicts)


@pytest.mark.parametrize("name", ["total", "residual", "loss_end", "layer_total"])
def test_an_inconsistent_record_is_reported(full, name):
    broken = full.record.load().copy(deep=True)
    broken[name][5] += 1e-3
    tone, said = check_conservation(Run(broken), "train").verdict()
    assert tone == "bad"
    assert "inconsistent in 1 of 12 steps" in said


def test_the_residual_is_given_in_percent_of_the_loss_change(full):
    check = check_conservation(full, "train")
    percent = 100 * abs(check.residual / check.change)
    assert f"residual (what the allocations miss) is {percent:.1f} % of the loss change" in check.verdict()[1]


def test_unmeasured_steps_and_an_unfinished_run_are_mentioned(tmp_path):
    run = write(tmp_path / "run.zarr", run_values(3), every=10)
    run.attrs["complete"] = False
    said = " ".join(text for _, text in sections.summary(Run(run)).verdicts)
    assert "Not every step was measured" in said
    assert "in progress or interrupted" in said
    [loss_chart, _] = sections.losses(Run(run)).charts
    assert len(loss_chart.figure.legend[0].items) == 1  # the loss is not rebuilt across gaps
    assert "rebuilt" not in loss_chart.caption


def test_the_change_between_measured_steps_is_in_the_table(tmp_path):
    run = write(tmp_path / "run.zarr", run_values(4), every=10).load().copy(deep=True)
    run["loss_start"][1:] -= 0.5
    run["loss_end"][1:] -= 0.5
    check, summary = check_conservation(Run(run), "train"), sections.balance(Run(run))
    assert (check.unmeasured_change, check.discontinuities) == (-0.5, 0)
    assert check.end - check.start == check.change + check.unmeasured_change
    assert ("change between measured steps, not allocated", "−0.5") in summary.tables[0].rows


def test_a_discontinuity_between_consecutive_steps_is_reported(full):
    discontinuous = full.record.load().copy(deep=True)
    for name in ("loss_start", "loss_end"):
        discontinuous[name][5:] += 2
    said = [text for _, text in sections.summary(Run(discontinuous)).verdicts]
    found = [text for text in said if "between consecutive steps" in text]
    assert [text.partition(". This")[0] for text in found] == [
        f"{loss}: the loss changed between consecutive steps (once, +2 in total)" for loss in full.losses
    ]
    assert not any("consecutive" in text for _, text in sections.summary(full).verdicts)


def test_the_change_over_unmeasured_steps_is_no_discontinuity(tmp_path):
    run = write(tmp_path / "run.zarr", run_values(4)).load().copy(deep=True)
    run = run.assign_coords(step=[0, 1, 50, 51])
    for after, change in ((1, 0.125), (2, -1.75)):
        for name in ("loss_start", "loss_end"):
            run[name][after:] += change
    check = check_conservation(Run(run), "train")
    assert (check.unmeasured_change, check.discontinuities, check.discontinuity_change) == (-1.625, 1, 0.125)
    assert any("(once, +0.125 in total)" in text for _, text in sections.summary(Run(run)).verdicts)


def test_sampled_allocations_have_the_reason_instead_of_helping_percentages(tmp_path):
    """A sampled run has no losses, and noise changes the signs of its allocations."""
    lost = dict.fromkeys(("loss_start", "loss_end", "residual"), np.nan)
    with Record(tmp_path / "run.zarr", LAYOUT) as record:
        for step, row in enumerate(run_values(3)):
            record.update(replace(allocation(row, step), **lost))
    page = render_report(lca.open_record(tmp_path / "run.zarr"))
    assert NOISY[1:] in Page(page).text
    assert ">helping</th>" not in page
    assert "Averaged over the steps" not in page


# The first screen


def first_screen(run):
    """The text of the first screen: warnings and sentences."""
    section = sections.summary(run)
    return " ".join([*(text for _, text in section.verdicts), *section.paragraphs])


def test_the_first_screen_says_what_happened(full):
    values = run_values()
    said, change = first_screen(full), values.sum() + 12 * 0.125
    fell = f"In 12 updates (steps), the loss 'train' fell from 2.000 to {2 + change:#.4g} ({change:+#.4g})."
    assert fell.replace("-", "−") in said
    part, share = values[:, :28].sum(), 100 * values[:, :28].sum() / change
    largest = (
        f"The movement of fc1 accounts for the largest part: {part:+#.4g} ({share:.1f} % of the change)."
    )
    assert largest.replace("-", "−") in said
    assert "No layer hurt over the whole run, though single steps of a layer may have." in said


@pytest.mark.parametrize("groups", [{"note": 1}, {"d": {"fc1.weight": "a"}}, {"d": None}, [1], "text", None])
def test_a_setting_called_groups_that_is_no_division_is_only_a_setting(tmp_path, groups):
    run = write(tmp_path / "r", run_values(2), settings={"groups": groups})
    assert "By " not in first_screen(Run(run))


def test_a_loss_is_named_with_what_it_is_measured_on(tmp_path):
    known = {"train": "100 examples", "heldout": 3}
    names = ("train", "heldout")
    run = write(tmp_path / "r", run_values(1), names=names, settings={"measured_on": known})
    said = first_screen(Run(run))
    assert "In 1 update (step), the train loss (measured on 100 examples) fell from " in said
    assert "The loss 'heldout' fell from " in said  # 3 is no text
    assert "No layer hurt over the whole run." in said  # the only step is the run


@pytest.mark.parametrize(
    ("size", "power", "label"),
    [(2e-4, -4, "residual × 10⁻⁴"), (3e12, 12, "residual × 10¹²"), (0.5, 0, "residual")],
)
def test_small_residuals_have_ticks_without_exponents(size, power, label):
    residuals = np.array([size, -size, 0.0])
    chart = charts.residual_chart(np.arange(3), {"train": residuals})
    [line] = [each for each in chart.renderers if each.name == "train"]
    assert chart.yaxis[0].axis_label == label
    np.testing.assert_array_equal(line.data_source.data["y"], residuals / 10.0**power)


def test_the_first_screen_says_where_the_estimator_began_anew(tmp_path):
    start = write(tmp_path / "r", run_values(4), extra=lambda *_: {"sampled": True}).loss_end.values[-1, 0]
    with Record(tmp_path / "r", mode="a") as record:
        record.update(allocation(run_values(1)[0], 4, start, sampled=True))
    said = first_screen(Run(open_record(tmp_path / "r")))
    assert "continued at step 4, and the estimator began anew there" in said
    unbroken = write(tmp_path / "s", run_values(4), extra=lambda *_: {"sampled": True})
    assert "began anew" not in first_screen(Run(unbroken))


def test_only_the_first_tick_says_what_it_does_not_judge(tmp_path):
    tolerance = {**SMALL, "tolerance": 2.0**-12}
    run = write(tmp_path / "r", run_values(3), names=("train", "heldout"), extra=lambda *_: tolerance)
    ends = [
        text.endswith("This says nothing about how good the training is.")
        for _, text in sections.summary(Run(run)).verdicts
    ]
    assert ends == [True, False]
    warned = sections.summary(Run(write(tmp_path / "s", run_values(3), extra=lambda *_: SMALL))).verdicts
    assert not any("how good" in text for _, text in warned)


def test_the_bars_add_up_to_the_change(full):
    bars = sections.summary(full).bars
    check = check_conservation(full, "train")
    assert sum(bar.value for bar in bars.rows) == check.end - check.start
    assert [(bar.name, bar.kind) for bar in bars.rows] == [
        ("fc1", "helping"),
        ("fc2", "helping"),
        ("not allocated (residual)", "other"),
    ]
    assert [bar.note for bar in bars.rows] == ["28 parameters", "8 parameters", ""]
    assert bars.head == ("LCA", "share of change")
    assert 15 < bars.zero < 85  # percent: there is room for a word on either side
    residual = 100 * check.residual / check.change
    assert bars.rows[-1].share == f"{residual:.1f} %".replace("-", "−")
    for bar in bars.rows:
        at_zero = bar.left + bar.width if bar.value < 0 else bar.left
        assert abs(at_zero - bars.zero) <= 0.02  # percent, rounded to two digits


def test_many_layers_have_one_bar_together(tmp_path):
    layout = Layout([f"layer{i}.w" for i in range(30)], [(2,)] * 30)
    run = Run(write(tmp_path / "r", run_values(3, layout.size), layout=layout))
    names = [bar.name for bar in sections.summary(run).bars.rows]
    assert names[-2:] == ["22 other layers", "not allocated (residual)"]
    assert len(names) == 10
    assert sections.summary(run).bars.rows[-2].note == "44 parameters"


@pytest.mark.parametrize(
    ("state", "residual", "said"),
    [
        (-40.0, 0.0, "No parameter but the state, such as the running statistics of BatchNorm, accounts for"),
        (0.0, -40.0, "The residual, which is not allocated, accounts for"),
    ],
)
def test_the_largest_part_is_named_also_if_it_is_no_layer(tmp_path, state, residual, said):
    start = 2.0
    with Record(tmp_path / "r", LAYOUT) as record:
        for step, row in enumerate(run_values(3)):
            made = allocation(row, step, start, residual=residual, state_change=state)
            made = replace(made, loss_end=made.loss_end + state)
            record.update(made)
            start = made.loss_end
    text = first_screen(Run(lca.open_record(tmp_path / "r")))
    assert f"{said} the largest part: −120.0 (" in text
    assert "The layer with the largest part is fc1" in text


def test_nothing_is_said_of_the_run_that_is_only_true_of_measured_steps(tmp_path):
    """Every tenth step hurt, and the others helped: no sentence may say that the run, or a layer, hurt."""
    run = write(tmp_path / "r", np.abs(run_values(4)) / 64, every=10).load().copy(deep=True)
    run["loss_start"][1:] -= np.array([1.0, 2.0, 3.0])[:, None]
    run["loss_end"][1:] -= np.array([1.0, 2.0, 3.0])[:, None]
    run = Run(run)
    scope = "the 4 measured steps, every 10th from 0 to 30"
    text, check = first_screen(run), check_conservation(run, "train")
    assert f"sums below are over {scope}, and say nothing about the steps in between" in text
    assert f"changed by {check.change:+.4g} in the measured steps and by −3 in the others" in text
    assert "What happened between or after the measured steps, which is not allocated, accounts for" in text
    assert f"2 of 2 layers hurt over {scope}: fc1" in text
    assert "Only 4 of 31 steps were measured (12.9 %)" in text
    assert "train, measured steps: " in text
    page = Page(render_report(run.record))
    assert "the run" not in page.text.replace("the end of the run", "").replace("Settings of the run", "")
    assert "whole run" not in page.text
    data = json.loads(re.search(r'id="data">(.*?)</script>', render_report(run.record))[1])
    assert data["run"]["scope"] == scope


def test_a_record_that_begins_late_or_ends_early_is_a_part(tmp_path):
    late = Run(write(tmp_path / "r", run_values(3)).assign_coords(step=[5, 6, 7]))
    assert (late.is_whole, late.scope) == (False, "steps 5 to 7")
    assert "The record begins at step 5" in first_screen(late)
    growing = write(tmp_path / "s", run_values(3))
    growing.attrs["complete"] = False
    assert not Run(growing).is_whole
    ended = write(tmp_path / "t", run_values(3))
    assert Run(ended).is_whole
    ended.attrs["final_losses"] = {"train": -100.0}
    assert not Run(ended).is_whole


def test_a_step_of_several_updates_is_called_a_straight_line(tmp_path):
    text = first_screen(Run(write(tmp_path / "r", run_values(3), settings={"span": 10})))
    assert "A step of this page is a straight line over 10 updates" in text
    assert "In 3 steps of 10 updates each, the loss 'train' fell" in text
    assert "can differ from those along the path. " in f"{text} "
    compared = write(tmp_path / "c", run_values(3), settings={"span": 10})
    compared["path_difference"] = ("step", "measured"), [[0.25], [np.nan], [0.75]]
    said = "along the path: in the 2 steps whose updates were measured as well, those of layers by 50.0 %"
    assert f"{said} (median) and at most 75.0 %." in first_screen(Run(compared))
    assert "straight line" not in first_screen(
        Run(write(tmp_path / "s", run_values(3), settings={"span": "x"}))
    )


def test_estimates_are_called_estimates_on_the_first_screen(tmp_path):
    lost = {"residual": np.nan}
    run = Run(write(tmp_path / "r", run_values(3), extra=lambda *_: lost))
    text = first_screen(run)
    assert "Over the run, the estimated allocations of the loss 'train' sum to " in text
    unchecked = (
        "The allocations are estimates from samples, which were not checked against the measured loss."
    )
    assert unchecked in text
    assert "Not checked" in text
    assert "of this sum" in text
    sampled = Run(write(tmp_path / "s", run_values(3), extra=lambda *_: {"sampled": True}))
    assert "The allocations are estimates from samples." in first_screen(sampled)


def test_figures_and_tables_of_estimates_say_so(tmp_path):
    for kind, changes in {"exact": {}, "sampled": {"residual": np.nan, "sampled": True}}.items():
        run = Run(write(tmp_path / kind, run_values(3), extra=lambda *_, own=changes: own))
        layers, explorer, [bars] = sections.layers(run), sections.explorer(run), [sections.summary(run).bars]
        texts = [each.caption for each in (*layers.charts, *layers.tables, bars)] + explorer.paragraphs
        assert len(texts) >= 5
        told = ["estimate" in text.lower() for text in texts]
        assert all(told) if kind == "sampled" else not any(told)


def test_the_rows_of_a_sampled_run_are_those_of_its_self_check(tmp_path):
    nothing = {"residual": np.nan, "sampled": True}
    with Record(tmp_path / "run", LAYOUT) as record:
        for step in (0, 1, 4):
            [row] = rows_of({"train": allocation(run_values(1)[0], step, np.nan, **nothing)}, LAYOUT).values()
            if step == 1:
                row.check = CheckedWindow(0, 1, change=-1.25, total=-1.5, margin=np.nan)
            record.write({"train": row})
    run = Run(open_record(tmp_path / "run"))
    section = sections.balance(run)
    [table] = section.tables
    assert [row[1] for row in table.rows[:4]] == ["2 of 3", "−1.25", "−1.5", "no error bars"]
    assert section.paragraphs[1].startswith(
        "2 of the 5 steps from the first to the last measured one have no"
    )
    assert "not measured" not in str(table.rows)
    unchecked = Run(write(tmp_path / "r", run_values(3), extra=lambda *_: nothing))
    [table] = sections.balance(unchecked).tables
    assert [row[1] for row in table.rows[:4]] == ["0 of 3", "not checked", "not checked", "not checked"]
    assert len(sections.balance(unchecked).paragraphs) == 1


def test_the_state_is_named_where_it_is_a_large_part(tmp_path):
    def moved(step, measured):
        return {"state_change": -2.0}

    text = first_screen(Run(write(tmp_path / "r", run_values(3), extra=moved)))
    assert "but the state, such as the running statistics of BatchNorm, accounts for" in text


def test_blue_and_orange_red_are_for_the_sign_only(full):
    """No line, bar or legend of a loss or layer has the colours of helping and hurting."""
    reserved = {HELPING, HURTING}
    assert not reserved & set(CATEGORY_COLORS)
    loss, cumulative = sections.losses(full).charts[0], sections.layers(full).charts[1]
    drawn = {each.glyph.line_color for chart in (loss, cumulative) for each in chart.figure.renderers}
    assert len(drawn) > 2
    assert not reserved & drawn
    bars = sections.layers(full).charts[0].figure.renderers[0].data_source.data
    assert [HELPING if v < 0 else HURTING for v in bars["value"]] == bars["color"]


def test_labels_of_long_names_differ():
    names = [f"encoder.layers.{i}.attention.weight" for i in range(20)]
    assert len(set(short_labels(names, 10))) == 20
    assert short_labels(names, 14)[11] == "…11.attention.weight"
    same_ends = [f"{c}{'x' * 100}" for c in "abc"]
    assert len(set(short_labels(same_ends))) == 3
    assert max(map(len, short_labels(same_ends))) < 30


def test_classes_are_rows_where_there_are_many(tmp_path):
    names = ("train", *(f"train/class {i}" for i in range(12)))
    section = sections.classes(Run(write(tmp_path / "r", run_values(2), names=names)))
    assert section.tables[0].head == ("", "fc1", "fc2")
    assert [row[0] for row in section.tables[0].rows] == [str(i) for i in range(12)]
    assert "share of the train loss" in section.paragraphs[0]
    named = write(tmp_path / "n", run_values(2), names=names[:3], settings={"class_names": ["cat"]})
    assert sections.classes(Run(named)).tables[0].head == ("", "cat", "1")
    own = sections.classes(Run(write(tmp_path / "s", run_values(2), names=("train", "class cat"))))
    assert own.tables[0].head == ("", "cat")
    assert "a measured loss of its own" in own.paragraphs[0]


# Maps


def test_blocks_contain_every_step_once():
    assert block_starts(1000, 100).tolist() == list(range(0, 1000, 10))
    assert np.diff([*block_starts(257, 100), 257]).tolist() == 85 * [3] + [2]
    assert all(len(block_starts(steps, 100)) <= 100 for steps in range(1, 500))


def test_the_intervals_of_layers_contain_every_step(tmp_path):
    values = run_values(230)
    intervals = layer_intervals(Run(write(tmp_path / "run.zarr", values)))
    assert intervals.shape == (1, 1 + 77, 2)  # intervals of 3 steps, the last one of 2
    assert intervals[0, 0].tolist() == [values[:, :28].sum(), values[:, 28:].sum()]
    np.testing.assert_array_equal(intervals[0, 1:].sum(axis=0), intervals[0, 0])
    np.testing.assert_array_equal(intervals[0, 2, 0], values[3:6, :28].sum())


def test_detail_maps_show_the_values_of_the_record(full):
    maps, skipped = detail_maps(full)
    assert [m.grid.name for m in maps] == [*LAYOUT.names, "neurons of fc1", "neurons of fc2"]
    assert skipped == 0
    for which, loss_values in enumerate((run_values(), run_values() / 2)):
        for interval, wanted in [(0, loss_values.sum(axis=0)), (5, loss_values[4])]:
            limit = maps[0].limits[min(interval, 1)]
            shown = decode(maps[0].codes[which, interval].astype(float), limit)
            cells = wanted[:24].reshape(4, 6)
            assert np.all(np.abs(shown - cells) <= 0.02 * (np.abs(cells) + LINEAR_FRACTION * limit))
            assert limit >= np.abs(cells).max()


def test_values_stored_in_blocks_give_the_same_maps(tmp_path):
    options = {"values": "float64", "block": 5}  # intervals start and end within blocks
    in_blocks = Run(write(tmp_path / "a.zarr", run_values(230), **options))
    in_blocks.record["values"] = in_blocks.record["values"].chunk(step=7)
    loaded = Run(write(tmp_path / "b.zarr", run_values(230), values="float64").load())
    for left, right in zip(detail_maps(in_blocks)[0], detail_maps(loaded)[0], strict=True):
        np.testing.assert_array_equal(left.codes, right.codes)


def test_neurons_are_shown_without_recorded_values(tmp_path):
    values = run_values(3)
    [neurons, _], _ = detail_maps(Run(write(tmp_path / "run.zarr", values)))
    wanted = values[0, :24].reshape(4, 6).sum(axis=1) + values[0, 24:28]
    shown = decode(neurons.codes[0, 1].astype(float), neurons.limits[1])
    assert np.abs(shown - wanted).max() <= 0.02 * (np.abs(wanted).max() + LINEAR_FRACTION * neurons.limits[1])


@pytest.mark.parametrize("side", [64, 12, 4, 3])
@pytest.mark.parametrize("shape", [(7, 5), (100, 3), (6, 2, 3, 3)])
@pytest.mark.parametrize("axis", [0, 1])
def test_cells_of_a_tensor_add_up(shape, side, axis):
    values = np.arange(np.prod(shape), dtype=float)
    grid = MatrixGrid("w", "fc", shape, axis)
    cells = grid.cell_sums(values, side)
    assert cells.sum() == values.sum()
    assert cells.size == grid.count(side) <= side**2
    first = np.moveaxis(values.reshape(shape), axis, 0).reshape(shape[axis], -1)
    rows, cols = grid.edges(side)
    assert cells[-1, 0] == first[rows[-2] :, : cols[1]].sum()


@pytest.mark.parametrize("length", [1, 16, 17, 100, 5000])
def test_cells_of_a_list_add_up_and_the_rest_is_empty(length):
    cells = ListGrid("b", "fc", length, "neuron").cell_sums(np.ones(length), 8)
    assert np.nansum(cells) == length
    count = ListGrid("b", "fc", length, "neuron").count(8)
    assert count <= 64
    assert np.array_equal(np.isnan(cells.ravel()), np.arange(cells.size) >= count)


def test_codes_preserve_sign_and_zero_and_are_accurate_to_two_percent():
    values = np.concatenate([-np.logspace(-6, 0, 500), [0.0], np.logspace(-6, 0, 500)])
    shown = decode(encode(values, 1.0).astype(float), 1.0)
    assert np.all(np.abs(shown - values) <= 0.02 * (np.abs(values) + LINEAR_FRACTION))
    assert encode(np.array([0.0, np.nan]), 1.0).tolist() == [0, EMPTY]
    assert encode(np.array([0.0, np.nan]), 0.0).tolist() == [0, EMPTY]


def test_a_large_network_stays_small(tmp_path):
    names = [f"layer{i}.weight" for i in range(120)]
    layout = Layout(names, [(40, 30)] * 120)
    values = np.linspace(-1, 0.5, layout.size) * np.ones((3, 1))
    run = Run(
        write(tmp_path / "run.zarr", values, layout=layout, values="float32", names=("train", "heldout"))
    )
    maps, skipped = detail_maps(run)
    assert sum(m.codes.size for m in maps) <= MAX_BYTES
    assert maps
    assert skipped == 0


def test_skipped_maps_are_counted_and_have_the_smallest_totals(tmp_path, monkeypatch):
    monkeypatch.setattr("lca.report._moments.MAX_BYTES", 100)  # 30 cells, at 4 frames each, need 120
    values = run_values(3)
    run = Run(write(tmp_path / "run.zarr", values, values="float64"))
    maps, skipped = detail_maps(run)
    parts = {"fc1.weight": slice(24), "fc1.bias": slice(24, 28), "fc2.weight": slice(28, 36)}
    parts |= {"neurons of fc1": slice(28), "neurons of fc2": slice(28, 36)}
    sums = {name: abs(values[:, part].sum()) for name, part in parts.items()}
    shown = {each.grid.name for each in maps}
    assert max(sums, key=sums.get) in shown
    assert min(sums, key=sums.get) not in shown
    assert skipped == 5 - len(maps)
    assert f"{skipped} more map" in render_report(run.record)


# Error bars


def test_error_bars_bound_the_error_of_the_sum(tmp_path):
    run = Run(write(tmp_path / "run.zarr", run_values(4), extra=replicates))
    # The replicates of fc1 (28 entries) at a node differ by 56, so the variance of their mean is 56²/4.
    # A step has two nodes.
    step = np.sqrt(2 * 28.0**2)
    bound = margin_bound(run, "layer", "train")
    np.testing.assert_allclose(bound[0], norm.ppf(0.975) * np.sqrt(2 * 4) * step, rtol=1e-12)
    shared = np.sqrt(2 * 28.0**2 + 3 * 56.0**2)  # 5 nodes, of which 3 belong to two steps
    assert norm.ppf(0.975) * shared <= bound[0]
    section = sections.layers(run)
    assert "± at most" in section.tables[0].head
    assert "95 % intervals of the error of sampling" in section.charts[0].caption


def test_no_error_bars_if_the_error_of_a_step_is_missing(tmp_path):
    run = Run(write(tmp_path / "run.zarr", run_values(4), extra=lambda t, r: replicates(t, r) if t else {}))
    assert np.isfinite(run.layer_stderr("train")[1:]).all()
    assert margin_bound(run, "layer", "train") is None
    assert "± at most" not in sections.layers(run).tables[0].head


def test_without_errors_no_error_bars_are_mentioned(full):
    section = sections.layers(full)
    assert "± at most" not in section.tables[0].head
    assert "95 %" not in section.charts[0].caption


# Charts and tables


def test_charts_show_the_numbers_of_the_record(full):
    values = run_values()
    loss = sections.losses(full).charts[0].figure.renderers
    np.testing.assert_array_equal(
        loss[0].data_source.data["y"], np.append(2.0, 2 + (values.sum(1) + 0.125).cumsum())
    )
    np.testing.assert_array_equal(loss[2].data_source.data["y"], np.append(2.0, 2 + values.sum(1).cumsum()))
    totals, cumulative, *_ = (chart.figure.renderers for chart in sections.layers(full).charts)
    np.testing.assert_array_equal(
        totals[0].data_source.data["value"], [values[:, :28].sum(), values[:, 28:].sum()]
    )
    assert cumulative[0].data_source.data["y"][-1] == values[:, :28].sum()
    helping, histogram = (chart.figure.renderers for chart in sections.noise(full).charts)
    percent = 100 * (values < 0).sum(1) / (values != 0).sum(1)
    np.testing.assert_array_equal(helping[0].data_source.data["y"], percent)
    for bars, wanted in zip(histogram, (values < 0, values > 0), strict=True):
        tops = bars.data_source.data["top"]
        assert tops[tops >= 1].sum() == wanted.sum()


def test_long_runs_are_thinned_but_keep_both_ends():
    chart = charts.cumulative_chart(np.arange(10_001), np.ones((10_000, 1)), ["a"])
    x = chart.renderers[0].data_source.data["x"]
    assert len(x) <= charts.MAX_POINTS + 1
    assert (x[0], x[-1]) == (0, 10_000)


def test_many_layers_have_grey_lines_and_a_legend_that_fits():
    chart = charts.cumulative_chart(np.arange(4), -np.ones((3, 50)), [f"l{i}" for i in range(50)])
    assert len(chart.renderers) == 50
    assert len(chart.legend[0].items) == charts.MAX_COLORED_LINES + 1


def test_the_chart_of_many_layers_and_steps_stays_small():
    rows = np.random.default_rng(0).normal(size=(10_000, 100))  # noise is incompressible
    chart = charts.cumulative_chart(np.arange(10_001), rows, [f"block{i}.attention" for i in range(100)])
    assert len(json.dumps(json_item(chart))) < 800_000


def test_classes_have_a_table_and_are_not_main_losses(tmp_path):
    names = ("train", "train/penalty", "class 0", "class 1")
    run = Run(write(tmp_path / "run.zarr", run_values(3), names=names))
    assert run.losses == ("train",)
    table = sections.classes(run).tables[0]
    assert table.head == ("", "0", "1")
    assert table.rows[0][1] == format_signed(run_values(3)[:, :28].sum() / 4)


@pytest.mark.parametrize(
    ("names", "heads"),
    [
        (("train", "by class", "by class/class 0", "by class/class 1"), {"by class": ("", "0", "1")}),
        (("train", "train/class 0", "held/class 0"), {"train": ("", "0"), "held": ("", "0")}),
    ],
)
def test_terms_of_a_loss_can_be_classes(tmp_path, names, heads):
    run = Run(write(tmp_path / "run.zarr", run_values(3), names=names))
    tables = sections.classes(run).tables
    assert [table.head for table in tables] == [*heads.values()]
    for name, table in zip(heads, tables, strict=True):
        assert f"the {name} loss of each class" in table.caption
    assert run.losses == tuple(name for name in names if "/" not in name)


def test_method_and_citation_are_shown(tmp_path):
    record = write(tmp_path / "run.zarr", run_values(3), estimator=lca.PathIntegral(), settings={"lr": 0.5})
    text = Page(render_report(record)).text
    for said in (
        "PathIntegral, rule = simpson",
        "0.5",
        "36 in 3 tensors",
        "@inproceedings{lan2019lca",
        "3, from 0 to 2",
    ):
        assert said in text, said


# Optional data


CONTENTS = [
    (("train",), {"neurons": False, "histogram": False}),
    (("val",), {}),
    (("class 0", "class 1"), {"neurons": False}),
    (("train", "heldout"), {"values": "float32", "neurons": False}),
]


@pytest.mark.parametrize(
    ("steps", "names", "options"),
    cases(
        *((steps, *CONTENTS[i]) for i, steps in enumerate((150, 1, 2, 1))),
        at_night=((steps, *contents) for steps in (1, 2, 150) for contents in CONTENTS),
    ),
)
def test_the_page_shows_what_the_record_has(tmp_path, steps, names, options):
    page = render_report(write(tmp_path / "run.zarr", run_values(steps), names=names, **options))
    ids = Page(page).ids()
    assert len(ids) == len(set(ids))
    assert "map" in ids
    assert ("detail" in ids) == ("values" in options or options.get("neurons", True))
    assert ("noise-1" in ids) == options.get("histogram", True)


def test_a_run_without_losses_or_movement_has_a_page(tmp_path):
    extra = {"residual": np.nan}
    record = write(
        tmp_path / "run.zarr", np.zeros((3, LAYOUT.size)), extra=lambda *_: extra, values="float32"
    )
    page = Page(render_report(record))
    assert "loss" not in page.ids()
    assert "Not checked" in page.text
    assert "Every allocation is exactly 0" in page.text


def test_a_record_without_steps_is_refused(tmp_path):
    with Record(tmp_path / "run.zarr", LAYOUT) as record:
        record.update(allocation(np.ones(LAYOUT.size)))
    empty = lca.open_record(tmp_path / "run.zarr").isel(step=slice(0, 0))
    with pytest.raises(LCAError, match=r"no complete step yet.*Record.flush"):
        render_report(empty)


# Safety


@pytest.fixture
def hostile(tmp_path):
    layout = Layout(NAMES, ((4, 6), (4,), (2, 4)))
    names = ("train", f"held{EVIL}")
    settings = {EVIL: "</script>", "note": EVIL}
    return write(
        tmp_path / "run.zarr", run_values(), layout=layout, names=names, settings=settings, values="float32"
    )


def test_names_are_escaped(hostile):
    page = render_report(hostile, title=EVIL)
    assert "<img" not in page
    assert "</script><script>document" not in page
    parsed = Page(page)
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"img", "iframe", "object", "embed"})
    assert EVIL in parsed.text
    assert all(
        attrs.get("type") == "application/json" or not attrs for tag, attrs in parsed.tags if tag == "script"
    )


def test_no_name_is_read_as_tex(hostile):
    """For TeX, Bokeh would load MathJax from the network."""
    for figure in (chart.figure for chart in sections.layers(Run(hostile)).charts):
        drawn = [item.label.value for item in figure.legend[0].items]
        drawn += [text for axis in figure.yaxis for text in axis.major_label_overrides.values()]
        assert not [text for text in drawn if re.search(r"\$\$|\\\(|\\\[", text)]


def test_the_page_has_no_external_links(full):
    parsed = Page(render_report(full.record))
    links = [attrs.get(key, "") for _, attrs in parsed.tags for key in ("src", "href", "action", "data")]
    assert [link for link in links if link and not link.startswith(("#", "data:"))] == []
    policy = next(a["content"] for _, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


# Writing


def test_the_command_writes_the_page_and_prints_its_path(tmp_path, capsys):
    write(tmp_path / "run.zarr", run_values(3))
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "run.zarr"), "-o", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert "<title>run.zarr" in out.read_text(encoding="utf-8")
    assert out.stat().st_size < 2_000_000


def test_a_missing_record_is_reported_in_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none.zarr"), "-o", str(tmp_path / "report.html")]) == 2
    assert "does not exist; pass the folder written by lca.Record" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


ATTRIBUTES = {
    "settings": ["text", None, 3],
    "citations": ["text", [1]],
    "measured": ["train", [["a"]], []],
    "block": [0, -3, 10**12, "8", 1.5, True],
    "layout": [None, {}],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, v) for name, values in ATTRIBUTES.items() for v in values]
)
def test_edited_attributes_are_an_error_in_one_line(full, name, value):
    edited = full.record.assign_attrs({name: value})
    with pytest.raises(LCAError, match=f"^the attribute '{name}' of the record must be .*, got [^\\n]*$"):
        render_report(edited)


@pytest.mark.parametrize("power", [39, 200, 307])
def test_values_beyond_float32_have_a_page(tmp_path, power):
    run = np.zeros((4, LAYOUT.size))
    run[::2, 0], run[1::2, 0] = 10.0**power, -(10.0**power)
    page = render_report(write(tmp_path / "r", run, extra=lambda *_: {"residual": 0.0}, values="float64"))
    assert "Sums beyond 3.4e+38 are shown as that number" in page


def test_values_whose_sums_overflow_are_an_error(tmp_path):
    run = np.zeros((4, LAYOUT.size))
    run[::2, 0], run[1::2, 0] = 1.7e308, -1.7e308
    with pytest.raises(LCAError, match="the run diverged; lower the learning rate"):
        render_report(write(tmp_path / "r", run, extra=lambda *_: {"residual": 0.0}))


def test_no_name_makes_the_page_wide(tmp_path):
    names = tuple(f"{c}{'x' * 5000}.{c}{'y' * 5000}" for c in "abc")
    layout = Layout(names, ((2, 2), (2,), (2,)))
    values = np.ones((3, layout.size))
    page = render_report(write(tmp_path / "r", values, layout=layout, values="float32"), title="t")
    assert max(map(len, Page(page).text.split())) <= 200
    found = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])["run"]
    assert len(set(found["layers"])) == 3
    assert "y" * 300 not in page


def test_a_surrogate_in_a_title_or_setting_is_replaced(tmp_path):
    record = write(tmp_path / "r", run_values(3), settings={"note": "a\udcff"})
    page = write_report(record, tmp_path / "p.html", title="b\udcff")
    assert "<h1>b?</h1>" in page.read_text(encoding="utf-8")


def test_only_a_page_is_replaced_and_only_on_request(tmp_path, capsys):
    record = tmp_path / "run.zarr"
    write(record, run_values(3))
    page = write_report(record, tmp_path / "p.html")
    with pytest.raises(OutputError, match="exists already; pass overwrite=True to replace it"):
        write_report(record, page)
    assert (
        write_report(record, page, title="new", overwrite=True).read_text(encoding="utf-8").count("<h1>new")
    )
    (tmp_path / "mine.html").write_text("<h1>loss-change-allocation</h1>")
    with pytest.raises(OutputError, match="was not made by lca"):
        write_report(record, tmp_path / "mine.html", overwrite=True)
    assert main(["report", str(record), "-o", str(tmp_path / "mine.html"), "--overwrite"]) == 2
    assert "so --overwrite does not replace it" in capsys.readouterr().err
    assert (tmp_path / "mine.html").read_text() == "<h1>loss-change-allocation</h1>"


def test_the_command_finds_the_record_and_the_place(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "demo"
    write(folder / "run.zarr", run_values(3))
    assert main(["report", str(folder), "-o", str(folder), "--quiet"]) == 0
    assert (folder / "report.html").is_file()
    assert capsys.readouterr().out == ""
    assert main(["report", str(folder), "-o", f"{tmp_path}/new/", "--quiet"]) == 0
    assert (tmp_path / "new" / "report.html").is_file()
    assert main(["report", str(folder), "-o", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")
    assert main(["report", str(folder), "-o", str(tmp_path / "p.html"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == (tmp_path / "p.html").stat().st_size
    write(folder / "other.zarr", run_values(3))
    for path, said in (
        (folder, "holds 2 records; pass one of them: "),
        (tmp_path, "is not a record and holds none"),
        (tmp_path / "none", "does not exist"),
        (tmp_path / "p.html", "is a file, not a record"),
    ):
        assert main(["report", str(path), "-o", str(tmp_path / "q.html")]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    denied = PermissionError(13, "Permission denied")
    monkeypatch.setattr(type(tmp_path), "is_dir", lambda _: (_ for _ in ()).throw(denied))
    assert main(["report", str(folder)]) == 2
    assert "cannot read the folder" in capsys.readouterr().err


def test_an_unwritable_path_is_refused_and_an_existing_page_is_kept(tmp_path):
    write(tmp_path / "run.zarr", run_values(3))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write to the folder"):
        write_report(tmp_path / "run.zarr", tmp_path / "file" / "report.html")
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(LCAError):
        write_report(lca.open_record(tmp_path / "run.zarr").isel(step=[]), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "old"
