"""The page of several runs shows the groups that the trackers recorded as it shows the layers."""

from base64 import b64decode

import numpy as np
import pytest

import lca
from lca.analysis import mean_over_runs
from lca.report import _comparison as sections
from lca.report import render_comparison
from lca.report._comparison_groups import MAX_CURVES
from lca.report._comparison_page import opened
from lca.report._moments import LINEAR_FRACTION
from lca.report._sections import classes as classes_of_one
from lca.report._sections import groups as groups_of_one
from lca.report._sections import layers as layers_of_one
from lca.runs._format import format_number
from lca.runs._run import Run
from lca.tolerances import EPS64, summed
from tests.report.records import LAYOUT, run_values, write

KIND = {"fc1.weight": "weights", "fc1.bias": "biases", "fc2.weight": "weights"}
PART = {"fc1.weight": "first", "fc1.bias": "first", "fc2.weight": "last"}
SMALL = {"residual": 2.0**-12, "tolerance": 2.0**-12}


def record(path, values, groups, **settings):
    return write(path, values, extra=lambda *_: SMALL, settings={"groups": groups, **settings})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    paths = {"adam": [], "sgd": []}
    for name, scale in (("adam", 1.0), ("sgd", 0.5)):
        for seed in range(3):
            path, groups = folder / f"{name}-{seed}.zarr", {"kind": KIND, "part": PART}
            record(path, scale * run_values(6, seed=seed), groups, optimizer=name, seed=seed)
            paths[name].append(path)
    return opened(paths)


def sums(kind, scale=1.0):
    """The sums of a group over the run, one for each seed."""
    chosen = np.repeat([KIND[name] == kind for name in LAYOUT.names], LAYOUT.sizes)
    return np.array([scale * run_values(6, seed=seed)[:, chosen].sum() for seed in range(3)])


def drawn(chart, name):
    """The data of the renderers that have a column of this name."""
    sources = (renderer.data_source.data for renderer in chart.figure.renderers)
    return [np.asarray(data[name]) for data in sources if name in data]


def over_time(data):
    """The maps of the groups, and the charts of their curves."""
    charts = sections.groups_over_time(data).charts
    return [chart for chart in charts if chart.cells], [chart for chart in charts if not chart.cells]


def decoded(chart):
    """The values of a map, (groups, intervals), within 2 % of each and of the linear part of the scale."""
    cells = chart.cells
    codes = np.frombuffer(b64decode(cells["codes"]), np.int8).reshape(cells["height"], cells["width"])
    unscaled = np.expm1(np.abs(codes) / 127 * np.log1p(1 / LINEAR_FRACTION))
    return np.sign(codes) * LINEAR_FRACTION * cells["limit"] * unscaled


def test_groups_stand_side_by_side_with_intervals(data):
    section = sections.groups(data)
    assert [chart.caption.split(",")[0] for chart in section.charts] == [
        "LCA of each kind for the train loss", "LCA of each part for the train loss",
    ]  # fmt: skip
    adam, sgd = drawn(section.charts[0], "value")
    scale = summed(sum(abs(sums("weights"))), EPS64)
    assert abs(adam[0] - sums("weights").mean()) <= scale
    assert abs(sgd[0] - sums("weights", 0.5).mean()) <= scale
    table = section.tables[0]
    assert [row[0] for row in table.rows[:2]] == ["weights", "biases"]
    half = float(mean_over_runs(sums("weights")[:, None]).half[0])
    shown = table.rows[0][1].partition("± ")[2]
    assert shown == f"{half:.{len(shown.partition('.')[2])}f}"
    assert table.head == ("", "adam", "sgd", "sgd − adam")
    assert "the group helped more, or hurt less, in sgd. Its intervals hold for all groups" in table.caption


def test_differences_of_groups_are_tested(data):
    table = sections.differences(data).tables[1]
    assert table.caption == "Differences of the groups' sums (kind)"
    found = data.difference("adam", "sgd", by="kind")
    assert [row[4] for row in table.rows] == [f"{p:.2g}" for p in found["p_adjusted"].values]
    text = next(text for text in sections.overview(data).paragraphs if text.startswith("By kind"))
    assert text.startswith("By kind, they differ most in weights: sgd − adam = +")
    assert "both corrected for 2 groups" in text


def test_groups_are_drawn_over_time_with_one_scale_for_a_division(data):
    maps, charts = over_time(data)
    assert len(maps) == 4
    assert [chart.caption for chart in charts] == [
        "weights (kind)", "biases (kind)", "first (part)", "last (part)",
    ]  # fmt: skip
    weights, biases, first, _ = (chart.figure.y_range for chart in charts)
    assert (weights.start, weights.end) == (biases.start, biases.end) != (first.start, first.end)
    (low, _), (high, _) = drawn(charts[0], "y1"), drawn(charts[0], "y2")
    ends = [line[-1] for line in drawn(charts[0], "y")]
    scale = summed(sum(abs(sums("weights"))), EPS64)
    assert abs(ends[0] - sums("weights").mean()) <= scale
    assert abs(ends[1] - sums("weights", 0.5).mean()) <= scale
    assert abs(low[-1] - sums("weights").min()) <= scale
    assert abs(high[-1] - sums("weights").max()) <= scale


def test_the_maps_of_a_division_have_one_scale_and_show_the_means(data):
    adam, sgd, *of_part = over_time(data)[0]
    assert [chart.caption for chart in (adam, sgd)] == [
        "adam, mean over its runs (kind)", "sgd, mean over its runs (kind)",
    ]  # fmt: skip
    limit = sgd.key
    assert (adam.key, adam.cells["limit"], sgd.cells["limit"]) == (0, limit, limit)
    assert of_part[1].key != limit
    chosen = np.repeat([KIND[name] == "weights" for name in LAYOUT.names], LAYOUT.sizes)
    mean = np.mean([run_values(6, seed=seed)[:, chosen].sum(axis=1) for seed in range(3)], axis=0)
    for chart, scale in ((adam, 1.0), (sgd, 0.5)):
        assert chart.cells["rows"] == ["weights", "biases"]
        miss = np.abs(decoded(chart)[0] - scale * mean)
        assert np.all(miss <= 0.02 * (np.abs(scale * mean) + LINEAR_FRACTION * limit))


def test_groups_have_tables_by_class_with_a_scale_of_their_own(tmp_path):
    heads = {"fc1.weight": "attn[head 0]", "fc1.bias": "attn[head 1]", "fc2.weight": "other"}
    for name, scale in (("a", 1.0), ("b", 0.5)):
        write(tmp_path / f"{name}.zarr", scale * run_values(3), names=("train", "train/class cat"),
              settings={"groups": {"head": heads}})  # fmt: skip
    section = sections.classes(opened([tmp_path / "a.zarr", tmp_path / "b.zarr"]))
    assert section.title == "Layers and groups by class"
    assert [table.folded for table in section.tables] == [False, False, True, True]
    first, second = section.tables[2:]
    assert first.caption.startswith("a: LCA of each attention head for the train loss of each class")
    assert [row[0] for row in first.rows] == ["attn[head 0]", "attn[head 1]", "other"]
    assert max(abs(tint) for row in first.tints[:2] for tint in row) == 1
    assert abs(first.tints[0][0]) > abs(second.tints[0][0]) > 0  # one scale: b has half the numbers of a
    [table] = classes_of_one(Run(lca.open_record(tmp_path / "a.zarr"))).tables[1:]
    assert [row[1:] for row in table.rows] == [row[1:] for row in first.rows]


def test_the_page_of_one_run_draws_heads_without_the_rest_and_states_it(tmp_path):
    heads = {"fc1.weight": "attn[head 0]", "fc1.bias": "attn[head 1]", "fc2.weight": "other"}
    values = run_values(3)
    record(tmp_path / "run.zarr", values, {"head": heads})
    chart, curves = groups_of_one(Run(lca.open_record(tmp_path / "run.zarr"))).charts
    assert [len(values) for values in drawn(chart, "value")] == [2]
    other = format_number(float(run_values(3)[:, -LAYOUT.sizes[-1] :].sum()), "+")
    assert (
        f"What is in no attention head, 'other', has {other} for the train loss and is not drawn."
        in chart.caption
    )
    assert [line[-1] for line in drawn(curves, "y")] == [values[:, :24].sum(), values[:, 24:28].sum()]
    [table] = groups_of_one(Run(lca.open_record(tmp_path / "run.zarr"))).tables
    assert [row[0] for row in table.rows] == ["attn[head 0]", "attn[head 1]", "other"]


def test_each_loss_has_the_bars_and_curves_of_groups_on_the_page_of_one_run(tmp_path):
    values, kinds = run_values(3), {"fc1.weight": "other", "fc1.bias": "bias", "fc2.weight": "weight"}
    write(tmp_path / "r", values, names=("train", "heldout"), settings={"groups": {"kind": kinds}})
    section = groups_of_one(Run(lca.open_record(tmp_path / "r")))
    sums = np.array([values[:, 24:28].sum(), values[:, 28:].sum(), values[:, :24].sum()])
    bars, train, heldout = section.charts
    assert [row.tolist() for row in map(np.array, drawn(bars, "value"))] == [[*sums], [*(sums / 2)]]
    for chart, scale, loss in ((train, 1, "train"), (heldout, 0.5, "heldout")):
        assert [line[-1] for line in drawn(chart, "y")] == [*(scale * sums)]
        assert f"for the {loss} loss" in chart.caption
    assert [table.rows[1][1] for table in section.tables] == [
        format_number(s, "+") for s in (sums[1], sums[1] / 2)
    ]
    layers = layers_of_one(Run(lca.open_record(tmp_path / "r")))
    assert len(layers.charts) == len(section.charts)


def test_what_is_in_no_head_is_in_the_table_and_not_drawn(tmp_path):
    heads = {"fc1.weight": "attn[head 0]", "fc1.bias": "attn[head 1]", "fc2.weight": "other"}
    for name, scale in (("a", 1.0), ("b", 0.5)):
        record(tmp_path / f"{name}.zarr", scale * run_values(3), {"head": heads})
    data = opened([tmp_path / "a.zarr", tmp_path / "b.zarr"])
    section = sections.groups(data)
    assert [len(values) for values in drawn(section.charts[0], "value")] == [2, 2]
    assert "What is in no attention head, 'other', is in the table only." in section.charts[0].caption
    assert [row[0] for row in section.tables[0].rows[:3]] == ["attn[head 0]", "attn[head 1]", "other"]
    maps, curves = over_time(data)
    assert [chart.cells["rows"] for chart in maps] == 2 * [["attn[head 0]", "attn[head 1]"]]
    assert [chart.caption for chart in curves] == ["attn[head 0] (head)", "attn[head 1] (head)"]
    [_, text] = [text for text in sections.overview(data).paragraphs if "differ most in" in text]
    assert text.startswith("By attention head, they differ most in attn[head")


def test_a_page_without_groups_has_no_section_of_them(tmp_path, data):
    write(tmp_path / "a.zarr", run_values(3))
    write(tmp_path / "b.zarr", run_values(3))
    without = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    assert "Groups side by side" not in render_comparison(without)
    page = render_comparison(data)
    assert "Groups side by side" in page
    assert "Groups over time" in page


def test_groups_that_only_some_runs_have_are_named(tmp_path):
    record(tmp_path / "a.zarr", run_values(3), {"kind": KIND, "part": PART})
    record(tmp_path / "b.zarr", run_values(3), {"kind": {**KIND, "fc2.weight": "head"}})
    data = opened([tmp_path / "a.zarr", tmp_path / "b.zarr"])
    assert data.divisions == ("kind",)
    said = [text for _, text in sections.overview(data).verdicts]
    assert "Only some of the runs have the groups part, so these are not compared." in said
    assert "Only some of the runs have these groups (kind): head." in said
    rows = {row[0]: row[1:] for row in sections.groups(data).tables[0].rows}
    assert rows["head"][0] == rows["head"][2] == "—"
    _, charts = over_time(data)
    assert [*charts[2].figure.legend[0].items][0].label.value == "b"
    render_comparison(data)


def test_groups_of_users_are_matched_by_name_where_keras_numbers_layers(tmp_path):
    for name, shift in (("a", 0), ("b", 7)):
        names = (f"dense_{1 + shift}.kernel", f"dense_{1 + shift}.bias", f"dense_{2 + shift}.kernel")
        parts = dict(zip(names, (("x", "x", "y") if name == "a" else ("y", "y", "x")), strict=True))
        layers = {each: each.rpartition(".")[0] for each in names}
        write(tmp_path / f"{name}.zarr", run_values(3), layout=lca.Layout(names, LAYOUT.shapes),
              settings={"groups": {"part": parts, "own": layers}})  # fmt: skip
    data = opened([tmp_path / "a.zarr", tmp_path / "b.zarr"])
    assert [member.names("part") for member in data.members] == [("x", "y"), ("y", "x")]
    assert data.names("own") == ("dense_1", "dense_2")
    first, second = (data.values(condition, "part")[0] for condition in data.conditions)
    assert first.tolist() == second[::-1].tolist()


def test_of_many_groups_the_largest_are_drawn_over_time(tmp_path):
    size = MAX_CURVES + 2
    layout = lca.Layout(tuple(f"w{i}" for i in range(size)), ((1,),) * size)
    for name in "ab":
        write(tmp_path / f"{name}.zarr", -np.arange(1.0, size + 1) * np.ones((3, 1)), layout=layout,
              settings={"groups": {"own": {each: each for each in layout.names}}})  # fmt: skip
    _, charts = over_time(opened([tmp_path / "a.zarr", tmp_path / "b.zarr"]))
    assert charts[0].caption == "w2 (own, the 6 largest of 8)"
    assert len(charts) == MAX_CURVES
