"""Layers that compute something else in training are named where an estimator takes its gradients."""

import math
import random
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from lca.errors import LCAWarning
from lca.estimators import LaggedCrossFit, SameBatch
from lca_tensorflow import LCACallback, Objective, Tracker
from tests.lca_torch import counting_module

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 6)).astype("float32"), RNG.integers(3, size=60)
DENSE = keras.layers.Dense


class Noise(keras.layers.Layer):
    """Draws from all generators, and counts and keeps what it does."""

    calls = 0

    def __init__(self, scale=0.3, name="noise"):
        super().__init__(name=name)
        self.scale, self.sizes = scale, []
        self.own = tf.random.Generator.from_seed(5)
        self.seed, self.numpy = keras.random.SeedGenerator(6), np.random.default_rng(7)
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False, name="seen")
        self.raw = tf.Variable(0.0, trainable=False)

    def call(self, x, training=False):
        if not training:
            return x
        type(self).calls += 1
        self.sizes.append(x.shape[0])
        self.seen.assign(self.seen + 1)
        self.raw.assign_add(1.0)
        drawn = tf.random.normal(tf.shape(x)) + self.own.normal(tf.shape(x))
        drawn += keras.random.normal((1,), seed=self.seed) + keras.random.normal((1,))
        return x + self.scale * (drawn + self.numpy.normal() + np.random.normal() + random.gauss(0, 1))  # noqa: NPY002


class Frozen(Noise):
    """Noise in a part of a model that does not train."""


class Compiled(Noise):
    """Noise in a function that is compiled by itself."""

    @tf.function
    def noisy(self, x):
        return x + tf.random.normal(tf.shape(x))

    def call(self, x, training=False):
        return self.noisy(x) if training else x


class Chance(keras.layers.Layer):
    """Noise of Keras."""

    def __init__(self):
        super().__init__(name="noise")
        self.seed = keras.random.SeedGenerator(6)

    def call(self, x, training=False):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed) if training else x


class Passing(keras.Model):
    """A subclassed model that passes ``training`` to its layers; a frozen part stays in inference mode."""

    def __init__(self, inner, frozen):
        super().__init__(name="passing")
        self.inner, self.frozen, self.out = inner, frozen, DENSE(3)

    def call(self, x, training=False):
        return self.out(self.inner(self.frozen(x, training=False), training=training))


class Exits(keras.Model):
    """Two outputs in training, one in evaluation."""

    def __init__(self):
        super().__init__(name="exits")
        self.early, self.late = DENSE(3), DENSE(3)
        self.early.build((None, 6))
        self.late.build((None, 6))
        self.built = True

    def call(self, x, training=False):
        late = self.late(x) + 0 * self.early(x)
        return (self.early(x), late) if training else late


class Quiet(keras.Model):
    """Has no mode itself."""

    def __init__(self, inner):
        super().__init__(name="quiet")
        self.inner, self.out = inner, DENSE(3)

    def call(self, x):
        return self.out(self.inner(x))


def of(*layers):
    return keras.Sequential([keras.Input((6,)), DENSE(6), *layers, DENSE(3)], name="net")


def loss_of(y, outputs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return sum(loss(y, out) for out in (outputs if isinstance(outputs, tuple) else (outputs,)))


def train(make, estimator=None, *, training=True, **options):
    """Four updates; the model, and what was said of training."""
    keras.utils.set_random_seed(1)
    model = make()
    model(X)
    optimizer, batches, tracker = keras.optimizers.SGD(0.1), [(X, Y)] * 4, None
    if estimator is not None:
        objective = Objective(model, loss_of, (X, Y), batch_size=60, **options)
        tracker = Tracker(model, optimizer, objective, estimator, check_every=None, on_error="raise")
        tracker.__enter__()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for x, y in batches:
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=training) if training else model(x))
            grads = tape.gradient(loss, model.trainable_weights)
            optimizer.apply(grads, model.trainable_weights)
    if tracker:
        tracker.__exit__(None, None, None)
    return model, said_in(said)


def said_in(said):
    return [
        str(one.message) for one in said if one.category is LCAWarning and "gradients of training" in str(one)
    ]


NAMES = {
    "noise": (lambda: of(Noise()), "(noise (Noise))"),
    "augmentation": (
        lambda: of(
            keras.layers.Reshape((3, 2, 1)), keras.layers.RandomFlip(name="flip"), keras.layers.Flatten()
        ),
        "(flip (RandomFlip))",
    ),
    "passed on": (lambda: Passing(Noise(), Frozen(name="frozen")), "(noise (Noise))"),
    "model without a mode": (lambda: Quiet(Noise()), "(noise (Noise))"),
    "compiled": (lambda: of(Compiled()), "(noise (Compiled))"),
    "outputs": (Exits, "(exits (Exits))"),
}


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.filterwarnings("ignore:no gradient reaches")
def test_a_layer_that_computes_something_else_in_training_is_named_once(case):
    make, names = NAMES[case]
    _, [said] = train(make, SameBatch())
    assert "in training mode the model computes another loss than the measured one, or outputs" in said
    assert f"cannot take {names}, and SameBatch allocates by the gradients of training" in said


def test_no_trace_stays_in_functions_that_are_compiled_by_themselves():
    models = [train(lambda: of(Compiled()), estimator)[0] for estimator in (None, SameBatch())]
    assert len({m.get_layer("noise").noisy.experimental_get_tracing_count() for m in models}) == 1


SAME = {
    "batch statistics": lambda: of(keras.layers.BatchNormalization()),
    "frozen noise": lambda: Passing(DENSE(6), Noise()),
    "recurrent": lambda: of(keras.layers.Reshape((2, 3)), keras.layers.SimpleRNN(4, unroll=True)),
    "spectral norm": lambda: of(keras.layers.SpectralNormalization(DENSE(4))),
}


@pytest.mark.parametrize("case", SAME)
def test_layers_that_compute_the_same_are_no_warning(case):
    assert not train(SAME[case], SameBatch())[1]


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (lambda: keras.layers.Dropout(0.2, name="drop"), "dropout or noise (drop)"),
        (lambda: keras.layers.BatchNormalization(name="norm"), "batch statistics (norm)"),
    ],
)
def test_what_is_reported_by_its_class_is_not_reported_twice(layer, words):
    _, [said] = train(lambda: of(layer()), SameBatch(), batch_norm="frozen")
    assert words in said


def test_dropout_in_recurrent_layers_is_not_reported_twice():
    recurrent = keras.layers.SimpleRNN(4, dropout=0.2, recurrent_dropout=0.2, seed=1, unroll=True)
    _, [said] = train(lambda: of(keras.layers.Reshape((2, 3)), recurrent), SameBatch())
    assert "dropout or noise" in said


def left_by(estimator):
    """All that training leaves behind."""
    Noise.calls = 0
    np.random.seed(1)  # noqa: NPY002
    model, said = train(
        lambda: of(keras.layers.BatchNormalization(), Noise(), keras.layers.Dropout(0.1)), estimator
    )
    noise = model.get_layer("noise")
    return said, [
        [np.asarray(variable).tolist() for variable in model.variables],
        np.asarray(noise.own.state).tolist(),
        float(noise.raw),
        noise.sizes,
        noise.numpy.bit_generator.state,
        Noise.calls,
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        random.getstate(),
        tf.random.normal((3,)).numpy().tolist(),
        keras.random.normal((3,)).numpy().tolist(),
        [name for layer in model.layers for name in ("call", "training") if name in vars(layer)],
    ]


def test_training_stays_the_same_bit_for_bit():
    said, left = left_by(SameBatch())
    assert len(said) == 2
    assert left == left_by(None)[1]


def test_fit_says_so_and_trains_the_same():
    def fit(*callbacks):
        keras.utils.set_random_seed(1)
        model = of(Chance())
        model.compile(
            keras.optimizers.SGD(0.1),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model.fit(X, Y, batch_size=20, verbose=0, callbacks=list(callbacks))
        return said_in(said), [np.asarray(v).tolist() for v in (*model.variables, *model.optimizer.variables)]

    [said], ours = fit(LCACallback(X, Y, estimator=LaggedCrossFit(), on_error="raise"))
    assert "cannot take (noise (Chance)), and LaggedCrossFit allocates" in said
    assert ours == fit()[1]


class Counting(keras.layers.Layer):
    """Computes with a counter in training."""

    def __init__(self, way):
        super().__init__(name="counting")
        self.way = way

    def call(self, x, training=False):
        return x * (1 + 0.1 * math.sin(self.way())) if training else x


NOT_PUT_BACK = {
    "by_kept_results": "kept_counter (_lru_cache_wrapper)",
    "by_context": "NUMBER (ContextVar)",
    "by_what_a_context_holds": "HOLDER (ContextVar)",
    "by_modules": "sys.modules",
}
PUT_BACK = [
    "local",
    "environment",
    "class_of_classes",
    "new_global",
    "weak_reference",
    "file",
    "builtin",
    "import",
]


@pytest.mark.parametrize("way", [*NOT_PUT_BACK, *(f"by_{kind}" for kind in PUT_BACK)])
def test_trying_moves_nothing_that_training_uses_or_is_left_out(way):
    traced = way not in ("by_what_a_context_holds", "by_modules")  # which a trace of training moves

    def make():
        norm = [keras.layers.BatchNormalization()] if traced else []
        model = of(*norm, Counting(getattr(counting_module, way)))
        counting_module.reset()
        return model

    left = [train(make, estimator) for estimator in (None, SameBatch())]
    values = [[np.asarray(variable).tolist() for variable in model.variables] for model, _ in left]
    assert values[0] == values[1]
    [said] = left[1][1]
    if way in NOT_PUT_BACK:
        assert "would change objects that training uses (" in said
        assert NOT_PUT_BACK[way] in said
    else:
        assert "cannot take (counting (Counting)), and SameBatch allocates" in said


@pytest.mark.parametrize("estimator", [LaggedCrossFit(), SameBatch()], ids=lambda own: type(own).__name__)
@pytest.mark.parametrize("forgets", [True, False], ids=["forgotten", "added"])
def test_a_loop_that_forgets_the_penalties_of_its_model_is_told(forgets, estimator):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), DENSE(4, kernel_regularizer="l2"), DENSE(3)])
    loss, optimizer = keras.losses.SparseCategoricalCrossentropy(from_logits=True), keras.optimizers.SGD(0.1)
    objective = Objective(model, loss, (X, Y))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with Tracker(model, optimizer, objective, estimator, check_every=None) as tracker:
            for x, y in tracker.batches([(X[i::6], Y[i::6]) for i in range(6)]):
                with tf.GradientTape() as tape:
                    value = loss(y, model(x, training=True)) + (0 if forgets else sum(model.losses))
                optimizer.apply(tape.gradient(value, model.trainable_weights), model.trainable_weights)
    found = [str(one.message) for one in said]
    assert len(found) == forgets
    assert all("without model.losses (regularizers, add_loss)" in text for text in found)
    cause = "the loss that is trained lacks model.losses"
    assert any(text.startswith(cause) for text in tracker._session._check.seen) == forgets
