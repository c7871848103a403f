"""`lca.open_runs` puts records into the conditions that their settings say, and refuses what does not fit."""

import numpy as np
import pytest

import lca
from lca import Layout, LCAError
from lca.errors import UnknownNameError
from lca.estimators import SampledPathIntegral
from lca.record import RecordError
from lca.reference import DatasetLoss, logistic_regression
from lca.tracking import FunctionalTracker
from tests.report.records import LAYOUT, run_values, write


def make(folder, name, steps=3, layout=LAYOUT, **settings):
    path = folder / f"{name}.zarr"
    write(
        path, run_values(steps, layout.size, seed=settings.get("seed", 0)), layout=layout, settings=settings
    )
    return path


@pytest.fixture
def six(tmp_path):
    for optimizer in ("adam", "sgd"):
        for seed in (0, 1, 10):
            make(tmp_path, f"{optimizer}-{seed}", optimizer=optimizer, seed=seed, lr=0.1)
    return tmp_path


def test_settings_become_coordinates(six):
    runs = lca.open_runs(f"{six}/*.zarr", by=["optimizer", "seed"])
    assert [(c.name, [m.label for m in c.members]) for c in runs.conditions] == [
        ("adam", ["adam-0", "adam-1", "adam-10"]),
        ("sgd", ["sgd-0", "sgd-1", "sgd-10"]),
    ]
    assert runs.totals()["optimizer"].values.tolist() == ["adam", "sgd"]
    series = runs.series()
    assert series["seed"].values.tolist() == [0, 1, 10, 0, 1, 10]
    assert series["condition"].values.tolist() == 3 * ["adam"] + 3 * ["sgd"]
    two = lca.open_runs(f"{six}/*.zarr", by=["optimizer", "lr"])
    assert [c.name for c in two.conditions] == ["optimizer=adam, lr=0.1", "optimizer=sgd, lr=0.1"]


def test_every_setting_is_kept(six):
    frame = lca.open_runs(f"{six}/*.zarr", by=["optimizer"]).settings().to_frame()
    assert frame.columns.tolist() == ["condition", "steps", "optimizer", "seed", "lr"]
    assert frame["lr"].tolist() == 6 * [0.1]


def test_without_by_runs_that_differ_in_the_seed_only_are_one_condition(six):
    assert [c.name for c in lca.open_runs(f"{six}/*.zarr").conditions] == ["optimizer=adam", "optimizer=sgd"]


def test_a_mapping_names_the_conditions(six):
    runs = lca.open_runs(
        {"A": f"{six}/adam-*.zarr", "S": [six / "sgd-0.zarr"]}, by=["condition", "seed", "lr"]
    )
    assert [c.name for c in runs.conditions] == ["A", "S"]
    assert runs.totals()["lr"].values.tolist() == [0.1, 0.1]


def test_names_that_keras_numbers_are_matched_by_position(tmp_path):
    for seed, shift in ((0, 0), (1, 7)):
        names = (f"dense_{1 + shift}.kernel", f"dense_{1 + shift}.bias", f"dense_{2 + shift}.kernel")
        groups = {"kind": dict(zip(names, ("weights", "biases", "weights"), strict=True))}
        make(tmp_path, str(seed), layout=Layout(names, LAYOUT.shapes), seed=seed, groups=groups)
    runs = lca.open_runs(f"{tmp_path}/*.zarr", by=["seed"])
    assert runs.names("tensor") == ("dense_1.kernel", "dense_1.bias", "dense_2.kernel")
    assert runs.totals()["n"].values.tolist() == [[2, 2]]
    assert len(runs.cautions) == 1
    assert "The layers of 1 are matched by position with those of 0" in runs.cautions[0]
    shown = "kind: weights (dense_1.kernel, dense_2.kernel), biases (dense_1.bias)"
    assert runs.settings().to_frame()["groups"].tolist() == 2 * [shown]
    assert len(lca.open_runs(f"{tmp_path}/*.zarr").conditions) == 1


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (Layout(("fc1.weight", "fc1.bias", "fc2.w"), LAYOUT.shapes), "only 0 has fc2.weight"),
        (
            Layout(LAYOUT.names, ((6, 4), (4,), (2, 4))),
            r"fc1.weight has the shape \(4, 6\)",
        ),
    ],
)
def test_two_layouts_in_one_condition_are_refused_with_the_reason(tmp_path, layout, said):
    make(tmp_path, "0", seed=0)
    make(tmp_path, "1", layout=layout, seed=1)
    with pytest.raises(LCAError, match=said):
        lca.open_runs(f"{tmp_path}/*.zarr", by=["seed"])


def test_conditions_without_a_common_layer_are_refused_with_the_reason(tmp_path):
    make(tmp_path, "0", layout=Layout(("dense_1.w",), ((2, 3),)), kind="a")
    make(tmp_path, "1", layout=Layout(("dense_2.w",), ((3, 2),)), kind="b")
    with pytest.raises(LCAError, match="not matched by position because their tensors have different shapes"):
        lca.open_runs(f"{tmp_path}/*.zarr", by=["kind"])


def test_what_cannot_be_opened_is_an_error_that_names_it(six):
    paths = f"{six}/*.zarr"
    with pytest.raises(UnknownNameError, match="setting of adam-0 'optimiser'.*mean 'optimizer'"):
        lca.open_runs(paths, by=["optimiser"])
    with pytest.raises(LCAError, match=r"pass by=\['seed'\]"):
        lca.open_runs(paths, by="seed")
    with pytest.raises(RecordError, match="no record matches"):
        lca.open_runs(f"{six}/none-*.zarr")
    with pytest.raises(LCAError, match=r"adam-0 and sgd-0 are both .* with seed 0; .*\(optimizer\)"):
        lca.open_runs(paths, by=["lr", "seed"])
    with pytest.raises(LCAError, match="is given twice"):
        lca.open_runs([six / "sgd-0.zarr", paths])
    for nothing in ([], {}, {"a": []}):
        with pytest.raises(LCAError, match="no runs"):
            lca.open_runs(nothing)


def test_a_dataset_is_a_record(six):
    record = lca.open_record(six / "sgd-0.zarr")
    np.testing.assert_array_equal(
        lca.open_runs(record).totals()["mean"], lca.open_runs(six / "sgd-0.zarr").totals()["mean"]
    )


def test_lines_and_estimates_are_said_before_their_numbers(tmp_path):
    loss = DatasetLoss(logistic_regression(2, 2), np.eye(2), np.array([0, 1]))
    made = {
        "exact": {"estimator": lca.PathIntegral(lca.TRAPEZOID)},
        "lines": {"estimator": lca.PathIntegral(lca.TRAPEZOID), "span": 2},
        "samples": {"estimator": SampledPathIntegral(size=2)},
    }
    for name, options in made.items():
        with FunctionalTracker(np.zeros(6), loss, record=tmp_path / f"{name}.zarr", **options) as tracker:
            for k in range(1, 5):
                tracker.update(-0.1 * k * loss.loss_and_grad(np.zeros(6))[1])
    runs = lca.open_runs({name: [tmp_path / f"{name}.zarr"] for name in made})
    said = " ".join(runs.cautions)
    assert "straight line over several updates (span=), and not their path: lines." in said
    assert "estimated from batches or samples; intervals over runs contain" in said
    assert "The runs were measured with different estimators" in said


def test_runs_whose_samples_differ_differ_by_chance_only(tmp_path):
    runs = {}
    for seed in range(2):
        estimator, settings = SampledPathIntegral(size=2, seed=seed), {"seed": seed}
        path = runs[seed] = tmp_path / f"{seed}.zarr"
        with lca.Record(path, LAYOUT, estimator=estimator, settings=settings) as record:
            values = np.full(LAYOUT.size, 1.0 + seed)
            record.update(lca.StepAllocation(values, np.nan, np.nan, np.nan, mass=1.0, sampled=True))
    [condition] = lca.open_runs(list(runs.values())).conditions
    said = " ".join(lca.open_runs({"samples": list(runs.values())}).cautions)
    assert len(condition.members) == 2
    assert "differ in" not in said
    assert "different estimators" not in said


@pytest.mark.parametrize(
    ("values", "names"),
    [((False, True), ["dropout=False", "dropout=True"]), ((0.5, None), ["dropout=0.5", "dropout=None"])],
)
def test_a_value_that_says_nothing_by_itself_has_its_name(tmp_path, values, names):
    for number, value in enumerate(values):
        make(tmp_path, str(number), dropout=value, seed=0)
    assert [c.name for c in lca.open_runs(f"{tmp_path}/*.zarr", by=["dropout", "seed"]).conditions] == names
    if None not in values:
        assert [c.name for c in lca.open_runs(f"{tmp_path}/*.zarr").conditions] == names
