"""The page of several runs pools what may be pooled, says what differs, and shows the records' numbers."""

import json
import re
from base64 import b64decode

import numpy as np
import pytest
from scipy import stats

import lca
from lca import Layout, LCAError, Step
from lca._cli import main
from lca.analysis import difference_over_runs as difference
from lca.analysis import mean_over_runs as pool
from lca.errors import OutputError
from lca.reference import Quadratic
from lca.report import _comparison as sections
from lca.report import render_comparison, write_comparison
from lca.report._cells import EMPTY
from lca.report._comparison_maps import maps
from lca.report._comparison_page import opened as compare
from lca.report._moments import LINEAR_FRACTION
from lca.runs._settings import learning_rate, setting_rows, to_text
from lca.tolerances import EPS64, summed
from tests.report.records import EVIL, LAYOUT, NAMES, replicates, run_values, write

SMALL = {"residual": 2.0**-12, "tolerance": 2.0**-12}
FC1 = slice(28)


def runs(folder, seeds, scale=1.0, **options):
    """One record for each seed; the allocations of a seed are random multiples of 1/8 times ``scale``."""
    paths = []
    for seed in seeds:
        path = folder / f"{seed}.zarr"
        values = scale * run_values(options.get("steps", 12), seed=seed)
        settings = {"seed": seed, **options.get("settings", {})}
        write(path, values, names=("train", "heldout"), extra=lambda *_: SMALL, settings=settings)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    return {"adam": runs(folder / "a", (0, 1, 2)), "sgd": runs(folder / "b", (0, 1, 2), scale=0.5)}


def cells(table):
    return {row[0]: row[1:] for row in table.rows}


# Means and tests


def test_intervals_are_those_of_scipy():
    values = np.random.default_rng(0).normal(size=(5, 3))
    pooled = pool(values)
    low, high = stats.t.interval(0.95, 4, values.mean(axis=0), stats.sem(values))
    scale = np.abs(values).sum()
    assert np.abs(pooled.mean - pooled.half - low).max() <= summed(scale, EPS64)
    assert np.abs(pooled.mean + pooled.half - high).max() <= summed(scale, EPS64)
    assert np.isnan(pool(values[:1]).half).all()


@pytest.mark.parametrize("paired", [True, False])
def test_differences_are_tested_as_scipy_does(paired):
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(6, 4)), rng.normal(0.5, 3, size=(6 if paired else 9, 4))
    found = difference(first, second, paired=paired)
    test = stats.ttest_rel(second, first) if paired else stats.ttest_ind(second, first, equal_var=False)
    raw = np.sort(test.pvalue)
    holm = np.minimum(1, np.maximum.accumulate(raw * (4 - np.arange(4))))
    np.testing.assert_array_max_ulp(np.sort(found.p_adjusted), holm, 2**12)
    interval = test.confidence_interval(1 - 0.05 / 4)
    error = np.abs(
        np.array([found.mean - found.half - interval.low, found.mean + found.half - interval.high])
    )
    assert error.max() <= 2**8 * summed(np.abs(first).sum() + np.abs(second).sum(), EPS64)


def test_without_variation_there_is_no_test():
    same = np.ones((3, 2))
    assert np.isnan(difference(same, 2 * same, paired=True).p_adjusted).all()
    assert np.isnan(difference(same[:1], same, paired=False).half).all()
    mixed = np.array([[1.0, 0], [2, 0], [4, 0]])
    found = difference(np.zeros((3, 2)), mixed, paired=True)
    assert np.isfinite(found.p_adjusted).tolist() == [True, False]
    assert found.p_adjusted[0] == stats.ttest_1samp(mixed[:, 0], 0).pvalue  # one test: nothing to correct


# What the page shows


def test_layers_stand_side_by_side_with_one_colour_scale(groups):
    table = sections.overview(compare(groups)).tables[0]
    assert table.head == ("", "adam", "sgd", "sgd − adam")
    assert "difference from the first condition, adam" in table.caption
    assert table.caption.endswith("Its intervals hold for all layers together.")
    totals = np.array([run_values(seed=s)[:, FC1].sum() for s in range(3)])
    mean, half = totals.mean(), float(pool(totals[:, None]).half[0])
    [shown, other, _] = cells(table)["fc1"]
    digits = len(shown.partition(" ±")[0].partition(".")[2])
    assert shown == f"{mean:+.{digits}f} ± {half:.{digits}f}".replace("-", "−")
    assert float(other.partition(" ±")[0].replace("−", "-")) == pytest.approx(mean / 2, abs=10.0**-digits)
    largest = max(abs(t) for row in table.tints for t in row)
    assert largest == 1
    assert table.tints[0][0] == pytest.approx(2 * table.tints[0][1], abs=2e-3)


def test_the_change_and_the_residual_are_below_the_layers(groups):
    rows = cells(sections.overview(compare(groups)).tables[0])
    change = np.mean([run_values(seed=s).sum() + 12 * 2.0**-12 for s in range(3)])
    assert rows["change of the loss"][0].startswith(f"{change:+.0f}"[:3].replace("-", "−"))
    assert "not allocated (residual)" in rows
    assert "state (buffers)" not in rows  # 0 in every run


def test_runs_with_the_same_seeds_are_paired(groups):
    data = compare(groups)
    rows = cells(sections.differences(data).tables[0])
    totals = np.array([run_values(seed=s)[:, FC1].sum() for s in range(3)])
    assert rows["fc1"][-1] == "paired by seed"
    column = cells(sections.overview(data).tables[0])
    assert column["fc1"][2].startswith(f"{-totals.mean() / 2:+.4g}"[:3])
    assert rows["fc1"][1] == f"{-totals.mean() / 2:+.4g}"
    unpaired = compare({"adam": groups["adam"], "sgd": groups["sgd"][:2]})
    assert cells(sections.differences(unpaired).tables[0])["fc1"][-1] == "Welch's t-test"
    single = compare({"adam": groups["adam"], "sgd": groups["sgd"][:1]})
    assert cells(sections.differences(single).tables[0])["fc1"][2:4] == ("none", "no test")
    assert any("One run only" in text for _, text in sections.overview(single).verdicts)


def test_the_headline_doubts_a_difference_that_may_be_chance(groups):
    said = sections.overview(compare(groups)).paragraphs[-1]
    p = re.search(r"p = (\S+), both corrected for 2 layers", said)[1]
    assert ("may be chance" in said) == (float(p) > 0.05)
    mean = np.mean([-run_values(seed=s)[:, FC1].sum() / 2 for s in range(3)])
    assert said.startswith(f"They differ most in fc1: sgd − adam = {mean:+#.3g} (95 % interval +")
    assert "paired t-test, p" in said
    assert "it helped more in adam" in said
    low, high = (float(n) for n in re.search(r"interval (\S+) to (\S+);", said).groups())
    assert low < mean < high
    unpaired = compare({"adam": groups["adam"], "sgd": groups["sgd"][:2]})
    assert "Welch's t-test, p" in sections.overview(unpaired).paragraphs[-1]


def test_a_layer_that_hurts_in_both_conditions_is_not_said_to_help(tmp_path):
    for name, scale in (("a", -1), ("b", -0.5)):
        write(tmp_path / f"{name}.zarr", scale * run_values(3))
    said = sections.overview(compare([tmp_path / "a.zarr", tmp_path / "b.zarr"])).paragraphs[-1]
    assert re.search(r"b − a = −\S+; it hurt less in b, but there is no test", said)


def test_the_loss_itself_is_compared(tmp_path):
    """The interval of one number is that of SciPy, without a correction for the number of numbers."""
    found = {}
    for name, scale in (("a", 1), ("b", 0.5)):
        for seed in range(3):
            residual = scale * (1 + seed) * 2.0**-6
            path, values = tmp_path / f"{name}{seed}.zarr", scale * run_values(seed=seed)
            write(path, values, extra=lambda *_, r=residual: {"residual": r}, settings={"seed": seed})
            found.setdefault(name, {})[path] = values.sum() + 12 * residual
    table = sections.overview(compare({name: list(paths) for name, paths in found.items()})).tables[0]
    row = cells(table)["change of the loss"]
    changes, others = (np.array(list(paths.values())) for paths in found.values())
    interval = stats.ttest_rel(others, changes).confidence_interval(0.95)
    half = (interval.high - interval.low) / 2
    digits = max(0, 1 - int(np.floor(np.log10(half))))
    shown = f"{(others - changes).mean():+.{digits}f} ± {half:.{digits}f}"
    assert row[2] == shown.replace("-", "−")


def test_the_first_sentences_explain_the_interval_once_and_name_the_learning_rate(tmp_path):
    paths = {
        name: runs(tmp_path / name, (0, 1), settings={"lr": lr}) for name, lr in (("a", 0.1), ("b", 0.2))
    }
    first, second, _ = sections.overview(compare(paths)).paragraphs
    assert first.startswith("a (2 runs, 12 steps each, learning rate 0.1): the loss 'train' fell by ")
    assert "(± is a 95 % interval over the 2 runs), from " in first
    assert second.startswith("b (2 runs, 12 steps each, learning rate 0.2): the train loss fell by ")
    assert "interval" not in second
    single = compare({"a": paths["a"][:1], "b": paths["b"]})
    first, second, _ = sections.overview(single).paragraphs
    assert "together" not in sections.overview(single).tables[0].caption
    assert first.startswith("a (1 run, 12 steps, learning rate 0.1): ")
    assert "±" not in first
    assert "(± is a 95 % interval over the 2 runs)" in second
    mixed = sections.overview(compare({"both": paths["a"][:1] + paths["b"][1:]})).paragraphs
    assert mixed[0].startswith("both (2 runs, 12 steps each): ")


def test_a_loss_that_rose_is_said_to_rise(tmp_path):
    write(tmp_path / "a.zarr", -run_values(3))
    write(tmp_path / "b.zarr", run_values(3))
    up, down, _ = sections.overview(compare([tmp_path / "a.zarr", tmp_path / "b.zarr"])).paragraphs
    change = -run_values(3).sum() + 3 * 0.125
    assert f" rose by {change:.4g}, from 2 to " in up
    assert " fell by " in down


def test_the_loss_of_runs_of_different_length_is_drawn_over_their_common_steps(tmp_path):
    for seed, steps in enumerate((12, 9)):
        write(tmp_path / f"{seed}.zarr", run_values(steps, seed=seed), settings={"seed": seed})
    [condition] = compare({"both": [tmp_path / "0.zarr", tmp_path / "1.zarr"]}).conditions
    losses = {member.label: sections._loss_path(member, "train") for member in condition.members}
    [(name, steps, paths)] = sections.curves(condition, losses)
    assert (name, steps.tolist(), paths.shape) == ("both", [*range(10)], (2, 10))
    for member, path in zip(condition.members, paths, strict=True):
        assert path[9] == member.run.per_step("loss_end", "train")[8]


def test_the_maps_have_one_limit_and_show_the_means(groups):
    charts = maps(compare(groups), "layer")
    limit = charts[-1].key
    assert [chart.key for chart in charts] == [0, limit]
    means = [
        np.mean([scale * run_values(seed=s)[:, FC1].sum(axis=1) for s in range(3)], axis=0)
        for scale in (1, 0.5)
    ]
    assert limit >= np.abs(means).max()
    for chart, mean in zip(charts, means, strict=True):
        shown = chart.cells
        codes = np.frombuffer(b64decode(shown["codes"]), np.int8).astype(float)
        unscaled = np.expm1(np.abs(codes[:12]) / 127 * np.log1p(1 / LINEAR_FRACTION))
        values = np.sign(codes[:12]) * LINEAR_FRACTION * limit * unscaled
        assert np.all(np.abs(values - mean) <= 0.02 * (np.abs(mean) + LINEAR_FRACTION * limit))
        assert (shown["first"], shown["last"]) == ([*range(12)], [*range(12)])


def test_classes_share_one_colour_scale(tmp_path):
    names = ("train", "train/class cat", "train/class dog")
    paths = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    for scale, path in zip((1, 0.25), paths, strict=True):
        write(path, scale * run_values(3), names=names)
    first, second = sections.classes(compare(paths)).tables
    assert first.head == ("", "cat", "dog")
    assert first.tints[0][0] == pytest.approx(4 * second.tints[0][0], abs=4e-3)


# What may be pooled


def test_seeds_are_pooled_if_all_other_settings_agree(tmp_path):
    adam = runs(tmp_path / "adam", (0, 1), settings={"optimizer": "adam", "lr": 0.1})
    sgd = runs(tmp_path / "sgd", (0, 1), settings={"optimizer": "sgd", "lr": 0.1})
    data = compare([*adam, *sgd])
    assert [(c.name, len(c.members)) for c in data.conditions] == [
        ("optimizer=adam", 2),
        ("optimizer=sgd", 2),
    ]


def test_runs_without_a_seed_are_not_pooled(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.zarr", run_values(3, seed=ord(name)))
    data = compare([tmp_path / "a.zarr", tmp_path / "b.zarr"])
    assert [(c.name, len(c.members)) for c in data.conditions] == [("a", 1), ("b", 1)]


def test_copies_of_a_run_have_no_interval(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.zarr", run_values(3, seed=0 if name < "c" else 1))
    data = compare({"both": [tmp_path / "a.zarr", tmp_path / "b.zarr", tmp_path / "c.zarr"]})
    assert any("copies of one run" in text for _, text in sections.overview(data).verdicts)
    assert "±" not in cells(sections.overview(data).tables[0])["fc1"][0]


def test_settings_that_differ_within_a_condition_are_named(tmp_path):
    first = runs(tmp_path / "a", (0,), settings={"lr": 0.1})
    second = runs(tmp_path / "b", (1,), settings={"lr": 0.2})
    said = " ".join(text for _, text in sections.overview(compare({"all": first + second})).verdicts)
    assert "all: its runs differ in lr, and not by chance only" in said


def test_parts_of_runs_and_different_steps_are_named(tmp_path):
    write(tmp_path / "a.zarr", run_values(12))
    write(tmp_path / "b.zarr", run_values(4), every=10)
    said = " ".join(
        t for _, t in sections.overview(compare([tmp_path / "a.zarr", tmp_path / "b.zarr"])).verdicts
    )
    assert "over their measured steps, and not over the whole run: b." in said
    assert "different steps" in said
    _, drawn = maps(compare([tmp_path / "a.zarr", tmp_path / "b.zarr"]), "layer")
    codes = np.frombuffer(b64decode(drawn.cells["codes"]), np.int8).reshape(2, 31)
    assert np.flatnonzero(codes[0] != EMPTY).tolist() == [0, 10, 20, 30]  # nothing where nothing was measured


def test_maps_of_steps_that_no_run_measured_one_by_one_have_no_gaps(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.zarr", run_values(4), every=10)
    [drawn, _] = maps(compare([tmp_path / "a.zarr", tmp_path / "b.zarr"]), "layer")
    assert (drawn.cells["first"], drawn.cells["last"]) == ([0, 10, 20, 30], [9, 19, 29, 30])
    assert EMPTY not in np.frombuffer(b64decode(drawn.cells["codes"]), np.int8)


def test_replays_count_checkpoints_and_are_said_to_be_straight_lines(tmp_path):
    points = [np.full(1, 2.0 - at) for at in range(3)]
    for name in "ab":
        steps = [Step(points[at], points[at + 1], at, checkpoints=(5 * at, 5 * at + 5)) for at in range(2)]
        lca.measure(Quadratic(np.eye(1)), steps, record=tmp_path / f"{name}.zarr")
    data = compare([tmp_path / "a.zarr", tmp_path / "b.zarr"])
    assert "not the path of the training: a, b." in " ".join(data.cautions)
    assert maps(data, "layer")[0].cells["last"] == [5, 10]
    assert '"unit": "checkpoint"' in render_comparison(data)


def test_a_run_that_diverged_or_does_not_add_up_is_named_first(tmp_path):
    write(tmp_path / "a.zarr", run_values(12), extra=lambda *_: SMALL)
    write(tmp_path / "up.zarr", -4 * run_values(12), extra=lambda *_: SMALL)
    write(tmp_path / "off.zarr", run_values(12), extra=lambda *_: {"residual": 5.0})
    paths = [tmp_path / f"{name}.zarr" for name in ("a", "up", "off")]
    first, second, *_ = sections.overview(compare(paths)).verdicts
    assert first == ("bad", "up, train: the run diverged.")
    assert second[0] == "bad"
    assert second[1].startswith("off, train: The allocations do not add up")
    marks = [row[-1][0] for row in sections.runs(compare(paths)).tables[0].rows]
    assert marks == ["✓", "✗", "✗"]


def test_runs_that_add_up_roughly_get_no_tick(tmp_path):
    rough = {"residual": 0.125, "tolerance": 1.0}
    for seed in range(2):
        write(tmp_path / f"{seed}.zarr", run_values(3, seed=seed), extra=lambda *_: rough)
    tone, said = sections.overview(compare([tmp_path / "0.zarr", tmp_path / "1.zarr"])).verdicts[0]
    assert tone == "warn"
    assert said.startswith("All 2 runs add up only roughly: the largest residual")


def test_layers_that_only_some_runs_have_are_shown_as_absent(tmp_path):
    write(tmp_path / "a.zarr", run_values(3))
    other = Layout(("fc1.weight", "fc1.bias", "fc9.weight"), LAYOUT.shapes)
    write(tmp_path / "b.zarr", run_values(3), layout=other)
    data = compare([tmp_path / "a.zarr", tmp_path / "b.zarr"])
    rows = cells(sections.overview(data).tables[0])
    assert [rows["fc2"][1], rows["fc9"][0]] == ["—", "—"]
    assert rows["fc2"][0] == rows["fc9"][1] != "—"
    assert rows["fc2"][2] == "—"
    assert "Only some of the runs have the layers fc2, fc9." in [
        t for _, t in sections.overview(data).verdicts
    ]
    assert cells(sections.differences(data).tables[0])["fc2"][1] == "only in one"
    render_comparison([tmp_path / "a.zarr", tmp_path / "b.zarr"])


def test_names_that_keras_numbers_are_matched_by_position(tmp_path):
    for name, shift in (("a", 0), ("b", 7)):
        names = (f"dense_{1 + shift}.kernel", f"dense_{1 + shift}.bias", f"dense_{2 + shift}.kernel")
        write(tmp_path / f"{name}.zarr", run_values(3), layout=Layout(names, LAYOUT.shapes))
    data = compare([tmp_path / "a.zarr", tmp_path / "b.zarr"])
    assert data.layers == ("dense_1", "dense_2")
    assert any("matched by position" in text for _, text in sections.overview(data).verdicts)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([], "has no runs"),
        ({"a": []}, "has no runs"),
        ({"a": "x.zarr"}, "there is no record"),
        (["a.zarr"], "at least two runs"),
        (["a.zarr", "./a.zarr"], "is given twice"),
        (["a.zarr", "other.zarr"], r"no measured loss in common.*a: train; other: val"),
        (["a.zarr", "none.zarr"], "there is no record"),
    ],
)
def test_what_cannot_be_compared_is_an_error(tmp_path, monkeypatch, groups, said):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.zarr", run_values(3))
    write(tmp_path / "other.zarr", run_values(3), names=("val",))
    with pytest.raises(LCAError, match=said):
        render_comparison(groups)


def test_estimates_without_losses_have_a_page(tmp_path):
    lost = {"residual": np.nan}
    for seed in range(2):
        extra = lambda t, r: {**lost, **replicates(t, r)}  # noqa: E731
        write(tmp_path / f"{seed}.zarr", run_values(3, seed=seed), extra=extra, settings={"seed": seed})
    paths = [tmp_path / "0.zarr", tmp_path / "1.zarr"]
    verdicts = sections.overview(compare(paths)).verdicts
    assert "good" not in dict(verdicts)
    assert any("Some allocations are estimates" in text for _, text in verdicts)
    render_comparison(paths)


def test_hostile_names_are_escaped(tmp_path):
    layout = Layout(NAMES, ((4, 6), (4,), (2, 4)))
    for seed in range(2):
        settings = {"seed": seed, EVIL: EVIL}
        write(tmp_path / f"{seed}.zarr", run_values(seed=seed), layout=layout, settings=settings)
    page = render_comparison({EVIL: [tmp_path / "0.zarr"], "</script>": [tmp_path / "1.zarr"]}, title=EVIL)
    assert "<img" not in page
    assert "</script><script>document" not in page


# Writing and the command line


def test_only_a_page_is_replaced_and_only_on_request(groups, tmp_path):
    page = write_comparison(groups, tmp_path / "c.html", title="first")
    assert page.stat().st_size < 2_000_000
    with pytest.raises(OutputError, match="pass overwrite=True"):
        write_comparison(groups, page)
    assert "<h1>adam and sgd</h1>" in write_comparison(groups, page, overwrite=True).read_text(
        encoding="utf-8"
    )


def test_the_commands_compare_runs(groups, tmp_path, capsys):
    first, second = ([str(path) for path in paths] for paths in groups.values())
    out = tmp_path / "c.html"
    assert main(["compare", *first, "--", *second, "-o", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["records"] == [*first, *second]
    assert "<h1>a and b</h1>" in out.read_text(encoding="utf-8")
    among = [*first, "--name", "Adam", "--", *second, "--name", "SGD"]  # options among the records
    assert main(["compare", *among, "-o", "-"]) == 0
    assert "<h1>Adam and SGD</h1>" in capsys.readouterr().out
    assert main(["report", first[0], second[1], "-o", str(tmp_path), "--quiet"]) == 0
    assert "These runs in short" in (tmp_path / "report.html").read_text(encoding="utf-8")
    for wrong, said in (
        (["--", *first], "no record before or after"),
        ([*first, "--name", "x", "--name", "y"], "need as many different names"),
        (first[:1], "at least two runs"),
        ([*first, "--", *first], "is given twice"),
    ):
        assert main(["compare", *wrong, "-o", str(tmp_path / "d.html")]) == 2
        assert said in capsys.readouterr().err


def test_the_command_makes_conditions_from_a_setting(tmp_path, capsys):
    for name in ("adam", "sgd"):
        runs(tmp_path / name, (0, 1), settings={"optimizer": name})
    paths = [str(path) for path in tmp_path.glob("*/*.zarr")]
    assert main(["compare", *sorted(paths), "--by", "optimizer", "-o", "-"]) == 0
    assert "<h1>adam and sgd</h1>" in capsys.readouterr().out
    for wrong, said in (
        (["--by", "lr"], "unknown setting"),
        (["--by", "optimizer", "--name", "x"], "omit -- and --name"),
    ):
        assert main(["compare", *paths, *wrong, "-o", str(tmp_path / "d.html")]) == 2
        assert said in capsys.readouterr().err


# Settings


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({"lr": 0.1}, "0.1"),
        ({"learning_rate": 1e-5}, "1e−05"),
        ({"optimizer": "Adam(lr=0.002, beta1=0.9)", "lr": 0.002}, "0.002"),
        ({"optimizer": "SGD(lr=1e-3)"}, "0.001"),
        ({"optimizer": "SGD(lr=0.1)", "lr": 0.2}, ""),
        ({"lr": "0.1"}, ""),
        ({"lr": True, "a": "f(other_lr=3)"}, ""),
        ({}, ""),
    ],
)
def test_the_learning_rate_is_known_only_if_all_settings_agree(settings, rate):
    assert learning_rate({"settings": settings}) == rate


def test_settings_are_written_as_a_person_writes_them():
    settings = {
        "lr": 0.002, "optimizer": "adam", "optimizer_settings": "Adam(lr=0.002, beta1=0.9)", "steps": 10,
        "version": "1.0", "estimator": "rk4", "weights": [1 / 6, 2 / 3], "nothing": None, "empty": {},
        "batch_size": 100, "shuffle": True, "model": {"widths": [8, 4], "norm": None},
    }  # fmt: skip
    about = {
        "settings": settings,
        "estimator": repr(lca.PathIntegral(lca.SIMPSON, tol=1e-3)),
        "lca_version": "1.0",
    }
    assert setting_rows(about, steps=10) == [
        ("estimator", "rk4: PathIntegral, rule = simpson, tol = 0.001"),
        ("optimizer", "Adam, lr = 0.002, beta1 = 0.9"),
        ("weights", "0.1667, 0.6667"),
        ("batch size", "100"),
        ("shuffle", "yes"),
        ("model", "widths 8, 4"),
    ]


def test_a_setting_that_another_contradicts_is_kept():
    settings = {"lr": 0.1, "optimizer_settings": "Adam(lr=0.01)", "steps": 20, "version": "2"}
    rows = dict(setting_rows({"settings": settings, "lca_version": "1"}, steps=10))
    assert rows == {
        "estimator": "not recorded", "lr": "0.1", "optimizer settings": "Adam, lr = 0.01", "steps": "20",
        "version": "2",
    }  # fmt: skip


def test_odd_settings_are_still_text():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert to_text(deep).endswith("…")
    assert to_text("f(" * 300 + ")" * 300) == "f(" * 300 + ")" * 300
    assert to_text("lr=0.123456789 (hand-made)") == "lr=0.1235 (hand-made)"
    assert to_text("f(x=0.3333333333, )(") == "f(x=0.3333, )("
    assert to_text("f(1.5, [a, 0.123456789], None)") == "f, 1.5, [a, 0.1235], none"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "--name", "--", "b"], "argument --name: expected one argument, got --"),
        (["--by", "--", "a"], "argument --by: expected one argument, got --"),
        (["a", "--oops", "--", "b"], "unrecognized arguments: --oops -- b"),
    ],
)
def test_no_word_of_the_program_is_in_the_errors_about_separators(capsys, arguments, said):
    with pytest.raises(SystemExit):
        main(["compare", *arguments])
    error = capsys.readouterr().err
    assert said in error
    assert "between" not in error
    assert "\0" not in error
