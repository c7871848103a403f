"""`Tracker` in loops of every kind, eager or compiled: training is the same, and no step is lost.

What holds for the trackers of all frameworks is in `tests.laws.trackers`.
"""

from contextlib import nullcontext

import keras
import numpy as np
import pytest
import tensorflow as tf

import lca
from lca.errors import LCAError, LCAWarning, NonDeterministicError
from lca.estimators import CrossFit, LaggedCrossFit, NextBatch
from lca_tensorflow import Objective, Tracker
from tests.lca_tensorflow.networks import X, Y, cross_entropy, floats, functional, mlp, normalised

SIMPSON = lca.PathIntegral(lca.SIMPSON)
LOSS = cross_entropy()


class Eager:
    """An ordinary loop; its variants override how a batch is trained on, and how that is called."""

    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def train_step(self, x, y):
        weights = self.model.trainable_weights
        with tf.GradientTape() as tape:
            loss = LOSS(y, self.model(x, training=True))
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    def step(self, x, y, tracker):
        self.train_step(x, y)


class Compiled(Eager):
    def __init__(self, model, optimizer):
        super().__init__(model, optimizer)
        self.train_step = tf.function(self.train_step)

    def step(self, x, y, tracker):
        if tracker is None:
            self.train_step(x, y)
            return
        with tracker.step():
            self.train_step(x, y)


class Xla(Compiled):
    def __init__(self, model, optimizer):
        Eager.__init__(self, model, optimizer)
        optimizer.build(model.trainable_weights)
        self.train_step = tf.function(self.train_step, jit_compile=True)


class TrainOnBatch(Compiled):
    def __init__(self, model, optimizer):
        super().__init__(model, optimizer)
        model.compile(optimizer, LOSS)
        self.train_step = model.train_on_batch


class EagerInsideStep(Compiled):
    """`step` around an eager update that is heard as well: one step, not two."""

    def __init__(self, model, optimizer):
        Eager.__init__(self, model, optimizer)


def run(loop_class, *, tracked, make=normalised, batches=5, **options):
    with floats("float32"):
        model = make()
    optimizer = keras.optimizers.Adam(0.02)
    loop, tracker = loop_class(model, optimizer), None
    if tracked:
        objective = Objective(model, LOSS, (X, Y), batch_norm="frozen")
        tracker = Tracker(model, optimizer, objective, SIMPSON, **{"on_error": "raise", **options})
        tracker.__enter__()
    for i in range(batches):
        loop.step(X[3 * i : 3 * i + 3], Y[3 * i : 3 * i + 3], tracker)
    if tracked:
        tracker.__exit__(None, None, None)
    return [v.numpy() for v in (*model.variables, *optimizer.variables)], tracker


@pytest.mark.parametrize("loop", [Eager, Compiled, Xla, TrainOnBatch, EagerInsideStep])
def test_training_is_the_same_bit_for_bit_and_every_step_is_measured(loop):
    without, _ = run(loop, tracked=False)
    measured, tracker = run(loop, tracked=True)
    assert all(np.array_equal(a, b) for a, b in zip(without, measured, strict=True))
    rows = tracker.views["train"].trace.rows
    assert tracker.steps == len(rows) == 5
    assert rows["loss_start"][1:].tolist() == rows["loss_end"][:-1].tolist()
    assert rows["state_change"].all()
    assert (rows["full_gradients"][1:] <= 3).all()
    assert tracker.discontinuities == 0
    summary = tracker.summary()["train"]
    assert abs(summary["residual"]) < 1e-3 * summary["mass"]


def test_a_compiled_step_that_is_not_wrapped_is_not_silently_lost(tmp_path):
    class Unwrapped(Compiled):
        step = Eager.step

    with pytest.warns(LCAWarning, match=r"5 updates were made inside a tf\.function.*with tracker\.step\(\)"):
        _, tracker = run(Unwrapped, tracked=True, on_error="warn")
    assert tracker.steps == 0

    class Forgotten(Compiled):
        def step(self, x, y, tracker):
            step = super().step if self.optimizer.iterations < 2 else super(Compiled, self).step
            step(x, y, tracker)

    with pytest.raises(LCAError, match="3 updates.* belong to no step; wrap the call"):
        run(Forgotten, tracked=True, record=tmp_path / "run")
    found = lca.open_record(tmp_path / "run")
    assert (found.sizes["step"], found.attrs["complete"]) == (2, False)


def test_several_updates_in_one_step_are_one_segment():
    model, optimizer = mlp(), keras.optimizers.SGD(0.1)
    objective = Objective(model, LOSS, (X, Y))
    loop, start = Eager(model, optimizer), objective.theta()
    with Tracker(model, optimizer, objective, SIMPSON, on_error="raise") as tracker:
        with tracker.step():
            loop.train_step(X, Y)
            loop.train_step(X, Y)
        with tracker.step():  # no update, no step
            model(X)
    [row] = tracker.views["train"].trace.rows
    assert (tracker.steps, row["loss_start"]) == (1, objective.loss(start))
    assert row["loss_end"] == objective.loss(objective.theta())


def test_random_layers_that_stay_on_are_found():
    class Noisy(keras.layers.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x))  # no seed that Keras knows of

    model = keras.Sequential([keras.Input((6,)), Noisy(), keras.layers.Dense(3)])
    with pytest.raises(NonDeterministicError, match="draws random numbers"):
        Objective(model, LOSS, (X, Y))


def test_the_optimizer_is_left_as_it_was_also_after_an_error():
    own = keras.optimizers.Optimizer.apply
    model, optimizer = mlp(), keras.optimizers.SGD(0.1)
    tracker = Tracker(model, optimizer, Objective(model, LOSS, (X, Y)), SIMPSON)

    def fail_after_a_step():
        with tracker:
            Eager(model, optimizer).train_step(X, Y)
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_a_step()
    assert keras.optimizers.Optimizer.apply is own
    Eager(model, optimizer).train_step(X, Y)
    assert tracker.steps == 1
    with pytest.raises(LCAError, match=r"step\(\) was called outside `with tracker:`"), tracker.step():
        pass


def by_update_step(optimizer, gradients, weights):
    optimizer.build(weights)
    for gradient, weight in zip(gradients, weights, strict=True):
        optimizer.update_step(gradient, weight, optimizer.learning_rate)
    optimizer.iterations.assign_add(1)


def by_hand(optimizer, gradients, weights):
    for gradient, weight in zip(gradients, weights, strict=True):
        weight.assign_sub(0.1 * gradient)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (
            by_update_step,
            r"1 updates were made inside .*, or past optimizer\.apply \(as .*wrap the call: with",
        ),
        (
            by_hand,
            r"the loop changes the parameters itself, .*, or put what .* inside `with tracker\.step\(\)",
        ),
    ],
)
def test_updates_past_the_optimizer_are_told_with_what_makes_them_steps(update, message):
    with floats("float32"):
        model, optimizer = functional(), keras.optimizers.SGD(0.1)
    weights, tracker = model.trainable_weights, None

    def train(context):
        with tf.GradientTape() as tape:
            loss = LOSS(Y, model(X))
        with context:
            update(optimizer, tape.gradient(loss, weights), weights)

    def tracked(*, steps):
        nonlocal tracker
        tracker = Tracker(model, optimizer, Objective(model, LOSS, (X, Y)), SIMPSON, on_error="raise")
        with tracker:
            train(tracker.step() if steps else nullcontext())

    with pytest.raises(LCAError, match=message):
        tracked(steps=False)
    tracked(steps=True)
    assert tracker.summary()["train"]["steps"] == 1


# --- several trackers of one loop ------------------------------------------------------------------------

TWO = {
    "cross-fit": (lambda: CrossFit(2), {"every": 3}),
    "own pass": (lambda: CrossFit(own_pass=True), {"span": 2}),
    "lagged": (LaggedCrossFit, {"estimator": NextBatch(lca.RIGHT)}),
}


def followed(estimator, options, *, first=True, second=True, order=(0, 1)):
    """A loop in micro-batches under one or two trackers that close in this order, and what it left."""
    with floats("float32"):
        model = functional()
    optimizer = keras.optimizers.Adam(0.02)
    held_out = {"held_out": Objective(model, LOSS, (X[:5], Y[:5]))}
    one = Tracker(model, optimizer, Objective(model, LOSS, (X, Y)), estimator(), on_error="raise")
    two = Tracker(model, optimizer, held_out, on_error="raise", **options)
    trackers = [tracker for tracker, used in ((one, first), (two, second)) if used]
    for tracker in trackers:
        tracker.__enter__()
    for batch in one.batches(zip(X[:12].reshape(6, 2, 6), Y[:12].reshape(6, 2), strict=True)):
        total = None
        pieces = one.micro_batches(batch, 2) if estimator is TWO["cross-fit"][0] else [(batch, 1.0)]
        for (x, y), weight in pieces:
            with tf.GradientTape() as tape:
                loss = weight * LOSS(y, model(x, training=True))
            total = one.add(total, tape.gradient(loss, model.trainable_weights))
        optimizer.apply(total, model.trainable_weights)
    for which in order:
        (one, two)[which].close()
    left = [v.numpy() for v in (*model.variables, *optimizer.variables)]
    return left, [tracker.summary() for tracker in trackers]


@pytest.mark.filterwarnings("ignore::lca.errors.LCAWarning")
@pytest.mark.parametrize(
    ("name", "order"), [("cross-fit", (0, 1)), ("own pass", (1, 0)), ("lagged", (0, 1)), ("lagged", (1, 0))]
)
def test_two_trackers_follow_one_loop_as_each_does_alone(name, order):
    estimator, options = TWO[name]
    apply, gradient = keras.optimizers.Optimizer.apply, tf.GradientTape.gradient
    plain, _ = followed(estimator, options, first=False, second=False)
    alone = [followed(estimator, options, **{which: False})[1][0] for which in ("second", "first")]
    left, summaries = followed(estimator, options, order=order)
    assert all(np.array_equal(a, b) for a, b in zip(plain, left, strict=True))
    for summary, own, loss in zip(summaries, alone, ("train", "held_out"), strict=True):
        assert summary[loss]["steps"] == own[loss]["steps"] > 0
        assert [*summary[loss]["per_tensor"].values()] == [*own[loss]["per_tensor"].values()]
        assert summary[loss]["lca_total"] == own[loss]["lca_total"] != 0
    assert (keras.optimizers.Optimizer.apply, tf.GradientTape.gradient) == (apply, gradient)


# --- optimizers of every kind ----------------------------------------------------------------------------


class Twice(keras.optimizers.SGD):
    """Its update makes two."""

    def apply(self, grads, trainable_variables=None):
        for _ in range(2):
            super().apply([grad / 2 for grad in grads], trainable_variables)


class Lookahead(keras.optimizers.Optimizer):
    """Counts nothing itself: the optimizer inside it does the first half of an update."""

    def __init__(self, inner):
        super().__init__(0.0)
        self.inner = inner

    def apply(self, grads, trainable_variables=None):
        before = [tf.identity(v.value) for v in trainable_variables]
        self.inner.apply(grads, trainable_variables)
        for variable, value in zip(trainable_variables, before, strict=True):
            variable.assign((variable.value + value) / 2)


class ByHand(keras.optimizers.SGD):
    """Counts nothing, and calls nobody who does."""

    def apply(self, grads, trainable_variables=None):
        for variable, grad in zip(trainable_variables, grads, strict=True):
            variable.assign_sub(0.1 * grad)


def averaged():
    return keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2)


KINDS = {
    "twice": lambda: Twice(0.1),
    "wrapper": lambda: Lookahead(keras.optimizers.SGD(0.1, momentum=0.9)),
    "own": lambda: ByHand(0.1),
    "averaged": averaged,
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
    "accumulated": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
}


def trained(make_optimizers, *, tracked, known=None, epochs=5, wrap=None, **options):
    """A run of updates that take turns, the losses after each, and what it left."""
    with floats("float32"):
        model = mlp()
    optimizers = make_optimizers()
    objective, losses = Objective(model, LOSS, (X, Y)), []
    tracker = Tracker(
        model,
        known(optimizers) if known else optimizers,
        objective,
        SIMPSON,
        **{"on_error": "raise", **options},
    )
    loops = [Eager(model, optimizer) for optimizer in optimizers]
    with tracker if tracked else nullcontext():
        for n in range(epochs):
            before = objective.theta()
            step = loops[n * len(loops) // epochs].train_step if wrap is None else wrap(loops)
            with tracker.step() if tracked and wrap else nullcontext():
                step(X[3 * n : 3 * n + 3], Y[3 * n : 3 * n + 3])
            if not np.array_equal(before, objective.theta()):
                losses.append(objective.loss(objective.theta()))
    variables = [*model.variables, *(v for optimizer in optimizers for v in optimizer.variables)]
    return tracker, losses, [v.numpy() for v in variables]


def check_path(run, plain):
    tracker, losses, left = run
    rows = tracker.views["train"].trace.rows
    assert rows["loss_end"].tolist() == losses == plain[1]
    assert rows["loss_start"][1:].tolist() == losses[:-1]
    assert (tracker.steps, tracker.discontinuities) == (len(losses), 0)
    for ours, theirs in zip(left, plain[2], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_one_update_is_one_step_whatever_the_optimizer_does_inside(kind):
    runs = [trained(lambda: [KINDS[kind]()], tracked=tracked) for tracked in (True, False)]
    check_path(*runs)
    assert runs[0][0].steps == (2 if kind == "accumulated" else 5)


def pair():
    return [keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.02)]


def test_several_optimizers_make_one_path():
    check_path(trained(pair, tracked=True), trained(pair, tracked=False))


def test_a_new_optimizer_in_mid_run_is_followed_and_told():
    with pytest.warns(
        LCAWarning, match=r"step 3 is made by an optimizer .* not given, Adam.*\[first, second\]"
    ):
        ours = trained(pair, tracked=True, known=lambda optimizers: optimizers[:1])
    check_path(ours, trained(pair, tracked=False))


def both(loops):
    @tf.function
    def train(x, y):
        for loop in loops:
            loop.train_step(x, y)

    for loop in loops:
        loop.optimizer.build(loop.model.trainable_weights)
    return train


@pytest.mark.parametrize(
    "known", [None, lambda optimizers: optimizers[:1], lambda optimizers: optimizers[1:]]
)
def test_a_compiled_step_of_two_optimizers_is_one_step(known):
    ours = trained(pair, tracked=True, wrap=both, known=known, epochs=3)
    check_path(ours, trained(pair, tracked=False, wrap=both, epochs=3))


def test_a_new_optimizer_inside_a_compiled_function_is_not_silently_lost():
    model, first, second = mlp(), *pair()
    for optimizer in (first, second):
        optimizer.build(model.trainable_weights)
    tracker = Tracker(model, first, Objective(model, LOSS, (X, Y)), SIMPSON, on_error="raise")

    def run():
        with tracker:
            Eager(model, first).train_step(X, Y)
            Compiled(model, second).train_step(X, Y)

    with pytest.raises(LCAError, match="1 updates were made inside a tf.function"):
        run()


def test_an_optimizer_of_another_model_is_none_of_ours():
    model, other = mlp(), mlp()
    with Tracker(
        model, keras.optimizers.SGD(0.1), Objective(model, LOSS, (X, Y)), on_error="raise"
    ) as tracker:
        Eager(other, keras.optimizers.SGD(0.1)).train_step(X, Y)
        assert tracker.steps == 0
        Eager(model, tracker._optimizer).train_step(X, Y)
    assert tracker.steps == 1


def test_trackers_of_two_models_may_overlap():
    own = keras.optimizers.Optimizer.apply
    models, optimizers = [mlp(), mlp()], pair()
    first, second = (
        Tracker(model, optimizer, Objective(model, LOSS, (X, Y)), SIMPSON, on_error="raise")
        for model, optimizer in zip(models, optimizers, strict=True)
    )
    first.__enter__()
    second.__enter__()
    for _ in range(2):
        Eager(models[0], optimizers[0]).train_step(X, Y)
    first.__exit__(None, None, None)
    Eager(models[1], optimizers[1]).train_step(X, Y)
    second.__exit__(None, None, None)
    assert (first.steps, second.steps) == (2, 1)
    assert keras.optimizers.Optimizer.apply is own


WEIGHT = 1.0


@pytest.mark.parametrize("kind", ["compiled", "by Keras", "eager", "made anew"])
def test_a_value_that_a_compiled_step_may_keep_is_told(kind, monkeypatch, recwarn):
    monkeypatch.setitem(globals(), "WEIGHT", WEIGHT)

    def weighted(y, outputs):
        return WEIGHT * LOSS(y, outputs)

    model, optimizer = mlp(), keras.optimizers.SGD(0.1)
    model.compile(optimizer, weighted)

    def train():
        with tf.GradientTape() as tape:
            loss = weighted(Y, model(X, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)

    steps = {"compiled": tf.function(train), "eager": train}
    with Tracker(model, optimizer, Objective(model, weighted, (X, Y)), on_error="raise") as tracker:
        for weight in (1.0, 2.0, 2.0):
            if kind == "made anew" and weight != WEIGHT:
                model.make_train_function(force=True)
            globals()["WEIGHT"] = weight
            with tracker.step():
                steps.get(kind, lambda: model.train_on_batch(X, Y))()
    said = [str(warning.message) for warning in recwarn if warning.category is LCAWarning]
    assert len(said) == (kind in ("compiled", "by Keras"))
    assert all("WEIGHT changed, and the measured loss with it. A compiled training" in text for text in said)
    assert tracker.summary()["train"]["state_change"] > 0
