"""Measured data of every form: reading them leaves what training reads as it was, or they are refused."""

import random
import tempfile

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy.sparse import coo_array, csr_matrix
from tensorflow.python.eager import context

from lca import tolerances
from lca.errors import DataError, LCAWarning
from lca.frameworks import Batches
from lca.tolerances import EPS32
from lca_tensorflow import LCACallback, Objective, _dataset, _undisturbed
from tests.lca_tensorflow.networks import X, Y, cross_entropy, floats, mlp

LOSS = cross_entropy()
ROWS = tf.data.Dataset.from_tensor_slices((X, Y))
SPEC = tf.TensorSpec((6,)), tf.TensorSpec((), tf.int64)


class Source:
    """What data sets draw from, set back to its first state by `reset`."""

    def __init__(self):
        self.rng, self.old, self.plain = np.random.default_rng(0), np.random.RandomState(0), random.Random(0)
        self.passes, self.seen = 0, []
        self.order = np.arange(len(X))
        self.seeds = keras.random.SeedGenerator(0)
        self.stream = tf.random.Generator.from_seed(0)
        self.count = tf.Variable(0.0)
        random.seed(0)
        keras.utils.set_random_seed(0)


def jittered(source, x):
    return (
        x
        + source.stream.normal([6])
        + keras.random.normal([6], seed=source.seeds)
        + source.count.assign_add(1.0)
    )


def generated(source):
    def rows():
        source.passes += 1
        source.seen.append(source.passes)
        source.rng.shuffle(source.order)
        for n in source.order:
            noise = source.rng.normal() + source.old.normal() + source.plain.random()
            yield X[n] + noise + random.random() + np.random.normal() + source.passes, Y[n]  # noqa: NPY002

    return tf.data.Dataset.from_generator(rows, output_signature=SPEC)


def looked_up(source, x):
    return tf.ensure_shape(
        tf.numpy_function(lambda row: row + np.float32(source.rng.normal()), [x], tf.float32), [6]
    )


class Augmented(keras.utils.PyDataset):
    """Draws and counts while it is read, as data sets with augmentation do."""

    def __init__(self, source):
        super().__init__()
        self.source, self.cache = source, {}

    def __len__(self):
        return 3

    def __getitem__(self, index):
        self.cache[index] = self.source.rng.permutation(self.source.order)[:6]
        self.source.seen.append(index)
        rows = self.cache[index]
        return X[rows] + np.random.normal(), Y[rows]  # noqa: NPY002


class Loader:
    """Any object with batches."""

    def __init__(self, source):
        self.source = source

    def __iter__(self):
        self.source.rng.shuffle(self.source.order)
        for rows in np.split(self.source.order[:16], 2):
            yield X[rows], Y[rows]


DATA = {
    "shuffle": lambda source: ROWS.shuffle(17).batch(5),
    "seed": lambda source: ROWS.shuffle(17, seed=3).batch(5).prefetch(2),
    "split": lambda source: ROWS.shuffle(17, reshuffle_each_iteration=False).take(9).shuffle(9).batch(5),
    "cache": lambda source: ROWS.shuffle(17).cache().batch(5),
    "file": lambda source: ROWS.shuffle(17).cache(tempfile.mkdtemp() + "/cache").batch(5),
    "mixture": lambda source: tf.data.Dataset.sample_from_datasets(
        [ROWS, ROWS], seed=1, rerandomize_each_iteration=True
    ).batch(5),
    "map": lambda source: ROWS.shuffle(17).map(lambda x, y: (jittered(source, x), y)).batch(5),
    "stateful": lambda source: ROWS.map(lambda x, y: (x + tf.random.normal([6]), y)).batch(5),
    "numpy_function": lambda source: ROWS.map(lambda x, y: (looked_up(source, x), y)).batch(5),
    "generator": lambda source: generated(source).shuffle(17).batch(5).prefetch(2),
    "nested": lambda source: (
        ROWS.batch(5).interleave(lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).shuffle(5)).batch(5)
    ),
    "PyDataset": Augmented,
    "loader": Loader,
}


def passes_of(data):
    """Two passes as training makes them."""
    batches = (lambda: map(data.__getitem__, range(3))) if isinstance(data, Augmented) else lambda: iter(data)
    return [np.concatenate([np.ravel(part) for part in batch]) for _ in range(2) for batch in batches()]


def after_measuring(data, keep):
    with floats("float32"):
        model = mlp()
    keras.utils.set_random_seed(5)
    objective = Objective(model, LOSS, data, keep=keep, run_eagerly=True)
    objective.loss(objective.theta())
    objective.loss_and_grad(objective.theta())


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "read again"])
@pytest.mark.parametrize("name", DATA)
def test_reading_data_does_not_change_what_training_reads(name, keep):
    found = []
    for measure in (False, True):
        source = Source()
        data = DATA[name](source)
        if measure:
            after_measuring(data, keep)
        keras.utils.set_random_seed(5)
        found.append(passes_of(data))
        left = source.passes, source.seen, source.order.tolist(), random.random(), np.random.normal()  # noqa: NPY002
        found[-1].append(np.array([*left[1], *left[2], left[0], *left[3:], float(source.count)]))
    for plain, measured in zip(*found, strict=True):
        np.testing.assert_array_equal(plain, measured)


def test_fit_on_the_measured_data_set_trains_as_without():
    left = []
    for measured in (False, True):
        source = Source()
        with floats("float32"):
            model = mlp()
        model.compile(keras.optimizers.Adam(0.01), LOSS)
        data = DATA["map"](source)
        callbacks = [LCACallback(data, on_error="raise")] if measured else []
        history = model.fit(data, epochs=2, verbose=0, shuffle=False, callbacks=callbacks).history
        left.append([history["loss"], *(v.numpy() for v in (*model.variables, *model.optimizer.variables))])
    for ours, theirs in zip(*left, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_all_examples_of_a_shuffled_data_set_are_measured():
    model = mlp()
    whole = Objective(model, LOSS, (X, Y))
    for data in (ROWS.shuffle(17).batch(5), ROWS.batch(5).cache().prefetch(2)):
        ours = Objective(model, LOSS, data)
        expected = whole.loss(whole.theta())
        assert abs(ours.loss(ours.theta()) - expected) <= tolerances.summed(expected, EPS32)


def test_passes_of_a_shuffled_data_set_are_the_same_every_time():
    objective = Objective(mlp(), LOSS, ROWS.shuffle(17).batch(5), keep=False)
    assert isinstance(objective._data, Batches)
    first, second = ([batch[1].numpy() for batch in objective._data.batches()] for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_session_without_a_seed_has_none_afterwards(monkeypatch):
    monkeypatch.delattr(context.context(), "_rng", raising=False)  # as before tf.random.set_seed
    with _undisturbed.undisturbed(ROWS):
        pass
    assert not hasattr(context.context(), "_rng")


def test_data_are_put_back_also_after_an_error():
    rng = np.random.default_rng(0)

    def broken():
        yield X[:5] + rng.normal(), Y[:5]
        raise OSError("no such file")

    class Broken:
        def __iter__(self):
            return broken()

    with pytest.raises(OSError, match="no such file"):
        Objective(mlp(), LOSS, Broken())
    assert rng.normal() == np.random.default_rng(0).normal()


def test_a_large_array_is_not_copied_but_must_not_change(monkeypatch):
    monkeypatch.setattr(_undisturbed, "LARGE", 100)

    class Scaled(Augmented):
        def __getitem__(self, index):
            self.source.order *= 2
            return X[:6], Y[:6]

    Objective(mlp(), LOSS, Augmented(Source()))
    with pytest.raises(DataError, match=r"changed an array of shape \(17,\).*change a copy of it"):
        Objective(mlp(), LOSS, Scaled(Source()))


def test_a_data_set_too_large_to_copy_is_refused(monkeypatch):
    monkeypatch.setattr(_dataset, "LARGEST", 100)
    with pytest.raises(DataError, match=r"more than 1 GiB of tensors.*pass the arrays themselves: \(x, y\)"):
        Objective(mlp(), LOSS, ROWS.batch(5))


LEFT_OVER = iter([X[:5]])


def used_up():
    for x in LEFT_OVER:
        yield x, Y[:5]


def drawn_by_tensorflow():
    yield X[:5] + tf.random.normal([5, 6]), Y[:5]


def batches(function):
    signature = tf.TensorSpec((5, 6)), tf.TensorSpec((5,), tf.int64)
    return tf.data.Dataset.from_generator(function, output_signature=signature)


class Endless(Augmented):
    num_batches = None


FRAME = pd.DataFrame(X, columns=list("abcdef"))
REFUSED = {
    "hold a list_iterator, which reading them would use up": lambda: batches(used_up),
    "draws from TensorFlow's global generator.*draw with NumPy": lambda: batches(drawn_by_tensorflow),
    r"repeats without end; measure on it before \.repeat": lambda: ROWS.batch(5).repeat(),
    r"PyDataset has no length; define __len__": lambda: Endless(Source()),
    r"a list is a list of batches \(x, y\), and this one holds arrays; pass the tuple": lambda: [X, Y, X],
    r"a list of two tensors, which is read as two batches": lambda: [X, Y],
    r"must be a tuple \(x, y\).*may be dictionaries.*got dict": lambda: {"x": X, "y": Y},
    r"must be a tuple \(x, y\).*got DataFrame": lambda: FRAME,
    r"the data are one tensor, and loss_fn also takes targets": lambda: X,
    r"hold no targets, which the loss needs; pass \(x, y\)": lambda: (X, None),
    "hold a single number beside arrays.*batch_loss": lambda: (X, Y, np.float64(2.0)),
    r"drop_remainder=True\) leaves out 2 of the 17 examples": lambda: ROWS.batch(5, drop_remainder=True),
    "the Dataset is one of 2 shards": lambda: ROWS.shard(2, 0).batch(5).prefetch(1),
    r"InvalidArgumentError: Received a label value of 3 which is outside .* \[0, 3\)": lambda: (X, Y + 1),
    "hold a RaggedTensor.*pass x.to_tensor": lambda: (tf.ragged.constant([[1.0], [2.0, 3.0]]), Y[:2]),
    r"hold a SparseTensor.*pass tf\.sparse\.to_dense": lambda: (tf.sparse.from_dense(X), Y),
    r"hold a csr_matrix, a sparse matrix of SciPy.*pass x\.toarray\(\)": lambda: (csr_matrix(X), Y),
    r"hold a coo_array, a sparse.*pass x\.toarray\(\)": lambda: [(coo_array(X), Y)],
    "hold a KerasTensor, which has no numbers": lambda: (keras.Input((6,)), Y),
    r"hold None before other entries, as in \(x, None": lambda: (X, None, np.ones(17)),
    "hold None before other": lambda: ((None, X), Y),
    "no tensor can be made of a ndarray.*differ in length or hold": lambda: (
        np.array([[1], "a"], object),
        Y[:2],
    ),
    r"got a nested list of numbers; pass numpy\.asarray": lambda: (X.tolist(), Y),
    "no tensor can be made of a Source": lambda: (X, Source()),
}


@pytest.mark.parametrize("message", REFUSED)
def test_data_of_the_wrong_form_are_refused_with_what_to_pass(message):
    with pytest.raises(DataError, match=message):
        Objective(mlp(), LOSS, REFUSED[message]())


def test_a_remainder_that_may_be_dropped_is_warned_of():
    with pytest.warns(LCAWarning, match=r"may drop examples: \.batch\(5, drop_remainder=True"):
        Objective(mlp(), LOSS, ROWS.filter(lambda *_: True).batch(5, drop_remainder=True))


ACCEPTED = {
    "no weights": lambda: (X, Y, None),
    "frame": lambda: (FRAME, pd.Series(Y)),
    "list": lambda: [(X[:9], Y[:9]), [X[9:], Y[9:]]],
    "drop_remainder": lambda: ROWS.batch(17, drop_remainder=True),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_data_of_other_forms_are_measured(name):
    model = mlp()
    whole, ours = Objective(model, LOSS, (X, Y)), Objective(model, LOSS, ACCEPTED[name]())
    expected = whole.loss(whole.theta())
    assert abs(ours.loss(ours.theta()) - expected) <= tolerances.summed(expected, EPS32)
