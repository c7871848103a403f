"""Step fields, where Keras is special; what all frameworks share is in `tests.laws`."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import lca
from lca import tolerances
from lca.errors import DataError, LCAError, LCAWarning
from lca.estimators import CrossFit, NextBatch, SameBatch
from lca.tolerances import EPS64
from lca_tensorflow import Objective, Tracker
from tests.laws.runs import BATCHES, Kept, Shown
from tests.lca_tensorflow.tracked_run import LOSS, TensorFlowFramework


def started(estimator):
    return TensorFlowFramework().run(estimator, on_error="raise", views=Kept)


def test_gradients_of_embeddings_are_added():
    model = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Embedding(4, 3)])
    model.add(keras.layers.Flatten())
    optimizer, data = keras.optimizers.SGD(0.1), (np.array([[0, 1], [1, 2]]), np.array([1, 2]))
    objective = Objective(model, LOSS, data)
    with Tracker(
        model, optimizer, objective, CrossFit(independent=True, epoch=1), on_error="raise"
    ) as tracker:
        for _ in range(2):
            total = None
            for (x, y), weight in tracker.micro_batches(data, 2):
                with tf.GradientTape() as tape:
                    loss = weight * LOSS(y, model(x, training=True))
                total = tracker.add(total, tape.gradient(loss, model.trainable_weights))
            optimizer.apply(total, model.trainable_weights)
    assert tracker.summary()["train"]["steps"] == 1


def test_weights_of_batches_may_be_tensors():
    estimator = Shown(("micro_batches",))
    batch = tf.eye(4), tf.range(4)
    with started(estimator).tracker as tracker:
        pieces = tracker.micro_batches(batch, 2, weight=lambda piece: tf.size(piece[1]))
        assert [weight for _, weight in pieces] == [0.5, 0.5]
        tracker.begin_batch(batch, weight=tf.constant(2.0))
        with pytest.raises(LCAError, match=r"a number ≥ 0, got -1\.0"):
            tracker.begin_batch(batch, weight=tf.constant(-1.0))


def test_a_batch_of_training_that_cannot_be_measured_is_named_as_such():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    objective = Objective(model, LOSS, (np.eye(2), np.array([1, 2])))
    batch = tf.ragged.constant([[1.0], [2.0, 3.0]]), tf.constant([0, 1])
    message = r"batch of training \(tuple of RaggedTensor, int32 \(2,\)\) .*hold a RaggedTensor.*to_tensor"
    with pytest.raises(DataError, match=message):
        objective.loss(objective.theta(), batch)


def test_batches_given_up_halfway_or_with_an_error_are_forgotten():
    estimator = Shown(("batch", "micro_batches"))
    run = started(estimator)
    with run.tracker as tracker:
        for n, data in enumerate(tracker.batches(map(run.data, BATCHES))):
            total = None
            for piece, weight in tracker.micro_batches(data, 2):
                total = tracker.add(total, run.gradient(piece, weight))
                if n == 1:
                    break
            if n == 3:
                with pytest.raises(ValueError, match="nonsense"), tracker.step():
                    raise ValueError("nonsense")
            elif n != 1:
                run.apply(total)
    wanted = [run.data(BATCHES[n])[0].numpy() for n in (0, 2, 4)]
    for step, x in zip(estimator.steps, wanted, strict=True):
        np.testing.assert_array_equal(step.batch[0].numpy(), x)
        assert len(step.micro_batches) == 2


def test_gradients_may_come_from_an_iterator():
    left = []
    for estimator in (None, SameBatch()):
        run = started(estimator)
        with run.tracker as tracker:
            for batch in BATCHES[:2]:
                gradients = run.gradient(run.data(batch))
                run.optimizer.apply(iter(gradients), iter(run.model.trainable_weights))
        assert tracker.steps == 2
        left.append(run.left())
    for ours, theirs in zip(*left, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_compiled_step_supplies_no_gradient():
    run = started(SameBatch())

    def compiled():
        with run.tracker as tracker, tracker.step():
            run.update(BATCHES[0])

    with pytest.raises(LCAError, match=r"Step\.gradient.*call optimizer\.apply eagerly"):
        compiled()


# --- micro-batches and clipping in loops by hand ---------------------------------------------------------

LR = 0.125  # exact in float32, in which Keras keeps it
HALVES = list(range(0, 8)), list(range(8, 12))  # of unequal size


class ByHand:
    """A loop that accumulates batches, clips the total by norm, and updates with plain SGD."""

    def __init__(self, estimator, batches=HALVES, **options):
        self.run = TensorFlowFramework().run()
        self.optimizer = keras.optimizers.SGD(LR)
        self.tracker = Tracker(
            self.run.model, self.optimizer, self.run.objective, estimator, on_error="raise", **options
        )
        self.batches = batches
        self.gradient = self.run.gradient

    def update(self, *, add=True, largest=0.05, told=True, skipped=None, weight=None):
        """One update; returns the gradient of each batch as (K,)."""
        data = [self.run.data(batch) for batch in self.batches]
        total, own = None, []
        seen = self.tracker.batches(data, weight) if told else data
        for n, batch in enumerate(seen):
            if n == skipped:
                continue
            gradients = self.gradient(batch)
            own.append(gradients)
            if add:
                total = self.tracker.add(total, gradients)
            else:
                total = gradients if total is None else [a + b for a, b in zip(total, gradients, strict=True)]
        if largest is not None:
            total, _ = tf.clip_by_global_norm(total, largest)
        self.optimizer.apply(total, self.run.model.trainable_weights)
        return [tf.concat([tf.reshape(g, [-1]) for g in gradients], 0).numpy() for gradients in own]

    def measure(self, updates=3, **options):
        with self.tracker:
            return [self.update(**options) for _ in range(updates)]


def test_gradients_are_those_of_the_loss_and_updates_those_of_the_clipped_gradient():
    estimator = Shown(("gradient", "micro_batches"))
    loop = ByHand(estimator, batches=(list(range(6)), list(range(6, 12))))
    found, shrink = loop.measure(), 1.0
    for step, own in zip(estimator.steps, found, strict=True):
        total, halves = own[0] + own[1], [2 * own[0], 2 * own[1]]
        norms = [float(np.linalg.norm(half)) for half in halves]
        assert min(norms) > 0.05
        limit = tolerances.gradient(4.0, EPS64)
        assert np.abs(step.gradient.numpy() - total).max() <= limit
        for m, micro_batch in enumerate(step.micro_batches):
            assert np.abs(micro_batch.gradient.numpy() - halves[m]).max() <= limit
            clipped = min(1.0, 0.05 / (shrink * norms[1 - m])) * halves[1 - m]  # the other half by itself
            assert np.abs(micro_batch.update.numpy() + LR * clipped).max() <= limit
        shrink = np.linalg.norm(total) / np.mean(norms)  # of half a batch, predicted from the step before


@pytest.mark.parametrize("estimator", [SameBatch(), CrossFit()], ids=["same batch", "cross-fit"])
def test_gradients_clipped_by_hand_are_refused_unless_passed_on_before(estimator):
    with pytest.raises(LCAError, match=r"the loop alters gradients.*tracker\.add\(None"):
        ByHand(estimator).measure(1, add=False)
    assert len(ByHand(SameBatch()).measure(add=False, largest=None)) == 3
    assert len(ByHand(SameBatch()).measure()) == 3


def with_changed(change, monkeypatch):
    """A loop that changes its gradients by ``change`` where it clips the total."""
    monkeypatch.setattr(tf, "clip_by_global_norm", lambda gradients, _: (list(map(change, gradients)), None))
    return ByHand(SameBatch(), batches=[range(12)])


CHANGES = {
    "clipped": lambda gradient: tf.clip_by_value(gradient, -1e-3, 1e-3),
    "scaled": lambda gradient: 0.5 * gradient,
    "noisy": lambda gradient: gradient + 1e-3,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_gradients_altered_by_hand_are_refused(change, monkeypatch):
    own = tf.GradientTape.gradient
    with pytest.raises(LCAError, match="the loop alters gradients between.* let the optimizer do that"):
        with_changed(change, monkeypatch).measure(1, add=False)
    assert tf.GradientTape.gradient is own


@pytest.mark.parametrize("change", [tf.identity, lambda gradient: tf.clip_by_value(gradient, -1e6, 1e6)])
def test_gradients_that_keep_their_values_are_those_of_the_loss(change, monkeypatch):
    assert len(with_changed(change, monkeypatch).measure(2, add=False)) == 2


def sharpness_aware(run, data, *, there):
    """An update by the gradient taken where an ascent has led, or, if not ``there``, where it began."""
    weights = run.model.trainable_weights
    here, before = run.gradient(data), [weight.numpy() for weight in weights]
    for weight, gradient in zip(weights, here, strict=True):
        weight.assign_add(0.1 * gradient)
    elsewhere = run.gradient(data)
    for weight, value in zip(weights, before, strict=True):
        weight.assign(value)
    run.optimizer.apply(elsewhere if there else here, weights)


def test_gradients_that_are_taken_elsewhere_are_refused():
    run = TensorFlowFramework().run()
    data = run.data(range(12))
    with Tracker(run.model, run.optimizer, run.objective, SameBatch(), on_error="raise") as tracker:
        sharpness_aware(run, data, there=False)
        assert tracker.steps == 1
        with pytest.raises(LCAError, match="was changed between the tape .* like SAM"):
            sharpness_aware(run, data, there=True)


def compiled(loop):
    """The loop with gradients that no eager tape computes."""
    loop.gradient = tf.function(loop.gradient)
    return loop


def test_of_gradients_that_cannot_be_compared_one_warning_says_so():
    with pytest.warns(LCAWarning, match=r"cannot tell whether.*tracker\.add\(None, gradients\)") as said:
        compiled(ByHand(SameBatch())).measure(2, add=False, largest=None)
    assert len(said) == 1
    compiled(ByHand(SameBatch())).measure(2)  # with add


def test_two_optimizers_may_share_the_gradients_of_one_tape():
    run = TensorFlowFramework().run()
    weights, optimizers = (
        run.model.trainable_weights,
        [keras.optimizers.SGD(LR), keras.optimizers.SGD(LR / 2)],
    )
    with Tracker(run.model, optimizers, run.objective, SameBatch(), on_error="raise") as tracker:
        gradients = run.gradient(run.data(range(12)))
        optimizers[0].apply(gradients[:2], weights[:2])
        optimizers[1].apply(gradients[2:], weights[2:])
    assert tracker.steps == 2


def updated(estimator, *blocks):
    """The tracker of a run whose updates have gradients of these tensors only."""
    run = TensorFlowFramework().run()
    weights = run.model.trainable_weights
    run.optimizer.build(weights)
    with Tracker(run.model, run.optimizer, run.objective, estimator, on_error="raise") as tracker:
        for block in blocks:
            run.optimizer.apply(run.gradient(run.data(range(12)))[block], weights[block])
    return tracker


@pytest.mark.parametrize(("estimator", "skipped"), [(NextBatch(lca.RIGHT), 2), (SameBatch(), 0)])
@pytest.mark.filterwarnings("ignore:skipped, as are later steps")
def test_a_step_is_skipped_if_the_next_update_has_no_gradient_of_what_it_moved(estimator, skipped):
    whole, block = slice(0, 4), slice(0, 2)
    assert updated(estimator, whole, whole, block, whole, whole).skipped_steps == skipped  # second and last


def test_updates_of_blocks_in_turns_are_refused_with_the_reason():
    reason = "a gradient of every tensor that the previous update has moved; .* two optimizers .*SampledPathI"
    with pytest.raises(LCAError, match=reason):
        updated(NextBatch(lca.RIGHT), slice(0, 2), slice(2, 4))


DRAWN = np.random.default_rng(0).integers(2, size=20).tolist()
HEADS = [[0, 1, 2], [0, 1, 3]]
"""The tensors that each of two domains has gradients of."""


def of_domain(gradients, domain):
    """The gradients of a loss that depends on the tensors of one domain."""
    return [g if which in HEADS[domain] else None for which, g in enumerate(gradients)]


def train_domains(estimator, domains_of, updates=20):
    """Each micro-batch of update ``i`` is of one of these domains."""
    run = started(estimator)
    with run.tracker as tracker:
        for i in range(updates):
            total = None
            pieces = tracker.micro_batches(run.data(BATCHES[i % 4]), len(domains_of(i)))
            for domain, (piece, weight) in zip(domains_of(i), pieces, strict=True):
                total = tracker.add(total, of_domain(run.gradient(piece, weight), domain))
            run.optimizer.apply(total, run.model.trainable_weights)


@pytest.mark.filterwarnings("ignore:Gradients do not exist", "ignore:the allocations of the loss")
@pytest.mark.filterwarnings("ignore:.* updates were made from the batch of the update before")
@pytest.mark.parametrize(
    ("estimator", "domains_of", "said"),
    [
        (CrossFit(), lambda i: [0, 1], "the micro-batches of an update have gradients for different"),
        (NextBatch(lca.RIGHT), lambda i: [i % 2], "updates have gradients for different parameters in turn"),
        (NextBatch(lca.RIGHT), lambda i: [0, 1], ""),
        (SameBatch(), lambda i: [i % 2], ""),
        (NextBatch(lca.RIGHT), lambda i: [DRAWN[i]], ""),
    ],
    ids=["in each update", "in turn", "in each, whole gradient", "in turn, same batch", "in no order"],
)
def test_domains_with_tensors_of_their_own_are_warned_of(estimator, domains_of, said):
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", ".*have gradients for different")
        train_domains(estimator, domains_of)
    texts = [str(one.message) for one in caught]
    assert [text.startswith(said) for text in texts] == [True] * bool(said)


def test_two_updates_from_one_batch_are_refused_with_the_reason():
    run = TensorFlowFramework().run()
    weights = run.model.trainable_weights
    run.optimizer.build(weights)

    def trained():
        with Tracker(run.model, run.optimizer, run.objective, NextBatch(), on_error="raise") as tracker:
            for batch in tracker.batches([run.data(range(12))] * 2):
                gradient = run.gradient(batch)
                for block in (slice(0, 2), slice(2, 4)):
                    run.optimizer.apply(gradient[block], weights[block])

    with pytest.raises(LCAError, match="make one update from each batch: if two optimizers"):
        trained()


BY_HAND = {
    "norm 0.05": lambda gradients: tf.clip_by_global_norm(gradients, 0.05)[0],
    "largest entry 0.001": lambda gradients: [tf.clip_by_value(g, -1e-3, 1e-3) for g in gradients],
    "norm in '.*' of 0.01": lambda gradients: [tf.clip_by_norm(g, 1e-2) for g in gradients],
}


@pytest.mark.parametrize(("message", "clip"), BY_HAND.items(), ids=["by norm", "by value", "by tensor"])
@pytest.mark.filterwarnings("ignore:the estimator takes")
def test_compiled_gradients_that_are_clipped_are_told_by_their_size(message, clip, monkeypatch):
    loop = compiled(ByHand(SameBatch()))
    plain = loop.gradient
    loop.gradient = tf.function(lambda batch: clip(plain(batch)))
    loop.batches = [range(12)]
    with pytest.raises(LCAError, match=f"have the {message}, so the loop clips them"):
        loop.measure(add=False, largest=None)


@pytest.mark.parametrize(
    "x", [np.sin(np.arange(144.0)).reshape(24, 6), np.eye(6)[np.arange(24) % 5]], ids=["any", "one-hot"]
)
@pytest.mark.filterwarnings("ignore:the estimator takes")
def test_gradients_that_are_mean_signs_are_not_taken_for_clipped(x):
    x, y = x.astype("float32"), np.full((24, 4), 50.0)  # all errors have one sign
    loss, model = (
        keras.losses.MeanAbsoluteError(),
        keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)]),
    )
    optimizer, objective = keras.optimizers.SGD(0.01), Objective(model, loss, (x, y))

    @tf.function
    def gradient(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x))
        return tape.gradient(value, model.trainable_weights)

    with Tracker(model, optimizer, objective, NextBatch(lca.RIGHT), on_error="raise") as tracker:
        for at in range(0, 24, 6):
            optimizer.apply(gradient(x[at : at + 6], y[at : at + 6]), model.trainable_weights)
    assert tracker.steps == 4


@pytest.mark.parametrize("clip", list(BY_HAND.values())[1:], ids=["by value", "by tensor"])
@pytest.mark.filterwarnings("ignore:the loop changes gradients between")
def test_gradients_clipped_in_parts_are_refused_where_the_update_matters(clip, monkeypatch):
    monkeypatch.setattr(tf, "clip_by_global_norm", lambda gradients, _: (clip(gradients), None))
    with pytest.raises(LCAError, match="clipped entry by entry"):
        ByHand(CrossFit()).measure()
    loop = ByHand(estimator := Shown(("gradient",)))
    for step, own in zip(estimator.steps, loop.measure(), strict=True):
        assert np.abs(step.gradient.numpy() - sum(own)).max() <= tolerances.gradient(4.0, EPS64)


@pytest.mark.parametrize("combined", [True, False])
def test_gradients_passed_on_anew_are_those_of_the_loss_unless_the_loop_combines_them(combined, recwarn):
    loop = ByHand(SameBatch(), batches=[range(12)])
    with loop.tracker as tracker:
        for step in range(3):
            first = tracker.add(None, loop.gradient(loop.run.data(range(6))))
            total = tracker.add(None, loop.gradient(loop.run.data(range(6, 12))))
            if step == 1 and combined:
                total = [a + b for a, b in zip(first, total, strict=True)]
            loop.optimizer.apply(total, loop.run.model.trainable_weights)
    assert tracker.skipped_steps == combined
    found = [str(one.message) for one in recwarn if "update 1 has a gradient that is not" in str(one.message)]
    assert len(found) == combined


def test_the_tensors_of_a_batch_may_be_passed_on_apart():
    estimator = Shown(("batch", "micro_batches"))
    loop = ByHand(estimator, batches=([0, 1], [2, 3]))
    with loop.tracker as tracker:
        total = None
        for x, y in map(loop.run.data, loop.batches):
            tracker.begin_batch(x, y)
            total = tracker.add(total, loop.gradient((x, y)))
        loop.optimizer.apply(total, loop.run.model.trainable_weights)
    [step] = estimator.steps
    assert (len(step.batch), len(step.micro_batches), len(step.batch[0])) == (2, 2, 4)


@pytest.mark.parametrize("kind", [np.array, tf.Variable], ids=["arrays", "variables"])
@pytest.mark.parametrize("written", [True, False], ids=["written to", "not written to"])
def test_a_batch_of_arrays_or_variables_may_not_be_written_to(kind, written):
    loop = ByHand(Shown(("batch",)), batches=([0, 1],))
    x, y = (kind(tensor.numpy()) for tensor in loop.run.data(range(2)))
    with loop.tracker as tracker:
        tracker.begin_batch(x, y)
        gradients = loop.gradient((x, y))
        if written:
            _ = x.fill(0) if kind is np.array else x.assign(tf.zeros_like(x))
            with pytest.raises(LCAError, match="a batch was written to after the loop had begun with it"):
                loop.optimizer.apply(gradients, loop.run.model.trainable_weights)
        else:
            loop.optimizer.apply(gradients, loop.run.model.trainable_weights)
            assert tracker.steps == 1


def test_weights_of_batches_of_unequal_size_are_asked_for():
    for told in (True, False):
        with pytest.raises(LCAError, match=r"differ in size, or whose size is unknown.*pass weight= to trac"):
            ByHand(CrossFit()).measure(told=told)
    estimator = Shown(("micro_batches",))
    for own in ByHand(estimator).measure(updates=1, weight=lambda batch: len(batch[0])):
        for m, share in enumerate((2 / 3, 1 / 3)):
            gap = estimator.steps[0].micro_batches[m].gradient.numpy() - own[m] / share
            assert np.abs(gap).max() <= tolerances.gradient(4.0, EPS64)


def test_gradients_that_are_added_behind_the_loop_over_their_pieces_are_refused():
    loop = ByHand(CrossFit(), batches=[list(range(12))])

    def listed():
        with loop.tracker as tracker:
            total = None
            for piece, weight in list(tracker.micro_batches(loop.run.data(loop.batches[0]), 5)):
                total = tracker.add(total, loop.gradient(piece, weight))
            loop.optimizer.apply(total, loop.run.model.trainable_weights)

    with pytest.raises(LCAError, match=r"added when the loop over them had ended"):
        listed()


def test_several_gradients_of_one_batch_are_one_micro_batch():
    estimator = Shown(("micro_batches",))
    loop = ByHand(estimator, batches=([*range(4)], [*range(4, 8)]))
    with loop.tracker as tracker:
        total, own = None, []
        for x, y in tracker.batches(map(loop.run.data, loop.batches)):
            parts = [loop.gradient((x[:3], y[:3]), 0.75), loop.gradient((x[3:], y[3:]), 0.25)]
            for part in parts:
                total = tracker.add(total, part)
            own.append([2 * tf.reshape(a + b, [-1]) for a, b in zip(*parts, strict=True)])
        loop.optimizer.apply(total, loop.run.model.trainable_weights)
    for micro_batch, wanted in zip(estimator.steps[0].micro_batches, own, strict=True):
        gap = micro_batch.gradient - tf.concat(wanted, 0)
        assert np.abs(gap).max() <= tolerances.gradient(4.0, EPS64)


def test_a_batch_without_gradient_is_no_part_of_the_update():
    estimator = Shown(("batch", "micro_batches"))
    batches = [[0, 1], [2, 3], [4, 5]]
    for skipped in (1, 2):
        loop = ByHand(estimator, batches=batches)
        loop.measure(updates=1, skipped=skipped)
        used = [n for batch in batches if batch != batches[skipped] for n in batch]
        step = estimator.steps.pop()
        np.testing.assert_array_equal(step.batch[0].numpy(), loop.run.data(used)[0].numpy())
        assert len(step.micro_batches) == 2


def test_scaled_gradients_are_refused_before_the_first_step():
    run = TensorFlowFramework().run()
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(LR))
    for optimizers in (scaled, [run.optimizer, scaled]):
        with pytest.raises(LCAError, match="the optimizer LossScaleOptimizer is given scaled gradients"):
            Tracker(run.model, optimizers, run.objective, CrossFit())
