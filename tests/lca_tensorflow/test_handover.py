"""What a Keras loop hands over: gradients, batches, micro_batches with the updates without them, errors."""

from dataclasses import dataclass, field

import keras
import numpy as np
import pytest
import tensorflow as tf

from lca import RIGHT, SIMPSON, StepAllocation, tolerances
from lca.allocation import Cost
from lca.errors import LCAError, LCAWarning
from lca.estimators import CrossFit, NextBatch, SameBatch, SampledPathIntegral
from lca.tolerances import EPS32
from lca_tensorflow import Objective, Tracker
from lca_tensorflow.optimizers import DryRun as Rehearsal

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 4)).astype("float32"), RNG.integers(3, size=40)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
STEPS, SIZE = 5, 8
BATCHES = [np.arange(SIZE * t, SIZE * (t + 1)) for t in range(STEPS)]
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


@dataclass
class Shown:
    """An estimator that keeps the steps."""

    required_fields: tuple = ("batch", "gradient", "micro_batches", "next_gradient", "scores")
    steps: list = field(default_factory=list)
    target, degree, cost, unbiased, bias = "batch", 1, Cost(), False, ""

    def start(self, objective):
        return self.allocate

    def allocate(self, step):
        self.steps.append(step)
        return StepAllocation(step.end - step.start, np.nan, np.nan, np.nan, 0.0, step=step.index)

    def reseeded(self, seed):
        return self


def model_of():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, "tanh"), keras.layers.Dense(3)])


def objective_of(model):
    return Objective(model, LOSS, (X, Y))


def gradients(model, index, share=1.0, told=lambda outputs: None):
    with tf.GradientTape() as tape:
        outputs = model(X[index], training=True)
        loss = share * LOSS(Y[index], outputs)
    told(outputs)
    return tape.gradient(loss, model.trainable_weights)


def halves(index):
    return index[: SIZE // 2], index[SIZE // 2 :]


def train(estimator, optimizer, *, steps=STEPS, **options):
    """The tracker of a run whose batches are cut in two."""
    model, optimizer = model_of(), OPTIMIZERS[optimizer]()
    tracker = Tracker(model, optimizer, objective_of(model), estimator, on_error="raise", **options)
    with tracker:
        for index in tracker.batches(BATCHES[:steps]):
            total = None
            for part, share in tracker.micro_batches(index, 2):
                grads = gradients(model, part, share, lambda f, part=part: tracker.scores(part, f, Y[part]))
                total = tracker.add(total, grads)
            optimizer.apply(total, model.trainable_weights)
    return tracker, model


def flat(tensors):
    return np.concatenate([np.ravel(tensor) for tensor in tensors])


def cut(model, theta):
    weights = model.trainable_weights
    micro_batches = tf.split(theta, [int(np.prod(w.shape)) for w in weights])
    return [tf.reshape(part, w.shape).numpy() for part, w in zip(micro_batches, weights, strict=True)]


def stepped(name, steps, last):
    """θ after ``steps`` updates, and the movement of one more on the examples ``last`` alone."""
    model, optimizer = model_of(), OPTIMIZERS[name]()
    for index in BATCHES[:steps]:
        optimizer.apply(gradients(model, index), model.trainable_weights)
    before = flat(model.get_weights())
    optimizer.apply(gradients(model, last), model.trainable_weights)
    return flat(model.get_weights()) - before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_without_a_part_are_those_that_the_optimizer_makes(name):
    estimator = Shown()
    train(estimator, name)
    for t in (0, 1, 3):
        for part, others in zip(estimator.steps[t].micro_batches, reversed(halves(BATCHES[t])), strict=True):
            wanted = stepped(name, t, others)
            gap = np.abs(part.update.numpy() - wanted).max()
            # A movement is a small difference of θ, and Adam's first ones have the size of the learning rate.
            assert gap <= tolerances.summed(4.0, EPS32)
            assert gap <= 0.01 * np.abs(wanted).max()


def test_what_is_handed_over_is_what_the_loop_had():
    estimator = Shown()
    _, model = train(estimator, "sgd")
    assert [step.index for step in estimator.steps] == list(range(STEPS - 1))
    limit = tolerances.gradient(1.0, EPS32)
    for step, index in zip(estimator.steps, BATCHES, strict=False):
        assert step.batch is index
        model.set_weights(cut(model, step.start))
        whole = flat(gradients(model, index))
        assert np.abs(step.gradient.numpy() - whole).max() <= limit
        assert np.abs((step.end - step.start).numpy() + 0.1 * whole).max() <= limit
        for part, half in zip(step.micro_batches, halves(index), strict=True):
            assert np.abs(part.gradient.numpy() - flat(gradients(model, half))).max() <= limit
        right = tf.nn.softmax(model(X[index])).numpy()[np.arange(SIZE), Y[index]]
        assert step.scores.index.tolist() == index.tolist()
        assert np.abs(step.scores.values - (1 - right)).max() <= limit
        model.set_weights(cut(model, step.end))
        following = flat(gradients(model, BATCHES[step.index + 1]))
        assert np.abs(step.next_gradient.numpy() - following).max() <= limit


@pytest.mark.parametrize(
    "estimator",
    [SameBatch(), NextBatch(RIGHT), CrossFit(), SampledPathIntegral(size=10, sampling="importance")],
    ids=repr,
)
def test_training_is_the_same_and_estimators_run(estimator):
    tracker, model = train(estimator, "adam")
    summary = tracker.summary()["train"]
    late = any(need.startswith("next_") for need in estimator.required_fields)
    assert (summary["steps"], tracker.skipped_steps) == (STEPS - late, int(late))
    _, alone = train(None, "adam", every=lambda step: False)
    assert np.array_equal(flat(model.get_weights()), flat(alone.get_weights()))


def test_batches_are_measured_on_where_an_estimator_asks_for_it():
    model, optimizer = model_of(), keras.optimizers.SGD(0.1)
    tracker = Tracker(model, optimizer, objective_of(model), NextBatch(SIMPSON), on_error="raise")
    with tracker:
        for x, y in tracker.batches([(X[index], Y[index]) for index in BATCHES]):
            with tf.GradientTape() as tape:
                loss = LOSS(y, model(x, training=True))
            optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
    assert tracker.summary()["train"]["steps"] == STEPS - 1


def rehearsed(optimizer, trained, wanted, grads):
    """What `Rehearsal` says, and what really happens."""
    vector = tf.concat([tf.reshape(g, [-1]) for g in grads], 0)
    by_variable = dict(zip(map(id, wanted), grads, strict=True))
    rehearsal = Rehearsal(optimizer, trained, wanted)
    before = [v.numpy() for v in (*optimizer.variables, *wanted)]
    found = rehearsal.update(vector, [True] * len(trained)).numpy()
    for value, variable in zip(before, (*optimizer.variables, *wanted), strict=True):
        np.testing.assert_array_equal(value, variable.numpy())
    start = flat(wanted)
    optimizer.apply([by_variable[id(v)] for v in trained], trained)
    return found, flat(wanted) - start


def variables(*values):
    return [keras.Variable(np.full((2, 2), value, "float32")) for value in values]


def test_an_update_is_rehearsed_whatever_order_or_part_of_the_variables_is_applied():
    pair = variables(1.0, 2.0)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(pair)
    grads = [tf.fill([2, 2], 3.0), tf.fill([2, 2], -5.0)]
    optimizer.apply(grads, pair)
    for trained in (pair[::-1], pair[:1], pair):
        np.testing.assert_array_equal(*rehearsed(optimizer, trained, pair, grads))


def test_exceptions_from_decay_and_constraints_are_in_the_rehearsal():
    pair = variables(1.0, 2.0)
    decayed = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    decayed.exclude_from_weight_decay(var_list=pair[:1])
    np.testing.assert_array_equal(*rehearsed(decayed, pair, pair, [tf.ones([2, 2])] * 2))
    layer = keras.layers.Dense(2, kernel_constraint="non_neg", bias_initializer="ones")
    layer.build((None, 2))
    weights = layer.trainable_weights
    grads = [tf.fill([2, 2], 100.0), tf.fill([2], 100.0)]
    found, wanted = rehearsed(keras.optimizers.SGD(0.1), weights, weights, grads)
    np.testing.assert_array_equal(found, wanted)
    assert (np.abs(wanted[:4]) < 10).all()  # as 0.1 · 100 would be without the constraint


def test_gradients_of_embeddings_are_added():
    model = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Embedding(4, 3)])
    model.add(keras.layers.Flatten())
    optimizer, data = keras.optimizers.SGD(0.1), (np.array([[0, 1], [1, 2]]), np.array([1, 2]))
    objective = Objective(model, LOSS, data)
    with Tracker(model, optimizer, objective, CrossFit(), on_error="raise") as tracker:
        for _ in range(2):
            total = None
            for (x, y), share in tracker.micro_batches(data, 2):
                with tf.GradientTape() as tape:
                    loss = share * LOSS(y, model(x, training=True))
                total = tracker.add(total, tape.gradient(loss, model.trainable_weights))
            optimizer.apply(total, model.trainable_weights)
    assert tracker.summary()["train"]["steps"] == 1


def test_batches_that_make_no_update_are_forgotten():
    estimator = Shown(required_fields=("batch", "micro_batches"))
    model, optimizer = model_of(), keras.optimizers.SGD(0.1)
    with Tracker(model, optimizer, objective_of(model), estimator, on_error="raise") as tracker:
        for n, index in enumerate(tracker.batches(BATCHES)):
            total = None
            for part, share in tracker.micro_batches(index, 2):
                total = tracker.add(total, gradients(model, part, share))
                if n == 1:
                    break  # given up halfway
            if n == 3:
                with pytest.raises(ValueError, match="nonsense"), tracker.step():
                    raise ValueError("nonsense")
            elif n != 1:
                optimizer.apply(total, model.trainable_weights)
    assert [step.batch.tolist() for step in estimator.steps] == [BATCHES[n].tolist() for n in (0, 2, 4)]
    assert [len(step.micro_batches) for step in estimator.steps] == [2, 2, 2]


def test_a_skipped_batch_is_not_measured_on():
    estimator = Shown(required_fields=("batch",))
    model, optimizer = model_of(), keras.optimizers.SGD(0.1)
    with Tracker(model, optimizer, objective_of(model), estimator, on_error="raise") as tracker:
        for n, index in enumerate(tracker.batches(BATCHES[:4])):
            if n % 2:
                optimizer.apply(gradients(model, index), model.trainable_weights)
    assert [step.batch.tolist() for step in estimator.steps] == [BATCHES[n].tolist() for n in (1, 3)]


def test_gradients_may_come_from_an_iterator():
    theta = []
    for estimator in (None, SameBatch()):
        model, optimizer = model_of(), keras.optimizers.SGD(0.1)
        with Tracker(model, optimizer, objective_of(model), estimator, on_error="raise") as tracker:
            for index in BATCHES[:2]:
                optimizer.apply(iter(gradients(model, index)), iter(model.trainable_weights))
        assert tracker.steps == 2
        theta.append(flat(model.get_weights()))
    assert np.array_equal(*theta)


def test_several_batches_to_an_update_are_its_parts():
    estimator = Shown(required_fields=("micro_batches", "batch"))
    model, optimizer = model_of(), keras.optimizers.SGD(0.1)
    with Tracker(model, optimizer, objective_of(model), estimator, on_error="raise") as tracker:
        total = None
        for n, index in enumerate(tracker.batches(BATCHES[:4])):
            total = tracker.add(total, gradients(model, index, 0.5))
            if n % 2:
                optimizer.apply(total, model.trainable_weights)
                total = None
    assert [len(step.micro_batches) for step in estimator.steps] == [2, 2]
    assert estimator.steps[1].batch.numpy().tolist() == [*BATCHES[2], *BATCHES[3]]
    model.set_weights(cut(model, estimator.steps[0].start))
    for part, index in zip(estimator.steps[0].micro_batches, BATCHES[:2], strict=True):
        gap = np.abs(part.gradient.numpy() - flat(gradients(model, index))).max()
        assert gap <= tolerances.gradient(1.0, EPS32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), "is given scaled gradients"),
        (lambda: keras.optimizers.SGD(0.1, loss_scale_factor=1024.0), "is given scaled gradients"),
        (lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), r"accumulates.*tracker\.add"),
    ],
    ids=["loss scale", "loss scale factor", "accumulation"],
)
def test_gradients_that_are_not_the_update_s_are_refused(make, message):
    model, optimizer = model_of(), make()
    with (
        pytest.raises(LCAError, match=message),
        Tracker(model, optimizer, objective_of(model), SameBatch(), on_error="raise"),
    ):
        optimizer.apply(gradients(model, BATCHES[0]), model.trainable_weights)


def test_what_the_loop_did_not_hand_over_is_asked_for():
    model, optimizer = model_of(), keras.optimizers.SGD(0.1)
    with Tracker(model, optimizer, objective_of(model), CrossFit(), on_error="raise"):
        optimizer.apply(gradients(model, BATCHES[0]), model.trainable_weights)
        with pytest.raises(LCAError, match=r"needs Step\.micro_batches.*tracker\.micro_batches\(batch, 2\)"):
            optimizer.apply(gradients(model, BATCHES[1]), model.trainable_weights)
    with pytest.raises(LCAError, match="whole number of micro-batches ≥ 1, got 0"):
        next(train(Shown(), "sgd")[0].micro_batches(BATCHES[0], 0))


def test_a_step_that_lacks_what_others_had_is_left_out_and_counted():
    """As the batches do that are left over from accumulation at the end of an epoch."""
    model, optimizer = model_of(), keras.optimizers.SGD(0.1)
    tracker = Tracker(model, optimizer, objective_of(model), CrossFit())

    def ragged():
        with tracker:
            for t, index in enumerate(BATCHES):
                total = None
                for part in (index,) if t == 2 else halves(index):
                    total = tracker.add(total, gradients(model, part, len(part) / len(index)))
                optimizer.apply(total, model.trainable_weights)

    with pytest.warns(
        LCAWarning, match=r"left out, as all like it.*step 1: CrossFit.* needs Step\.next_micro_batches"
    ):
        ragged()
    assert tracker.error is None
    # Step 1 would be measured with the gradient of a group that is no whole one, and step 4 has no next.
    summary = tracker.summary()["train"]
    assert (summary["steps"], summary["skipped_steps"], tracker.skipped_steps, tracker.discontinuities) == (
        2,
        3,
        3,
        0,
    )
