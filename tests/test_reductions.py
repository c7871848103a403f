"""The reductions of NumPy vectors, their exact histogram, and what happens to vectors without any."""

import numpy as np
import pytest
from hypothesis import given

from lca.arrays import NumpyOps, array_ops
from lca.testing.strategies import dtypes, seeds
from tests.reduction_laws import LAWS, vectors


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@given(vectors)
def test_numpy(law, values):
    law(NumpyOps(), np.asarray, values)


@given(seeds, dtypes())
def test_bins_by_logarithm_are_the_bins_looked_up(seed, dtype):
    rng = np.random.default_rng(seed)
    edges = np.logspace(rng.integers(-40, 0), rng.integers(1, 4), rng.integers(2, 2000))
    sizes = (10.0 ** rng.uniform(-44, 5, 70_000)).astype(dtype)
    sizes[:2000] = rng.choice(edges, 2000)
    values = sizes * rng.choice([-1, 1], len(sizes)).astype(dtype)
    bins = np.searchsorted(edges, sizes, side="right")
    expected = [np.bincount(bins[sign * values > 0], minlength=len(edges) + 1) for sign in (-1, 1)]
    np.testing.assert_array_equal(NumpyOps().magnitudes(values, edges), expected)


def test_numpy_vectors_are_reduced_as_they_are():
    vector = np.ones(3)
    assert array_ops(vector).to_numpy(vector) is vector
