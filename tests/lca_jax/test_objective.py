"""What the laws of objectives leave open: trees, precisions, compilation, running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lca
from lca.errors import DataError, LayoutError, LCAError, LCAWarning, UnknownNameError
from lca.reference import CrossEntropy, DatasetLoss, Dense, Network, Tanh
from lca.tolerances import EPS32, EPS64, gradient, summed
from lca.tracking import FunctionalTracker
from lca_jax import Model, Objective, Penalty, formula
from lca_jax.network import cross_entropy, model_of
from tests.laws.objectives import MLP, X, Y, normalised

TREE = {
    "out": [np.full((2, 3), 0.5), np.zeros(3)],
    "hidden": {"kernel": np.arange(8.0).reshape(4, 2) / 8},
    "scale": np.ones(()),
}


def apply(params, x):
    weight, bias = params["out"]
    return params["scale"] * jnp.tanh(x @ params["hidden"]["kernel"]) @ weight + bias


def test_a_nested_tree_is_named_and_packed_in_the_order_of_jax():
    objective = Objective(Model(apply, TREE), cross_entropy, (X, Y))
    assert objective.layout.names == ("hidden.kernel", "out.0", "out.1", "scale")
    assert objective.layout.neuron_axes == (1, 0, 0, None)
    theta = objective.pack(TREE)
    assert objective.pack(theta) is theta
    again = objective.params(theta)
    assert jax.tree.structure(again) == jax.tree.structure(TREE)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again, TREE))
    grad = jax.jit(jax.grad(lambda params: cross_entropy(apply(params, X), Y)))(TREE)
    gap = jnp.abs(objective.loss_and_grad(theta)[1] - objective.pack(grad)).max()
    assert gap <= gradient(1.0, EPS64)


def test_float32_needs_no_switch_and_float64_does():
    jax.config.update("jax_enable_x64", False)
    try:
        objective = Objective(model_of(MLP, "float32"), cross_entropy, (X, Y))
        theta = objective.theta()
        loss, grad = objective.loss_and_grad(theta)
        assert (str(theta.dtype), str(grad.dtype), type(loss)) == ("float32", "float32", float)
        reference = DatasetLoss(MLP, X, Y).loss(np.asarray(theta, np.float64))
        assert abs(loss - reference) <= summed(1 + loss, EPS32)
        steps = [lca.Step(theta, theta - 0.1 * grad)]
        [a] = lca.allocate(objective, steps, lca.PathIntegral(lca.SIMPSON))
        assert str(a.values.dtype) == "float32"
        assert str(objective.theta().dtype) == "float32"
    finally:
        jax.config.update("jax_enable_x64", True)


def test_equal_networks_share_what_is_compiled():
    objective = Objective(model_of(MLP, "float64"), cross_entropy, (X, Y))
    objective.loss_and_grad(objective.theta())
    before = formula.value_and_grad._cache_size()
    other = Objective(model_of(MLP, "float64"), cross_entropy, (X, Y))
    other.loss_and_grad(other.theta() + 1)
    assert formula.value_and_grad._cache_size() == before


def test_data_may_have_weights():
    weight = np.random.default_rng(1).uniform(size=len(X))
    model = model_of(MLP, "float64")
    objective = Objective(model, cross_entropy, (X, Y, weight), batch_size=6)
    loss, grad = objective.loss_and_grad(objective.theta())
    expected, gradients = DatasetLoss(MLP, X, Y, weight=weight).loss_and_grad(MLP.init(0))
    assert abs(loss - expected) <= summed(1 + expected, EPS64)
    assert np.abs(np.asarray(grad) - gradients).max() <= gradient(1.0, EPS64)
    np.testing.assert_array_equal(objective.weight, weight)
    assert objective.labels.tolist() == Y.tolist()
    plain, everything = Objective(model, cross_entropy, (X, Y)), objective.batch(np.arange(17))
    theta = objective.theta()
    assert abs(objective.loss(theta, everything) - plain.loss(theta)) <= summed(2.0, EPS64)


def test_a_batch_of_weight_0_counts_nothing():
    weight = np.where((np.arange(17) < 6) | (np.arange(17) >= 12), 1.0, 0.0)
    objective = Objective(model_of(MLP, "float64"), cross_entropy, (X, Y, weight), batch_size=6)
    expected = DatasetLoss(MLP, X, Y, weight=weight).loss(MLP.init(0))
    assert abs(objective.loss(objective.theta()) - expected) <= summed(1 + expected, EPS64)


def test_statistics_that_move_are_a_state_change():
    network = normalised("frozen")
    model = model_of(network, "float64")
    objective = Objective(model, cross_entropy, (X, Y), batch_norm="frozen")
    theta = objective.theta()
    with FunctionalTracker(theta, objective, lca.PathIntegral(lca.SIMPSON), on_error="raise") as tracker:
        model.statistics = jax.tree.map(lambda value: 2 * value, model.statistics)
        tracker.update(theta)
    [row] = tracker.views["train"].trace.rows
    assert row["state_change"] == row["loss_end"] - row["loss_start"] != 0
    assert tracker.summary()["train"]["mass"] == 0


def test_a_tensor_without_gradient_is_named():
    def bias_only(params, x):
        return params["b"] + 0 * jax.lax.stop_gradient(x @ params["w"])

    with pytest.warns(LCAWarning, match="no gradient reaches w: the loss does not depend on it"):
        Objective(Model(bias_only, {"b": jnp.zeros(3), "w": jnp.ones((4, 3))}), cross_entropy, (X, Y))


def test_a_gradient_that_is_zero_at_the_start_reaches_its_tensor():
    zero = {
        "hidden": {"kernel": jnp.ones((4, 2))},
        "out": [jnp.zeros((2, 3)), jnp.zeros(3)],
        "scale": jnp.ones(()),
    }
    Objective(Model(apply, zero), cross_entropy, (X, Y))  # a warning would be an error


def test_penalties_leave_frozen_parameters_alone():
    network = Network((Dense(4, 5), Tanh(), Dense(5, 3)), CrossEntropy(), (4,), frozen=("fc1.weight",))
    model = model_of(network, "float64")
    theta = jnp.array(network.init(1))
    ridge = Penalty(model, lambda params: sum((t**2).sum() for t in params.values()) / 2)
    grads = network.layout.unflatten(np.asarray(ridge.loss_and_grad(theta)[1]))
    assert not grads["fc1.weight"].any()
    np.testing.assert_array_equal(
        grads["fc2.weight"], network.layout.unflatten(network.init(1))["fc2.weight"]
    )
    rest = Penalty(model, lambda params: (params["fc2.weight"] ** 2).sum(), frozen="omit")
    assert rest.layout.names == network.layout.names[1:]
    with pytest.raises(LCAError, match="must be a scalar, got shape"):
        Penalty(model, lambda params: params["fc1.bias"]).loss(theta)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Objective(TREE, cross_entropy, (X, Y)), LCAError, r"expected an lca_jax\.Model, got dict"),
        (lambda: of(frozen=["hidden"]), UnknownNameError, "unknown parameter 'hidden'; known: hidden.kernel"),
        (
            lambda: of(params=TREE | {"scale": jnp.ones((), int)}),
            LayoutError,
            "share one dtype.*frozen='omit'",
        ),
        (
            lambda: of(params=jax.tree.map(lambda t: t.astype(jnp.bfloat16), TREE)),
            LayoutError,
            "'hidden.kernel' is bfloat16.*keep the parameters in float32",
        ),
        (
            lambda: of(frozen=["hidden.kernel", "out.0", "out.1", "scale"]),
            LayoutError,
            "nothing to allocate to",
        ),
        (
            lambda: of(data=(X, Y, Y, Y)),
            DataError,
            r"must be \(inputs, targets\) or \(inputs, targets, weights\)",
        ),
        (
            lambda: of().loss(np.zeros(18)),
            LayoutError,
            r"theta must be a float32 or float64 jax\.Array of shape",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(make, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        make()


def of(params=TREE, frozen=(), data=(X, Y)):
    return Objective(Model(apply, params, frozen=frozen), cross_entropy, data)
