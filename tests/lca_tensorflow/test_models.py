"""Models of every kind are held to the kit in float64, and to their float64 twins in float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lca
from lca.errors import LayoutError
from lca.testing import check_objective, tolerances
from lca_tensorflow import Objective, layout_of
from tests.lca_tensorflow.networks import MODELS, X, Y, cross_entropy, floats, mlp, shared, stack
from tests.nightly import NIGHTLY

EPS32 = float(np.finfo(np.float32).eps)


def made(kind, dtype, **options):
    """The objective of one kind of model; with batch statistics, all examples are one batch."""
    make, (x, y) = MODELS[kind]
    with floats(dtype):
        size = len(x) if kind == "normalised" else 4
        return Objective(make(), cross_entropy(), (x, y), batch_size=size, **options)


def everything(model):
    """What a call must leave alone, as arrays by name."""
    found = {f"{i} {v.path}": v.numpy() for i, v in enumerate(model.variables)}
    return found | {"generator": tf.random.get_global_generator().state.numpy()}


EAGER = ("mlp", "normalised") if NIGHTLY else ("normalised",)


@pytest.mark.parametrize(
    ("kind", "run_eagerly"), [*((kind, False) for kind in MODELS), *((kind, True) for kind in EAGER)]
)
def test_models_keep_the_laws_of_objectives(kind, run_eagerly):
    objective = made(kind, "float64", run_eagerly=run_eagerly)
    x, y = MODELS[kind][1]
    parts = [(float(len(x[i : i + 4])), (x[i : i + 4], y[i : i + 4])) for i in range(0, len(x), 4)]
    check_objective(
        lambda: objective,
        vector=tf.constant,
        batches=() if kind == "normalised" else parts,
        state=lambda: everything(objective.model),
        samples=1,
    )


@pytest.mark.parametrize("kind", MODELS)
def test_a_float32_model_agrees_with_its_float64_twin(kind):
    single, double = made(kind, "float32"), made(kind, "float64")
    start = single.theta()
    points = [start, start - 0.02 * single.loss_and_grad(start)[1]]
    runs = []
    for objective, dtype in ((single, tf.float32), (double, tf.float64)):
        path = lca.Trajectory([tf.cast(point, dtype) for point in points])
        runs += lca.allocate(objective, path, lca.PathIntegral(lca.SIMPSON))
    ours, twin = runs
    assert ours.values.dtype == tf.float32
    assert np.abs(ours.values.numpy() - twin.values.numpy()).max() <= tolerances.allocation(twin.mass, EPS32)
    assert abs(twin.residual) < 1e-3 * twin.mass


def test_names_say_where_a_parameter_is_and_shared_ones_are_there_once():
    names = layout_of(shared()).names
    assert names[:2] == ("inner.shared.kernel", "inner.shared.bias")
    assert len(names) == 4


def test_xla_gives_the_same_to_rounding():
    plain, xla = made("mlp", "float64"), made("mlp", "float64", jit_compile=True)
    theta = plain.theta()
    (loss, grad), (other, other_grad) = (one.loss_and_grad(theta) for one in (plain, xla))
    assert abs(loss - other) <= tolerances.summed(1 + loss, tolerances.EPS64)
    scale = 1 + float(np.abs(grad.numpy()).max())
    difference = np.abs(grad.numpy() - other_grad.numpy()).max()
    assert difference <= tolerances.gradient(scale, tolerances.EPS64)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_measured_as_the_model_computes_it(policy):
    with floats(policy):
        model = mlp()
    eager, compiled = (
        Objective(model, cross_entropy(), (X, Y), batch_size=len(X), run_eagerly=run_eagerly)
        for run_eagerly in (True, False)
    )
    loss, grad = eager.loss_and_grad(eager.theta())
    weights = [variable.value for variable in model.trainable_weights]
    with tf.GradientTape() as tape:
        expected = cross_entropy()(Y, model(X, training=False))
    by_hand = np.concatenate([g.numpy().ravel() for g in tape.gradient(expected, weights)])
    assert grad.dtype == tf.float32
    assert abs(loss - float(expected)) <= tolerances.summed(1 + loss, EPS32)
    tolerance = tolerances.gradient(float(np.abs(by_hand).max()), EPS32)
    assert np.abs(grad.numpy() - by_hand).max() <= tolerance
    # Compiled, sums are rounded to 16 bits in other places.
    eps = 2.0**-7 if policy == "mixed_bfloat16" else 2.0**-10
    assert abs(compiled.loss(compiled.theta()) - loss) <= tolerances.summed(loss, eps)
    # and not in float32: the loss is one of coarser activations
    with floats("float32"):
        full = mlp()
    full.set_weights(model.get_weights())
    exact = Objective(full, cross_entropy(), (X, Y), batch_size=len(X))
    assert abs(loss - exact.loss(exact.theta())) > tolerances.summed(1 + loss, EPS32)


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=str)
@pytest.mark.parametrize("factor", [2.0**-20, 2.0**12], ids=["underflows", "overflows"])
def test_a_gradient_in_float16_is_that_of_a_loss_of_any_size(factor, options):
    with floats("mixed_float16"):
        model = mlp()
    usual, other = (
        Objective(model, lambda y, out, c=c: c * cross_entropy()(y, out), (X, Y), batch_size=17, **options)
        for c in (1.0, factor)
    )
    expected, found = (one.loss_and_grad(one.theta())[1].numpy() for one in (usual, other))
    assert np.abs(found / factor - expected).max() <= tolerances.summed(abs(expected).max(), 2.0**-10)


def test_nothing_is_traced_again_after_the_first_step():
    objective = made("mlp", "float32")
    theta = objective.theta()
    points = [theta, 1.01 * theta, 1.02 * theta, 1.03 * theta]
    steps = lca.allocate(objective, lca.Trajectory(points), lca.PathIntegral(lca.RK4), check=False)
    traces = []
    for _ in steps:
        traces.append(objective.traces)
    assert traces == [traces[0]] * 3
    assert traces[0] == 2  # the loss and the gradient, for batches of all sizes


@pytest.mark.parametrize(
    ("dtype", "shape", "message"),
    [
        ("complex64", (3,), r"'odd\.w' is complex64; use two real weights"),
        ("float32", (0, 3), r"'odd\.w' has no entries \(shape \(0, 3\)\); take the layer out"),
    ],
)
def test_weights_that_have_no_loss_change_are_refused_with_what_to_do(dtype, shape, message):
    class Odd(keras.layers.Layer):
        def build(self, _):
            self.w = self.add_weight(shape=shape, dtype=dtype, initializer="zeros", name="w")

        def call(self, inputs):
            return inputs

    with floats("float32"):
        model = stack((6,), keras.layers.Dense(3), Odd(name="odd"))
    with pytest.raises(LayoutError, match=message):
        layout_of(model)
