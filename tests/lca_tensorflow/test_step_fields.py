"""Step fields, where Keras is special; what all frameworks share is in `tests.laws`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from lca.errors import LCAError
from lca.estimators import CrossFit, SameBatch
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
    with Tracker(model, optimizer, objective, CrossFit(), on_error="raise") as tracker:
        for _ in range(2):
            total = None
            for (x, y), weight in tracker.micro_batches(data, 2):
                with tf.GradientTape() as tape:
                    loss = weight * LOSS(y, model(x, training=True))
                total = tracker.add(total, tape.gradient(loss, model.trainable_weights))
            optimizer.apply(total, model.trainable_weights)
    assert tracker.summary()["train"]["steps"] == 1


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
