"""The options of trackers and callbacks stand in one place, and every constructor shows them."""

from dataclasses import fields
from inspect import signature

import keras
import numpy as np
import pytest

from lca.errors import LCAError, UnknownNameError
from lca.reference import Quadratic
from lca.tracking import FunctionalTracker, Options
from lca.tracking._options import Settings
from lca_tensorflow import LCACallback
from lca_torch import Tracker
from lca_torch._fit import FitCallback

NAMES = [field.name for field in fields(Settings)]


def test_types_and_defaults_are_of_the_same_options():
    assert list(Options.__annotations__) == NAMES


@pytest.mark.parametrize("kind", [FunctionalTracker, Tracker, FitCallback, LCACallback])
def test_a_constructor_shows_every_option_with_its_default(kind):
    shown = signature(kind).parameters
    assert {name: shown[name].default for name in NAMES} == {
        field.name: field.default for field in fields(Settings)
    }
    assert "options" not in shown


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: FunctionalTracker(np.ones(2), Quadratic(np.eye(2)), **options),
        lambda **options: LCACallback(keras.ops.eye(2), keras.ops.ones((2, 1)), **options),
        lambda **options: FitCallback(lambda model: None, **options),
    ],
)
def test_an_unknown_option_is_named(make):
    with pytest.raises(UnknownNameError, match=r"unknown option 'evry'.* Did you mean 'every'\?"):
        make(evry=2)
    with pytest.raises(
        LCAError, match=r"settings is an option of the record .*lca.Record\(\"run.zarr\", sett"
    ):
        make(settings={"seed": 0})
