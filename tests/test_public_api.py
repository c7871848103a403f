"""What users may import, by module: `tests/public_api.toml` lists it, and a change there is a deliberate one.

A module is public if no part of its dotted name begins with an underscore. It defines `__all__`, and whatever
else it defines begins with an underscore. After a change on purpose, `python -m tests.test_public_api` writes
the list anew; read its diff.
"""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LISTED = Path(__file__).with_name("public_api.toml")


def public_modules() -> dict[str, Path]:
    """The public modules of the four packages, by dotted name."""
    found = {}
    for base in (ROOT, ROOT / "backends"):
        for package in ("lca", "lca_torch", "lca_tensorflow", "lca_keras"):
            for path in (base / package).rglob("*.py"):
                parts = path.relative_to(base).with_suffix("").parts
                parts = parts[:-1] if parts[-1] == "__init__" else parts
                if not any(part.startswith("_") for part in parts):
                    found[".".join(parts)] = path
    return dict(sorted(found.items()))


def defined(path: Path) -> tuple[list[str] | None, list[str]]:
    """``__all__`` of a file, and the names that it defines (not those that it imports)."""
    exported, names = None, []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name):
                names.append(target.id)
                if target.id == "__all__" and isinstance(node, ast.Assign):
                    exported = ast.literal_eval(node.value)
    return exported, names


MODULES = public_modules()


def test_the_public_modules_are_those_listed():
    assert list(MODULES) == sorted(tomllib.loads(LISTED.read_text()))


def test_every_public_module_has_a_place_in_the_api_reference():
    described = re.findall(r'"(lca[\w.]*)"', (ROOT / "docs" / "api_reference.py").read_text())
    assert set(MODULES) - {"lca", "lca.tolerances"} <= set(described)  # lca itself: names of the others
    assert "automodule:: lca.tolerances" in (ROOT / "docs" / "tolerances.md").read_text()


@pytest.mark.parametrize("module", MODULES)
def test_the_public_names_are_those_listed(module):
    exported, _ = defined(MODULES[module])
    assert exported is not None, f"{module} has no __all__; give it one, or a name that begins with _"
    assert sorted(exported) == tomllib.loads(LISTED.read_text())[module]


@pytest.mark.parametrize("module", MODULES)
def test_all_other_names_begin_with_an_underscore(module):
    exported, names = defined(MODULES[module])
    others = [name for name in names if not name.startswith("_") and name not in (exported or ())]
    assert not others, (
        f"{module} defines {', '.join(others)}: put them in __all__ or rename them _{others[0]}"
    )


def _write() -> None:
    lines = ["# Written by `python -m tests.test_public_api`: what users may import, by module."]
    for module, path in MODULES.items():
        lines += ["", f'"{module}" = [', *(f'    "{name}",' for name in sorted(defined(path)[0] or [])), "]"]
    LISTED.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    _write()
