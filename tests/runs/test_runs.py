"""The numbers and tables of `lca.Runs` are those of the records, with the intervals and tests of SciPy."""

import numpy as np
import pytest
from scipy import stats

import lca
from lca import LCAError, plots
from lca.errors import UnknownNameError
from lca.runs._run import Run
from lca.tolerances import EPS64, summed
from tests.report.records import run_values, write

SIZES = {"adam": 1.0, "sgd": 0.5}
STEPS = {0: 12, 1: 9, 2: 12}
LAYERS = {"fc1": slice(28), "fc2": slice(28, 36)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, size in SIZES.items():
        for seed, steps in STEPS.items():
            values = size * run_values(steps, seed=seed + (name == "sgd"))
            losses = ("train", "train/class cat", "train/class lower class")
            settings = {"optimizer": name, "seed": seed}
            write(folder / f"{name}-{seed}.zarr", values, names=losses, settings=settings)
    return lca.open_runs(f"{folder}/*.zarr", by=["optimizer", "seed"])


def expected(name):
    """Layer sums of each seed, (seeds, layers)."""
    values = [SIZES[name] * run_values(steps, seed=seed + (name == "sgd")) for seed, steps in STEPS.items()]
    return np.array([[v[:, part].sum() for part in LAYERS.values()] for v in values])


def test_totals_have_the_intervals_of_scipy(runs):
    found = runs.totals(ci=0.9)
    for name in SIZES:
        sums, of = expected(name), found.sel(condition=name)
        low, high = stats.t.interval(0.9, 2, sums.mean(axis=0), stats.sem(sums))
        error = np.abs([of["mean"] - sums.mean(axis=0), of["lower"] - low, of["upper"] - high])
        assert error.max() <= summed(np.abs(sums).sum(), EPS64)
    assert found["n"].values.tolist() == [[3, 3], [3, 3]]
    assert found.attrs["confidence"] == 0.9
    assert runs.totals(by="tensor")["tensor"].size == 3


def test_the_difference_is_paired_by_seed_whatever_the_order(runs):
    found = runs.difference("adam", "sgd")
    test = stats.ttest_rel(expected("sgd"), expected("adam"))
    np.testing.assert_array_max_ulp(found["p_value"].values, test.pvalue, 2**12)
    assert found.attrs["test"] == "Student's t-test, paired by seed"
    assert (found["p_adjusted"] >= found["p_value"]).all()
    back = runs.difference("sgd", "adam")
    np.testing.assert_array_equal(back["mean"], -found["mean"])
    turned = lca.open_runs([m.run.record for m in reversed(runs.members)], by=["optimizer", "seed"])
    np.testing.assert_array_max_ulp(turned.difference("adam", "sgd")["mean"].values, found["mean"].values, 4)


def test_a_shorter_run_is_nan_after_its_end_and_said_to_differ(runs):
    series = runs.series()
    assert series.sizes == {"run": 6, "step": 12, "layer": 2}
    short = series["total"].sel(run="adam-1")
    assert np.isnan(short[9:]).all()
    assert np.isfinite(short[:9]).all()
    np.testing.assert_array_equal(short[:9].sum("step"), expected("adam")[1])
    assert "different steps" in " ".join(runs.cautions)
    assert "different steps" in runs.table().caption


def test_the_table_adds_up_and_says_what_it_is(runs):
    table = runs.table()
    assert "for the train loss" in table.caption
    frame = table.to_frame()
    assert frame.columns.tolist()[::3] == ["adam", "sgd", "sgd − adam", "p (Holm)"]
    for name in ("adam", "sgd", "sgd − adam"):
        parts = frame[name].drop("change of the loss")
        assert abs(parts.sum() - frame.loc["change of the loss", name]) <= summed(parts.abs().sum(), EPS64)
    assert "fc1" in runs._repr_html_()
    assert runs.to_latex().startswith(r"\begin{tabular}{lrrrr}")


def test_the_class_table_says_which_loss_and_what_a_class_is(runs):
    table = runs.class_table("adam")
    assert [column.name for column in table.columns] == ["layer", "cat", "lower class"]
    assert "for the train loss of each class" in table.caption
    assert "share of the train loss" in table.caption
    np.testing.assert_array_equal(table.columns[1].values, expected("adam").mean(axis=0) / 2)
    percent = runs.class_table("adam", percent=True)
    sums = np.abs(percent.to_frame()).sum()
    np.testing.assert_array_max_ulp(sums.to_numpy(), np.full(2, 100.0), 4)
    assert "percent" in percent.caption
    with pytest.raises(LCAError, match="2 conditions; pass the name of one: adam, sgd"):
        runs.class_table()


def test_unknown_names_are_errors(runs):
    with pytest.raises(UnknownNameError, match="condition 'adan'.*Did you mean 'adam'"):
        runs.difference("adan", "sgd")
    with pytest.raises(UnknownNameError, match="measured loss 'held out'"):
        runs.totals(measured="held out")
    with pytest.raises(UnknownNameError, match="grouping"):
        runs.totals(by="head")
    with pytest.raises(UnknownNameError, match="loss with classes"):
        runs.class_table("adam", measured="held")


def test_one_run_has_no_interval_and_copies_have_none(runs, tmp_path):
    one = lca.open_runs(runs.members[0].run.record)
    assert np.isnan(one.totals()["lower"]).all()
    assert "±" not in str(one.table())
    for name in "ab":
        write(tmp_path / f"{name}.zarr", run_values(3))
    copies = lca.open_runs({"x": f"{tmp_path}/*.zarr"})
    assert np.isnan(copies.totals()["upper"]).all()
    assert "copies of one run" in " ".join(copies.cautions)


def test_runs_that_diverged_are_the_first_caution_of_every_table(tmp_path):
    small = {"residual": 2.0**-12, "tolerance": 2.0**-12}
    write(tmp_path / "up.zarr", -8e6 * run_values(3), extra=lambda *_: small)
    write(tmp_path / "a.zarr", run_values(3), extra=lambda *_: small)
    found = lca.open_runs({"a": tmp_path / "a.zarr", "b": tmp_path / "up.zarr"})
    assert found.cautions[0] == "up, train: the run diverged."
    assert "the run diverged." in found.table().caption


def test_the_figures_by_class_are_the_means_and_share_one_scale(runs):
    for name in SIZES:
        ax, _ = plots.figure_of(runs, f"classes-train-{name}").axes
        [mesh] = ax.collections
        means = np.stack([expected(name).mean(axis=0) / 2**i for i in (1, 2)], axis=1)
        np.testing.assert_array_equal(mesh.get_array(), means)
        assert mesh.get_clim() == (-(limit := np.abs(expected("adam").mean(axis=0) / 2).max()), limit)
        assert ax.get_title().startswith(f"{name}: allocation by layer and class, train loss")
        assert [label.get_text() for label in ax.get_xticklabels()] == ["cat", "lower class"]


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ((0.25, 0.25, 0.25), "0.25"),
        ((0.25, 0.25, 0.125), "first 0.25, last 0.125"),
        ((1e-6, 1e-3, 1e-3), "first 1e−06, largest 0.001"),
    ],
)
def test_the_learning_rate_is_that_of_the_steps_and_not_the_one_at_the_start(tmp_path, rates, said):
    settings = {"optimizer": f"AdamW(lr={rates[0]})"}
    record = write(tmp_path / "run.zarr", run_values(3), settings=settings)
    rows = np.array(rates)[:, None]
    assert Run(record.assign(learning_rate=(("step", "param_group"), rows))).learning_rate == said


def test_two_losses_are_subtracted_in_each_run(tmp_path):
    """With half of the allocations for the held-out loss, the gap is minus half of those of training."""
    small = {"residual": 2.0**-12, "tolerance": 2.0**-12}
    for name, size in SIZES.items():
        for seed, steps in STEPS.items():
            values = size * run_values(steps, seed=seed + (name == "sgd"))
            path, settings = tmp_path / f"{name}-{seed}.zarr", {"optimizer": name, "seed": seed}
            write(path, values, names=("train", "heldout"), extra=lambda *_: small, settings=settings)
    runs, gap = lca.open_runs(f"{tmp_path}/*.zarr", by=["optimizer", "seed"]), ("heldout", "train")
    found = runs.totals(measured=gap)
    assert found.attrs["measured"] == "heldout - train"
    for name in SIZES:
        sums, of = -expected(name) / 2, found.sel(condition=name)
        low, high = stats.t.interval(0.95, 2, sums.mean(axis=0), stats.sem(sums))
        error = np.abs([of["mean"] - sums.mean(axis=0), of["lower"] - low, of["upper"] - high])
        assert error.max() <= summed(np.abs(sums).sum(), EPS64)
    test = stats.ttest_rel(-expected("sgd") / 2, -expected("adam") / 2)
    difference = runs.difference("adam", "sgd", measured=gap)
    np.testing.assert_array_max_ulp(difference["p_value"].values, test.pvalue, 2**12)
    heldout, train = (runs.series(measured=name)["total"] for name in gap)
    np.testing.assert_array_equal(runs.series(measured=gap)["total"], heldout - train)
    table = runs.table(measured=gap)
    assert "the difference of the losses heldout − train" in table.caption
    assert "it adds less to heldout − train in sgd" in table.caption
    changes = [[m.check(name).end - m.check(name).start for m in runs.members[:3]] for name in gap]
    change = np.subtract(*changes).mean()
    assert abs(table.to_frame()["adam"]["change of the loss"] - change) <= summed(2 * abs(change), EPS64)
    with pytest.raises(LCAError, match="or two names for their difference"):
        runs.totals(measured=("train",))
    with pytest.raises(UnknownNameError, match="unknown measured loss 'test'"):
        runs.totals(measured=("test", "train"))
