"""What the checks are made of: losses that fail at one point, and the comparison of states of a process."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lca import StepAllocation
from lca.reference import bowl
from lca.testing._estimator_checks.values import _vectors
from lca.testing._instruments import NonFiniteAt
from lca.testing._process_state import _jax_state, _keras_state, same
from lca.testing._replicated import _CURVED
from lca.testing.strategies import exact_problems

POINTS = np.array([[-1.0, 2.0], [0.0, 0.0], [1.0, 2.0]])


@pytest.mark.parametrize("at", range(3))
def test_a_loss_is_not_finite_at_its_point_alone(at):
    loss = NonFiniteAt(bowl(2), POINTS[at].tobytes(), "loss", 0, np.nan)
    gradient = NonFiniteAt(bowl(2), POINTS[at].tobytes(), "gradient", 1, np.inf)
    assert [np.isnan(loss.loss(theta)) for theta in POINTS] == [i == at for i in range(3)]
    assert [np.isinf(gradient.loss_and_grad(theta)[1][1]) for theta in POINTS] == [i == at for i in range(3)]
    assert all(np.isfinite(gradient.loss(theta)) for theta in POINTS)


def test_mappings_of_other_keys_differ():
    assert same({"a": 1, "b": np.ones(2)}, {"a": 1, "b": np.ones(2)})
    assert not same({"a": 1, "b": 2}, {"a": 1})
    assert not same({"a": 1}, {"a": 1, "b": 2})


@pytest.mark.parametrize("name", ["keras", "jax"])
def test_a_framework_that_is_not_loaded_or_only_begun_has_no_state(name, monkeypatch):
    read = {"keras": _keras_state, "jax": _jax_state}[name]
    monkeypatch.delitem(sys.modules, name, raising=False)
    assert read() == {}
    monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    assert read() == {}
    config = SimpleNamespace(floatx=lambda: "float32", jax_enable_x64=True)
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(config=config))
    assert list(read().values()) == [{"keras": "float32", "jax": True}[name]]


def test_the_loss_with_curvature_has_the_gradient_it_says():
    theta, step = np.array([0.7, -1.3]), 1e-6
    assert _CURVED.loss(np.array([2.0, 3.0])) == 16.0 + 81.0 + 6.0
    for i, slope in enumerate(_CURVED.loss_and_grad(theta)[1]):
        moved = step * np.eye(2)[i]
        quotient = (_CURVED.loss(theta + moved) - _CURVED.loss(theta - moved)) / (2 * step)
        assert abs(quotient - slope) < step


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@given(data=st.data())
def test_exact_problems_have_at_most_the_degree_asked_for(degree, data):
    assert data.draw(exact_problems(degree)).degree <= degree


def test_all_vectors_of_an_allocation_are_looked_at():
    one = np.ones(1)
    a = StepAllocation(one, 0.0, 0.0, 0.0, 0.0, stderr=one, replicates={0.5: [one, one]})
    assert list(_vectors(a)) == ["standard error", "replicate 0 at 0.5", "replicate 1 at 0.5"]
