"""Deprecated names and parameters work, warn at the line of the caller, and go when their time has come."""

import ast
import tomllib
import warnings
from pathlib import Path

import pytest

from lca import LCAError
from lca._deprecation import deprecated, renamed_parameter

ROOT = Path(__file__).resolve().parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


@deprecated("new", since="0.3.0", removal="0.5.0")
def old(x: int, *, y: int = 1) -> int:
    """What it does."""
    return x + y


@renamed_parameter("n", "steps", since="1.2.0", removal="2.0.0")
def train(seed: int, *, steps: int = 3) -> tuple[int, int]:
    return seed, steps


def test_a_deprecated_function_works_and_warns_at_the_line_of_the_caller() -> None:
    with pytest.warns(
        FutureWarning, match="old is deprecated since 0.3.0 .* removed in 0.5.0; use new"
    ) as caught:
        assert old(2, y=3) == 5
    assert caught[0].filename == __file__


def test_its_documentation_says_so() -> None:
    assert old.__name__ == "old"
    assert old.__doc__ == (
        "What it does.\n\n.. deprecated:: 0.3.0\n"
        "    old is deprecated since 0.3.0 and will be removed in 0.5.0; use new instead.\n"
    )


def test_the_old_name_of_a_parameter_works_and_warns_at_the_line_of_the_caller() -> None:
    with pytest.warns(
        FutureWarning, match=r"train\(n=\) is deprecated since 1.2.0 .* use steps= instead"
    ) as caught:
        assert train(1, n=5) == (1, 5)
    assert caught[0].filename == __file__


def test_the_new_name_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (train(1, steps=5), train(1)) == ((1, 5), (1, 3))


def test_both_names_are_an_error() -> None:
    with pytest.raises(LCAError, match="steps= and its old name n="):
        train(1, n=5, steps=5)


@pytest.mark.parametrize(("since", "removal"), [("0.3.0", "0.4.0"), ("0.3.0", "0.3.0"), ("1.4.0", "0.9.0")])
def test_removal_within_two_minor_versions_is_refused(since: str, removal: str) -> None:
    for decorator in (deprecated, renamed_parameter):
        names = ("x",) if decorator is deprecated else ("x", "y")
        with pytest.raises(LCAError, match="works for two minor versions"):
            decorator(*names, since=since, removal=removal)


def overdue(source: str, version: str) -> list[int]:
    """The lines of a module on which something is deprecated that this version was to remove."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    found = []
    for call in calls:
        removal = [word.value for word in call.keywords if word.arg == "removal"]
        if removal and isinstance(removal[0], ast.Constant) and order(removal[0].value) <= order(version):
            found.append(call.lineno)
    return found


def order(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_what_is_overdue_is_found() -> None:
    source = '@deprecated("new", since="0.3.0", removal="0.10.0")\ndef old(): ...\n'
    assert [overdue(source, version) for version in ("0.9.0", "0.10.0", "1.0.0")] == [[], [1], [1]]


def test_nothing_is_kept_beyond_its_time() -> None:
    modules = [path for folder in ("lca", "backends") for path in (ROOT / folder).rglob("*.py")]
    modules.remove(ROOT / "lca" / "_deprecation.py")  # its examples have versions of their own
    late = {str(path): overdue(path.read_text(encoding="utf-8"), VERSION) for path in modules}
    assert {path: lines for path, lines in late.items() if lines} == {}
