"""The structure of the code: imports run downwards only, no circle of modules, and backends stay apart."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    ["lca.errors"],
    ["lca._listing", "lca._paths", "lca._signals"],
    [
        "lca.tolerances",
        "lca._blocks",
        "lca._checkpoint_names",
        "lca._deprecation",
        "lca._extras",
        "lca._freedom",
        "lca._numbers",
        "lca._output",
        "lca._schedules",
        "lca._verdict",
    ],
    ["lca.arrays", "lca.quadrature"],
    ["lca.groups", "lca.divisions"],
    ["lca._heads"],
    ["lca._experts"],
    ["lca.layout"],
    ["lca._state"],
    ["lca.objective", "lca._matching"],
    ["lca.step"],
    ["lca._micro_batches", "lca._replay", "lca._opening", "lca._shares", "lca._each_step"],
    ["lca.allocation"],
    ["lca.estimators", "lca.importers"],
    ["lca.row"],
    ["lca.views"],
    ["lca.tables"],
    ["lca.by_example"],
    ["lca.summary"],
    ["lca.record"],
    ["lca.live"],
    ["lca.frameworks"],
    ["lca.tracking"],
    ["lca"],
    ["lca.reference"],
    ["lca.analysis", "lca.testing"],
    ["lca.runs"],
    ["lca.plots"],
    ["lca.report"],
    ["lca_torch"],
    ["lca_keras"],
    ["lca_tensorflow"],
    ["lca._commands"],
    ["lca._cli"],
    ["lca.__main__"],
    ["validation"],
]
"""From the ground up; a module may import from the floors below its own, and from its own package."""


def modules() -> dict[str, Path]:
    """Every module of the product and of validation/, by dotted name."""
    found = {}
    for folder, prefix in (("lca", ""), ("backends", "backends/"), ("validation", "")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / prefix).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: set[str]) -> set[str]:
    """The known modules that a file imports anywhere, other than for type checking."""
    tree, found = ast.parse(path.read_text()), set()
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & known or {node.module}
            found |= {node.module} if inner - known else set()
    return found & known


MODULES = modules()


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """What each module imports."""
    return {name: imported(path, set(MODULES)) for name, path in MODULES.items()}


def package(module: str) -> str:
    """The entry of `FLOORS` that a module belongs to."""
    places = [place for floor in FLOORS for place in floor]
    inside = [place for place in places if module == place or module.startswith(place + ".")]
    assert inside, f"{module} has no floor; add it to FLOORS"
    return "lca" if module == "lca" else max((p for p in inside if p != "lca"), key=len, default="lca")


FLOOR_OF = {place: number for number, floor in enumerate(FLOORS) for place in floor}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module, imports):
    own = package(module)
    above = {
        other
        for other in imports[module]
        if package(other) != own and FLOOR_OF[package(other)] >= FLOOR_OF[own]
    }
    assert not above, f"{module} imports {', '.join(sorted(above))}, which is on its own floor or above"


def test_no_circle_of_modules(imports):
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' -> '.join(error.args[1])}")


def test_every_floor_exists():
    assert not [place for place in FLOOR_OF if place not in MODULES and place != "validation"]
