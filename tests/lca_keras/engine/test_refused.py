"""What cannot be right is refused before the first step, with its reason."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.sparse import csr_matrix

from lca.errors import DataError, LayoutError, LCAError, NonDeterministicError
from lca_keras import LCACallback, Objective
from tests.lca_keras.engine.fits import X, Y, cross_entropy, fit, model_of

TORCH = keras.backend.backend() == "torch"
needs_torch = pytest.mark.skipif(not TORCH, reason="a case of PyTorch")
needs_jax = pytest.mark.skipif(TORCH, reason="a case of JAX")


def stack(*layers):
    return keras.Sequential([keras.Input((5,)), *layers])


def of(*layers):
    return Objective(stack(*layers), cross_entropy(), (X, Y))


class Noise(keras.layers.Layer):
    """Draws also where it is not trained."""

    def __init__(self, draw):
        super().__init__()
        self.draw, self.seeds = draw, keras.random.SeedGenerator(0)

    def call(self, inputs):
        return inputs + self.draw(self)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda layer: keras.random.normal((), seed=layer.seeds), "random numbers are drawn while measuring"),
        (lambda layer: float(np.random.normal()), "from a generator of NumPy"),  # noqa: NPY002
    ],
)
def test_random_numbers(draw, message):
    model = stack(keras.layers.Dense(3), Noise(draw))
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    with pytest.raises(NonDeterministicError, match=message):
        Objective(model, cross_entropy(), (X, Y))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@needs_torch
def test_random_numbers_of_torch():
    import torch  # noqa: PLC0415

    model = stack(keras.layers.Dense(3), Noise(lambda layer: torch.randn(())))
    state = torch.get_rng_state()
    with pytest.raises(NonDeterministicError, match="from a generator of torch"):
        Objective(model, cross_entropy(), (X, Y))
    assert torch.equal(torch.get_rng_state(), state)


@needs_torch
def test_a_torch_module_with_parameters():
    import torch  # noqa: PLC0415

    with pytest.raises(
        LCAError, match="a weight of the model as a torch tensor, .* Keras layers in place of torch modules"
    ):
        of(keras.layers.Dense(4), keras.layers.TorchModuleWrapper(torch.nn.Linear(4, 3)))


def test_a_weight_that_is_read_past_its_variable():
    class Past(keras.layers.Dense):
        def call(self, inputs):
            return ops.matmul(inputs, self._kernel._value)

    with pytest.raises(LCAError, match=r"use the Keras variable itself, as in self\.kernel"):
        of(Past(3), keras.layers.Dense(3))


def test_what_a_forward_pass_writes_in_python_is_put_back():
    class Counts(keras.layers.Layer):
        calls = 0

        def call(self, inputs):
            self.calls += 1
            self.last = inputs
            return inputs

    counts = Counts()
    objective = of(keras.layers.Dense(3), counts)
    before = counts.calls
    objective.loss_and_grad(objective.theta())
    assert counts.calls == before


@needs_jax
def test_float64_that_jax_would_narrow():
    import jax  # noqa: PLC0415

    jax.config.update("jax_enable_x64", False)
    try:
        layer = keras.layers.Dense(3, dtype="float64")
        with pytest.warns(UserWarning, match="float64"):
            model = keras.Sequential([keras.Input((5,), dtype="float64"), layer])
        with pytest.raises(LayoutError, match="jax_enable_x64"):
            Objective(model, cross_entropy(dtype="float64"), (X, Y))
    finally:
        jax.config.update("jax_enable_x64", True)


@needs_jax
def test_a_distribution_of_the_variables():
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    try:
        with pytest.raises(LCAError, match="θ is one vector on one device; train without it"):
            of(keras.layers.Dense(3))
    finally:
        keras.distribution.set_distribution(None)


def test_several_updates_in_one_call_of_the_callback():
    if TORCH:
        pytest.skip("Keras on PyTorch refuses it itself")
    model = model_of(steps_per_execution=2)
    with pytest.raises(LCAError, match=r"use model\.compile\(\.\.\., steps_per_execution=1\)"):
        fit(model, LCACallback((X, Y), batch_norm="frozen", on_error="raise"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"x": X}, "must be a tuple"),
        ((X, Y[:3]), "one row per example"),
        ((np.array([[None] * 5] * 20), Y), "no tensor can be made of a ndarray"),
        ((X,), "hold no targets"),
        ((csr_matrix(X), Y), r"hold a csr_matrix, a sparse matrix of SciPy.*pass x\.toarray\(\)"),
        ((X, None, np.ones(20)), "no tensor can be made of a NoneType"),
    ],
)
def test_data(data, message):
    with pytest.raises(DataError, match=message):
        Objective(keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]), cross_entropy(), data)


def test_an_array_in_place_of_data():
    with pytest.raises(DataError, match=r"or \(x,\) without targets, .*got ndarray"):
        Objective(model_of(), None, X)


def test_another_layer_in_place_of_one_that_is_measured():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    objective = Objective(model, cross_entropy(), (X, Y))
    model.add(keras.layers.Dense(3))
    with pytest.raises(LayoutError, match="new in the model"):
        objective.check()
