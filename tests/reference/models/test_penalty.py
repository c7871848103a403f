"""`L2Penalty` against the formula, tensor by tensor."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lca import tolerances
from lca.errors import LCAError, UnknownNameError
from lca.layout import Layout
from lca.objective import Objective
from lca.reference import L2Penalty
from lca.testing.strategies import dtypes, seeds

LAYOUT = Layout(("fc1.weight", "fc1.bias", "fc2.weight"), ((3, 2), (3,), (1, 3)))


@given(seeds, st.sets(st.sampled_from(LAYOUT.names)), dtypes())
def test_penalty_equals_the_formula(seed: int, names: set[str], dtype: np.dtype) -> None:
    theta = np.random.default_rng(seed).normal(size=LAYOUT.size).astype(dtype)
    loss, grad = L2Penalty(LAYOUT, 0.75, tensors=tuple(names)).loss_and_grad(theta)
    tensors = LAYOUT.unflatten(theta)
    expected = sum(0.5 * 0.75 * float(v) ** 2 for name in names for v in tensors[name].ravel())
    assert abs(loss - expected) <= tolerances.summed(expected, float(np.finfo(np.float64).eps))
    for name, part in LAYOUT.unflatten(grad).items():
        np.testing.assert_array_equal(part, dtype.type(0.75) * tensors[name] * (name in names))
    assert grad.dtype == dtype


def test_default_is_all_tensors_and_batches_do_not_matter() -> None:
    penalty, theta = L2Penalty(LAYOUT, 2.0), np.arange(12.0)
    assert isinstance(penalty, Objective)
    assert penalty.loss(theta, batch="anything") == float((theta**2).sum())
    np.testing.assert_array_equal(penalty.loss_and_grad(theta)[1], 2 * theta)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown tensor 'fc1.wieght'.*Did you mean 'fc1.weight'"):
        L2Penalty(LAYOUT, 1.0, tensors=("fc1.wieght",))
    for coefficient in (-1.0, float("nan"), float("inf")):
        with pytest.raises(LCAError, match="finite coefficient ≥ 0"):
            L2Penalty(LAYOUT, coefficient)
