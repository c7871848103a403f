"""Numeric tolerances come from `lca.tolerances`; a literal in a test needs a reason in a list.

A literal tolerance is a number in ``rtol=``, ``atol=``, ``pytest.approx(..., rel=..., abs=...)``, or on the
larger side of a comparison with ``abs(...)``. A comparison that relies on the default tolerance of NumPy or
pytest counts as well. Numbers inside a call of a function of `lca.tolerances` do not. Reasons are in
``tolerance_literals.toml``; print what is missing there with ``python -m tests.test_tolerance_literals``.
"""

import ast
import inspect
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lca import tolerances

TESTS = Path(__file__).resolve().parent
ALLOWED = tomllib.loads((TESTS / "tolerance_literals.toml").read_text(encoding="utf-8"))["allowed"]
FUNCTIONS = {name for name, _ in inspect.getmembers(tolerances, inspect.isfunction)}
KEYWORDS = {"rtol", "atol", "rel", "abs", "rel_tol", "abs_tol"}
CLOSE = {"approx", "allclose", "isclose", "assert_allclose", "assert_almost_equal"}


def called(node: ast.AST) -> str:
    """The last part of the name of a called function; empty if the node is no call of a name."""
    function = getattr(node, "func", None)
    return getattr(function, "attr", None) or getattr(function, "id", None) or ""


def has_literal(node: ast.AST) -> bool:
    """Whether an expression contains a number other than 0, outside of the functions of `lca.tolerances`."""
    if called(node) in FUNCTIONS:
        return False
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and node.value != 0
    return any(map(has_literal, ast.iter_child_nodes(node)))


def has_small_literal(node: ast.AST) -> bool:
    """Whether an expression contains a number between 0 and 0.1, as a tolerance does."""
    if called(node) in FUNCTIONS:
        return False
    if isinstance(node, ast.Constant):
        return isinstance(node.value, float) and 0 < node.value < 0.1
    return any(map(has_small_literal, ast.iter_child_nodes(node)))


def has_distance(node: ast.AST) -> bool:
    """Whether an expression contains an absolute value."""
    return any(called(part) in ("abs", "fabs", "norm") for part in ast.walk(node))


def is_literal_tolerance(node: ast.AST) -> bool:
    """Whether a call or a comparison has a tolerance that is a number, or a hidden default."""
    if isinstance(node, ast.Call) and called(node) in CLOSE:
        stated = [keyword.value for keyword in node.keywords if keyword.arg in KEYWORDS]
        return not stated or any(map(has_literal, stated))
    if not isinstance(node, ast.Compare):
        return False
    sides = [node.left, *node.comparators]
    return any(
        has_distance(smaller) and has_small_literal(larger)
        for smaller, operator, larger in (
            (a, op, b) if isinstance(op, ast.Lt | ast.LtE) else (b, op, a)
            for a, op, b in zip(sides[:-1], node.ops, sides[1:], strict=True)
            if isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
        )
    )


def literal_tolerances(source: str) -> Iterator[str]:
    """The functions of a file that contain a literal tolerance."""
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef) and any(map(is_literal_tolerance, ast.walk(function))):
            yield function.name


def found() -> set[str]:
    """Every function of the tests with a literal tolerance, as ``file::function``."""
    return {
        f"{path.relative_to(TESTS.parent)}::{name}"
        for path in TESTS.rglob("*.py")
        for name in literal_tolerances(path.read_text(encoding="utf-8"))
    }


def test_every_literal_tolerance_has_a_reason() -> None:
    allowed = {place for places in ALLOWED.values() for place in places}
    missing = sorted(found() - allowed)
    assert not missing, "\n".join(["use lca.tolerances, or add to tests/tolerance_literals.toml:", *missing])
    assert sorted(allowed - found()) == [], "these entries are no longer needed"


@pytest.mark.parametrize(
    "line",
    [
        "assert abs(a - b) < 1e-6",
        "assert np.abs(a - b).max() <= 1e-9 * mass",
        "assert 1e-4 >= abs(residual)",
        "assert a == pytest.approx(b)",
        "assert a == pytest.approx(b, rel=0.05)",
        "np.testing.assert_allclose(a, b, rtol=1e-12)",
        "np.testing.assert_allclose(a, b)",
    ],
)
def test_a_literal_tolerance_is_found(line: str) -> None:
    assert list(literal_tolerances(f"def test():\n    {line}")) == ["test"]


@pytest.mark.parametrize(
    "line",
    [
        "assert abs(a - b) <= summed(2.0, EPS64)",
        "assert abs(a - b) > 1e-3",
        "assert a == pytest.approx(b, rel=tolerances.summed(6, EPS64))",
        "np.testing.assert_allclose(a, b, rtol=summed(2, EPS64), atol=0)",
        "assert p_value < 1e-4",
    ],
)
def test_what_is_no_literal_tolerance_is_accepted(line: str) -> None:
    assert list(literal_tolerances(f"def test():\n    {line}")) == []


if __name__ == "__main__":
    print("\n".join(sorted(found() - {place for places in ALLOWED.values() for place in places})))
