"""The history of a run by example: what was learned when, last, and what hurt."""

import warnings

import numpy as np
import pytest
import torch
import xarray as xr

import lca
from lca import tolerances
from lca.by_example import ByExample, ExampleHistory, allocate_by_example
from lca.errors import LCAError, UnknownNameError
from lca.record._check import check_record
from lca.reference import SGD, DatasetLoss, minibatches, mlp, train
from lca.report import render_report
from lca.report._examples import examples
from lca.runs._run import Run
from lca.tracking import FunctionalTracker
from lca_torch import Objective, Tracker
from tests.by_example.cases import EPS

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 4)), RNG.integers(3, size=12)
NETWORK = mlp((4, 5, 3), activation="tanh")
LOSS = DatasetLoss(NETWORK, X, Y)
HOW = ByExample("layer", labels={"domain": ["a", "b"] * 6})


def run(steps=6):
    batches = minibatches(X, Y, batch_size=4, steps=steps, seed=0)
    return list(train(LOSS, NETWORK.init(0), SGD(lr=0.3), batches))


@pytest.fixture(scope="module")
def history():
    found = ExampleHistory(LOSS, HOW)
    for allocation in allocate_by_example(LOSS, run(), HOW):
        found.add(allocation)
    return found


def test_a_tracker_fills_it_as_allocate_by_example_does(history):
    theta, steps = NETWORK.init(0), run()
    tracked = ExampleHistory(LOSS, HOW)
    heldout = DatasetLoss(NETWORK, X[:3], Y[:3])
    with FunctionalTracker(theta, {"train": LOSS, "heldout": heldout}, views=tracked) as tracker:
        for step in steps:
            tracker.update(step.end)
    assert np.array_equal(tracked.values, history.values)
    assert tracked.steps.tolist() == list(range(6))


def test_the_sums_over_the_run_have_both_margins(history):
    total, steps = history.total(), run()
    change = LOSS.loss(steps[-1].end) - LOSS.loss(steps[0].start)
    assert abs(total.loss_change.sum() - change) <= tolerances.summed(10.0, EPS)
    assert np.abs(total.residual).sum() <= 6 * lca.Adaptive().tol
    assert np.abs(total.group_residual).max() <= tolerances.allocation(total.mass, EPS, total.nodes)
    assert total.over("domain").examples.tolist() == ["a", "b"]
    assert np.allclose(total.values, history.values.sum(axis=0), rtol=0, atol=tolerances.summed(10.0, EPS))


def made(values):
    """A history of one group, whose values by step and example are given."""
    found = ExampleHistory(LOSS, ByExample("layer", examples=range(len(values[0]))))
    [step] = allocate_by_example(LOSS, run(1), ByExample("layer", examples=range(len(values[0]))))
    for number, row in enumerate(values):
        pair = np.stack([np.array(row, float), np.zeros(len(row))])
        found.add(type(step)(**{**vars(step), "values": pair, "step": 10 * number}))
    return found


def test_an_example_is_learned_when_half_of_its_sum_is_reached():
    found = made([[-1, -1, 1, 0], [-1, -1, -1, 0], [-1, -8, 1, 0]])
    assert np.array_equal(found.learned("fc1"), [10, 20, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(found.learned(), [10, 20, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(found.learned(fraction=0.1), [0, 0, np.nan, np.nan], equal_nan=True)
    assert np.isnan(found.learned("fc2")).all()
    assert found.last_learned(2).columns[0].values == ["1", "0"]
    assert found.hurt().columns[0].values == ["2"]
    with pytest.raises(LCAError, match=r"fraction must be in \(0, 1\], got 0"):
        found.learned(fraction=0)
    with pytest.raises(UnknownNameError, match="fc3"):
        found.of("fc3")


def test_it_is_saved_with_its_labels(history, tmp_path):
    dataset = history.to_xarray()
    assert dict(dataset.sizes) == {"step": 6, "group": 2, "example": 12}
    assert dataset["domain"].values.tolist() == ["a", "b"] * 6
    assert dataset["class"].values.tolist() == Y.tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr, on text in format 3
        dataset.to_zarr(tmp_path / "history.zarr")
    read = ExampleHistory.from_xarray(xr.open_zarr(tmp_path / "history.zarr"))
    assert np.array_equal(read.values, history.values)
    assert np.array_equal(read.learned("fc2"), history.learned("fc2"), equal_nan=True)
    for name, value in vars(history.total()).items():
        if name not in ("tolerance", "reason"):
            other = getattr(read.total(), name)
            same = value == other if not isinstance(value, dict) else value.keys() == other.keys()
            assert np.all(same), name
    with pytest.raises(LCAError, match="read from a file and has no objective"):
        read.update(None)
    assert np.abs(dataset["residual"].sum("step") - history.total().residual).max() <= tolerances.summed(
        10, EPS
    )


def recorded(path, steps, how=HOW, **options):
    """A tracked run with a history and a record."""
    views, record = ExampleHistory(LOSS, how), lca.Record(path, **options)
    with FunctionalTracker(steps[0].start, LOSS, views=views, record=record) as tracker:
        for step in steps:
            tracker.update(step.end)


def test_it_is_part_of_the_record_of_a_run(history, tmp_path):
    recorded(tmp_path / "run.zarr", run())
    record = lca.open_record(tmp_path / "run.zarr")
    read, total = ExampleHistory.from_record(record), history.total()
    assert np.array_equal(read.values, history.values)
    assert read.steps.tolist() == list(range(6))
    for name, value in vars(read.total()).items():
        if name not in ("tolerance", "reason", "labels"):
            assert np.array_equal(value, getattr(total, name)), name
    assert {name: found.tolist() for name, found in read.total().labels.items()} == {
        "domain": ["a", "b"] * 6,
        "class": Y.tolist(),
    }
    with pytest.raises(LCAError, match="read from a file and has no objective"):
        read.update(None)


def test_the_page_of_a_run_has_its_examples(tmp_path):
    recorded(tmp_path / "run.zarr", run())
    record = lca.open_record(tmp_path / "run.zarr")
    page, total = render_report(record), ExampleHistory.from_record(record).total()
    section = page[page.index('id="examples"') : page.index('id="noise"')]
    assert "The loss of 12 examples was split over 2 groups of parameters" in section
    for caption in ("by domain of the examples", "by class of the examples", "that were learned last"):
        assert caption in section
    change, missed = np.abs(total.loss_change).sum(), np.abs(total.residual).sum()
    assert f"the residuals are {missed / change:.1%} of the loss changes" in section
    lines = examples(Run(record)).charts[0].figure.renderers
    for group, line in zip(total.groups, lines, strict=True):
        learned = ExampleHistory.from_record(record).learned(group)
        counts = [np.sum(learned < step) for step in range(7)]  # NaN is not learned
        assert np.array_equal(np.round(12 * line.data_source.data["y"] / 100), counts)
    assert examples(Run(record.drop_vars("example_value"))) is None


def test_a_record_with_examples_is_continued_and_replaced(tmp_path):
    how, steps = ByExample("layer", labels=HOW.labels, estimator=lca.PathIntegral()), run(4)
    recorded(tmp_path / "run.zarr", steps[:2], how)
    recorded(tmp_path / "run.zarr", steps[2:], how, mode="a")
    found = ExampleHistory.from_record(lca.open_record(tmp_path / "run.zarr"))
    assert found.steps.tolist() == list(range(4))
    expected = [each.values for each in allocate_by_example(LOSS, steps, how)]
    assert np.array_equal(found.values, expected)
    checked = check_record(tmp_path / "run.zarr")
    assert checked.whole
    assert not [each for each in checked.variables if each.name == "label_domain" and each.has_rows]
    recorded(tmp_path / "run.zarr", steps, how, mode="w")  # a folder with labels is a record, nothing else


def test_a_record_has_the_examples_of_all_steps_or_of_none(tmp_path):
    [one, two] = allocate_by_example(LOSS, run(2), HOW)
    [other] = allocate_by_example(LOSS, run(1), ByExample("layer", examples=[1]))
    rows = list(lca.allocate_each({"train": LOSS, "heldout": LOSS}, run(3), lca.Adaptive()))
    with lca.Record(tmp_path / "with.zarr", LOSS.layout) as record:
        record.update(rows[0], examples=one)
        with pytest.raises(LCAError, match="step 1 has no allocation by example, but the record has that of"):
            record.update(rows[1])
        with pytest.raises(LCAError, match="step 1 has another allocation by example"):
            record.update(rows[1], examples=other)
        record.update(rows[1], examples=two)
        record.flush()
        assert ExampleHistory.from_record(lca.open_record(tmp_path / "with.zarr")).steps.tolist() == [0, 1]
    with lca.Record(tmp_path / "without.zarr", LOSS.layout) as record:
        record.update(rows[0])
        with pytest.raises(LCAError, match="but the record has none"):
            record.update(rows[1], examples=two)
    with pytest.raises(LCAError, match="the record has no allocation by example; pass views="):
        ExampleHistory.from_record(lca.open_record(tmp_path / "without.zarr"))


def test_two_histories_or_labels_that_are_no_text_cannot_be_recorded(tmp_path):
    losses, theta = {"train": LOSS, "heldout": LOSS}, NETWORK.init(0)
    views = [ExampleHistory(LOSS, HOW), ExampleHistory(LOSS, HOW)]
    with pytest.raises(LCAError, match="a record holds one allocation by example, and views has 2"):
        FunctionalTracker(theta, losses, views=views, record=tmp_path / "a.zarr", on_error="raise")
    how = ByExample("layer", labels={"pair": [1 + 2j] * 12})
    [found] = allocate_by_example(LOSS, run(1), how)
    [row] = lca.allocate(LOSS, run(1), lca.Adaptive())
    with (
        lca.Record(tmp_path / "b.zarr", LOSS.layout) as record,
        pytest.raises(LCAError, match="the labels 'pair' cannot be stored in a record: they are complex128"),
    ):
        record.update(row, examples=found)


def test_an_empty_history_and_other_examples_are_refused(history):
    with pytest.raises(LCAError, match="no step has been allocated by example yet"):
        ExampleHistory(LOSS).total()
    [other] = allocate_by_example(LOSS, run(1), ByExample("layer", examples=[0]))
    with pytest.raises(LCAError, match="step 0 has other groups or examples"):
        history.add(other)


def test_a_torch_tracker_follows_moving_statistics():
    """What BatchNorm statistics did to each example is in its state change, so that both margins hold."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3)
    ).double()
    x, y, loss_fn = torch.tensor(X), torch.tensor(Y), torch.nn.functional.cross_entropy
    objective = Objective(model, loss_fn, (x, y), batch_norm="frozen")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    history = ExampleHistory(objective, ByExample("tensor"))
    with Tracker(model, optimizer, objective, views=history) as tracker:
        for _ in range(4):
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
    summary, total = tracker.summary()["train"], history.total()
    assert total.converged
    # In the tracker, statistics that moved before an update are counted with that step, too.
    assert abs(total.values.sum() - summary["lca_total"]) <= 4 * 2 * lca.Adaptive().tol
    assert total.state_change.any()
