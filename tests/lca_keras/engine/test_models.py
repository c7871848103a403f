"""Models of every kind are held to the kit in float64, and to their float64 twins in float32."""

import keras
import numpy as np
import pytest
from keras import ops

import lca
from lca.testing import check_objective, tolerances
from lca_keras import Objective, layout_of
from tests.lca_keras.engine.subject import generators, shared
from tests.lca_tensorflow.networks import MODELS, X, Y, cross_entropy, floats, mlp, normalised, stack
from tests.nightly import NIGHTLY


def made(kind, dtype, **options):
    make, (x, y) = MODELS[kind]
    with floats(dtype):
        size = len(x) if kind == "normalised" else 4
        return Objective(make(), cross_entropy(), (x, y), batch_size=size, **options)


def everything(model):
    found = {f"{i} {v.path}": ops.convert_to_numpy(v) for i, v in enumerate(model.variables)}
    return found | generators()


@pytest.mark.parametrize("kind", MODELS if NIGHTLY else ["subclassed"])
def test_models_keep_the_laws_of_objectives(kind):
    x, y = MODELS[kind][1]
    parts = [(float(len(x[i : i + 4])), (x[i : i + 4], y[i : i + 4])) for i in range(0, len(x), 4)]
    with floats("float64"):
        objective = made(kind, "float64")
        check_objective(
            lambda: objective,
            vector=ops.convert_to_tensor,
            batches=() if kind == "normalised" else parts,
            state=lambda: everything(objective.model),
            samples=1,
        )


@pytest.mark.parametrize("kind", shared(MODELS))
def test_a_float32_model_agrees_with_its_float64_twin(kind):
    single, double = made(kind, "float32"), made(kind, "float64")
    start = single.theta()
    points = [start, start - 0.02 * single.loss_and_grad(start)[1]]
    runs = []
    for objective, dtype in ((single, "float32"), (double, "float64")):
        path = lca.Trajectory([ops.cast(point, dtype) for point in points])
        with floats(dtype):
            runs += lca.allocate(objective, path, lca.PathIntegral(lca.SIMPSON))
    ours, twin = runs
    assert keras.backend.standardize_dtype(ours.values.dtype) == "float32"
    gap = np.abs(ops.convert_to_numpy(ours.values) - ops.convert_to_numpy(twin.values)).max()
    assert gap <= tolerances.allocation(twin.mass, tolerances.EPS32)
    assert abs(twin.residual) < 1e-3 * twin.mass


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_measured_as_the_model_computes_it(policy):
    with floats(policy):
        model = mlp()
    objective = Objective(model, cross_entropy(), (X, Y), batch_size=len(X))
    loss, grad = objective.loss_and_grad(objective.theta())
    assert keras.backend.standardize_dtype(grad.dtype) == "float32"
    expected = float(ops.stop_gradient(cross_entropy()(Y, model(X, training=False))))
    eps = 2.0**-7 if policy == "mixed_bfloat16" else 2.0**-10
    assert abs(loss - expected) <= tolerances.summed(loss, eps)


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**12], ids=["underflows", "overflows"])
def test_a_gradient_in_float16_is_that_of_a_loss_of_any_size(factor):
    with floats("mixed_float16"):
        model = mlp()
    (loss, expected), (other, found) = (
        one.loss_and_grad(one.theta())
        for c in (1.0, factor)
        for one in [Objective(model, lambda y, out, c=c: c * cross_entropy()(y, out), (X, Y), batch_size=17)]
    )
    expected, found = map(ops.convert_to_numpy, (expected, found))
    assert np.abs(found / factor - expected).max() <= tolerances.summed(abs(expected).max(), 2.0**-10)
    assert abs(other / factor - loss) <= tolerances.summed(loss, 2.0**-10)


def test_names_say_where_a_parameter_is_and_shared_ones_are_there_once():
    names = layout_of(MODELS["shared"][0]()).names
    assert names[:2] == ("inner.shared.kernel", "inner.shared.bias")
    assert len(names) == 4


class Transfer(keras.Model):
    """A base in inference mode under a head, as Keras' guide to transfer learning has it."""

    def __init__(self):
        super().__init__()
        self.base, self.head = normalised(), keras.layers.Dense(3)

    def call(self, inputs, training=False):
        return self.head(self.base(inputs, training=False))


def test_a_layer_that_is_called_in_inference_keeps_its_moving_statistics():
    model = Transfer()
    model(X)
    objective = Objective(model, cross_entropy(), (X, Y))  # no batch size is asked for
    assert len(objective.state()) == 3  # two statistics, and the configuration


def test_a_layer_that_is_frozen_uses_its_moving_statistics():
    model = normalised()
    with pytest.raises(ValueError, match="has to be stated"):
        Objective(model, cross_entropy(), (X, Y))
    model.layers[1].trainable = False
    assert Objective(model, cross_entropy(), (X, Y)).is_mean


def test_weights_that_have_no_loss_change_are_refused():
    class Odd(keras.layers.Layer):
        def build(self, _):
            self.w = self.add_weight(shape=(0, 3), initializer="zeros", name="w")

        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match=r"'odd\.w' has no entries"):
        layout_of(stack((6,), keras.layers.Dense(3), Odd(name="odd")))


def several_outputs(*, masked):
    """Losses of shapes (B,) and (B, 2, 3); a mask leaves two of three."""
    words = np.arange(20).reshape(-1, 1) % 4 + np.array([1, 0, 2]) * np.array([1, 0, 1])
    words[:, 1] = 0
    inputs = keras.Input((3,), dtype="int32")
    hidden = keras.layers.Embedding(7, 4, mask_zero=masked)(inputs)
    place, whole = keras.layers.Dense(3, name="place"), keras.layers.Dense(3, name="whole")
    model = keras.Model(inputs, {"whole": whole(hidden[:, 0]), "place": place(hidden)})
    model.compile("adam", {"whole": cross_entropy(), "place": cross_entropy()}, loss_weights=[1.0, 0.5])
    return Objective(model, None, (words, {"whole": words[:, 0] % 3, "place": words % 3}))


def segmented():
    layers = keras.layers.Dense(12, "tanh"), keras.layers.Reshape((2, 3, 2)), keras.layers.Dense(1)
    model = keras.Sequential([keras.Input((X.shape[1],)), *layers])
    image = (np.arange(len(X) * 6).reshape(-1, 2, 3, 1) % 4 > 1).astype("float32")
    return Objective(model, keras.losses.BinaryCrossentropy(from_logits=True), (X, image))


@pytest.mark.parametrize(
    "made",
    [segmented, lambda: several_outputs(masked=False), lambda: several_outputs(masked=True)],
    ids=["segmentation", "several outputs", "masked"],
)
def test_an_example_with_several_losses_has_one_weight(made):
    keras.utils.set_random_seed(0)
    objective, index, v = made(), np.array([3, 3, 0, 1, 7, 9]), np.arange(1.0, 7.0)
    theta = objective.theta()
    value, grad = objective.loss_and_grad(theta, objective.batch(index, v))
    single = [objective.loss_and_grad(theta, objective.batch(np.array([n]))) for n in index]
    wanted = float(np.average([one for one, _ in single], weights=v))
    assert abs(value - wanted) <= tolerances.summed(wanted, tolerances.EPS32)
    mean = np.average([ops.convert_to_numpy(one) for _, one in single], axis=0, weights=v)
    assert np.abs(ops.convert_to_numpy(grad) - mean).max() <= tolerances.gradient(1.0, tolerances.EPS32)
    same = objective.loss(theta, objective.batch(index, np.ones(6)))
    plain = objective.loss(theta, objective.batch(index))
    assert abs(same - plain) <= tolerances.summed(plain, tolerances.EPS32)
