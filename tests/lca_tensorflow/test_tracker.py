"""`Tracker`: a loop with it is the loop without it, bit for bit, eager or compiled; nothing goes unheard."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lca
from lca.errors import LayoutError, LCAError, LCAWarning, NonDeterministicError, NonFiniteError
from lca_tensorflow import Objective, Tracker
from tests.lca_tensorflow.networks import X, Y, cross_entropy, floats, mlp, normalised

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


def test_a_compiled_step_that_is_not_wrapped_is_not_silently_lost():
    class Unwrapped(Compiled):
        step = Eager.step

    with pytest.warns(LCAWarning, match=r"5 updates were made inside a tf\.function.*with tracker\.step\(\)"):
        _, tracker = run(Unwrapped, tracked=True, on_error="warn")
    assert tracker.steps == 0
    with pytest.raises(LCAError, match="in no step; wrap the call"):
        run(Unwrapped, tracked=True)


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


def test_a_run_is_recorded_and_says_whether_it_came_to_its_end(tmp_path):
    _, tracker = run(Eager, tracked=True, record=tmp_path / "whole")
    found = lca.open_record(tmp_path / "whole")
    assert found.attrs["complete"]
    assert found.sizes["step"] == tracker.steps == 5
    model, optimizer = mlp(), keras.optimizers.SGD(0.1)
    objective = Objective(model, LOSS, (X, Y))

    def fail_after_a_step():
        with Tracker(model, optimizer, objective, record=tmp_path / "broken"):
            Eager(model, optimizer).train_step(X, Y)
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_a_step()
    assert not lca.open_record(tmp_path / "broken").attrs["complete"]


def test_only_the_steps_asked_for_are_measured():
    _, tracker = run(Eager, tracked=True, every=2)
    assert tracker.views["train"].trace.rows["step"].tolist() == [0, 2, 4]
    assert tracker.steps == 5


def test_a_jump_between_steps_is_reported():
    model, optimizer = mlp(), keras.optimizers.SGD(0.1)
    loop = Eager(model, optimizer)
    with Tracker(model, optimizer, Objective(model, LOSS, (X, Y)), SIMPSON) as tracker:
        loop.train_step(X, Y)
        model.layers[0].kernel.assign_add(0.1 * tf.ones((6, 5)))
        with pytest.warns(LCAWarning, match="changed between steps 0 and 1"):
            loop.train_step(X, Y)
    assert tracker.discontinuities == 1


def test_an_error_in_measuring_ends_the_measuring_and_not_the_training():
    class Diverging(Eager):
        def train_step(self, x, y):
            super().train_step(x, y)
            if self.optimizer.iterations == 3:
                self.model.layers[-1].bias.assign([float("nan")] * 3)

        def step(self, x, y, tracker):
            with tracker.step():
                self.train_step(x, y)

    with pytest.warns(LCAWarning, match=r"stopped at step 2, training goes on: NonFiniteError: .*bias"):
        _, tracker = run(Diverging, tracked=True, make=mlp, on_error="warn")
    assert isinstance(tracker.error, NonFiniteError)
    assert (tracker.steps, tracker.summary()["train"]["steps"]) == (5, 2)
    with pytest.raises(NonFiniteError, match="step 2: NaN or Inf in the parameters at the end"):
        run(Diverging, tracked=True, make=mlp)


def test_random_layers_that_stay_on_are_found():
    class Noisy(keras.layers.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x))  # no seed that Keras knows of

    model = keras.Sequential([keras.Input((6,)), Noisy(), keras.layers.Dense(3)])
    optimizer = keras.optimizers.SGD(0.1)
    loop, objective = Eager(model, optimizer), Objective(model, LOSS, (X, Y))
    with Tracker(model, optimizer, objective, on_error="raise"), pytest.raises(NonDeterministicError):
        loop.train_step(X, Y)


def test_the_optimizer_is_left_as_it_was_also_after_an_error():
    model, optimizer = mlp(), keras.optimizers.SGD(0.1)
    tracker = Tracker(model, optimizer, Objective(model, LOSS, (X, Y)), SIMPSON)

    def fail_after_a_step():
        with tracker:
            Eager(model, optimizer).train_step(X, Y)
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_a_step()
    assert "apply" not in vars(optimizer)
    Eager(model, optimizer).train_step(X, Y)
    assert tracker.steps == 1
    with tracker, pytest.raises(LCAError, match="already at work"):
        tracker.__enter__()
    with pytest.raises(LCAError, match="not at work; put the loop into"), tracker.step():
        pass


def test_what_does_not_belong_together_is_refused():
    model, other = mlp(), normalised()
    objective, optimizer = Objective(model, LOSS, (X, Y)), keras.optimizers.SGD(0.1)
    with pytest.raises(LayoutError, match="'train' is about .*which the model has not"):
        Tracker(other, optimizer, objective)
    with pytest.raises(
        LCAError, match="the optimizer is of type list; the order is .*each of several gets a"
    ):
        Tracker(model, [optimizer], objective)
    with pytest.raises(
        LCAError, match=r"the model is of type SGD; the order is Tracker\(model, optimizer, obj"
    ):
        Tracker(optimizer, model, objective)
    with pytest.raises(
        LCAError, match="the objective is of type SparseCategoricalCrossentropy; the order is"
    ):
        Tracker(model, optimizer, LOSS)
    twin = Objective(keras.models.clone_model(model), LOSS, (X, Y))
    with pytest.raises(
        LayoutError, match="'train' was made from another model of the same form: its '.*kernel"
    ):
        Tracker(model, optimizer, twin)
    foreign = keras.optimizers.SGD(0.1)
    foreign.build(other.trainable_weights)
    with pytest.raises(LCAError, match="owns none of the weights of 'sequential"):
        Tracker(model, foreign, objective)
    with pytest.raises(LCAError, match="unknown on_error 'ignore'"):
        Tracker(model, optimizer, objective, on_error="ignore")
    with pytest.raises(LCAError, match="measuring needs at least one objective"):
        Tracker(model, optimizer, {})
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        mirrored = mlp()
    with pytest.raises(LCAError, match=r"outside strategy\.scope"):
        Tracker(mirrored, optimizer, objective)
