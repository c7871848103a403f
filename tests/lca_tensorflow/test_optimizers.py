"""`DryRun` and `updates_without`: what the optimizer really does, and everything is restored."""

import random
from contextvars import ContextVar
from functools import partial

import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf

from lca import tolerances
from lca.errors import LCAError
from lca.estimators import CrossFit, LaggedCrossFit, SameBatch
from lca.tolerances import EPS32
from lca_tensorflow import LCACallback, Objective, Tracker
from lca_tensorflow._optimizers import DryRun, update_slope
from tests.laws.runs import Shown

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 4)).astype("float32"), RNG.integers(3, size=40)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BATCHES = [np.arange(8 * t, 8 * (t + 1)) for t in range(5)]
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "nesterov": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "schedule": lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)),
    "clipped": lambda: keras.optimizers.SGD(0.1, clipnorm=0.05),
}


def model_of():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, "tanh"), keras.layers.Dense(3)])


def gradients(model, index, weight=1.0):
    with tf.GradientTape() as tape:
        loss = weight * LOSS(Y[index], model(X[index], training=True))
    return tape.gradient(loss, model.trainable_weights)


def flat(tensors):
    return np.concatenate([np.ravel(tensor) for tensor in tensors])


def stepped(name, steps, last):
    """The movement of one more update, on the examples ``last`` alone, after ``steps`` ordinary ones."""
    model, optimizer = model_of(), OPTIMIZERS[name]()
    for index in BATCHES[:steps]:
        optimizer.apply(gradients(model, index), model.trainable_weights)
    before = flat(model.get_weights())
    optimizer.apply(gradients(model, last), model.trainable_weights)
    return flat(model.get_weights()) - before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_without_a_micro_batch_are_those_that_the_optimizer_makes(name):
    estimator, model, optimizer = Shown(("micro_batches",)), model_of(), OPTIMIZERS[name]()
    with Tracker(model, optimizer, Objective(model, LOSS, (X, Y)), estimator, on_error="raise") as tracker:
        for index in BATCHES:
            total = None
            for part, weight in tracker.micro_batches(index, 2):
                total = tracker.add(total, gradients(model, part, weight))
            optimizer.apply(total, model.trainable_weights)
    for t in (0, 1, 3):
        halves = BATCHES[t][:4], BATCHES[t][4:]
        for part, others in zip(estimator.steps[t].micro_batches, reversed(halves), strict=True):
            wanted = stepped(name, t, others)
            gap = np.abs(part.update.numpy() - wanted).max()
            # A movement is a small difference of θ, and Adam's first ones have the size of the learning rate.
            assert gap <= tolerances.summed(4.0, EPS32)
            assert gap <= 0.01 * np.abs(wanted).max()


def dry_and_real(optimizer, trained, wanted, grads):
    """The movement in a dry run, and in the update that follows it."""
    vector = tf.concat([tf.reshape(g, [-1]) for g in grads], 0)
    by_variable = dict(zip(map(id, wanted), grads, strict=True))
    dry_run = DryRun(optimizer, trained, wanted)
    before = [v.numpy() for v in (*optimizer.variables, *wanted)]
    found = dry_run.update(vector, [True] * len(trained)).numpy()
    for value, variable in zip(before, (*optimizer.variables, *wanted), strict=True):
        np.testing.assert_array_equal(value, variable.numpy())
    start = flat(wanted)
    optimizer.apply([by_variable[id(v)] for v in trained], trained)
    return found, flat(wanted) - start


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_slope_times_the_gradient_is_what_it_adds_to_the_update(name):
    """Which is all of the update where momentum is 0 and nothing decays."""
    model, optimizer = model_of(), OPTIMIZERS[name]()
    trained = model.trainable_weights
    for index in BATCHES[:3]:
        optimizer.apply(gradients(model, index), trained)
    for moment in getattr(optimizer, "momentums", None) or getattr(optimizer, "_momentums", []):
        moment.assign(tf.zeros_like(moment))
    optimizer.weight_decay = None
    grads = gradients(model, BATCHES[3])
    vector = tf.concat([tf.reshape(g, [-1]) for g in grads], 0)
    found = update_slope(optimizer, trained, trained, grads) * vector
    wanted = DryRun(optimizer, trained, trained).update(vector, [True] * len(trained))
    assert np.abs(found - wanted).max() <= tolerances.summed(4.0, EPS32)
    assert np.abs(found - wanted).max() <= 0.01 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (keras.optimizers.Lion, r"updates of Lion depend .* train with SGD or RMSprop.*NextBatch\(lca"),
        (lambda: keras.optimizers.SGD(clipvalue=0.1), "updates of SGD with clipvalue depend"),
        (lambda: keras.optimizers.RMSprop(centered=True), "updates of RMSprop with centered depend"),
        (
            lambda: keras.optimizers.Adam(use_ema=True, ema_overwrite_frequency=3),
            "updates of Adam with ema_overwrite_frequency depend",
        ),
    ],
)
def test_an_unknown_slope_is_refused_beforehand(make, message):
    model = model_of()
    with pytest.raises(LCAError, match=message):
        Tracker(model, make(), Objective(model, LOSS, (X, Y)), LaggedCrossFit())


def test_the_slope_of_a_variable_with_a_constraint_is_refused_by_name():
    model = model_of()
    model.layers[1].kernel.constraint = keras.constraints.NonNeg()
    optimizer, objective = keras.optimizers.SGD(0.1), Objective(model, LOSS, (X, Y))
    message = r"'.*/kernel' has the constraint NonNeg, .*NextBatch\(lca\.RIGHT\), .*Sampled.* CrossFit"
    with pytest.raises(LCAError, match=message):
        Tracker(model, optimizer, objective, LaggedCrossFit())
    model.compile(optimizer, LOSS)
    callback = LCACallback(X, Y, estimator=LaggedCrossFit(), on_error="raise")
    with pytest.raises(LCAError, match=message):
        model.fit(X, Y, verbose=0, callbacks=[callback])
    Tracker(model, optimizer, objective, CrossFit())
    model.layers[1].kernel.trainable = False
    Tracker(model, optimizer, Objective(model, LOSS, (X, Y), frozen="omit"), LaggedCrossFit())


def variables(*values):
    return [keras.Variable(np.full((2, 2), value, "float32")) for value in values]


def test_a_dry_run_takes_the_variables_in_any_order_and_not_all_of_them():
    pair = variables(1.0, 2.0)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(pair)
    grads = [tf.fill([2, 2], 3.0), tf.fill([2, 2], -5.0)]
    optimizer.apply(grads, pair)
    for trained in (pair[::-1], pair[:1], pair):
        np.testing.assert_array_equal(*dry_and_real(optimizer, trained, pair, grads))


def test_exceptions_from_decay_and_constraints_are_in_a_dry_run():
    pair = variables(1.0, 2.0)
    decayed = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    decayed.exclude_from_weight_decay(var_list=pair[:1])
    np.testing.assert_array_equal(*dry_and_real(decayed, pair, pair, [tf.ones([2, 2])] * 2))
    layer = keras.layers.Dense(2, kernel_constraint="non_neg", bias_initializer="ones")
    layer.build((None, 2))
    weights = layer.trainable_weights
    grads = [tf.fill([2, 2], 100.0), tf.fill([2], 100.0)]
    found, wanted = dry_and_real(keras.optimizers.SGD(0.1), weights, weights, grads)
    np.testing.assert_array_equal(found, wanted)
    assert (np.abs(wanted[:4]) < 10).all()  # as 0.1 · 100 would be without the constraint


class Remembering(keras.optimizers.SGD):
    """An optimizer whose updates depend on what it keeps beside its variables."""

    def __init__(self):
        super().__init__(0.1)
        self.calls, self.mean, self.inner = 0, np.zeros(20_000), keras.optimizers.Adam(0.01)
        self.slow = [tf.Variable(0.0) for _ in range(300)]
        self.sum, self.history = keras.metrics.Sum(), [0] * 300

    def apply(self, grads, trainable_variables=None):
        self.calls += 1
        self.history.append(self.calls)
        self.sum.update_state(len(self.history))
        self.mean += self.calls + self.sum.result().numpy()
        self.slow[-1].assign_add(self.mean[-1])
        self.inner.apply(grads, trainable_variables)
        super().apply([self.slow[-1] * g for g in grads], trainable_variables)


def test_what_an_optimizer_keeps_beside_its_variables_is_restored():
    pair, grads = variables(1.0, 2.0), [tf.fill([2, 2], 3.0), tf.fill([2, 2], -5.0)]
    optimizer = Remembering()
    for _ in range(2):
        np.testing.assert_array_equal(*dry_and_real(optimizer, pair, pair, grads))
    assert (optimizer.calls, optimizer.mean[-1], int(optimizer.inner.iterations)) == (2, 3 + 301 + 603, 2)


class Noisy(keras.optimizers.SGD):
    def __init__(self, draw):
        super().__init__(0.1)
        self.draw = draw

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient + self.draw(gradient.shape), variable, learning_rate)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tf.random.normal,
        lambda: np.random.default_rng(0).standard_normal,
        lambda: np.random.RandomState(0).standard_normal,
        lambda: partial(lambda rng, shape: rng.random(), random.Random(0)),
    ],
    ids=["operation", "NumPy", "RandomState", "Python"],
)
def test_random_updates_are_refused_and_the_next_random_numbers_are_the_same(make):
    drawn, pair = [], variables(1.0)
    for refused in (False, True):
        keras.utils.set_random_seed(0)
        optimizer = Noisy(make())
        if refused:
            with pytest.raises(LCAError, match="Noisy draws random numbers.*requires no such update"):
                DryRun(optimizer, pair, pair).update(tf.ones(4), [True])
        drawn.append(optimizer.draw([2, 2]))
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize(
    "state",
    [
        lambda: tf.lookup.experimental.MutableHashTable(tf.int32, tf.float32, 0.0),
        lambda: ContextVar("calls"),
        lambda: bytearray(2),
        lambda: [[0.0] for _ in range(300)],
        lambda: [iter([1.0, 2.0])],
    ],
    ids=["table", "context", "bytes", "long list of lists", "iterator in a list"],
)
def test_what_cannot_be_restored_is_refused_before_a_dry_run(state):
    optimizer, pair = Noisy(tf.zeros), variables(1.0)
    optimizer.kept = state()
    with pytest.raises(LCAError, match=r"kept.* in Noisy is a .* cannot be restored .* use an estimator"):
        DryRun(optimizer, pair, pair)


def test_caches_of_installed_packages_and_long_lists_of_pairs_are_no_reason_to_refuse():
    optimizer, pair = Noisy(lambda shape: scipy.linalg.eigh(np.eye(2))[1]), variables(1.0)
    optimizer.history = [(0, 1.0)] * 300
    assert np.isfinite(DryRun(optimizer, pair, pair).update(tf.ones(4), [True])).all()


def test_a_dry_run_is_refused_where_gradients_outside_theta_count():
    pair, grads = variables(1.0, 2.0), [tf.fill([2, 2], 3.0), tf.fill([2, 2], -5.0)]
    for kind in (keras.optimizers.Adam, partial(keras.optimizers.SGD, clipnorm=0.1)):
        DryRun(kind(), pair, pair[1:]).check(grads)
    clipped = keras.optimizers.SGD(0.1, global_clipnorm=10.0)
    DryRun(clipped, pair, pair).check(grads)
    with pytest.raises(LCAError, match="depends on the gradients of others.*global_clipnorm"):
        DryRun(clipped, pair, pair[1:]).check(grads)


def slices(rows, *indices):
    return tf.IndexedSlices(tf.constant(rows), tf.constant(indices), tf.constant([2, 2]))


def test_a_dry_run_is_refused_where_repeated_rows_are_not_added_up():
    repeated, once = slices([[3.0, 1.0], [1.0, 1.0]], 1, 1), slices([[3.0, 1.0]], 1)
    for gradient, kind in ((once, keras.optimizers.Adam), (repeated, keras.optimizers.SGD)):
        pair = variables(1.0)
        DryRun(kind(0.1), pair, pair).check([gradient])
    with pytest.raises(LCAError, match="Adam does not add up rows .* Apply dense gradients"):
        DryRun(keras.optimizers.Adam(0.1), pair, pair).check([repeated])


@pytest.mark.parametrize("kind", [keras.optimizers.Adam, keras.optimizers.RMSprop])
def test_the_slope_for_repeated_rows_is_that_of_the_update(kind):
    pair, optimizer, gradient = variables(1.0), kind(0.1), slices([[3.0, 1.0], [1.0, 1.0]], 1, 1)
    slope = update_slope(optimizer, pair, pair, [gradient])
    before = flat(pair)
    optimizer.apply([gradient], pair)
    found, wanted = slope * tf.reshape(tf.convert_to_tensor(gradient), [-1]), flat(pair) - before
    assert np.abs(found - wanted).max() <= tolerances.summed(4.0, EPS32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
            "LossScaleOptimizer is given scaled",
        ),
        (lambda: keras.optimizers.SGD(0.1, loss_scale_factor=1024.0), "is given scaled gradients"),
        (
            lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
            r"accumulates.*tracker\.add.*SampledPath",
        ),
    ],
    ids=["loss scale", "loss scale factor", "accumulation"],
)
def test_gradients_that_are_not_those_of_the_update_are_refused(make, message):
    model, optimizer = model_of(), make()
    with (
        pytest.raises(LCAError, match=message),
        Tracker(model, optimizer, Objective(model, LOSS, (X, Y)), SameBatch(), on_error="raise"),
    ):
        optimizer.apply(gradients(model, BATCHES[0]), model.trainable_weights)
