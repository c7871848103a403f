"""`clipped_without`: micro-batches whose mean without each of them is clipped to a norm."""

import numpy as np
import pytest

from lca._micro_batches import mean_without
from lca.errors import LCAError, NonFiniteError
from lca.tolerances import EPS64, summed
from lca.tracking._clipping import Clipping, clipped_without, multiple_of, only_clipped

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("m", [2, 3, 5])
@pytest.mark.parametrize("shrink", [1.0, 0.7])
def test_the_mean_without_each_micro_batch_is_clipped(m, shrink):
    gradients = list(RNG.normal(size=(m, 7)))
    weights = RNG.dirichlet(np.ones(m))
    means = [mean_without(i, gradients, weights) for i in range(m)]
    norms = [np.linalg.norm(mean) for mean in means]
    max_norm = shrink * float(np.mean(norms))  # some are clipped, some are not
    assert shrink * min(norms) < max_norm < shrink * max(norms)
    found, average = clipped_without(gradients, list(weights), max_norm, shrink)
    assert abs(average - np.mean(norms)) <= summed(m * max(norms), EPS64)
    for i, (mean, norm) in enumerate(zip(means, norms, strict=True)):
        wanted = mean * min(1.0, max_norm / (shrink * norm))
        gap = np.abs(mean_without(i, found, weights) - wanted).max()
        assert gap <= summed(sum(abs(g).max() for g in found) / (1 - weights[i]), EPS64)


def test_below_the_norm_nothing_is_changed():
    gradients = [np.ones(2), np.ones(2), np.ones(2)]
    assert clipped_without(gradients, [0.2, 0.3, 0.5], 2.0)[0] is gradients


def test_a_gradient_whose_nan_the_loop_has_replaced_is_named():
    with pytest.raises(LCAError, match="NaN, Inf .* nan_to_num_"):
        multiple_of(np.array([np.nan, 1.0]), np.array([0.0, 1.0]))


def test_a_gradient_that_stays_nan_is_no_work_of_the_loop():
    with pytest.raises(NonFiniteError, match="has NaN, Inf .* lower the learning rate"):
        multiple_of(np.array([np.nan, 1.0]), np.array([np.nan, 1.0]))


TOTAL = np.float32([0.5, -2.0, 3.0, 0.0])
CLIPPED = {
    "by value": ([0.5, -1.0, 1.0, 0.0], True),
    "set to 0": ([0.5, -2.0, 0.0, 0.0], False),
    "also divided": ([0.25, -0.5, 0.5, 0.0], False),
    "with noise": ([0.6, -1.9, 3.0, 0.0], False),
    "with something added to one": ([0.5, -2.0, 3.1, 0.0], False),
    "with another sign": ([0.5, -2.0, -1.0, 0.0], False),
    "with something added to a zero": ([0.5, -2.0, 2.0, 0.1], False),
}


@pytest.mark.parametrize("scale", [1.0, 1e-30])
@pytest.mark.parametrize(("gradient", "wanted"), CLIPPED.values(), ids=CLIPPED)
def test_a_gradient_is_only_clipped_if_entries_are_kept_and_no_other_grows(gradient, wanted, scale):
    scale = np.float32(scale)  # at 1e-30, products of entries are 0
    assert only_clipped(TOTAL * scale, np.float32(gradient) * scale) is wanted


def test_a_factor_is_clipping_if_it_leaves_one_round_norm():
    clipping = Clipping()
    assert clipping.norm_after(0.5, 1.0, EPS64) is None  # nothing is known yet
    assert clipping.norm_after(4.0, 0.25, EPS64) == 1.0
    assert clipping.norm_after(0.5, 1.0, EPS64) == 1.0  # too small to be clipped
    with pytest.raises(LCAError, match="multiplied by 2 between"):
        clipping.norm_after(0.5, 2.0, EPS64)  # clipping makes no gradient larger
    with pytest.raises(LCAError, match="norm 2 was not clipped"):
        clipping.norm_after(2.0, 1.0, EPS64)
    with pytest.raises(LCAError, match="not clipping to one norm.*another norm, or single tensors, use"):
        clipping.norm_after(4.0, 0.5, EPS64)
