"""What exactly is the loss: weights, penalties, terms and classes; and what is refused, with the fix."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lca
from lca import tolerances
from lca.errors import (
    DataError,
    LayoutError,
    LCAError,
    LCAWarning,
    NonDeterministicError,
)
from lca_tensorflow import Objective, Penalty
from tests.lca_tensorflow.networks import X, Y, cross_entropy, floats, mlp, normalised, stack, subclassed

WEIGHT = np.random.default_rng(5).uniform(0.5, 2, size=17)
EPS = tolerances.EPS64


@pytest.fixture(autouse=True)
def float64():
    with floats("float64"):
        yield


def close(found, expected):
    """Whether the same loss was added up in another order, in float64."""
    return abs(found - expected) <= tolerances.summed(1 + abs(expected), EPS)


def compiled(model, loss=None):
    model.compile("sgd", loss or cross_entropy())
    return model


def no_dropout():
    return stack((6,), keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(3))


def regularized():
    layers = keras.layers
    hidden = layers.Dense(4, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.1))
    return stack((6,), hidden, layers.ActivityRegularization(l1=0.01), layers.Dense(3, bias_regularizer="l1"))


# --- weights of examples ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
def test_weights_of_examples_are_those_of_evaluate_in_ragged_batches(reduction):
    model = compiled(mlp(), cross_entropy(reduction=reduction))
    objective = Objective(model, None, (X, Y, WEIGHT), batch_size=5)
    expected = model.evaluate(X, Y, sample_weight=WEIGHT, batch_size=17, verbose=0)
    assert abs(objective.loss(objective.theta()) - expected) < 1e-6 * expected  # evaluate is in float32
    given = Objective(model, cross_entropy(reduction=reduction), (X, Y, WEIGHT), batch_size=5)
    assert close(given.loss(given.theta()), objective.loss(objective.theta()))
    plain = Objective(model, None, (X, Y, None), batch_size=5)
    assert abs(plain.loss(plain.theta()) - expected) > 0.01


def test_one_of_two_losses_that_is_divided_by_its_weights_is_named():
    inputs = keras.Input((6,))
    outputs = [keras.layers.Dense(3)(inputs), keras.layers.Dense(3)(inputs)]
    losses = [cross_entropy(reduction="mean_with_sample_weight"), cross_entropy()]
    model = compiled(keras.Model(inputs, outputs), losses)
    data = X, (Y, Y), (WEIGHT, WEIGHT[::-1].copy())
    message = r"loss with reduction='mean_with_sample_weight' .*; use reduction='sum_over_batch_size', or"
    with pytest.raises(DataError, match=message):
        Objective(model, None, data)
    Objective(model, None, data, batch_size=5)


def test_class_weights_are_those_that_fit_makes():
    model, weights = compiled(no_dropout()), {0: 3.0, 1: 1.0, 2: 0.25}
    objective = Objective(model, None, (X, Y), class_weight=weights, batch_size=5)
    by_hand = Objective(model, None, (X, Y, np.array([weights[int(y)] for y in Y])), batch_size=5)
    theta = objective.theta()
    assert objective.loss(theta) == by_hand.loss(theta)
    assert objective.loss(theta, (X[:5], Y[:5])) == by_hand.loss(theta, by_hand._data.take(slice(5)))
    one_hot = compiled(no_dropout(), keras.losses.CategoricalCrossentropy(from_logits=True))
    one_hot.set_weights(model.get_weights())
    rows = Objective(one_hot, None, (X, np.eye(3)[Y]), class_weight=weights, batch_size=5)
    assert close(rows.loss(rows.theta()), objective.loss(theta))
    history = model.fit(X, Y, batch_size=17, class_weight=weights, verbose=0)
    assert abs(history.history["loss"][0] - objective.loss(theta)) < 1e-6
    with pytest.raises(DataError, match="multiply it into the sample_weight"):
        Objective(model, None, (X, Y, WEIGHT), class_weight=weights)


def test_class_weights_and_classes_must_match():
    model = compiled(no_dropout())
    with pytest.raises(DataError, match="class_weight has no weight for class 1; add it, with 1.0"):
        Objective(model, None, (X, Y), class_weight={0: 3.0, 2: 0.25})
    with pytest.raises(DataError, match="class_weight names class 7, which no example has"):
        Objective(model, None, (X, Y), class_weight={0: 3.0, 1: 1.0, 2: 0.25, 7: 2.0})
    with pytest.raises(DataError, match="class_weight names 'a', but classes are integers"):
        Objective(model, None, (X, Y), class_weight={"a": 1.0})


def test_class_weights_are_a_dictionary():
    with pytest.raises(DataError, match=r"must be a dictionary of the weights by label, got list.*enumerate"):
        Objective(compiled(no_dropout()), None, (X, Y), class_weight=[1.0, 2.0, 3.0])


def test_the_data_are_one_argument():
    with pytest.raises(LCAError, match=r"one argument: pass Objective\(model, loss_fn, \(x, y\)\)"):
        Objective(no_dropout(), cross_entropy(), X, Y)


# --- what the loss itself does ---------------------------------------------------------------------------


class Centred(keras.losses.Loss):
    """Updates a variable at every call."""

    def __init__(self):
        super().__init__()
        self.centre = tf.Variable(1.0, dtype=tf.float64, name="centre")

    def call(self, y, outputs):
        each = tf.reduce_mean(tf.square(outputs), -1)
        self.centre.assign(0.9 * self.centre + 0.1 * tf.reduce_mean(each))
        return each / self.centre


class Adding(keras.layers.Layer):
    """Adds a sum over the batch to the loss."""

    def call(self, inputs):
        self.add_loss(tf.reduce_sum(inputs**2))
        return inputs


SQUARED = keras.losses.MeanSquaredError()
BATCHES_MATTER = {
    "The loss writes the variable 'centre' itself": lambda: Objective(no_dropout(), Centred(), (X, Y)),
    r"targets have shape \(17,\) and the outputs \(17, 1\).*pass y\[:, None\]": lambda: Objective(
        stack((6,), keras.layers.Dense(1)), lambda y, p: tf.reduce_mean((y - p) ** 2), (X, X[:, 0])
    ),
    "The add_loss of 'adding.*' has to be a mean": lambda: Objective(
        stack((6,), Adding(), keras.layers.Dense(1)), SQUARED, (X, X[:, :1])
    ),
}


@pytest.mark.parametrize("message", BATCHES_MATTER)
def test_what_makes_the_loss_depend_on_its_batches_is_named(message):
    with pytest.raises(DataError, match=f"depends on the measuring batches.*{message}"):
        BATCHES_MATTER[message]()


def test_a_loss_that_assigns_to_weights_is_told_what_to_do():
    def assigning(model, batch):
        model.trainable_weights[0].value.assign_add(tf.ones([6, 5], tf.float64))
        return cross_entropy()(batch[1], model(batch[0]))

    with pytest.raises(LCAError, match="the loss assigns to a weight.*as tensors"):
        Objective(no_dropout(), None, (X, Y), batch_loss=assigning)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_loss_may_differentiate_by_the_weights(run_eagerly):
    def penalised(model, batch):
        with tf.GradientTape() as tape:
            loss = cross_entropy()(batch[1], model(batch[0]))
        return loss + 0.1 * sum(map(tf.reduce_sum, map(tf.square, tape.gradient(loss, model.weights))))

    model = no_dropout()
    objective = Objective(model, None, (X, Y), batch_loss=penalised, batch_size=17, run_eagerly=run_eagerly)
    found, grad = objective.loss_and_grad(objective.theta())
    with tf.GradientTape() as tape:
        expected = penalised(model, (X, Y))
    gradients = [tf.reshape(g, [-1]) for g in tape.gradient(expected, model.trainable_weights)]
    assert close(found, float(expected))
    assert np.abs(grad - tf.concat(gradients, 0)).max() <= tolerances.gradient(4.0, EPS)


def test_the_rank_of_a_loss_may_be_known_only_when_it_is_evaluated():
    def through_python(shape):
        def loss(model, batch):
            factor = tf.numpy_function(lambda: np.ones(shape), [], tf.float64)
            return factor * cross_entropy()(batch[1], model(batch[0]))

        return loss

    model = no_dropout()
    objective = Objective(model, None, (X, Y), batch_loss=through_python(()))
    assert close(objective.loss(objective.theta()), float(cross_entropy()(Y, model(X))))
    with pytest.raises(DataError, match=r"Shape of tensor.*\[2\]"):
        Objective(model, None, (X, Y), batch_loss=through_python(2))


# --- terms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [regularized, subclassed])
def test_penalties_are_a_row_of_their_own_that_adds_up(make):
    model = compiled(make())
    whole = Objective(model, None, (X, Y), batch_size=17)
    terms, theta = whole.by_term(), whole.theta()
    outputs = model(X, training=False)
    expected = {
        "data": float(cross_entropy()(Y, outputs)),
        "penalty": float(sum(map(tf.reduce_sum, model.losses))),
    }
    for name, term in terms.terms.items():
        assert close(term.loss(theta), expected[name])
    assert expected["penalty"] > 0.001
    assert close(whole.loss(theta), sum(expected.values()))
    (loss, grad), (other, sums) = whole.loss_and_grad(theta), terms.loss_and_grad(theta)
    assert close(loss, other)
    scale = 1 + float(np.abs(grad).max())
    assert np.abs(grad - sums).max() <= tolerances.gradient(scale, EPS)
    ours = Objective(model, cross_entropy(), (X, Y), batch_size=17)
    assert close(ours.loss(theta), sum(expected.values()))
    assert close(ours.by_term().terms["penalty"].loss(theta), expected["penalty"])
    [a] = lca.allocate(terms, [lca.Step(theta, 1.01 * theta)], lca.PathIntegral(lca.SIMPSON))
    assert set(a.terms) == {"data", "penalty"}
    total = sum(term.values for term in a.terms.values())
    assert np.abs(total - a.values).max() <= tolerances.allocation(a.mass, EPS)


def test_a_penalty_of_the_parameters_alone_is_a_term():
    model = compiled(mlp())
    data = Objective(model, None, (X, Y))
    ridge = Penalty(model, lambda tensors: 0.5 * sum(tf.reduce_sum(t**2) for t in tensors.values()))
    theta = data.theta()
    loss, grad = ridge.loss_and_grad(theta)
    assert close(loss, 0.5 * float(tf.reduce_sum(theta**2)))
    assert np.array_equal(grad, theta)
    assert close(lca.Sum({"data": data, "penalty": ridge}).loss(theta), data.loss(theta) + loss)
    model.layers[0].trainable = False
    fixed = Penalty(model, lambda tensors: sum(tf.reduce_sum(t**2) for t in tensors.values()))
    assert np.array_equal(fixed.loss_and_grad(theta)[1], 2 * theta)  # a frozen layer may move all the same
    with pytest.raises(LCAError, match="must be a scalar"):
        Penalty(model, lambda tensors: tensors[fixed.layout.names[0]]).loss(theta)


def test_a_loss_without_reduction_is_told_that_its_sum_is_trained():
    each = cross_entropy(reduction=None)
    models = [compiled(no_dropout(), loss) for loss in (each, cross_entropy())]
    models[1].set_weights(models[0].get_weights())
    with pytest.raises(LCAError, match=r"Keras on TensorFlow trains on its sum.*by batch_loss=function of"):
        Objective(models[0], None, (X, Y))
    means = [
        Objective(models[0], None, (X, Y), batch_loss=lambda m, b: tf.reduce_mean(each(b[1], m(b[0])))),
        Objective(models[1], None, (X, Y)),
    ]
    start, moved = means[0].theta(), []
    for model, mean, rate in zip(models, means, (0.01, 0.01 * len(X)), strict=True):
        model.optimizer.learning_rate = rate
        model.fit(X, Y, batch_size=len(X), verbose=0)
        moved.append(mean.theta() - start)
    mass = float(tf.reduce_sum(abs(moved[0])))
    assert float(tf.reduce_max(abs(moved[0] - moved[1]))) <= tolerances.summed(mass, tolerances.EPS32)


@pytest.mark.parametrize("weight", [(), (WEIGHT,)], ids=["plain", "weighted"])
def test_classes_are_rows_that_add_up(weight):
    model = compiled(regularized())
    whole = Objective(model, None, (X, Y, *weight), batch_size=5)
    classes, theta = whole.by_class(), whole.theta()
    assert list(classes.terms) == ["class 0", "class 1", "class 2"]
    # ActivityRegularization is a sum over the batch divided by its size: also a mean.
    assert close(classes.loss(theta), whole.loss(theta))
    of_class = Y == 1
    own = Objective(model, None, (X[of_class], Y[of_class], *(w[of_class] for w in weight)))
    assert close(classes.terms["class 1"].loss(theta), of_class.mean() * own.loss(theta))
    with pytest.raises(LCAError, match="integer labels"):
        Objective(compiled(mlp(), "mse"), None, (X, np.eye(3)[Y])).by_class()
    with pytest.raises(LCAError, match="use batch_norm='frozen'"):
        Objective(compiled(normalised()), None, (X, Y), batch_size=17).by_class()


class OwnLoss(keras.Model):
    def __init__(self):
        super().__init__()
        self.layer = keras.layers.Dense(3)

    def call(self, x):
        return self.layer(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 2 * keras.ops.mean(keras.ops.square(y_pred))


def test_the_models_own_compute_loss_is_measured():
    model = OwnLoss()
    outputs = model(X)
    objective = Objective(compiled(model), None, (X, Y))
    assert close(objective.loss(objective.theta()), 2 * float(tf.reduce_mean(outputs**2)))
    with pytest.raises(LCAError, match=r"make each term an objective of its own: lca\.Sum"):
        objective.by_term()
    own = Objective(model, None, (X, Y), batch_loss=lambda m, batch: tf.reduce_mean(m(batch[0]) ** 2))
    assert close(2 * own.loss(own.theta()), objective.loss(objective.theta()))
    with pytest.raises(LCAError, match=r"lca\.Sum"):
        own.by_term()


def test_several_outputs_and_inputs():
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    both = keras.layers.Add()([left, right])
    model = keras.Model(
        [left, right],
        {"a": keras.layers.Dense(3, name="a")(both), "b": keras.layers.Dense(1, name="b")(left)},
    )
    model.compile("sgd", {"a": cross_entropy(), "b": "mse"}, loss_weights={"a": 1.0, "b": 0.5})
    targets = {"a": Y, "b": X[:, :1]}
    objective = Objective(model, None, ([X, 2 * X], targets), batch_size=5)
    outputs = model([X, 2 * X])
    expected = float(cross_entropy()(Y, outputs["a"])) + 0.5 * float(
        tf.reduce_mean((X[:, :1] - outputs["b"]) ** 2)
    )
    assert close(objective.loss(objective.theta()), expected)


# --- refused ---------------------------------------------------------------------------------------------


def no_weights():
    model = mlp()
    model.trainable = False
    return model


def noisy():
    return stack((6,), keras.layers.Dense(3), Always(0.5))


class Always(keras.layers.Dropout):
    def call(self, inputs, training=False):
        return super().call(inputs, training=True)


def unbuilt():
    return keras.Sequential([keras.layers.Dense(3)])


BROKEN = X.copy()
BROKEN[11, 2] = np.nan


ROWS = tf.data.Dataset.from_tensor_slices((X, Y))
ONE_HOT_ROWS = tf.data.Dataset.from_tensor_slices((X, np.eye(3)[Y]))


def half():
    with floats("float16"):
        return mlp()


REFUSED = [
    (mlp, None, (X, Y), {}, LCAError, r"not compiled; pass loss_fn=..., or call model\.compile first"),
    (mlp, "mse", (X, Y), {}, LCAError, "must be callable, got 'mse'; pass the loss itself"),
    (mlp, cross_entropy(), (X, Y), {"batch_loss": len}, LCAError, "not both"),
    (mlp, cross_entropy(), (X.tolist(), Y), {}, DataError, r"got a nested list of numbers; pass numpy"),
    (mlp, cross_entropy(), ROWS, {}, DataError, r"the Dataset is not batched; call \.batch.n"),
    (mlp, cross_entropy(), ONE_HOT_ROWS, {}, DataError, r"the Dataset is not batched; call \.batch.n."),
    (mlp, lambda y, out: tf.constant(1.0), (X, Y), {}, LCAError, "does not depend on any parameter"),
    (mlp, cross_entropy(), 3, {}, DataError, "must be a tuple .x, y.*got int"),
    (mlp, cross_entropy(), tf.data.Dataset.from_tensors((X, Y)).repeat(), {}, DataError, r"before \.repeat"),
    (no_weights, cross_entropy(), (X, Y), {}, LayoutError, r"no trainable weight.*model\.trainable = True"),
    (half, cross_entropy(), (X, Y), {}, LayoutError, "is float16; .*use the policy 'mixed_bfloat16'"),
    (unbuilt, cross_entropy(), (X, Y), {}, LayoutError, "has no weights yet; call it on one batch"),
    (lambda: keras.layers.Dense(3), cross_entropy(), (X, Y), {}, LayoutError, "wrap layers in a Sequential"),
    (noisy, cross_entropy(), (X, Y), {}, NonDeterministicError, "drawn while measuring.*dropout called with"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=[case[-1][:40] for case in REFUSED])
def test_what_cannot_be_measured_is_refused_with_the_fix(case):
    make, loss, data, options, error, message = case
    with pytest.raises(error, match=message):
        Objective(make(), loss, data, **options)


def test_the_package_does_not_cause_warnings_about_tracing(caplog):
    """TensorFlow warns where functions with one code are traced often, as those of several objectives are."""
    model = mlp()
    with caplog.at_level("WARNING", "tensorflow"):
        for n in range(5, 13):
            objective = Objective(model, cross_entropy(), (X[:n], Y[:n]), batch_size=n)
            objective.loss_and_grad(objective.theta())
            Penalty(model, lambda tensors: tf.reduce_sum(next(iter(tensors.values())))).loss(
                objective.theta()
            )
    assert "retracing" not in caplog.text


def test_parameters_of_another_precision():
    double = Objective(mlp(), cross_entropy(), (X, Y), batch_size=5)
    narrow = tf.cast(double.theta(), tf.float32)
    loss, grad = double.loss_and_grad(narrow)
    wide, wide_grad = double.loss_and_grad(tf.cast(narrow, tf.float64))
    assert loss == wide
    assert np.array_equal(grad, tf.cast(wide_grad, tf.float32))  # rounded once, at the end
    assert grad.dtype == tf.float32
    with floats("float32"):
        single = Objective(mlp(), cross_entropy(), (X, Y))
    with pytest.raises(
        LayoutError, match="theta is float64, but the model was built in float32; use tf.cast"
    ):
        single.loss(double.theta())
    with pytest.raises(
        LayoutError, match="theta must be a float32 or float64 tensorflow.Tensor.*got float16"
    ):
        single.loss(tf.cast(double.theta(), tf.float16))


def test_broken_rows_that_the_loss_masks_are_its_business():
    def masked(model, batch):
        x = tf.where(tf.math.is_finite(batch[0]), batch[0], tf.zeros_like(batch[0]))
        return cross_entropy()(batch[1], model(x))

    objective = Objective(mlp(), None, (BROKEN, Y), batch_loss=masked, batch_size=5)
    assert np.isfinite(objective.loss(objective.theta()))


def test_a_weight_that_no_gradient_reaches_is_named():
    model = mlp()
    with pytest.warns(LCAWarning, match=r"no gradient reaches .*bias"):
        Objective(
            model, None, (X, Y), batch_loss=lambda m, batch: tf.reduce_mean(m.layers[0].kernel.value ** 2)
        )


def test_a_policy_for_each_normalisation():
    norm = keras.layers.BatchNormalization
    model = stack((6,), norm(name="first"), keras.layers.Dense(4), norm(name="second"), keras.layers.Dense(3))
    state = Objective(model, cross_entropy(), (X, Y), batch_size=17, batch_norm={"second": "frozen"}).state()
    assert sorted(state) == ["configuration", "second.moving_mean", "second.moving_variance"]


def test_normalisations_of_one_name_in_nested_models_all_count():
    layers = keras.layers
    inner = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(name="norm")], name="inner")
    outer = layers.BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4), outer, inner, layers.Dense(3)])
    assert list(Objective(model, cross_entropy(), (X, Y), batch_size=17).state()) == ["configuration"]
    frozen = Objective(model, cross_entropy(), (X, Y), batch_norm={"norm": "frozen"})
    assert len(frozen.state()) == 1 + 4
