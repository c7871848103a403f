"""The arrays read from a record equal those of the views, whatever the order of its axes."""

import subprocess
import sys

import numpy as np
import pytest

import lca
from lca.analysis import (
    class_totals,
    fit_weibull_histogram,
    group_names,
    group_signs,
    group_totals,
    helping_table,
    histogram_counts,
    learning_peaks,
    synchrony_test,
    traced_parameters,
)
from lca.errors import LCAError, UnknownNameError
from lca.reference import Adam, DatasetLoss, load_digits, minibatches, mlp, train
from lca.summary import RunViews
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


def test_class_totals_keep_the_order_of_the_record(run, stored):
    names, rows = class_totals(stored)
    assert names == ("class 1", "class 0")
    assert rows.shape == (40, 2, 2)
    for column, name in enumerate(names):
        np.testing.assert_array_equal(rows[..., column], run[0][name].layers.rows)


def test_terms_of_a_sum_can_be_classes(record):
    renamed = record.assign_coords(measured=["train", "train/class 1", "train/class 0"])
    names, rows = class_totals(renamed)
    assert names == ("train/class 1", "train/class 0")
    np.testing.assert_array_equal(rows, class_totals(record)[1])


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
    message = "estimated from batches or samples: the .* of single entries are those of their noise"
    with pytest.raises(LCAError, match=message):
        read(estimated)
    group_totals(estimated)


def test_traced_parameters_are_those_of_the_view(run, stored):
    rows = traced_parameters(stored)
    for name in ("theta", "movement", "values"):
        np.testing.assert_array_equal(rows[name], getattr(run[2], name))


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
