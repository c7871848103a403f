"""What a record holds of training: learning rates, metrics, groups and heads; and replays, by checkpoint."""

import json
from dataclasses import asdict

import numpy as np
import pytest

import lca
from lca.analysis import division_names, group_names, group_stderr, group_totals
from lca.errors import LCAError, LCAWarning, UnknownNameError
from lca.estimators import SampledPathIntegral
from lca.plots import figure_of, plot_cumulative, save_all
from lca.record import RecordError
from lca.record._metrics import MOST, Metrics
from lca.record._schema import Content
from lca.reference import Adam, DatasetLoss, load_digits, minibatches, mlp, train
from lca.report import render_report
from lca.step import Step
from lca.tolerances import EPS64, conservation
from lca.tracking import FunctionalTracker

DIGITS = load_digits().reshaped((64,))
NETWORK = mlp((64, 6, 10))
LOSS = DatasetLoss(NETWORK, DIGITS.x_train[:200], DIGITS.y_train[:200])
GROUPS = {"hidden": "^fc1", "kind": {"weights": "weight$", "biases": "bias$"}}


def steps_of(count=4, rates=None, checkpoints=None):
    batches = minibatches(DIGITS.x_train, DIGITS.y_train, batch_size=50, steps=count, seed=0)
    for at, step in enumerate(train(LOSS, NETWORK.init(seed=0), Adam(lr=0.01), batches)):
        yield Step(
            step.start.copy(),
            step.end.copy(),
            at,
            learning_rates=None if rates is None else {"0": rates[at]},
            checkpoints=None if checkpoints is None else tuple(checkpoints[at : at + 2]),
        )


def test_a_replay_is_recorded_in_the_numbers_of_its_checkpoints(tmp_path):
    numbers = [0, 100, 250, 1000, 1001]
    lca.measure(LOSS, steps_of(checkpoints=numbers), record=tmp_path / "run.zarr")
    record = lca.open_record(tmp_path / "run.zarr")
    assert record.step.values.tolist() == numbers[:-1]
    assert record.step_end.values.tolist() == numbers[1:]
    [member] = lca.open_runs(record).members
    assert (member.run.unit, member.run.consecutive, member.run.is_whole) == ("checkpoint", True, True)
    assert member.run.length == "4 steps between the checkpoints 0 to 1,001"
    page = render_report(record)
    assert "In 4 steps between the checkpoints 0 to 1,001, the train loss (measured on 200 examples)" in page
    assert "straight line from a checkpoint to the next one" in page
    assert '"checkpoint"' in page  # the label of the axes


def test_a_replay_is_repeated_from_a_whole_step(tmp_path):
    lca.measure(LOSS, steps_of(checkpoints=[0, 10, 20, 30, 40]), record=tmp_path / "run.zarr")
    with pytest.warns(LCAWarning, match="continues at step 15 and has no rows for steps 10 to 14"):
        again = lca.Record(tmp_path / "run.zarr", mode="a", resume_at=15)
    assert again.steps == 1


def test_checkpoints_that_are_missing_in_between_are_said(tmp_path):
    steps = [step for step in steps_of(checkpoints=[5, 10, 20, 30, 40]) if step.index != 1]
    lca.measure(LOSS, steps, record=tmp_path / "run.zarr")
    record = lca.open_record(tmp_path / "run.zarr")
    [member] = lca.open_runs(record).members
    assert (member.run.consecutive, member.run.is_whole) == (False, False)
    assert "Only 3 steps between checkpoints are here" in render_report(record)


def test_a_record_of_a_replay_is_continued_where_it_ended(tmp_path):
    numbers, path = [0, 10, 20, 30, 40], tmp_path / "run.zarr"
    steps = list(steps_of(checkpoints=numbers))
    lca.measure(LOSS, steps[:2], record=path)
    again = lca.Record(path, mode="a")
    assert again.next_step == 20
    lca.measure(LOSS, steps[2:], record=again)
    assert lca.open_record(path).step_end.values.tolist() == [10, 20, 30, 40]
    with pytest.raises(RecordError, match="step 30 is not new"):
        lca.measure(LOSS, steps[3:], record=lca.Record(path, mode="a"))


def test_a_summary_of_steps_is_that_of_the_allocations(tmp_path):
    whole = lca.measure({"train": LOSS}, steps_of(), groups=GROUPS)
    assert [*whole.table(by="kind").columns[0].values][:2] == ["weights", "biases"]
    with pytest.raises(UnknownNameError, match="grouping 'kinds'"):
        whole.table(by="kinds")
    summary = whole["train"]
    found = list(lca.allocate(LOSS, steps_of(), lca.Adaptive()))
    mass = sum(a.mass for a in found)
    total = sum(float(a.values.sum()) for a in found)
    assert summary["steps"] == 4
    assert summary["lca_total"] == pytest.approx(total, abs=conservation(mass, 3.0, EPS64), rel=0)
    assert list(summary["per_group"]) == ["group", "kind"]
    with pytest.raises(LCAError, match="no steps to measure"):
        lca.measure(LOSS, iter(()))


def test_a_run_that_fails_leaves_its_rows_marked_incomplete(tmp_path):
    def failing():
        yield from list(steps_of())[:2]
        raise LCAError("the file is damaged.")

    with pytest.raises(LCAError, match="damaged"):
        lca.measure(LOSS, failing(), record=tmp_path / "run.zarr")
    record = lca.open_record(tmp_path / "run.zarr")
    assert (record.sizes["step"], record.attrs["complete"]) == (2, False)


def test_learning_rates_are_columns_of_the_record_and_on_the_page(tmp_path):
    rates = [0.1, 0.05, 0.025, 0.0125]
    lca.measure(LOSS, steps_of(rates=rates), record=tmp_path / "run.zarr")
    record = lca.open_record(tmp_path / "run.zarr")
    assert record.learning_rate.sel(param_group="0").values.tolist() == rates
    page = render_report(record)
    assert "The learning rate of each measured step." in page
    assert "Learning rate of the measured steps: first 0.1, last 0.0125." in page
    lca.measure(LOSS, steps_of(rates=[0.1] * 4), record=tmp_path / "same.zarr")
    assert "The learning rate was 0.1 in all" in render_report(lca.open_record(tmp_path / "same.zarr"))
    lca.measure(LOSS, steps_of(), record=tmp_path / "none.zarr")
    assert "learning_rate" not in lca.open_record(tmp_path / "none.zarr")


def test_metrics_are_kept_also_over_a_continued_run(tmp_path):
    path = tmp_path / "run.zarr"

    def run(tracker, steps):
        with tracker:
            for step in steps:
                tracker.update(step.end)
                tracker.add_metrics({"accuracy": step.index / 10, "odd": float("nan")})

    steps = list(steps_of())
    run(FunctionalTracker(steps[0].start, LOSS, record=path), steps[:2])
    again = FunctionalTracker(steps[2].start, LOSS, record=lca.Record(path, mode="a"))
    run(again, steps[2:])
    metrics = lca.open_record(path).attrs["metrics"]
    assert metrics["accuracy"] == {"step": [1, 2, 3, 4], "value": [0.0, 0.1, 0.2, 0.3]}
    assert metrics["odd"]["value"] == [None] * 4
    page = render_report(lca.open_record(path))
    assert "What training logged" in page
    assert "accuracy" in page
    assert "(step 4)" in page


def recorded(path, first, last, *, closes=True, **options):
    """Rows with a learning rate, in blocks of two, and metrics before and after each."""
    record, steps = lca.Record(path, block=2, **options), list(steps_of(5, rates=[0.1, 0.2, 0.3, 0.4, 0.5]))
    record.begin(LOSS.layout)
    for step, row in zip(
        steps[first:last], lca.allocate(LOSS, steps[first:last], lca.PathIntegral()), strict=True
    ):
        record.add_metrics({"before": step.index}, step=step.index)
        record.update(row)
        record.add_metrics({"after": step.index}, step=step.index + 1)
    if closes:
        record.close()
    else:
        record._release()  # as by a kill: rows in memory are lost
    return lca.open_record(path).load()


def test_a_writer_that_is_killed_leaves_the_metrics_and_rates_of_its_complete_blocks(tmp_path):
    whole = recorded(tmp_path / "whole.zarr", 0, 5)
    left = recorded(tmp_path / "run.zarr", 0, 3, closes=False)
    assert left.learning_rate.values.ravel().tolist() == [0.1, 0.2]
    assert left.attrs["metrics"] == {
        "before": {"step": [0, 1, 2], "value": [0.0, 1.0, 2.0]},  # at once, as no row waited
        "after": {"step": [1, 2], "value": [0.0, 1.0]},
    }
    again = recorded(tmp_path / "run.zarr", 2, 5, mode="a")
    assert again.identical(whole.assign_attrs(created=again.attrs["created"]))
    assert again.attrs["metrics"]["after"]["step"] == [1, 2, 3, 4, 5]


def test_a_run_that_goes_back_gives_its_metrics_again(tmp_path):
    whole = recorded(tmp_path / "run.zarr", 0, 5)
    left = recorded(tmp_path / "run.zarr", 1, 3, mode="a", resume_at=1, closes=False)
    assert left.attrs["metrics"]["after"]["step"] == [1, 2]
    again = recorded(tmp_path / "run.zarr", 1, 5, mode="a", resume_at=1)
    assert again.identical(whole)


def test_metrics_are_flushed_and_kept_when_the_manifest_is_written_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("lca.record._manifest._LONG", 0)
    record = lca.Record(tmp_path / "run.zarr", LOSS.layout)
    record.add_metrics({"accuracy": float("inf")}, step=0)
    for row in lca.allocate(LOSS, steps_of(3), lca.PathIntegral()):
        record.update(row)
        record.flush()
        record.add_metrics({"accuracy": 0.5}, step=row.step + 1)
    held = {"accuracy": {"step": [0, 1, 2, 3], "value": [None, 0.5, 0.5, 0.5]}}
    assert lca.open_record(tmp_path / "run.zarr").attrs["metrics"] == held
    record.close()
    assert lca.open_record(tmp_path / "run.zarr").attrs["metrics"] == held
    with pytest.raises(RecordError, match="is closed"):
        record.add_metrics({"accuracy": 1.0}, step=4)


def test_many_values_of_a_metric_are_thinned_out_alike_in_a_run_that_was_continued():
    whole, part = Metrics(), Metrics()
    for step in range(MOST + 500):
        whole.add(step, "loss", float(step))
        part.add(step, "loss", float(step))
        if step % 3000 == 7:
            part = Metrics.of(part.by_name())
    assert part.by_name() == whole.by_name()
    assert len(whole.given()) == MOST // 2 + 500
    assert whole.until(10).given()[-1] == (10, "loss", 10.0)


def test_metrics_after_the_run_are_refused_and_those_of_a_trainer_are_not_its_own(tmp_path):
    steps = list(steps_of(2))
    tracker = FunctionalTracker(steps[0].start, LOSS, record=tmp_path / "run.zarr")
    tracker.add_metrics({"accuracy": 0.125})  # before the run
    with tracker:
        for step in steps:
            tracker.update(step.end)
        with pytest.warns(lca.errors.LCAWarning, match="the metric 'name' is 'adam', which is not a number"):
            tracker.add_metrics({"name": "adam"})
    with pytest.raises(LCAError, match="the run has ended; call add_metrics inside"):
        tracker.add_metrics({"accuracy": 1.0})
    assert lca.open_record(tmp_path / "run.zarr").attrs["metrics"]["accuracy"]["step"] == [0]


def test_groups_and_their_errors_are_stored(tmp_path):
    estimator = SampledPathIntegral(size=64, micro_batches=4)
    lca.measure(LOSS, steps_of(), estimator, record=tmp_path / "run.zarr", groups=GROUPS)
    record = lca.open_record(tmp_path / "run.zarr")
    assert division_names(record) == ("group", "kind")
    assert group_names(record, "kind") == ("weights", "biases")
    tensors, names = group_totals(record, "tensor"), group_names(record, "tensor")
    weights = [at for at, tensor in enumerate(names) if tensor.endswith("weight")]
    scale = np.abs(tensors).sum(axis=1)
    gap = np.abs(group_totals(record, "kind")[:, 0] - tensors[:, weights].sum(axis=1))
    assert (gap <= conservation(scale.max(), 0.0, EPS64)).all()
    errors, single = group_stderr(record, "kind"), group_stderr(record, "tensor")
    assert errors.shape == (4, 2)
    assert (errors > 0).all()
    independent = np.sqrt((single[:, weights] ** 2).sum(axis=1))
    assert (np.abs(errors[:, 0] - independent) > 1e-3 * independent).all()  # tensors share their samples
    assert "Groups of tensors" in render_report(record)
    with pytest.raises(RecordError, match=r"has other groups \(group, kind\) than the run \(none\)"):
        lca.measure(LOSS, steps_of(), record=lca.Record(tmp_path / "run.zarr", mode="a"))


def test_groups_of_several_seeds_have_intervals_and_figures(tmp_path):
    for seed in range(3):
        batches = minibatches(DIGITS.x_train, DIGITS.y_train, batch_size=50, steps=3, seed=seed)
        steps = train(LOSS, NETWORK.init(seed=seed), Adam(lr=0.01), batches)
        record = lca.Record(tmp_path / f"{seed}.zarr", settings={"optimizer": "adam", "seed": seed})
        lca.measure(LOSS, steps, record=record, groups=GROUPS)
    runs = lca.open_runs(f"{tmp_path}/*.zarr", by=["optimizer", "seed"])
    found = runs.totals(by="kind")
    totals = np.array([group_totals(m.run.record, "kind").sum(axis=0) for m in runs.members])
    scale = np.abs(totals).sum()
    assert found["kind"].values.tolist() == ["weights", "biases"]
    assert (np.abs(found["mean"].values[0] - totals.mean(axis=0)) <= conservation(scale, 0.0, EPS64)).all()
    assert (found["lower"] < found["mean"]).all()
    assert (found["mean"] < found["upper"]).all()
    assert found["n"].values.tolist() == [[3, 3]]
    assert [*runs.table(by="kind").columns[0].values][:2] == ["weights", "biases"]
    names = [path.name for path in save_all(runs, tmp_path / "figures", format="svg")]
    assert names == [
        "conditions.svg", "conditions-group.svg", "conditions-kind.svg",
        "cumulative-adam.svg", "cumulative-adam-group.svg", "cumulative-adam-kind.svg",
    ]  # fmt: skip
    with pytest.raises(UnknownNameError, match="grouping 'kinds'"):
        figure_of(runs, "conditions", by="kinds")


def test_figures_are_drawn_by_any_groups_of_the_record(tmp_path):
    losses = {"train": LOSS, "heldout": LOSS}
    lca.measure(losses, steps_of(), record=tmp_path / "run.zarr", groups=GROUPS)
    names = [
        path.name for path in save_all(tmp_path / "run.zarr", tmp_path / "kinds", by="kind", format="svg")
    ]
    assert names == [
        f"{name}-kind.svg" for name in ("cumulative", "layer_time", "peaks", "totals", "train_heldout")
    ]
    ax = figure_of(tmp_path / "run.zarr", "totals", by="kind").axes[0]
    totals = group_totals(lca.open_record(tmp_path / "run.zarr"), "kind").sum("step").values.tolist()
    assert [bar.get_width() for bar in ax.patches] == [*totals, *totals]
    assert ax.get_title() == "Total allocation by kind,\nover the run"
    assert (
        figure_of(tmp_path / "run.zarr", "peaks", by="kind").axes[0].get_title() == "Learning peaks by kind"
    )
    with pytest.raises(
        UnknownNameError, match="figure of this record by kind 'loss'; known: cumulative, layer"
    ):
        figure_of(tmp_path / "run.zarr", "loss", by="kind")


def test_figures_of_a_replay_are_drawn_at_the_numbers_of_its_checkpoints():
    rows = np.array([[-1.0, 0.5], [-0.5, 0.25]])
    ax = plot_cumulative(rows, ["a", "b"], steps=[0, 100, 250], unit="checkpoint")
    assert ax.lines[1].get_xdata().tolist() == [0, 100, 250]
    assert ax.get_xlabel() == "checkpoint"
    with pytest.raises(LCAError, match="3 increasing numbers"):
        plot_cumulative(rows, ["a", "b"], steps=[0, 100])


def test_the_content_survives_json():
    content = Content(traced=(1, 2), checkpoints=True, learning_rates=("0",), groups=(("kind", "weights"),))
    assert Content.from_json(json.loads(json.dumps(asdict(content)))) == content
