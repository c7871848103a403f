"""What is found when an objective is made: what counts as an example, streams, gradients inside, messages."""

from collections import namedtuple
from itertools import repeat

import numpy as np
import pytest

import lca
from lca.errors import DataError, LCAError
from lca.frameworks import (
    BatchwiseLoss,
    ModelObjective,
    all_rows,
    examples_in,
    is_rows,
    joined,
    loss_errors,
    read_batches,
)
from lca.frameworks import _data as data_module


class Mean(BatchwiseLoss):
    """``½ (x - θ)²``, the mean over all numbers of the first tensor."""

    layout = lca.Layout(("center",), ((1,),))

    def __init__(self, batch_weight=None):
        self._weight, self.counts_examples = batch_weight, batch_weight is None

    def theta(self):
        return np.ones(1)

    def batch_weight(self, batch):
        return super().batch_weight(batch) if self._weight is None else self._weight(batch)

    def evaluate_batch(self, theta, batch, state, *, gradient):
        x = batch[0]
        return ((x - theta) ** 2).mean() / 2, theta - x.mean(keepdims=True).ravel() if gradient else None


# --- examples --------------------------------------------------------------------------------------------


class Packed(namedtuple("Packed", "data sizes")):
    """As a packed sequence of torch: a named tuple with a constructor of its own."""

    __slots__ = ()

    def __new__(cls, data, sizes, *more):
        return super().__new__(cls, data, sizes)


Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        ((np.zeros((5, 2)), np.zeros(5)), 5),
        ({"x": np.zeros((5, 2)), "mask": [np.zeros(5), None]}, 5),
        (Pair(np.zeros(5), np.zeros((5, 3))), 5),
        ((np.zeros((7, 5, 2)), np.zeros(5)), None),  # time first
        ({"x": [np.zeros((3, 2)), np.zeros((4, 2))], "y": np.zeros(2)}, None),  # sequences
        ((np.zeros((9, 2)), np.zeros((2, 14), int), np.zeros(1)), None),  # a graph
        ((np.zeros((5, 2)), np.zeros(())), None),
        ({"x": np.zeros((5, 2)), "label": 3}, None),
        (([np.zeros(2), np.zeros(2)], ["cat", "dog"]), None),
        ((np.zeros((5, 2)), object()), None),
        (Packed(np.zeros((5, 2)), np.zeros(5)), None),
        ([1.0, 2.0], None),
        (None, None),
    ],
)
def test_examples_are_the_rows_that_all_tensors_share(batch, rows):
    assert is_rows(batch) == (rows is not None)
    if rows is None:
        with pytest.raises(DataError, match=r"number of examples of a batch \(.* is unknown.*batch_weight="):
            examples_in(batch)
    else:
        assert examples_in(batch) == rows


def test_batches_whose_second_axis_differs_ask_what_counts():
    pieces = [(np.full((5, n), float(n)),) for n in (2, 3, 4)]
    short = [*pieces[:2], (np.zeros((2, 4)),)]
    for batches in (pieces, short):
        with pytest.raises(
            DataError, match="differ in length along axis 1 and not along axis 0.*batch_weight="
        ):
            ModelObjective(None, Mean(), joined(batches))
    objective = ModelObjective(None, Mean(lambda batch: batch[0].size), joined(pieces))
    numbers = np.concatenate([piece[0].ravel() for piece in pieces])
    assert objective.loss(np.ones(1)) == ((numbers - 1) ** 2).mean() / 2
    ModelObjective(None, Mean(), joined([(np.zeros((2, 4)),), (np.ones((3, 2)),), (np.ones((4, 2)),)]))


def test_a_batch_of_another_form_is_refused_when_it_is_measured():
    objective = ModelObjective(None, Mean(), all_rows((np.zeros((5, 2)), np.zeros(5))))
    with pytest.raises(DataError, match="number of examples of a batch"):
        objective.loss(np.ones(1), (np.zeros((5, 2)), np.zeros(2)))


# --- streams ---------------------------------------------------------------------------------------------


class Endless:
    """Read anew at every pass."""

    def __iter__(self):
        return repeat((np.zeros(2),))


@pytest.mark.parametrize("keep", [True, False])
def test_a_stream_without_end_is_stopped(keep, monkeypatch):
    assert data_module.MOST_BATCHES == 10_000
    with pytest.raises(DataError, match=r"did not end after 10,000 batches.*list\(itertools\.islice\(stream"):
        list(read_batches(Endless(), keep=False).batches()) if not keep else read_batches(Endless())
    many = [(np.zeros(2),)] * 10_001
    assert len(read_batches(many)) == 20_002


# --- gradients inside --------------------------------------------------------------------------------------


class Differentiates(Mean):
    """A loss with a derivative inside, which another framework computes only where gradients are on."""

    wrong = None

    def evaluate_batch(self, theta, batch, state, *, gradient):
        loss, grad = super().evaluate_batch(theta, batch, state, gradient=gradient)
        if gradient or self.differentiates_inside:
            return loss, grad
        if self.wrong is None:
            raise RuntimeError("does not require grad")
        return self.wrong, grad


@pytest.mark.parametrize("wrong", [None, 7.0])
def test_gradients_are_enabled_for_a_loss_that_takes_them(wrong):
    loss = Differentiates()
    loss.wrong = wrong
    objective = ModelObjective(None, loss, all_rows((np.arange(4.0)[:, None],)))
    assert loss.differentiates_inside
    assert objective.loss(np.ones(1)) == objective.loss_and_grad(np.ones(1))[0] == 0.75
    plain = Mean()
    ModelObjective(None, plain, all_rows((np.arange(4.0)[:, None],)))
    assert not plain.differentiates_inside


def test_a_loss_that_depends_on_whether_gradients_are_on_is_refused():
    class Depends(Mean):
        def evaluate_batch(self, theta, batch, state, *, gradient):
            loss, grad = super().evaluate_batch(theta, batch, state, gradient=gradient)
            return loss + (not gradient), grad

    with pytest.raises(LCAError, match="is 0.75 where its gradient is computed, and 1.75 where it is not"):
        ModelObjective(None, Depends(), all_rows((np.arange(4.0)[:, None],)))


# --- the whole data, and messages --------------------------------------------------------------------------


class Picky(Mean):
    """Refuses 13 and has no loss for 14; ``least`` examples are needed in a batch."""

    least = 1

    def evaluate_batch(self, theta, batch, state, *, gradient):
        if len(batch[0]) < self.least:
            raise TypeError("too few")
        if (batch[0] == 13).any():
            raise ValueError("13 is out of range")
        loss, grad = super().evaluate_batch(theta, batch, state, gradient=gradient)
        return (np.nan if (batch[0] == 14).any() else loss), grad


@pytest.mark.parametrize(
    ("value", "why"), [(13, "raised ValueError: 13 is out of range"), (14, "loss is nan")]
)
def test_rows_that_fail_anywhere_are_found(value, why):
    x = np.zeros((40, 1))
    x[29] = value
    with pytest.raises(DataError, match=f"^row 29 of the measured data cannot be measured: .*{why}"):
        ModelObjective(None, Picky(), all_rows((x,)), batch_size=8)
    few = Picky()
    few.least = 4
    with pytest.raises(DataError, match=f"^rows 28 to 31 of the measured data .*{why}"):
        ModelObjective(None, few, all_rows((x,)), batch_size=8)
    ragged = [(x[:9],), (x[9:, [0, 0]],)]
    with pytest.raises(DataError, match=f"^row 20 of batch 1 of the measured data .*{why}"):
        ModelObjective(None, Picky(lambda batch: len(batch[0])), joined(ragged))


def test_a_batch_weight_that_raises_is_told():
    with pytest.raises(
        DataError, match=r"the batch_weight of a measuring batch \(.*\) raised KeyError: 'mask'"
    ):
        ModelObjective(None, Mean(lambda batch: {}["mask"]), all_rows((np.zeros(4),)))


def test_errors_of_a_framework_are_short():
    text = "\x1b[1mno\nmatch\x1b[0m\n\nArguments received by Dense.call():\n  x=tf.Tensor(...)"
    with pytest.raises(DataError) as caught, loss_errors((np.zeros(2),)):
        raise RuntimeError(text)
    assert str(caught.value).endswith("raised RuntimeError: no match")
    with pytest.raises(DataError) as caught, loss_errors((np.zeros(2),)):
        raise RuntimeError("long " * 1000)
    assert len(str(caught.value)) < 400


def test_what_changed_is_passed_on():
    loss = Mean()
    objective = ModelObjective(None, loss, all_rows((np.zeros(4),)))
    assert not objective.what_changed()
    loss.what_changed = lambda: "the flag training of layer 2"
    assert objective.what_changed() == "the flag training of layer 2"
