"""`Tracker` around a loop that updates the model, and `FunctionalTracker` around one that passes values."""

import re

import keras
import numpy as np
import pytest
from keras import ops

import lca
from lca import tolerances
from lca.errors import LayoutError, LCAError, LCAWarning
from lca.estimators import CrossFit, SampledPathIntegral
from lca.tracking import FunctionalTracker
from lca_keras import LCACallback, Objective, Tracker
from tests.laws.traced_values import penalised
from tests.lca_keras.engine.fits import X, Y, cross_entropy, model_of
from tests.lca_tensorflow.networks import Averages

BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 20, 8)]


def loop(tracked, dropout=0.5, **options):
    """Train by `train_on_batch`; return the tracker and what is left."""
    model = model_of(dropout=dropout)
    tracker = None
    if tracked:
        objective = Objective(model, None, (X, Y), batch_norm="frozen")
        tracker = Tracker(model, model.optimizer, objective, on_error="raise", **options)
        with tracker:
            for x, y in BATCHES:
                with tracker.step():
                    model.train_on_batch(x, y)
    else:
        for x, y in BATCHES:
            model.train_on_batch(x, y)
    return tracker, [ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]


def test_every_step_is_measured_and_training_is_the_same():
    tracker, ours = loop(tracked=True)
    for a, b in zip(ours, loop(tracked=False)[1], strict=True):
        np.testing.assert_array_equal(a, b)
    summary = tracker.summary()["train"]
    assert (summary["steps"], tracker.discontinuities) == (3, 0)
    assert summary["state_change"] != 0


def test_a_loop_and_fit_give_one_allocation():
    tracker, _ = loop(tracked=True, dropout=0, estimator=lca.PathIntegral(lca.SIMPSON))
    model = model_of(dropout=0)
    callback = LCACallback(
        X, Y, batch_norm="frozen", estimator=lca.PathIntegral(lca.SIMPSON), on_error="raise"
    )
    model.fit(X, Y, batch_size=8, shuffle=False, verbose=0, callbacks=[callback])
    ours, theirs = tracker.summary()["train"], callback.summary()["train"]
    limit = tolerances.allocation(ours["mass"], tolerances.EPS32)
    for name, total in ours["per_tensor"].items():
        assert abs(total - theirs["per_tensor"][name]) <= limit, name


def test_updates_outside_of_steps_are_an_error():
    model = model_of()
    objective = Objective(model, None, (X, Y), batch_norm="frozen")

    def train():
        with Tracker(model, model.optimizer, objective, on_error="raise") as tracker:
            with tracker.step():
                model.train_on_batch(*BATCHES[0])
            model.train_on_batch(*BATCHES[1])

    with pytest.raises(LCAError, match=r"1 updates were made outside of tracker\.step\(\)"):
        train()


def test_estimators_on_gradients_of_training_are_refused_with_another_way():
    model = model_of()
    objective = Objective(model, None, (X, Y), batch_norm="frozen")
    with pytest.raises(LCAError, match=r"sees no gradient of training; .*FunctionalTracker"):
        Tracker(model, model.optimizer, objective, CrossFit(2))


@pytest.mark.parametrize("refresh", [None, 2])
def test_examples_are_drawn_by_their_scores(refresh):
    model = model_of()
    objective = Objective(model, None, (X, Y), batch_norm="frozen")
    probe = SampledPathIntegral(size=12, sampling="importance", refresh=refresh)
    with Tracker(model, model.optimizer, objective, probe, on_error="raise") as tracker:
        for start, (x, y) in zip(range(0, 20, 8), BATCHES, strict=True):
            if refresh is None:
                index = np.arange(start, start + len(x))
                tracker.scores(index, ops.stop_gradient(model(x, training=False)), y)
            with tracker.step():
                model.train_on_batch(x, y)
    assert tracker.summary()["train"]["steps"] == 3
    scores = objective.scores(objective.theta())
    probabilities = np.asarray(ops.convert_to_numpy(ops.softmax(model(X, training=False))), float)
    gap = np.abs(scores - (1 - probabilities[np.arange(20), Y])).max()
    assert gap <= tolerances.summed(1.0, tolerances.EPS32)


def test_a_loop_that_passes_its_values_is_measured_with_pack():
    model = model_of()
    model.get_layer("first").trainable = False
    objective = Objective(model, cross_entropy(), (X, Y), batch_norm="frozen")
    values = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    with FunctionalTracker(values, objective, pack=objective.pack, on_error="raise") as tracker:
        values = [value * 0.9 for value in values]
        tracker.update(values)
    totals = tracker.summary()["train"]["per_tensor"]
    assert totals["first.kernel"] == 0
    assert totals["second.kernel"] != 0
    with pytest.raises(LayoutError, match="expected the values of the 4 variables"):
        objective.pack(values[1:])


def test_a_variable_that_the_loss_reads_is_state():
    model, beta = model_of(), keras.Variable(1.0, trainable=False, name="beta")
    loss = cross_entropy()
    objective = Objective(model, lambda y, out: beta * loss(y, out), (X, Y), batch_norm="frozen")
    assert "beta" in objective.state()
    with Tracker(model, model.optimizer, objective, on_error="raise") as tracker:
        for x, y in BATCHES:
            beta.assign(beta + 1)
            with tracker.step():
                model.train_on_batch(x, y)
    summary = tracker.summary()["train"]
    booked = sum(summary[term] for term in ("lca_total", "state_change", "residual", "unmeasured_change"))
    change = summary["loss_end"] - summary["loss_start"]
    scale = summary["mass"] + summary["loss_start"] + summary["loss_end"]
    assert abs(change - booked) <= tolerances.summed(scale, tolerances.EPS32)
    assert summary["state_change"] > 1


def test_a_number_in_python_that_changes_the_loss_is_named():
    class Weighted:
        def __init__(self):
            self.beta = 1.0

        def __call__(self, y, out):
            return self.beta * cross_entropy()(y, out)

    model, loss = model_of(), Weighted()
    objective = Objective(model, loss, (X, Y), batch_norm="frozen")

    def train():
        with Tracker(model, model.optimizer, objective, on_error="raise") as tracker:
            for x, y in BATCHES:
                with tracker.step():
                    model.train_on_batch(x, y)
                    loss.beta += 1

    with pytest.raises(LCAError, match=r"has changed during the step because of .*beta.*keras\.Variable"):
        train()


@pytest.mark.parametrize("anew", [False, True])
def test_an_attribute_that_a_compiled_step_may_keep_is_told(anew, recwarn):
    model = penalised()
    with Tracker(model, model.optimizer, Objective(model, None, (X, Y)), on_error="raise") as tracker:
        for beta in (0.0, 2.0, 2.0):
            if anew and model.beta != beta:
                model.make_train_function(force=True)
            model.beta = beta
            with tracker.step():
                model.train_on_batch(X, Y)
    said = [str(warning.message) for warning in recwarn if warning.category is LCAWarning]
    assert len(said) == (keras.backend.backend() == "jax" and not anew)
    assert all(re.search(r"beta changed, .*compiled training step .*keras\.Variable", text) for text in said)


def test_only_what_a_forward_pass_of_training_updates_is_moved_by_it():
    model = Averages()
    model(X)
    objective = Objective(model, cross_entropy(), (X, Y))
    assert [name.rpartition(".")[2] for name in objective.moved_by_forward] == ["average"]
    assert not np.any(ops.convert_to_numpy(model.average))
