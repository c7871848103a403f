"""From a record of a real run to arrays: the numbers that the views saw, whatever the order of axes."""

import subprocess
import sys

import numpy as np
import pytest

import lca
from lca.analysis import (
    class_rows,
    fit_weibull_counts,
    group_names,
    group_rows,
    group_signs,
    helping_table,
    histogram,
    peak_moments,
    synchrony_test,
    traced,
)
from lca.errors import LCAError, UnknownNameError
from lca.reference.data import load_digits
from lca.reference.models import DatasetLoss, mlp
from lca.reference.optimizers import Adam
from lca.reference.training import minibatches, train
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


@pytest.fixture(params=["in memory", "dask", "axes the other way round"])
def stored(record, request):
    if request.param == "dask":
        return record.chunk(step=7)
    return record.transpose(..., "measured", "step") if "axes" in request.param else record


def test_group_rows_are_those_of_the_view(run, stored):
    views = run[0]
    assert group_names(stored) == views["train"].layers.groups.names
    for name in views:
        np.testing.assert_array_equal(group_rows(stored, measured=name), views[name].layers.rows)


def test_class_rows_stand_in_the_order_of_the_record(run, stored):
    names, rows = class_rows(stored)
    assert names == ("class 1", "class 0")
    assert rows.shape == (40, 2, 2)
    for column, name in enumerate(names):
        np.testing.assert_array_equal(rows[..., column], run[0][name].layers.rows)


def test_terms_of_a_sum_are_classes_as_well(record):
    renamed = record.assign_coords(measured=["train", "train/class 1", "train/class 0"])
    names, rows = class_rows(renamed)
    assert names == ("train/class 1", "train/class 0")
    np.testing.assert_array_equal(rows, class_rows(record)[1])


def test_signs_give_the_helping_percent_of_the_summary(run, stored):
    signs = group_signs(stored)
    np.testing.assert_array_equal(signs.helping, run[1].helping)
    np.testing.assert_array_equal(signs.hurting, run[1].hurting)
    np.testing.assert_array_equal(signs.zero, run[1].zero)
    first, second = helping_table(group_names(stored), signs)
    assert 50 < first.helping_percent < 100
    assert first.zero_percent > second.zero_percent  # pixels that are always 0


def test_the_histogram_adds_up_to_that_of_the_run(run, stored):
    edges, helping, hurting = histogram(stored)
    whole = run[0]["train"].histogram
    np.testing.assert_array_equal(edges, whole.edges)
    np.testing.assert_array_equal(helping.sum(axis=0), whole.helping)
    np.testing.assert_array_equal(hurting.sum(axis=0), whole.hurting)
    assert fit_weibull_counts(edges, helping + hurting, block=2).shape_stderr > 0


def test_traced_parameters_are_the_columns_that_were_asked_for(run, stored):
    rows = traced(stored)
    for name in ("theta", "movement", "values"):
        np.testing.assert_array_equal(rows[name], getattr(run[2], name))


def test_an_analysis_of_the_record_is_one_of_its_arrays(run, stored):
    assert synchrony_test(peak_moments(group_rows(stored))) == synchrony_test(
        peak_moments(run[0]["train"].layers.rows)
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: group_rows(r, measured="trian"), UnknownNameError, "'trian'.*Did you mean 'train'"),
        (
            lambda r: group_rows(r, "filter"),
            UnknownNameError,
            "grouping 'filter'; known: layer, neuron, tensor",
        ),
        (lambda r: class_rows(r, "layers"), UnknownNameError, "grouping 'layers'.*Did you mean 'layer'"),
        (lambda r: group_rows(r.expand_dims("run")), LCAError, r"several runs.*runs\.isel\(run=0\)"),
        (lambda r: group_rows(r, "neuron"), LCAError, "no 'neuron_total'.*it has .*layer_total"),
        (lambda r: group_names(r, "neuron"), LCAError, "no totals by neuron; record with neurons=True"),
        (lambda r: class_rows(r.sel(measured=["train"])), LCAError, "no losses by class; measure 'class 0'"),
        (lambda r: traced(r.drop_vars("trace_theta")), LCAError, "no 'trace_theta'"),
        (lambda r: histogram(r.drop_vars("histogram_hurting")), LCAError, "no 'histogram_hurting'"),
    ],
)
def test_what_is_not_in_the_record_is_named(record, call, error, message):
    with pytest.raises(error, match=message):
        call(record)


def test_statistics_are_imported_when_they_are_used():
    code = "import sys, lca.analysis; print(*{'scipy.stats', 'scipy.optimize', 'xarray'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
