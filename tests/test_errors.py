"""Errors: one base class that is a ValueError, and unknown names with the known ones."""

import inspect

import pytest

from lca import errors
from lca.errors import LCAError, UnknownNameError

DEFINED = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
CLASSES = [c for c in DEFINED if not issubclass(c, Warning)]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_an_lca_error_and_a_value_error(error):
    assert issubclass(error, LCAError)
    assert issubclass(error, ValueError)


def test_an_unknown_name_lists_the_known_in_order_and_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        raise UnknownNameError("rule", "simson", ["trapezoid", "simpson", "left"])
    assert str(caught.value) == (
        "unknown rule 'simson'; known: left, simpson, trapezoid. Did you mean 'simpson'?"
    )


def test_a_dissimilar_name_gets_no_suggestion():
    assert str(UnknownNameError("rule", "xyz", ["left"])) == "unknown rule 'xyz'; known: left."
