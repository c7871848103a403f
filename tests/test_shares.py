"""A loss and its parts that are measured side by side take their gradients once, and add up exactly."""

from dataclasses import dataclass

import numpy as np
import pytest

import lca
from lca._shares import shared_losses
from lca.errors import LCAError
from lca.reference import DatasetLoss, mlp
from lca.tolerances import EPS64, summed
from lca.tracking import FunctionalTracker

RNG = np.random.default_rng(3)
NETWORK = mlp((4, 5, 3))
X, Y = RNG.normal(size=(30, 4)), RNG.integers(3, size=30)
PATH = [NETWORK.init(seed=0) + 0.1 * t * RNG.normal(size=NETWORK.init(seed=0).size) for t in range(5)]


class Counting(DatasetLoss):
    """Counts gradients over the data, and those of classes as their share of the examples."""

    spent: list

    def loss_and_grad(self, theta, batch=None):
        share = 1.0 if self.only_label is None else np.mean(self.y == self.only_label)
        SPENT.append(share)
        return super().loss_and_grad(theta, batch)


SPENT: list[float] = []
LOSS = Counting(NETWORK, X, Y)


def allocated(losses, estimator=None):
    SPENT.clear()
    estimator = estimator or lca.PathIntegral(lca.SIMPSON)
    rows = list(lca.allocate_each(losses, lca.Trajectory(np.array(PATH)), estimator, check=False))
    return rows, sum(SPENT)


def test_half_of_the_gradients_are_saved():
    _, alone = allocated({"train": LOSS})
    _, apart = allocated({"train": LOSS, "by class": lca.Sum(LOSS.by_class().terms)})
    _, shared = allocated({"train": LOSS, "by class": LOSS.by_class()})
    for spent, expected in ((alone, 9), (apart, 18), (shared, 9)):  # Simpson: two a step, one at the start
        assert abs(spent - expected) <= summed(expected, EPS64)


@pytest.mark.parametrize("order", [("train", "by class"), ("by class", "train")])
def test_the_loss_is_the_sum_of_its_parts_and_that_which_it_is_alone(order):
    losses = {"train": LOSS, "by class": LOSS.by_class()}
    rows, _ = allocated({name: losses[name] for name in order})
    alone, _ = allocated({"train": LOSS})
    for row, expected in zip(rows, alone, strict=True):
        assert tuple(row) == order
        train, parts = row["train"], row["by class"]
        assert not train.terms
        assert list(parts.terms) == [f"class {c}" for c in range(3)]
        assert np.array_equal(train.values, parts.values)
        bound = summed(expected["train"].mass, EPS64)
        assert np.abs(train.values - expected["train"].values).max() <= bound
        assert abs(train.loss_end - expected["train"].loss_end) <= bound + summed(train.loss_end, EPS64)
        assert train.cost == expected["train"].cost
        assert parts.cost == lca.Cost()


def test_an_estimator_on_batches_takes_one_loss():
    losses = {"train": LOSS, "by class": LOSS.by_class()}
    with pytest.raises(LCAError, match="so that 'train', 'by class' would get the same values"):
        lca.allocate_each(losses, [lca.Step(PATH[0], PATH[1])], lca.estimators.SameBatch())


def test_parts_that_do_not_add_up_are_refused():
    terms = dict(list(LOSS.by_class().terms.items())[:2])
    losses = {"train": LOSS, "some": lca.Sum(terms, whole=LOSS)}
    with pytest.raises(LCAError, match=r"the terms of 'some' add up to .* without whole="):
        list(lca.allocate_each(losses, lca.Trajectory(np.array(PATH)), lca.PathIntegral()))


@dataclass(frozen=True)
class Compared(lca.reference.Quadratic):
    """Compared entry by entry, so that ``==`` raises."""


def test_a_loss_shares_with_the_sum_of_itself_alone():
    loss, equal = Compared(np.eye(2)), Compared(np.eye(2))
    losses = {"other": equal, "train": loss, "parts": lca.Sum({"all": loss}, whole=loss)}
    assert shared_losses(losses, lca.PathIntegral()) == {"train": "parts"}


def test_parts_of_a_loss_of_zero_add_up():
    loss = lca.reference.Quadratic(np.eye(2))
    losses = {"train": loss, "parts": lca.Sum({"all": loss}, whole=loss)}
    [rows] = lca.allocate_each(losses, lca.Trajectory(np.array([[0.0, 0.0], [1.0, 2.0]])), lca.PathIntegral())
    assert rows["train"].values.tolist() == [0.5, 2.0]


def test_a_tracker_summarizes_both():
    losses = {"train": LOSS, "by class": LOSS.by_class()}
    with FunctionalTracker(PATH[0], losses, lca.PathIntegral(), on_error="raise") as tracker:
        for point in PATH[1:]:
            tracker.update(point)
    found = tracker.summary()
    assert list(found) == ["train", "by class", "by class/class 0", "by class/class 1", "by class/class 2"]
    assert found["train"]["lca_total"] == found["by class"]["lca_total"]
    assert found["by class"]["full_gradients_per_step"] == 0
