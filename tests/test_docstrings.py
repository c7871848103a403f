"""Every public class and function has a docstring with a runnable example.

Public is what a package lists in ``__all__``. The examples themselves are run as doctests.
"""

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

import pytest

ROOTS = ("lca", "lca_torch", "lca_tensorflow", "lca_keras")
_ABSTRACT = "abstract; its subclasses have examples"
_OTHER_ENGINE = (
    "Keras chooses its engine when it is imported, so docs/keras.md shows it in a process of its own"
)
WITHOUT_EXAMPLE = {
    "lca.tracking.CallbackBase": _ABSTRACT,
    "lca.tracking.TrackerBase": _ABSTRACT,
    "lca_keras.LCACallback": _OTHER_ENGINE,
    "lca_keras.Objective": _OTHER_ENGINE,
    "lca_keras.Tracker": _OTHER_ENGINE,
}
"""Public classes and functions without an example, each with the reason."""
RANDOM = "lca.testing.strategies."
"""What begins so draws at random, and has no example."""


def public_modules() -> Iterator[str]:
    """Every module of the project that has an ``__all__`` and no underscore in its path."""
    for root in ROOTS:
        package = importlib.import_module(root)
        names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{root}.")]
        for name in [root, *names]:
            if "._" not in name and hasattr(importlib.import_module(name), "__all__"):
                yield name


def public_objects() -> dict[str, object]:
    """The public classes and functions by module and name, each once; not constants or type aliases."""
    found: dict[str, object] = {}
    for module in public_modules():
        for name in importlib.import_module(module).__all__:
            thing = getattr(importlib.import_module(module), name)
            ours = getattr(thing, "__module__", "").partition(".")[0] in ROOTS  # typing.Any is not
            if ours and (inspect.isclass(thing) or inspect.isroutine(thing)) and thing not in found.values():
                found[f"{module}.{name}"] = thing
    return found


def can_run(thing: object) -> bool:
    """Whether an example could show it at work: not so errors, protocols and abstract classes."""
    if not inspect.isclass(thing):
        return True
    protocol = getattr(thing, "_is_protocol", False)
    return not (issubclass(thing, Exception) or inspect.isabstract(thing) or protocol)


OBJECTS = public_objects()


def has_example(docstring: str) -> bool:
    """Whether a docstring has an example that runs; comments do not."""
    examples = doctest.DocTestParser().get_examples(docstring)
    return any(not example.source.startswith("#") for example in examples)


@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_public_names_have_a_docstring_with_an_example(name: str) -> None:
    docstring = OBJECTS[name].__doc__ or ""
    assert docstring, f"{name} has no docstring"
    if can_run(OBJECTS[name]) and name not in WITHOUT_EXAMPLE and not name.startswith(RANDOM):
        assert has_example(docstring), f"the docstring of {name} has no example"


def parameters(thing: object) -> list[str]:
    """The names that a caller may pass; none for errors, dictionaries, protocols and abstract classes."""
    if not callable(thing) or not can_run(thing) or (inspect.isclass(thing) and issubclass(thing, dict)):
        return []
    found = inspect.signature(thing).parameters.values()
    return [one.name for one in found if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]


def unnamed(thing: object) -> list[str]:
    """The parameters that the text of a docstring does not mention."""
    text = (thing.__doc__ or "").partition(">>>")[0]
    return [name for name in parameters(thing) if not re.search(rf"\b{name}\b", text)]


def test_docstrings_name_every_parameter() -> None:
    found = {name: missing for name, thing in OBJECTS.items() if (missing := unnamed(thing))}
    assert not found


def test_a_parameter_in_the_example_alone_is_not_named() -> None:
    def scaled(vector: object, factor: float) -> None:
        """A vector times a number.

        >>> scaled([1.0], factor=2.0)
        """

    assert unnamed(scaled) == ["factor"]


def test_the_search_covers_every_package() -> None:
    names = {name.rpartition(".")[2] for name in OBJECTS}
    assert {
        "allocate",
        "CrossFit",
        "check_backend",
        "plot_loss",
        "FunctionalTracker",
        "ModelObjective",
    } <= names
    assert {name.partition(".")[0] for name in OBJECTS} == set(ROOTS)


@pytest.mark.parametrize("name", sorted(WITHOUT_EXAMPLE))
def test_every_exception_is_needed(name: str) -> None:
    assert can_run(OBJECTS[name])
    assert not has_example(OBJECTS[name].__doc__ or "")


@pytest.mark.parametrize(
    ("docstring", "found"),
    [("One line.", False), (">>> # for x in loader: ...", False), ("Adds.\n\n>>> 1 + 1\n2", True)],
)
def test_only_code_is_an_example(docstring: str, found: bool) -> None:
    assert has_example(docstring) is found
