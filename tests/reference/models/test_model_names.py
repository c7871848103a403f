"""Networks by name: widths, defaults, shapes, errors."""

import pytest

from lca.errors import LCAError, UnknownNameError
from lca.reference import ReLU, Tanh, logistic_regression, mlp, small_cnn
from lca.reference._models.named import MODELS, make_model


@pytest.mark.parametrize(
    ("spec", "network"),
    [
        ("logistic", logistic_regression(48, 5)),
        ("mlp", mlp((48, 64, 32, 5))),
        ("mlp:7", mlp((48, 7, 5))),
        ("mlp-tanh:7, 3", mlp((48, 7, 3, 5), activation="tanh")),
        ("cnn", small_cnn((1, 6, 8), 5, channels=(8, 16))),
        ("cnn:4", small_cnn((1, 6, 8), 5, channels=(4,))),
    ],
)
def test_a_description_gives_the_network_it_describes(spec, network):
    assert make_model(spec, (6, 8), 5) == network


def test_activations_differ():
    assert ReLU() in make_model("mlp", (6, 8), 5).layers
    assert Tanh() in make_model("mlp-tanh", (6, 8), 5).layers


def test_images_with_channels_keep_them():
    assert make_model("cnn", (3, 6, 8), 5).input_shape == (3, 6, 8)


@pytest.mark.parametrize("name", MODELS)
def test_every_listed_name_is_known(name):
    assert make_model(name, (6, 8), 5).n_outputs == 5


@pytest.mark.parametrize("spec", ["mlp:0", "mlp:64,", "mlp:a", "mlp:-3", "mlp:6.5"])
def test_widths_must_be_positive_integers(spec):
    with pytest.raises(LCAError, match="positive integers separated by commas"):
        make_model(spec, (6, 8), 5)


def test_logistic_regression_has_no_widths():
    with pytest.raises(LCAError, match="has no hidden layers"):
        make_model("logistic:3", (6, 8), 5)


def test_a_convolutional_network_needs_images():
    with pytest.raises(LCAError, match=r"takes images .* got examples of shape \(48,\)"):
        make_model("cnn", (48,), 5)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UnknownNameError, match=r"unknown model 'rnn'; known: cnn, logistic, mlp"):
        make_model("rnn", (6, 8), 5)
