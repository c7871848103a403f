"""`LabelSpread`: χ² against all ways to deal examples to micro-batches, and what is seen in batches."""

import itertools

import numpy as np
import pytest

from lca import tolerances
from lca.tracking._label_spread import ALIKE, SORTED, LabelSpread, _spread


def found_after(make, updates=64):
    """The number of updates after which something is found, and what; 0 if nothing is."""
    spread = LabelSpread(np.asarray)
    for number in range(1, updates + 1):
        spread.add(make(number))
        if spread.found:
            return number, spread.found
    return 0, ""


def test_mean_and_variance_are_those_of_all_ways_to_deal_the_examples():
    labels = np.array([0, 0, 0, 1, 1, 2, 0, 1])
    deals = [
        ([*first], [i for i in range(8) if i not in first]) for first in itertools.combinations(range(8), 5)
    ]
    chi, mean, variance = np.array([_spread([labels[one], labels[other]]) for one, other in deals]).T
    tolerance = tolerances.summed(len(chi) * chi.max() ** 2, tolerances.EPS64)
    assert abs(chi.mean() - mean[0]) <= tolerance
    assert abs(chi.var() - variance[0]) <= tolerance


@pytest.mark.parametrize(("examples", "classes", "pieces"), [(8, 2, 2), (32, 10, 2), (12, 4, 4), (60, 20, 3)])
def test_examples_in_random_order_are_not_warned_of(examples, classes, pieces):
    rng = np.random.default_rng(examples)

    def shuffled(number):
        return [(own,) for own in np.array_split(rng.integers(classes, size=examples), pieces)]

    assert not any(found_after(shuffled, 32)[0] for _ in range(20))


def test_few_examples_of_a_class_are_not_warned_of():
    rng = np.random.default_rng(1)
    assert not any(
        found_after(lambda number: [((rng.random(16) < 0.05),), ((rng.random(16) < 0.05),)], 32)[0]
        for _ in range(20)
    )


@pytest.mark.parametrize("form", ["integers", "column", "one-hot"])
def test_batches_sorted_by_class_are_found(form):
    """8 examples of each of 5 classes, in this order, of which the third is in both micro-batches."""
    rng = np.random.default_rng(2)

    def batch(number):
        labels = np.repeat(rng.permutation(10)[:5], 8)
        made = {"integers": labels, "column": labels[:, None], "one-hot": np.eye(10)[labels]}[form]
        x = rng.normal(size=(40, 3))
        return [(x[:20], made[:20]), (x[20:], made[20:])]

    number, found = found_after(batch)
    assert found == SORTED
    assert 0 < number <= 4


def test_two_views_of_the_same_examples_are_found():
    rng = np.random.default_rng(3)
    number, found = found_after(lambda number: [{"y": labels} for labels in [rng.integers(10, size=12)] * 2])
    assert found == ALIKE
    assert 0 < number <= 10


def test_labels_in_a_cyclic_order_look_the_same_and_the_text_says_so():
    number, found = found_after(lambda number: [(np.arange(12) % 3,), (np.arange(12, 24) % 3,)])
    assert found == ALIKE
    assert "cyclic" in found
    assert 0 < number <= 40


@pytest.mark.parametrize("views", [2, 4])
def test_views_side_by_side_are_not_warned_of(views):
    rng = np.random.default_rng(views)

    def batch(number):
        return [(own,) for own in np.array_split(np.repeat(rng.integers(10, size=24), views), 2)]

    assert not any(found_after(batch, 32)[0] for _ in range(20))


def balanced_after(draw, examples=1000, updates=80):
    """The number of updates after which they are balanced; 0 if they are not. ``draw`` gives labels."""
    spread = LabelSpread(np.asarray)
    spread.examples = examples
    for number in range(1, updates + 1):
        spread.add([(own,) for own in np.array_split(draw(), 2)])
        if spread.balanced:
            return number
    return 0


def of_each(rng, classes, each):
    return rng.permutation(np.repeat(np.arange(classes), each))


@pytest.mark.parametrize(("classes", "each"), [(3, 4), (10, 5), (2, 6), (100, 2)])
def test_batches_with_as_many_examples_of_each_class_are_found(classes, each):
    rng = np.random.default_rng(classes)
    assert 0 < balanced_after(lambda: of_each(rng, classes, each)) <= 25


def test_nearly_as_many_are_found_too():
    rng = np.random.default_rng(5)
    assert 0 < balanced_after(lambda: np.append(of_each(rng, 3, 5), rng.integers(3))) <= 25


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: lambda: rng.integers(3, size=12),
        lambda rng: lambda: (rng.random(16) < 0.1).astype(int),
        lambda rng: lambda: np.concatenate([of_each(rng, 3, 4), of_each(rng, 3, 4)]),
        lambda rng: itertools.cycle([of_each(rng, 3, 4), rng.permutation(12) // 4]).__next__,
        lambda rng: lambda: np.zeros(12, int),
        lambda rng: lambda: rng.permutation(1000)[:100],
    ],
    ids=["by chance", "few of a class", "each half is balanced", "two batches", "one class", "index"],
)
def test_other_batches_are_not_found(draw):
    assert [balanced_after(draw(np.random.default_rng(seed))) for seed in range(10)] == [0] * 10


@pytest.mark.parametrize("batches", [1, 2, 3, 10])
def test_shuffled_epochs_of_few_batches_are_not_found(batches):
    """Their classes are more even than by chance, as all batches of an epoch have all examples."""
    labels = np.arange(120) % 4

    def draws(seed):
        rng = np.random.default_rng(seed)
        while True:
            yield from np.split(labels[rng.permutation(120)], batches)

    assert [balanced_after(draws(seed).__next__, 120) for seed in range(10)] == [0] * 10


def test_epochs_of_few_batches_are_not_found_where_more_examples_are_measured():
    labels = np.arange(120) % 10

    def draws(seed):
        rng = np.random.default_rng(seed)
        while True:
            yield from np.split(labels[rng.permutation(120)], 3)

    assert [balanced_after(draws(seed).__next__, 1000) for seed in range(10)] == [0] * 10


def test_without_the_number_of_examples_nothing_is_balanced():
    rng = np.random.default_rng(0)
    assert balanced_after(lambda: of_each(rng, 3, 4), examples=0) == 0


@pytest.mark.parametrize(
    "pieces",
    [
        [(np.arange(6),), (np.arange(6, 12),)],  # numbers of the examples
        [(np.zeros(6, int),), (np.zeros(6, int),)],
        [(np.linspace(0, 1, 6),), (np.linspace(2, 3, 6),)],  # targets of a regression
        [(np.array([0, 1]),), (np.array([0, 1]), np.array([2, 3]))],
        [(np.array([0, 0, 0, 1]),)],
        [],
    ],
    ids=["index", "one class", "regression", "other forms", "one piece", "none"],
)
def test_what_has_no_labels_tells_nothing(pieces):
    assert found_after(lambda number: pieces) == (0, "")
