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
from lca.reference import SGD, DatasetLoss, minibatches, mlp, train
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
