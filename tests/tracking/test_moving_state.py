"""A state that moves is booked first if something changed it before an update, last if the forward pass did.

The loss is ``½ c |θ - m|²``: c is changed between updates, as by a schedule, and m by the forward pass of
each batch, as running statistics are. The integral over a step is ``c Δ (θ_t + θ_{t+1} - 2m) / 2``.
"""

import numpy as np
import pytest

import lca
from lca.errors import NonFiniteError
from lca.reference import L2Penalty, Quadratic
from lca.tolerances import EPS64, summed
from lca.tracking import FunctionalTracker

LAYOUT = Quadratic(np.eye(2)).layout


class Moving:
    """``½ c |θ - m|²``; counts its evaluations."""

    layout = LAYOUT
    moved_by_forward = frozenset({"m"})

    def __init__(self, c=1.0, m=0.0, calls=None):
        self.c, self.m = np.array(c), np.array(m)
        self.calls = {"losses": 0, "gradients": 0} if calls is None else calls

    def loss(self, theta, batch=None):
        self.calls["losses"] += 1
        return float(self.c * np.sum((theta - self.m) ** 2) / 2)

    def loss_and_grad(self, theta, batch=None):
        self.calls["gradients"] += 1
        return float(self.c * np.sum((theta - self.m) ** 2) / 2), self.c * (theta - self.m)

    def state(self):
        return {"c": self.c.copy(), "m": self.m.copy()}

    def at_state(self, state):
        return Moving(state["c"], state["m"], self.calls)


def value(theta, c, m):
    return c * sum((x - m) ** 2 for x in theta) / 2


def integral(start, end, c, m):
    return [c * (b - a) * (a + b - 2 * m) / 2 for a, b in zip(start, end, strict=True)]


POINTS = [np.array(p) for p in ([4.0, -2.0], [3.0, -1.0], [2.5, 0.5], [1.0, 0.25])]
FACTORS, MEANS = [1.0, 2.0, 2.0, 5.0], [0.0, 0.5, 0.75, 0.5]  # after step t - 1; index 0: when the run begins


def run(objective, every=1, **options):
    rows = []

    class Keep:
        def update(self, allocation):
            rows.append(allocation)

    inner = next(lca.objective.leaves(objective))
    tracker = FunctionalTracker(
        POINTS[0],
        objective,
        lca.PathIntegral(lca.SIMPSON),
        every=every,
        views=lambda layout: Keep(),
        on_error="raise",
        **options,
    )
    with tracker:
        for t in (1, 2, 3):
            inner.c[...], inner.m[...] = FACTORS[t], MEANS[t]
            tracker.update(POINTS[t])
    return rows


def close(found, expected):
    assert abs(np.asarray(found) - expected).max() <= summed(64.0, EPS64)


@pytest.mark.parametrize("every", [1, 2])
def test_a_step_is_taken_in_the_state_that_its_gradient_saw(every):
    rows = run(Moving(), every)
    assert [a.step for a in rows] == list(range(0, 3, every))
    for a in rows:
        t, (start, end) = a.step, POINTS[a.step : a.step + 2]
        close(a.values, integral(start, end, FACTORS[t + 1], MEANS[t]))
        close(a.loss_start, value(start, FACTORS[t], MEANS[t]))
        close(a.loss_end, value(end, FACTORS[t + 1], MEANS[t + 1]))
        before = value(start, FACTORS[t + 1], MEANS[t]) - value(start, FACTORS[t], MEANS[t])
        after = value(end, FACTORS[t + 1], MEANS[t + 1]) - value(end, FACTORS[t + 1], MEANS[t])
        close(a.state_change, before + after)
        close(a.residual, 0.0)
        close(a.values.sum() + a.state_change, a.loss_change)


def test_the_account_of_a_step_begins_where_that_of_the_step_before_ended():
    rows = run(Moving())
    assert [a.loss_end for a in rows[:-1]] == [a.loss_start for a in rows[1:]]  # bit for bit


def test_the_loss_before_is_reused_and_otherwise_costs_a_forward_pass():
    objective = Moving()
    rows = run(objective, every=2)
    assert [a.cost.full_losses for a in rows] == [1, 1]
    assert [a.cost.full_losses for a in run(Moving())] == [
        1,
        0,
        0,
    ]  # only the first step has no step before it


def test_terms_are_booked_as_the_whole_is():
    penalty = L2Penalty(LAYOUT, 0.5)
    for a in run(lca.Sum({"data": Moving(), "penalty": penalty})):
        data, other = a.terms["data"], a.terms["penalty"]
        close(data.loss_start, value(POINTS[a.step], FACTORS[a.step], MEANS[a.step]))
        close(data.state_change, a.state_change)
        close(data.values.sum() + data.state_change + data.residual, data.loss_change)
        assert other.state_change == 0
        close(data.loss_start + other.loss_start, a.loss_start)


def test_two_losses_of_a_run_keep_their_own_states():
    first, second = Moving(), Moving()
    rows = {"train": [], "heldout": []}

    class Keep:
        def __init__(self, name):
            self.update = rows[name].append

    names = iter(rows)
    tracker = FunctionalTracker(
        POINTS[0],
        {"train": first, "heldout": second},
        lca.PathIntegral(lca.SIMPSON),
        views=lambda layout: Keep(next(names)),
        on_error="raise",
    )
    with tracker:
        first.c[...], second.c[...] = 2.0, 3.0
        tracker.update(POINTS[1])
    for name, c in (("train", 2.0), ("heldout", 3.0)):
        close(rows[name][0].values, integral(*POINTS[:2], c, 0.0))
        close(rows[name][0].loss_start, value(POINTS[0], 1.0, 0.0))


def test_a_loss_that_was_infinite_before_the_change_is_an_error():
    objective = Moving(c=np.inf)
    tracker = FunctionalTracker(POINTS[0], objective, lca.PathIntegral(lca.SIMPSON), on_error="raise")
    with tracker:
        objective.c[...] = 1.0
        with pytest.raises(NonFiniteError, match="in the state in which the previous step ended"):
            tracker.update(POINTS[1])
