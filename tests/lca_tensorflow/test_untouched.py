"""Measuring leaves the model, its Python objects, all generators and the training itself as they are."""

import itertools
import random
from collections import defaultdict, deque
from dataclasses import dataclass
from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf

from lca import TRAPEZOID, PathIntegral, tolerances
from lca._state import same_state
from lca.errors import LCAError, NonDeterministicError
from lca.tolerances import EPS32
from lca_tensorflow import LCACallback, Objective
from tests.lca_tensorflow.networks import IMAGES, LABELS, X, Y, cross_entropy, floats, stack

LAYERS = keras.layers
DENSE = LAYERS.Dense


class Counting(LAYERS.Layer):
    """Counts its calls, keeps what it has seen, and reads neither."""

    def __init__(self):
        super().__init__()
        self.calls, self.seen, self.by_shape = 0, [None] * 300, {}

    def call(self, inputs):
        self.calls += 1
        self.seen.append(inputs.shape)
        self.by_shape[str(inputs.shape)] = self.calls
        self.last = self.calls
        return inputs


class Noise(LAYERS.Layer):
    """Adds random numbers, in training or always, from a generator that the case chooses."""

    def __init__(self, draw, always=False):
        super().__init__()
        self.draw, self.always = draw, always

    def call(self, inputs, training=False):
        return inputs + self.draw(inputs) if training or self.always else inputs


OWN = tf.random.Generator.from_seed(3)
OWN_NUMPY = np.random.default_rng(3)
SEEDS = keras.random.SeedGenerator(3)
DRAWS = {
    "operation": lambda x: tf.random.normal(tf.shape(x), dtype=x.dtype),
    "operation with a seed": lambda x: tf.random.uniform(tf.shape(x), seed=4, dtype=x.dtype),
    "shuffle": tf.random.shuffle,
    "global generator": lambda x: tf.random.get_global_generator().normal(tf.shape(x), dtype=x.dtype),
    "own generator": lambda x: OWN.normal(tf.shape(x), dtype=x.dtype),
    "keras": lambda x: keras.random.normal(tf.shape(x), seed=SEEDS, dtype=x.dtype),
    "keras without a seed": lambda x: keras.random.normal(tf.shape(x), dtype=x.dtype),
}
PYTHON_DRAWS = {
    "NumPy": lambda x: float(np.random.normal()),  # noqa: NPY002
    "own generator of NumPy": lambda x: OWN_NUMPY.random(),
    "Python": lambda x: random.random(),
}


def generators():
    """What the next random numbers depend on; reading it changes nothing."""
    return (
        random.getstate(),
        str(np.random.get_state()),  # noqa: NPY002
        tf.random.get_global_generator().state.numpy().tolist(),
        OWN.state.numpy().tolist(),
        OWN_NUMPY.bit_generator.state,
        SEEDS.state.numpy().tolist(),
        tf.random.experimental.get_global_generator() is tf.random.get_global_generator(),
    )


def attributes(model):
    """All attributes of a model and its layers, by identity, with the contents of lists and dictionaries."""
    found = {}
    for layer in model._flatten_layers():
        for name, value in vars(layer).items():
            contents = list(map(id, value)) if isinstance(value, list | dict) else None
            found[layer.name, name] = id(value), contents
    return found


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_attributes_written_in_call_are_as_before(run_eagerly):
    counting = Counting()
    model = stack((6,), DENSE(4), LAYERS.BatchNormalization(), counting, DENSE(3, kernel_regularizer="l2"))
    model.compile("sgd", cross_entropy(), metrics=["accuracy"])
    model(X)
    before = attributes(model)
    values = [v.numpy() for v in model.variables]
    objective = Objective(model, None, (X, Y), batch_size=17, run_eagerly=run_eagerly)
    objective.loss_and_grad(objective.theta())
    objective.state()
    objective.scores(objective.theta())
    assert attributes(model) == before
    with pytest.raises(ValueError, match="raised"):
        objective.loss(objective.theta(), (X[:, :2], Y))
    assert attributes(model) == before
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(values, model.variables, strict=True))


@cache
def positions(length):
    return tf.range(length, dtype="float32")


@cache
def gains(length):
    return np.random.normal(size=length)  # noqa: NPY002


class Gains(keras.Model):
    """Multiplies by what a function computes once and keeps."""

    def __init__(self, function):
        super().__init__()
        self.dense, self.function = DENSE(3), function
        self.dense.build((None, 6))
        self.built = True

    def call(self, inputs):
        return self.dense(inputs) * self.function(3)


def test_a_function_that_keeps_its_results_is_left_to_training():
    model = Gains(positions)
    objective = Objective(model, cross_entropy(), (X, Y))
    objective.loss_and_grad(objective.theta())
    assert positions.cache_info().currsize == 0
    assert model(X).shape == (len(X), 3)  # no symbolic tensor was kept
    with pytest.raises(NonDeterministicError, match="random numbers"):
        Objective(Gains(gains), cross_entropy(), (X, Y))
    assert gains.cache_info().currsize == 0


@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("draw", (DRAWS | PYTHON_DRAWS).values(), ids=DRAWS | PYTHON_DRAWS)
def test_a_random_loss_is_refused_before_anything_is_drawn(draw, run_eagerly):
    model = stack((6,), DENSE(4), Noise(draw, always=True), DENSE(3))
    tf.random.set_seed(5)
    first = tf.random.normal([3]).numpy()
    tf.random.set_seed(5)
    before = generators()
    with pytest.raises(NonDeterministicError, match="random numbers"):
        Objective(model, cross_entropy(), (X, Y), run_eagerly=run_eagerly)
    assert generators() == before
    assert np.array_equal(tf.random.normal([3]).numpy(), first)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_masks_that_are_drawn_and_not_used_are_no_random_loss(run_eagerly):
    """Recurrent layers of Keras draw the masks of their dropout in inference as well."""
    recurrent = LAYERS.SimpleRNN(4, dropout=0.5, recurrent_dropout=0.5, seed=3, unroll=True)
    model = stack((3, 2), recurrent, DENSE(3))
    [seeds] = [v for v in model.variables if v.name == "seed_generator_state"]
    before, inputs = seeds.numpy(), X.reshape(-1, 3, 2)
    objective = Objective(model, cross_entropy(), (inputs, Y), run_eagerly=run_eagerly)
    loss, state = objective.loss(objective.theta()), objective.state()
    assert seeds.numpy().tolist() == before.tolist()
    assert abs(loss - float(cross_entropy()(Y, model(inputs)))) <= tolerances.repeat(loss, EPS32)
    assert seeds.numpy().tolist() != before.tolist()
    assert objective.loss(objective.theta()) == loss
    assert same_state(objective.state(), state)


RANDOM_LAYERS = {
    "dropout": lambda: LAYERS.Dropout(0.5),
    "noise": lambda: LAYERS.GaussianNoise(0.5),
    "alpha dropout": lambda: LAYERS.AlphaDropout(0.5),
    **{name: lambda draw=draw: Noise(draw) for name, draw in DRAWS.items() if name != "own generator"},
}


def images():
    return stack(
        (8, 8, 2),
        LAYERS.RandomFlip(),
        LAYERS.RandomRotation(0.2),
        LAYERS.Conv2D(3, 3),
        LAYERS.BatchNormalization(),
        LAYERS.Flatten(),
        DENSE(3),
    )


def trained(make, data, *, measured, run_eagerly):
    """Everything that training has left, with or without measuring it."""
    keras.utils.set_random_seed(1)
    SEEDS.state.assign([3, 0])
    tf.random.set_global_generator(tf.random.Generator.from_seed(2))
    model = make()
    model.compile(keras.optimizers.Adam(0.01), cross_entropy(), run_eagerly=run_eagerly)
    callbacks = []
    if measured:
        objective = Objective(model, None, data, batch_size=len(data[1]), run_eagerly=run_eagerly)
        callbacks = [LCACallback(objective, estimator=PathIntegral(TRAPEZOID), on_error="raise")]
    model.fit(*data, batch_size=len(data[1]) // 2 + 1, verbose=0, callbacks=callbacks)  # two updates
    if measured:
        assert callbacks[0].summary()["train"]["steps"] == 2
    left = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    return [*left, tf.random.normal([2]).numpy(), np.random.normal(), random.random()]  # noqa: NPY002


@pytest.mark.parametrize("kind", [*RANDOM_LAYERS, "augmentation"])
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_training_draws_the_same_numbers_as_without(kind, run_eagerly):
    def make():
        if kind == "augmentation":
            return images()
        return stack((6,), DENSE(4, activation="tanh"), RANDOM_LAYERS[kind](), DENSE(3))

    data = (IMAGES, LABELS) if kind == "augmentation" else (X, Y)
    with floats("float32"):
        plain = trained(make, data, measured=False, run_eagerly=run_eagerly)
        measured = trained(make, data, measured=True, run_eagerly=run_eagerly)
    assert all(np.array_equal(a, b) for a, b in zip(plain, measured, strict=True))


def test_a_function_that_the_user_compiled_is_not_left_with_a_trace_of_ours():
    class Compiled(LAYERS.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=shape[-1:], name="scale", initializer="ones")

        @tf.function
        def call(self, inputs):
            return inputs * self.scale

    model = stack((6,), Compiled(), DENSE(3))
    objective = Objective(model, cross_entropy(), (X, Y))
    theta = objective.theta()
    grads = objective.layout.unflatten(objective.loss_and_grad(theta)[1].numpy())
    assert all(grad.any() for grad in grads.values())
    model.compile("sgd", cross_entropy())
    before = model.layers[0].scale.numpy()
    model.fit(X, Y, verbose=0)
    assert not np.array_equal(model.layers[0].scale.numpy(), before)
    assert objective.loss(theta) == pytest.approx(objective.loss(theta))
    assert objective.loss(objective.theta()) != objective.loss(theta)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_the_losses_of_single_outputs_are_in_the_history_as_without(run_eagerly):
    """Keras builds a compiled loss, and its metrics, when it is first called: that may be while measuring."""
    histories = []
    for measured in (False, True):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        model = keras.Model(inputs, {"a": DENSE(3, name="a")(inputs), "b": DENSE(3, name="b")(inputs)})
        model.compile("sgd", {"a": cross_entropy(), "b": cross_entropy()}, run_eagerly=run_eagerly)
        targets = {"a": Y, "b": Y}
        callbacks = [LCACallback(X, targets)] if measured else []
        histories.append(model.fit(X, targets, epochs=2, verbose=0, callbacks=callbacks).history)
        assert len(model._compile_loss.metrics) == 2
    assert histories[0] == histories[1]


def test_what_a_pass_writes_into_a_class_is_as_before():
    class Counted(LAYERS.Layer):
        calls = 0
        sizes: list[int] = []  # noqa: RUF012 - users write this

        def call(self, inputs):
            type(self).calls += 1
            self.sizes.append(inputs.shape[-1])
            return inputs

    model = stack((6,), DENSE(4), Counted(), LAYERS.BatchNormalization(), DENSE(3))
    model(X)
    calls, sizes = Counted.calls, list(Counted.sizes)
    objective = Objective(model, cross_entropy(), (X, Y), batch_size=17)
    objective.loss_and_grad(objective.theta())
    assert (Counted.calls, Counted.sizes) == (calls, sizes)


CALLS = 0


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_what_a_loss_writes_outside_of_the_model_is_as_before(run_eagerly):
    @dataclass(slots=True)
    class Slotted:
        calls: int = 0

    slots, queue, seen, array, around = Slotted(), deque([0], maxlen=9), {0}, np.zeros(2), 0

    def loss(y, outputs, *, kept=array):
        global CALLS  # noqa: PLW0603 - users write this
        nonlocal around
        CALLS, around, slots.calls = CALLS + 1, around + 1, slots.calls + 1
        queue.append(around)
        seen.add(around)
        array[0] += 1
        kept[1] += 1
        return cross_entropy()(y, outputs)

    objective = Objective(stack((6,), DENSE(3)), loss, (X, Y), run_eagerly=run_eagerly)
    objective.loss_and_grad(objective.theta())
    assert (CALLS, around, slots.calls, list(queue), seen, array.tolist()) == (0, 0, 0, [0], {0}, [0.0, 0.0])


NUMBERS = itertools.count(1)


def test_an_iterator_that_a_loss_reads_is_refused_and_left_where_it_is():
    numbers = itertools.count(1)
    loss = lambda y, out: cross_entropy()(y, out) * next(numbers)  # noqa: E731
    with pytest.raises(LCAError, match="from an iterator"):
        Objective(stack((6,), DENSE(3)), loss, (X, Y))
    assert next(numbers) == 1
    of_module = lambda y, out: cross_entropy()(y, out) * next(NUMBERS)  # noqa: E731
    with pytest.raises(LCAError, match="from an iterator"):
        Objective(stack((6,), DENSE(3)), of_module, (X, Y))
    assert next(NUMBERS) == 1


def test_what_the_factory_of_a_dictionary_writes_is_as_before():
    made = []
    weights = defaultdict(lambda: made.append(1) or 1.0)
    loss = lambda y, out: cross_entropy()(y, out) * weights[0]  # noqa: E731
    Objective(stack((6,), DENSE(3)), loss, (X, Y))
    assert (made, dict(weights)) == ([], {})
