"""A record holds what the views hold, can be read at any moment, and goes on where it stopped."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import lca
from lca import (
    SIMPSON,
    Layout,
    PathIntegral,
    Record,
    Step,
    StepAllocation,
    Sum,
    Trajectory,
    allocate_each,
    open_record,
)
from lca.errors import LCAWarning
from lca.record import SCHEMA_VERSION, RecordError
from lca.reference import Quadratic
from lca.row import BIN_EDGES, Row
from lca.summary import RunViews
from lca.tolerances import EPS64, summed
from lca.views import GroupTotals
from tests.sampled import sampled_allocation

LAYOUT = Layout(("a.weight", "a.bias", "b.weight"), ((2, 3), (2,), (4, 2)))


def allocation(step, *, seed=0, layout=LAYOUT, **kwargs):
    """A step of noise, with exact zeros, from the end of the step before; the same for a step and seed."""
    rng = np.random.default_rng([seed, step])
    values = rng.normal(size=layout.size) * 10.0 ** rng.integers(-30, 3, layout.size)
    values[rng.random(layout.size) < 0.2] = 0
    start, end = (np.random.default_rng(index).normal(size=layout.size) for index in (step, step + 1))
    kwargs = {"residual": 0.25, "mass": 3.0, "state_change": 0.125, "converged": step % 3 > 0} | kwargs
    return StepAllocation(values, 2.0 - step, 1.0 - step, step=step, source=Step(start, end, step), **kwargs)


def rows(step):
    return {"train": allocation(step), "heldout": allocation(step, seed=1)}


def recorded(path, steps, **options):
    with Record(path, LAYOUT, **options) as record:
        for step in steps:
            record.update(rows(step))
    return open_record(path)


def test_a_record_holds_what_the_views_hold(tmp_path):
    run = recorded(tmp_path / "run.zarr", range(70)).load()
    assert run.step.values.tolist() == list(range(70))
    for which, name in enumerate(("train", "heldout")):
        views, neurons = RunViews.of(LAYOUT), GroupTotals(LAYOUT.groups("neuron"))
        for step in range(70):
            views.update(allocation(step, seed=which))
            neurons.update(allocation(step, seed=which))
        mine = run.sel(measured=name)
        for column in ("loss_start", "loss_end", "total", "state_change", "residual", "mass", "converged"):
            np.testing.assert_array_equal(mine[column], views.trace.rows[column], err_msg=column)
        for group, view in (("tensor", views.tensors), ("layer", views.layers), ("neuron", neurons)):
            np.testing.assert_array_equal(mine[f"{group}_total"], view.rows)
            assert mine[group].values.tolist() == list(view.groups.names)
        signs = views.signs.per_group()
        for column, counted in (("helping", signs.helping), ("hurting", signs.hurting), ("zero", signs.zero)):
            np.testing.assert_array_equal(mine[f"tensor_{column}"], counted)
            in_layers = mine[f"tensor_{column}"].groupby(mine.tensor_layer).sum().sel(tensor_layer=mine.layer)
            np.testing.assert_array_equal(mine[f"layer_{column}"], in_layers)
        np.testing.assert_array_equal(mine.histogram_helping.sum("step"), views.histogram.helping)
        np.testing.assert_array_equal(mine.histogram_hurting.sum("step"), views.histogram.hurting)
        assert int((mine.histogram_below + mine.histogram_above).sum()) == (
            views.histogram.below + views.histogram.above
        )
    np.testing.assert_array_equal(run.bin_edge_low, RunViews.of(LAYOUT).histogram.edges[:-1])
    np.testing.assert_array_equal(run.bin_edge_high, BIN_EDGES[1:])


def test_full_values_theta_and_traces_are_kept_when_asked_for(tmp_path):
    trace = ["a.weight[1, 2]", 8]
    run = recorded(tmp_path / "r", range(5), values="float32", theta="float64", trace=trace, block=2).load()
    for step in range(5):
        for which in range(2):
            values = allocation(step, seed=which).values
            np.testing.assert_array_equal(run["values"][step, which], values.astype(np.float32))
            np.testing.assert_array_equal(run.trace_values[step, which], values[[5, 8]])
        source = allocation(step).source
        np.testing.assert_array_equal(run.theta[step], source.start)
        np.testing.assert_array_equal(run.trace_theta[step], source.start[[5, 8]])
        np.testing.assert_array_equal(run.trace_movement[step], (source.end - source.start)[[5, 8]])
    assert run.traced_name.values.tolist() == ["a.weight[1, 2]", "b.weight[0, 0]"]
    assert "values" not in recorded(tmp_path / "s", range(1))


def test_long_vectors_are_cut_into_chunks_and_come_back_whole(tmp_path):
    layout = Layout(("w",), ((8192 * 2 + 5,),))
    with Record(tmp_path / "r", layout, values="float64", block=2) as record:
        for step in range(3):
            record.update({name: allocation(step, layout=layout, seed=i) for i, name in enumerate("xy")})
    found = open_record(tmp_path / "r")["values"].values
    for step in range(3):
        for i in range(2):
            np.testing.assert_array_equal(found[step, i], allocation(step, layout=layout, seed=i).values)


def test_parts_of_the_record_can_be_left_out(tmp_path):
    run = recorded(tmp_path / "r", range(2), neurons=False, histogram=False)
    assert {"neuron_total", "histogram_helping", "neuron", "bin_edge_low"} & set(run.variables) == set()


def test_the_record_says_what_it_is(tmp_path):
    options = {"estimator": PathIntegral(SIMPSON), "settings": {"lr": 0.1, "model": "mlp"}}
    run = recorded(tmp_path / "r", range(1), **options)
    about = run.attrs
    assert about["lca_version"] == lca.__version__
    assert about["schema_version"] == SCHEMA_VERSION
    assert about["estimator"] == repr(PathIntegral(SIMPSON))
    assert about["settings"] == {"lr": 0.1, "model": "mlp"}
    assert "Negative: helping" in about["conventions"]
    assert json.loads(about["layout"])["names"] == list(LAYOUT.names)
    assert run.total.attrs == {"long_name": "Σ_i A_i", "units": "loss"}
    for name in ("tensor_helping", "layer_hurting", "histogram_helping", "histogram_hurting"):
        assert run[name].attrs["long_name"].endswith("; where sampled, of noisy A")
    assert run.layer_helping.attrs["units"] == "1"


def test_terms_of_a_sum_are_measured_losses_of_their_own(tmp_path):
    objective = Sum({"data": Quadratic(np.eye(2)), "penalty": Quadratic(3 * np.eye(2))})
    path = Trajectory(np.array([[1.0, 1.0], [0.5, 0.0]]))
    with Record(tmp_path / "r", objective.layout) as record:
        for found in allocate_each({"train": objective}, path, PathIntegral(SIMPSON)):
            record.update(found)
    run = open_record(tmp_path / "r").load()
    assert run.measured.values.tolist() == ["train", "train/data", "train/penalty"]
    total = run.total.sel(measured=["train/data", "train/penalty"]).sum("measured")
    assert abs(total - run.total.sel(measured="train")).max() <= summed(float(run.mass.max()), EPS64)


def test_the_standard_error_is_that_of_the_mean_of_the_replicates(tmp_path):
    rng = np.random.default_rng(0)
    copies = {t: list(rng.normal(size=(m, LAYOUT.size))) for t, m in ((0.0, 4), (1.0, 3))}
    noisy = allocation(0, replicates=copies)
    with Record(tmp_path / "r", LAYOUT, block=2) as record:
        record.update(noisy)
        record.update(allocation(1))
        record.update(allocation(2))
    run = open_record(tmp_path / "r").load()
    inside = slice(8, 16)
    of_nodes = [np.var([c[inside].sum() for c in found], ddof=1) / len(found) for found in copies.values()]
    error = abs(run.tensor_stderr.sel(tensor="b.weight")[0, 0] - np.sqrt(sum(of_nodes)))
    assert error <= summed(np.sqrt(sum(of_nodes)), EPS64)
    assert np.isnan(run.tensor_stderr[1:]).all()  # not those of the row that was there before


def test_the_record_says_which_losses_are_sampled(tmp_path):
    estimate = replace(sampled_allocation(), values=np.ones(LAYOUT.size))
    with Record(tmp_path / "r", LAYOUT) as record:
        record.update({"train": allocation(0), "estimate": estimate})
    run = open_record(tmp_path / "r").load()
    assert run.sampled.sel(measured=["train", "estimate"]).values.tolist() == [[False, True]]


# --- reading while it is written -------------------------------------------------------------------------


@pytest.mark.parametrize(("late", "expected"), [(-1, [0, 0, 3, 3, 3, 6, 6, 8, 8]), (60, [0] * 7 + [8] * 2)])
def test_rows_of_a_slow_run_are_written_before_their_block_is_full(tmp_path, monkeypatch, late, expected):
    monkeypatch.setattr("lca.record._blocks.LATE", late)
    monkeypatch.setattr("lca.record._blocks.ROWS_OF_LATE", 3)
    record, seen = Record(tmp_path / "r", LAYOUT, values="float64", block=8), []
    for step in range(9):
        record.update(rows(step))
        seen.append(open_record(tmp_path / "r").sizes["step"])
    record.close()
    whole = recorded(tmp_path / "whole", range(9), values="float64", block=8).load()
    assert seen == expected
    assert open_record(tmp_path / "r").load().equals(whole)


@pytest.mark.parametrize(("size", "rows"), [(10, 4096), (9_000, 466), (100_000, 64)])
def test_the_blocks_of_small_models_are_longer(tmp_path, size, rows):
    layout = Layout(("w",), ((size,),))
    a = replace(allocation(0), values=np.zeros(size))
    with Record(tmp_path / "r", layout, neurons=False) as record:
        record.update(a)
    assert open_record(tmp_path / "r").attrs["block"] == rows


def test_rows_are_seen_when_their_block_is_complete_or_flushed(tmp_path):
    record = Record(tmp_path / "r", LAYOUT, block=4)
    seen = []
    for step in range(10):
        record.update(rows(step))
        seen.append(open_record(tmp_path / "r").sizes["step"])
    assert seen == [0, 0, 0, 4, 4, 4, 4, 8, 8, 8]
    record.flush()
    assert open_record(tmp_path / "r").sizes["step"] == 10
    record.update(rows(10))
    record.close()
    run = open_record(tmp_path / "r").load()
    np.testing.assert_array_equal(
        run.total[:, 0], [Row(allocation(step), LAYOUT).total for step in range(11)]
    )
    assert run.attrs["complete"]


def test_a_reader_in_another_process_sees_whole_rows(tmp_path):
    with Record(tmp_path / "r", LAYOUT, block=2) as record:
        for step in range(3):
            record.update(rows(step))
        code = "import sys, lca; r = lca.open_record(sys.argv[1]); print(r.step.values.tolist())"
        command = [sys.executable, "-c", code, str(tmp_path / "r")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stdout == "[0, 1]\n"


def test_a_dataset_that_is_open_stays_as_it_is(tmp_path):
    with Record(tmp_path / "r", LAYOUT, block=2) as record:
        for step in range(2):
            record.update(rows(step))
        run = open_record(tmp_path / "r")
        for step in range(2, 7):
            record.update(rows(step))
        assert run.total.shape == run.total.values.shape == (2, 2)


def test_variables_are_dask_arrays_of_whole_blocks(tmp_path):
    run = recorded(tmp_path / "r", range(9), values="float32", block=4)
    assert run["values"].chunks is not None
    assert float(run["values"].sum().compute()) == pytest.approx(float(run["values"].values.sum()))


def test_any_reader_of_zarr_sees_the_rows_of_a_closed_record(tmp_path):
    run = recorded(tmp_path / "r", range(70))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = xr.open_zarr(tmp_path / "r", consolidated=False)
    np.testing.assert_array_equal(plain.total, run.total)
    assert plain.total.dims == ("step", "measured")


# --- going on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [3, 4, 9])
def test_a_record_goes_on_where_it_stopped(tmp_path, first):
    options = {"values": "float64", "trace": [3], "block": 4}
    expected = recorded(tmp_path / "whole", range(11), **options).load()
    recorded(tmp_path / "r", range(first), **options)
    with Record(tmp_path / "r", mode="a") as record:
        assert (record.next_step, record.steps) == (first, first)
        assert not open_record(tmp_path / "r").attrs["complete"]
        for step in range(record.next_step, 11):
            record.update(rows(step))
    found = open_record(tmp_path / "r").load()
    assert found.equals(expected)
    assert found.attrs["complete"]


@pytest.mark.parametrize("rule", [SIMPSON, lca.MIDPOINT, lca.LEFT])
def test_a_run_that_goes_on_is_recorded_as_if_it_had_not_stopped(tmp_path, rule):
    """The point where it stopped is evaluated again; the row that ended there has paid for it."""
    objective, points = Quadratic(np.diag([1.0, 2.0])), np.random.default_rng(0).normal(size=(8, 2))

    def measured(path, first, last, **options):
        with Record(path, objective.layout, **options) as record:
            steps = (step for step in Trajectory(points) if first <= step.index < last)
            for found in allocate_each({"train": objective}, steps, PathIntegral(rule)):
                record.update(found)
        return open_record(path).load()

    whole = measured(tmp_path / "whole", 0, 7)
    measured(tmp_path / "r", 0, 4)
    assert measured(tmp_path / "r", 4, 7, mode="a").equals(whole)
    assert whole.full_gradients.values[0] + whole.full_losses.values[0] > 1
    apart = measured(tmp_path / "apart", 0, 4), measured(tmp_path / "apart", 5, 7, mode="a")
    spent = apart[1].sel(step=5)
    assert spent.full_gradients + spent.full_losses == whole.full_gradients[0] + whole.full_losses[0]


def test_steps_can_be_measured_again(tmp_path):
    recorded(tmp_path / "r", range(10), block=4)
    with Record(tmp_path / "r", LAYOUT, mode="a", resume_at=6) as record:
        assert record.next_step == 6
        assert open_record(tmp_path / "r").sizes["step"] == 6
        record.update({"train": allocation(6, seed=7), "heldout": allocation(6, seed=8)})
    run = open_record(tmp_path / "r").load()
    assert run.step.values.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert run.total[6, 0] == Row(allocation(6, seed=7), LAYOUT).total
    assert run.total[5, 0] == Row(allocation(5), LAYOUT).total
    assert (
        xr.open_zarr(tmp_path / "r", consolidated=False).sizes["step"] == 7
    )  # nor does anybody else see more


def test_to_go_on_from_another_state_is_warned_of(tmp_path):
    recorded(tmp_path / "r", range(3))
    with Record(tmp_path / "r", mode="a") as record:
        unplaced = {name: replace(found, loss_start=2.0, source=None) for name, found in rows(3).items()}
        with pytest.warns(LCAWarning, match="a train loss of -1 and .* of 2, so .* from the end of step 2"):
            record.update(unplaced)
        record.update(
            {name: replace(found, loss_start=2.0) for name, found in rows(4).items()}
        )  # once is enough
    with Record(tmp_path / "r", mode="a") as record:
        fresh = {name: replace(found, loss_start=2.0) for name, found in rows(5).items()}
        with pytest.warns(LCAWarning, match="of 2, though the parameters are the same. Other data are meas"):
            record.update(fresh)
    with Record(tmp_path / "r", mode="a") as record:
        record.update(rows(7))  # steps in between were not measured
    assert not open_record(tmp_path / "r").displaced.any()


def test_a_gap_larger_than_any_before_is_warned_of(tmp_path):
    recorded(tmp_path / "r", range(0, 40, 10))
    Record(tmp_path / "r", mode="a", resume_at=40).close()  # every tenth step
    with pytest.warns(LCAWarning, match=r"continues at step 500 and has no rows for steps 31 to 499"):
        Record(tmp_path / "r", mode="a", resume_at=500).close()


def test_to_go_on_with_nothing_is_to_begin(tmp_path):
    assert recorded(tmp_path / "r", range(2), mode="a").sizes["step"] == 2


def test_a_run_that_ended_in_an_error_is_kept_and_not_complete(tmp_path):
    def fails():
        yield rows(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Record(tmp_path / "r", LAYOUT) as record:
        [record.update(found) for found in fails()]
    run = open_record(tmp_path / "r")
    assert (run.sizes["step"], run.attrs["complete"]) == (1, False)


def test_only_a_record_is_replaced(tmp_path):
    recorded(tmp_path / "r", range(5))
    assert recorded(tmp_path / "r", range(2), mode="w").sizes["step"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").touch()
    with pytest.raises(RecordError, match="thesis' is not a record"):
        Record(other, LAYOUT, mode="w")
    assert (other / "chapter.tex").exists()


def test_measured_every_tenth_step_the_labels_are_those_of_the_run(tmp_path):
    assert recorded(tmp_path / "r", range(0, 50, 10)).step.values.tolist() == [0, 10, 20, 30, 40]


def test_names_are_labels_and_never_paths(tmp_path):
    names = ("../../etc/passwd", "<script>alert(1)</script>", 'a"b\\c\n', "données/重み.weight", "a.b/c")
    layout = Layout(names, ((2,),) * 5)
    with Record(tmp_path / "r", layout, trace=["<script>alert(1)</script>[1]"]) as record:
        record.update({"../train": allocation(0, layout=layout)})
    run = open_record(tmp_path / "r")
    assert run.tensor.values.tolist() == list(names)
    assert run.measured.values.tolist() == ["../train"]
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    found = {path.name for path in (tmp_path / "r").iterdir()} - {"zarr.json"}
    assert found == set(run.variables) | {"committed"}


def test_importing_lca_needs_no_zarr_and_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['zarr'] = None; import lca; lca.Record('r', lca.Layout(('w',), ((1,),)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert "pip install 'bokeh>=" in done.stderr
    assert not list(Path(tmp_path).iterdir())
