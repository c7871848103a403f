"""A sample of examples estimates the sums over all of them, with error bars."""

import numpy as np
import pytest

import lca
from lca import tolerances
from lca.by_example import ByExample, ExampleHistory, allocate_by_example
from lca.errors import LCAError, UnknownNameError
from lca.reference import SGD, DatasetLoss, minibatches, mlp, train
from tests.by_example.cases import EPS

RNG = np.random.default_rng(1)
N, DRAWN = 300, 100
X, Y = RNG.normal(size=(N, 4)), RNG.integers(3, size=N)
WEIGHT = RNG.uniform(0.5, 2.0, size=N)
NETWORK = mlp((4, 6, 3))
LOSS = DatasetLoss(NETWORK, X, Y)
RULE = lca.PathIntegral(lca.gauss_legendre(2))


def steps(count):
    batches = minibatches(X, Y, batch_size=30, steps=count, seed=0)
    return list(train(LOSS, NETWORK.init(0), SGD(lr=0.3), batches))


@pytest.fixture(scope="module")
def whole():
    """The sum over three steps, of all examples."""
    history = ExampleHistory(LOSS, ByExample("layer", estimator=RULE))
    for found in allocate_by_example(LOSS, steps(3), ByExample("layer", estimator=RULE)):
        history.add(found)
    return history.total()


def test_a_sample_has_the_values_of_its_examples_times_the_ratio_of_the_numbers(whole):
    how = ByExample("layer", estimator=RULE, sample=DRAWN, seed=3)
    first, second, _ = allocate_by_example(LOSS, steps(3), how)
    assert np.array_equal(first.examples, second.examples)  # one sample for the run
    assert len(set(first.examples.tolist())) == DRAWN
    alone = ByExample("layer", estimator=RULE, examples=first.examples)
    [same] = allocate_by_example(LOSS, steps(1), alone)
    scale = tolerances.summed(N / DRAWN * np.abs(same.values).sum(), EPS)
    assert np.abs(first.values - N / DRAWN * same.values).max() <= scale
    assert np.abs(first.group_residual).max() <= tolerances.allocation(first.mass, EPS, first.nodes)
    assert first.population == N
    assert "a sample of 300 examples, scaled to all of them" in str(first)
    other = ByExample("layer", estimator=RULE, sample=DRAWN, seed=4)
    assert not np.array_equal(next(allocate_by_example(LOSS, steps(1), other)).examples, first.examples)


def test_the_intervals_cover_the_sums_over_all_examples(whole):
    """Over 1,000 samples: the estimates are unbiased, and 95 % intervals cover in 90 to 98 %."""
    labels, rng = whole.labels["class"], np.random.default_rng(0)
    truth = np.concatenate([whole.values.sum(axis=1)[:, None], whole.over("class").values], axis=1)
    gaps, errors = [], []
    for _ in range(1000):
        at = np.sort(rng.choice(N, DRAWN, replace=False))
        drawn = type(whole)(
            **{
                **vars(whole),
                "values": N / DRAWN * whole.values[:, at],
                "examples": at,
                "labels": {"class": labels[at]},
                "population": N,
                **{name: getattr(whole, name)[at] for name in _OF_EXAMPLES},
            }
        )
        estimate = np.concatenate([drawn.values.sum(axis=1)[:, None], drawn.over("class").values], axis=1)
        gaps.append(estimate - truth)
        errors.append(np.concatenate([drawn.stderr()[:, None], drawn.stderr("class")], axis=1))
    gaps, errors = np.array(gaps), np.array(errors)
    bias = np.abs(gaps.mean(axis=0)) / (gaps.std(axis=0) / np.sqrt(len(gaps)))
    assert bias.max() < _FIVE_SIGMA
    covered = (np.abs(gaps) <= _QUANTILE * errors).mean(axis=0)
    assert (covered >= 0.9).all(), covered
    assert (covered <= 0.98).all(), covered


_OF_EXAMPLES = ("loss_start", "loss_end", "weight", "state_change")
_FIVE_SIGMA, _QUANTILE = 5.0, 1.96


def test_all_examples_have_no_sampling_error_and_a_sum_over_labels_has_no_spread(whole):
    assert not whole.stderr().any()
    assert not whole.stderr("class").any()
    [everything] = allocate_by_example(LOSS, steps(1), ByExample("layer", estimator=RULE, sample=N))
    assert not everything.stderr().any()
    [some] = allocate_by_example(LOSS, steps(1), ByExample("layer", estimator=RULE, sample=DRAWN))
    with pytest.raises(LCAError, match=r"call stderr\('class'\) of the allocation that over was called on"):
        some.over("class").stderr()
    with pytest.raises(UnknownNameError, match="domain"):
        some.stderr("domain")


def test_weights_are_kept_and_impossible_samples_are_refused():
    loss = DatasetLoss(NETWORK, X, Y, weight=WEIGHT)
    [found] = allocate_by_example(loss, steps(1), ByExample("layer", estimator=RULE, sample=DRAWN))
    expected = N / DRAWN * WEIGHT[found.examples] / WEIGHT.sum()
    assert np.abs(found.weight - expected).max() <= tolerances.summed(1.0, EPS)
    with pytest.raises(LCAError, match="sample must be at least 2 examples"):
        ByExample(sample=1)
    with pytest.raises(LCAError, match="sample=301 examples cannot be drawn from 300; omit sample"):
        ByExample(sample=301).start(LOSS)
    with pytest.raises(LCAError, match="sample=20 examples cannot be drawn from 10"):
        ByExample(examples=range(10), sample=20).start(LOSS)


def test_a_record_and_a_file_keep_what_the_sample_was_drawn_from(tmp_path):
    how = ByExample("layer", estimator=RULE, sample=DRAWN)
    [found] = allocate_by_example(LOSS, steps(1), how)
    [row] = lca.allocate(LOSS, steps(1), lca.Adaptive())
    with lca.Record(tmp_path / "run.zarr", LOSS.layout) as record:
        record.update(row, examples=found)
    read = ExampleHistory.from_record(lca.open_record(tmp_path / "run.zarr"))
    again = ExampleHistory.from_xarray(read.to_xarray())
    for history in (read, again):
        assert history.total().population == N
        assert np.array_equal(history.total().stderr("class"), found.stderr("class"))
