"""The arrays read from a record equal those of the views, whatever the order of its axes."""

import subprocess
import sys

import numpy as np
import pytest

import lca
from lca.analysis import (
    allocations,
    class_totals,
    fit_weibull_histogram,
    group_names,
    group_signs,
    group_totals,
    helping_table,
    histogram_counts,
    learning_peaks,
    mean_gradients,
    movements,
    sign_changes,
    synchrony_test,
    traced_parameters,
)
from lca.errors import LCAError, UnknownNameError
from lca.reference import Adam, DatasetLoss, load_digits, minibatches, mlp, train
from lca.summary import RunViews
from lca.tolerances import EPS64, summed
from lca.views import HelpingCounts, ParameterTrace

TRACED = [3, 700, 5]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Forty steps on the digits: the views of each loss, and the record of the same allocations."""
    digits, network = load_digits().reshaped((64,)), mlp((64, 16, 10))
    x, y = digits.x_train[:300], digits.y_train[:300]
    losses = {
        "train": DatasetLoss(network, x, y),
        "class 1": DatasetLoss(network, x[y == 1], y[y == 1]),
        "class 0": DatasetLoss(network, x[y == 0], y[y == 0]),
    }
    views = {name: RunViews.of(network.layout) for name in losses}
    counts = HelpingCounts(network.layout.groups("layer"))
    trace = ParameterTrace(network.layout, TRACED)
    path = tmp_path_factory.mktemp("record") / "run.zarr"
    steps = train(losses["train"], network.init(0), Adam(0.01), minibatches(x, y, 50, 40, seed=0))
    with lca.Record(path, network.layout, trace=TRACED, neurons=False) as record:
        for rows in lca.allocate_each(losses, steps, lca.PathIntegral(lca.TRAPEZOID)):
            record.update(rows)
            counts.update(rows["train"])
            trace.update(rows["train"])
            for name, allocation in rows.items():
                views[name].update(allocation)
    return views, counts.per_group(), trace, lca.open_record(path)


@pytest.fixture(scope="module")
def record(run):
    return run[-1].load()


@pytest.fixture(params=["in memory", "dask", "transposed"])
def stored(record, request):
    if request.param == "dask":
        return record.chunk(step=7)
    return record.transpose(..., "measured", "step") if request.param == "transposed" else record


def test_group_totals_are_those_of_the_view(run, stored):
    views = run[0]
    assert group_names(stored) == views["train"].layers.groups.names
    for name in views:
        np.testing.assert_array_equal(group_totals(stored, measured=name), views[name].layers.rows)


def test_sums_have_the_names_of_their_steps_and_groups(stored):
    found = group_totals(stored.isel(step=slice(10, None, 3)), "tensor")
    assert found.dims == ("step", "tensor")
    assert found["step"].values.tolist() == list(range(10, 40, 3))
    assert tuple(found["tensor"].values) == group_names(stored, "tensor")
    frame = found.to_dataframe()
    assert frame.loc[(13, "fc1.bias"), "tensor_total"] == found.sel(step=13, tensor="fc1.bias")
    assert found.attrs == {"units": "loss", "measured": "train"}


def test_steps_of_a_record_reach_the_statistics(record):
    every_third = group_totals(record.isel(step=slice(None, None, 3)))
    counted = sign_changes(every_third), sign_changes(every_third.values)
    assert (counted[0].elapsed == 3 * counted[1].elapsed).all()


def test_class_totals_keep_the_order_of_the_record(run, stored):
    found = class_totals(stored)
    assert found["class_loss"].values.tolist() == ["class 1", "class 0"]
    assert found["class"].values.tolist() == ["1", "0"]
    assert found.shape == (40, 2, 2)
    for column, name in enumerate(["class 1", "class 0"]):
        np.testing.assert_array_equal(found.values[..., column], run[0][name].layers.rows)
    assert len(found.to_dataframe()) == found.size


def test_classes_of_several_losses_are_apart(record):
    renamed = record.assign_coords(measured=["heldout/class 1", "train/class 1", "train/class 0"])
    found = class_totals(renamed, measured="train")
    assert found["class_loss"].values.tolist() == ["train/class 1", "train/class 0"]
    np.testing.assert_array_equal(found.values, class_totals(record).values)
    assert class_totals(renamed, measured="heldout").shape == (40, 2, 1)
    with pytest.raises(LCAError, match=r"classes of 2 losses \('heldout', 'train'\); choose one"):
        class_totals(renamed)
    with pytest.raises(UnknownNameError, match="loss with classes 'test'; known: heldout, train"):
        class_totals(renamed, measured="test")


def test_signs_give_the_helping_percent_of_the_summary(run, stored):
    signs = group_signs(stored)
    np.testing.assert_array_equal(signs.helping, run[1].helping)
    np.testing.assert_array_equal(signs.hurting, run[1].hurting)
    np.testing.assert_array_equal(signs.zero, run[1].zero)
    first, second = helping_table(group_names(stored), signs)
    assert 50 < first.helping_percent < 100
    assert first.zero_percent > second.zero_percent  # pixels that are always 0


def test_the_histogram_adds_up_to_that_of_the_run(run, stored):
    edges, helping, hurting = histogram_counts(stored)
    whole = run[0]["train"].histogram
    np.testing.assert_array_equal(edges, whole.edges)
    np.testing.assert_array_equal(helping.sum(axis=0), whole.helping)
    np.testing.assert_array_equal(hurting.sum(axis=0), whole.hurting)
    assert fit_weibull_histogram(edges, helping + hurting, block=2).shape_stderr > 0


@pytest.mark.parametrize("read", [group_signs, histogram_counts])
def test_signs_and_sizes_of_estimates_are_refused(record, read):
    estimated = record.assign(sampled=record["sampled"] | True)
    message = "estimated from batches or samples: the .* of single entries are those of the noise"
    with pytest.raises(LCAError, match=message):
        read(estimated)
    group_totals(estimated)


def test_traced_parameters_are_those_of_the_view(run, stored):
    rows = traced_parameters(stored)
    for name, of_view in {"theta": "theta", "movement": "movement", "allocation": "values"}.items():
        np.testing.assert_array_equal(rows[name].values, getattr(run[2], of_view))
    moved = rows["movement"].values != 0
    assert moved.any()
    assert (np.isnan(rows["gradient"].values) == ~moved).all()
    assert rows["parameter"].values[0] == "fc1.weight[0, 3]"
    assert set(rows.to_dataframe().columns) >= {"theta", "movement", "allocation", "gradient"}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Eight steps with every θ and A, and what was passed in."""
    network, digits = mlp((64, 4, 10)), load_digits().reshaped((64,))
    loss = DatasetLoss(network, digits.x_train[:100], digits.y_train[:100])
    batches = minibatches(digits.x_train[:100], digits.y_train[:100], 50, 8, seed=0)
    path = list(train(loss, network.init(0), Adam(0.01), batches))
    rows = list(lca.allocate(loss, path, lca.PathIntegral(lca.TRAPEZOID)))
    folder = tmp_path_factory.mktemp("full") / "run.zarr"
    with lca.Record(folder, network.layout, values="float64", theta="float64") as record:
        for row in rows:
            record.update(row)
    return path, rows, network.layout, lca.open_record(folder)


def test_every_parameter_can_be_read_by_name(full):
    path, rows, layout, record = full
    values, moved, gradients = allocations(record), movements(record), mean_gradients(record)
    np.testing.assert_array_equal(values.values, [row.values for row in rows])
    np.testing.assert_array_equal(moved.values, [step.end - step.start for step in path[:-1]])
    assert moved["step"].values.tolist() == gradients["step"].values.tolist() == list(range(7))
    rebuilt = np.nan_to_num(gradients.values) * moved.values
    np.testing.assert_array_max_ulp(rebuilt, np.where(moved.values == 0, 0.0, values.values[:7]), maxulp=2)
    by_layer = values.groupby("layer").sum().transpose("step", "layer")
    limit = summed(layout.size, EPS64) * np.abs(values.values).sum(axis=1, keepdims=True)
    assert (np.abs(by_layer.values - group_totals(record).values) <= limit).all()
    assert by_layer["layer"].values.tolist() == ["fc1", "fc2"]
    assert dict(zip(*np.unique(values["tensor"], return_counts=True), strict=True)) == dict(
        zip(layout.names, layout.sizes, strict=True)
    )


def test_no_movement_is_made_up_across_a_hole(full):
    record = full[-1]
    assert movements(record.isel(step=[0, 1, 4, 5, 7]))["step"].values.tolist() == [0, 4]
    with pytest.raises(LCAError, match="no two successive steps"):
        movements(record.isel(step=slice(None, None, 2)))


def test_an_analysis_gives_the_same_for_the_record_and_the_views(run, stored):
    assert synchrony_test(learning_peaks(group_totals(stored))) == synchrony_test(
        learning_peaks(run[0]["train"].layers.rows)
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: group_totals(r, measured="trian"), UnknownNameError, "'trian'.*Did you mean 'train'"),
        (
            lambda r: group_totals(r, "filter"),
            UnknownNameError,
            "grouping 'filter'; known: layer, neuron, tensor",
        ),
        (lambda r: class_totals(r, "layers"), UnknownNameError, "grouping 'layers'.*Did you mean 'layer'"),
        (
            lambda r: group_totals(r.expand_dims("run")),
            LCAError,
            r"record of one run, got several.*runs\.isel\(run=0\)",
        ),
        (lambda r: group_totals(r, "neuron"), LCAError, "no variable 'neuron_total'.*it has .*layer_total"),
        (
            lambda r: group_names(r, "neuron"),
            LCAError,
            "no totals per neuron; record the run with neurons=True",
        ),
        (
            lambda r: class_totals(r.sel(measured=["train"])),
            LCAError,
            "no per-class losses; measure losses named 'class 0'",
        ),
        (lambda r: traced_parameters(r.drop_vars("trace_theta")), LCAError, "no variable 'trace_theta'"),
        (
            lambda r: histogram_counts(r.drop_vars("histogram_hurting")),
            LCAError,
            "no variable 'histogram_hurting'",
        ),
    ],
)
def test_anything_missing_from_the_record_is_named(record, call, error, message):
    with pytest.raises(error, match=message):
        call(record)


def test_slow_imports_are_deferred():
    code = "import sys, lca.analysis; print(*{'scipy.stats', 'scipy.optimize', 'xarray'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
