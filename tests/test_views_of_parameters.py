"""Views of single parameters against loops in plain Python, for the vectors of any backend."""

import math
import weakref

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from lca import Layout, LCAError, Step, StepAllocation
from lca.testing.strategies import dtypes, seeds
from lca.tolerances import EPS64, summed
from lca.views import AllParameters, BasisProjection, Oscillation, ParameterTrace, TopParameters

LAYOUT = Layout(("a.weight", "a.bias", "b.weight"), ((2, 2), (2,), (3,)))
K = LAYOUT.size


def path(seed, dtype, steps=7):
    """Steps with turns, pauses and vanishing gradients, and the gradient of each."""
    rng = np.random.default_rng(seed)
    moves = rng.integers(-2, 3, (steps, K)).astype(dtype) / 8
    gradients = rng.integers(-2, 3, (steps, K)).astype(dtype)
    points = np.concatenate([np.zeros((1, K), dtype), np.cumsum(moves, axis=0, dtype=dtype)])
    for t in range(steps):
        step = Step(points[t], points[t + 1], t)
        values = gradients[t] * moves[t]
        yield StepAllocation(values, 0.0, 0.0, residual=0.0, mass=1.0, step=t, source=step), gradients[t]


def kinds():
    """How to make vectors of each kind that is installed."""
    makers = {"numpy": np.asarray}
    try:
        import torch  # noqa: PLC0415

        import lca_torch  # noqa: F401, PLC0415

        makers["torch"] = torch.tensor
    except ImportError:
        pass
    return makers


KINDS = kinds()


def fed(view, found, kind="numpy"):
    make = KINDS[kind]
    for allocation, _ in found:
        source = Step(make(allocation.source.start), make(allocation.source.end), allocation.step)
        view.update(
            StepAllocation(
                make(allocation.values), 0.0, 0.0, residual=0.0, mass=1.0, step=allocation.step, source=source
            )
        )
    return view


def changes(signs):
    seen = [sign for sign in signs if sign != 0]
    return sum(a != b for a, b in zip(seen, seen[1:], strict=False))


@pytest.mark.parametrize("kind", KINDS)
@given(seeds, dtypes())
def test_turns_and_sign_changes_skip_pauses(kind, seed, dtype):
    found = list(path(seed, dtype))
    view = fed(Oscillation(), found, kind)
    moves = np.array([a.source.end - a.source.start for a, _ in found])
    known = np.array([np.where(m != 0, g, 0) for m, (_, g) in zip(moves, found, strict=True)])
    assert view.turns.tolist() == [changes(np.sign(column)) for column in moves.T]
    assert view.sign_changes.tolist() == [changes(np.sign(column)) for column in known.T]


@pytest.mark.parametrize("kind", KINDS)
@given(seeds, dtypes(), st.integers(1, K + 2))
def test_top_parameters_are_the_largest_totals(kind, seed, dtype, k):
    found = list(path(seed, dtype))
    totals = np.sum([a.values.astype(np.float64) for a, _ in found], axis=0)
    view = fed(TopParameters(LAYOUT), found, kind)
    assert [e.total for e in view.helping(k)] == sorted(t for t in totals if t < 0)[:k]
    assert [e.total for e in view.hurting(k)] == sorted((t for t in totals if t > 0), reverse=True)[:k]
    for entry in view.helping(k) + view.hurting(k):
        assert totals[LAYOUT.position(entry.name)] == entry.total


def test_top_parameters_are_added_up_in_float64():
    view = TopParameters(Layout(("w",), ((2,),)))
    for value in (1.0, 1e-10, -1.0):
        row = np.array([value, 0.0], np.float32)
        view.update(StepAllocation(row, 0.0, 0.0, residual=0.0, mass=1.0))
    [entry] = view.hurting()
    assert abs(entry.total - np.float32(1e-10)) <= summed(2.0, EPS64)
    assert view.helping() == []


def test_of_nothing_there_is_no_top():
    assert TopParameters(LAYOUT).helping() == []
    with pytest.raises(LCAError, match="k must be at least 1, got 0"):
        TopParameters(LAYOUT).helping(0)


@pytest.mark.parametrize("kind", KINDS)
@given(seeds, dtypes(), st.integers(1, K))
def test_projections_and_their_remainder_add_up(kind, seed, dtype, n):
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(K, n)))[0].T
    found = list(path(seed, dtype))
    view = fed(BasisProjection(basis), found, kind)
    assert view.rows.shape == (len(found), n)
    for (a, gradient), row, rest in zip(found, view.rows, view.remainder, strict=True):
        move = a.source.end - a.source.start
        known = np.where(move != 0, gradient, 0)
        scale = float(np.linalg.norm(known) * np.linalg.norm(move))
        expected = (basis @ known) * (basis @ move)
        assert (abs(row - expected) <= summed(scale, EPS64)).all()
        assert abs(math.fsum(row) + rest - math.fsum(a.values)) <= summed(n * scale, EPS64)
        if n == K:
            assert abs(rest) <= summed(n * scale, EPS64)


def test_on_unit_vectors_the_projection_is_the_allocation():
    found = list(path(3, np.float64))
    view = fed(BasisProjection(np.eye(K)), found)
    np.testing.assert_array_equal(view.rows, [a.values for a, _ in found])
    np.testing.assert_array_equal(view.remainder, 0)


@pytest.mark.parametrize("bad", [np.ones((1, 3)), np.eye(3)[[0, 0]], np.full((1, 3), np.nan)])
def test_a_basis_that_is_not_orthonormal_is_refused(bad):
    with pytest.raises(LCAError, match=r"not orthonormal: .*numpy\.linalg\.qr"):
        BasisProjection(bad)


@pytest.mark.parametrize("kind", KINDS)
@given(seeds, dtypes())
def test_a_trace_is_the_chosen_columns(kind, seed, dtype):
    found = list(path(seed, dtype))
    view = fed(ParameterTrace(LAYOUT, ["b.weight[2]", 1]), found, kind)
    assert view.names == ("b.weight[2]", "a.weight[0, 1]")
    for rows, whole in (
        (view.theta, [a.source.start for a, _ in found]),
        (view.movement, [a.source.end - a.source.start for a, _ in found]),
        (view.values, [a.values for a, _ in found]),
    ):
        assert rows.dtype == dtype
        np.testing.assert_array_equal(rows, np.array(whole)[:, [8, 1]])


@pytest.mark.parametrize("kind", KINDS)
def test_all_parameters_are_all_rows(kind):
    found = list(path(0, np.float32))
    view = fed(AllParameters(), found, kind)
    np.testing.assert_array_equal(view.rows, [a.values for a, _ in found])
    assert AllParameters().rows.shape == (0, 0)


VIEWS = {
    "turns": Oscillation,
    "projections": lambda: BasisProjection(np.eye(K)),
    "traces of parameters": lambda: ParameterTrace(LAYOUT, [0]),
}


@pytest.mark.parametrize("what", VIEWS)
def test_views_of_theta_say_when_the_step_is_not_known(what):
    with pytest.raises(LCAError, match=f"{what} need θ, but the allocation of step 4 has no source"):
        VIEWS[what]().update(StepAllocation(np.ones(K), 0.0, 0.0, residual=0.0, mass=1.0, step=4))


@pytest.mark.parametrize("make", [*VIEWS.values(), lambda: TopParameters(LAYOUT), AllParameters])
def test_views_keep_no_vector_of_a_step(make):
    view = make()
    vectors = [np.ones(K) for _ in range(3)]
    gone = [weakref.ref(vector) for vector in vectors]
    start, end, values = vectors
    view.update(StepAllocation(values, 0.0, 0.0, residual=0.0, mass=1.0, source=Step(start, end)))
    del vectors, start, end, values
    assert [ref() for ref in gone] == [None] * 3


@pytest.mark.parametrize("entry", [-1, K, "a.weight[2, 0]", "a.weight[0]", "a.weight[x]", "a.weight"])
def test_an_entry_that_is_none_is_refused(entry):
    with pytest.raises(LCAError, match="position|is not an entry of|unknown tensor"):
        LAYOUT.position(entry)


def test_labels_and_positions_are_each_other():
    layout = Layout(("s", "w[0].x", "t"), ((), (2, 3), (4,)))
    for position in range(layout.size):
        assert layout.position(layout.label(position)) == layout.position(position) == position
