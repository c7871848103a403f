"""`FunctionalTracker`: forms of parameters, copies, states; what all trackers share is in `tests.laws`."""

import numpy as np
import pytest

import lca
from lca.errors import LayoutError, LCAError, LCAWarning
from lca.estimators import SameBatch
from lca.reference import L2Penalty, Quadratic, bowl
from lca.tracking import FunctionalTracker
from tests.laws.runs import Kept

LAYOUT = lca.Layout(("w", "b"), ((2, 2), (2,)))
LOSS = L2Penalty(LAYOUT, 1.0)
THETA = np.arange(1.0, 7.0)
FORMS = {
    "vector": lambda theta: theta,
    "mapping": lambda theta: {name: tensor.copy() for name, tensor in LAYOUT.unflatten(theta).items()},
    "sequence": lambda theta: [tensor.copy() for tensor in LAYOUT.unflatten(theta).values()],
    "packed": lambda theta: ("reversed", theta[::-1]),
}


def tracked(form, *, estimator=None, **options):
    theta = THETA.copy()
    with FunctionalTracker(form(theta), LOSS, estimator, on_error="raise", views=Kept, **options) as tracker:
        for _ in range(4):
            gradient = LOSS.loss_and_grad(theta)[1]
            theta = theta - 0.1 * gradient
            tracker.update(form(theta), gradient=form(gradient))
    return tracker.views["train"].rows


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    "estimator", [lca.PathIntegral(lca.SIMPSON), SameBatch()], ids=["simpson", "same batch"]
)
def test_parameters_come_in_many_forms(name, estimator):
    pack = {"pack": lambda params: params[1][::-1]} if name == "packed" else {}
    rows, expected = (
        tracked(FORMS[name], estimator=estimator, **pack),
        tracked(FORMS["vector"], estimator=estimator),
    )
    for row, wanted in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(row.values, wanted.values)


def test_arrays_that_are_changed_in_place_are_copied_at_measured_steps_only(monkeypatch):
    theta, copies = np.array([8.0, 4.0]), []
    original = FunctionalTracker._keep
    monkeypatch.setattr(
        FunctionalTracker,
        "_keep",
        lambda self: (original(self), copies.append(self._theta._vector is not None)),
    )
    with FunctionalTracker(theta, bowl(2), every=2, on_error="raise", views=Kept) as tracker:
        for _ in range(5):
            theta *= 0.5
            tracker.update(theta)
    assert copies == [False, True, False, True, False]  # the starts of steps 2 and 4
    starts = [row.source.start.tolist() for row in tracker.views["train"].rows]
    assert starts == [[8.0, 4.0], [2.0, 1.0], [0.5, 0.25]]


def test_a_view_that_pack_returns_is_copied():
    params = np.array([[8.0], [4.0]])
    with FunctionalTracker(params, bowl(2), pack=np.ravel, on_error="raise", views=Kept) as tracker:
        for _ in range(2):
            params *= 0.5
            tracker.update(params)
    starts = [row.source.start.tolist() for row in tracker.views["train"].rows]
    assert starts == [[8.0, 4.0], [4.0, 2.0]]


class Scaled:
    """A loss with a state: ``scale · ½ |θ|²``."""

    def __init__(self, scale=1.0):
        self.half_square, self.scale = Quadratic(np.eye(2)), scale
        self.layout = self.half_square.layout

    def loss(self, theta, batch=None):
        return self.scale * self.half_square.loss(theta)

    def loss_and_grad(self, theta, batch=None):
        loss, grad = self.half_square.loss_and_grad(theta)
        return self.scale * loss, self.scale * grad

    def state(self):
        return {"scale": np.array([self.scale])}

    def at_state(self, state):
        return Scaled(float(state["scale"][0]))


def test_a_state_that_moves_is_told_apart():
    theta, objective = np.array([2.0, 0.0]), Scaled()
    with FunctionalTracker(theta, objective, on_error="raise") as tracker:
        theta = theta / 2
        objective.scale = 3.0
        tracker.update(theta)
        tracker.update(theta / 2)
    trace = tracker.views["train"].trace.rows
    assert trace["state_change"].tolist() == [4.0, 0.0]  # at the start of the step: ½ (3 - 1) 2²
    assert trace["total"].tolist() == [-4.5, -1.125]


def test_it_says_what_it_cannot_use():
    with pytest.raises(LayoutError, match=r"the parameters: expected shape \(2,\)"):
        FunctionalTracker(np.zeros(3), bowl(2))
    with pytest.raises(LayoutError, match=r"the parameters contain a float.*pass pack="):
        FunctionalTracker([1.0, 2.0], bowl(2))
    with pytest.raises(LayoutError, match="the measured losses must share one layout"):
        FunctionalTracker(np.zeros(2), {"a": bowl(2), "b": bowl(3)})
    tracker = FunctionalTracker(np.zeros(2), bowl(2))
    for method in (tracker.update, tracker.set_params):
        with pytest.raises(LCAError, match="was called outside `with tracker:`"):
            method(np.ones(2))
    with tracker, pytest.warns(LCAWarning, match="stopped at step 0.*expected shape"):
        tracker.update(np.zeros(3))
    assert isinstance(tracker.error, LayoutError)
