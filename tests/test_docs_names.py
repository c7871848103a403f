"""Documentation cannot lie about names: every name in backticks of a page, notebook or docstring resolves.

A name resolves if it is an importable object, an attribute of one that the text is about, a parameter of the
enclosing function or class, a file of the repository, a command or option of ``lca``, or a field of a record.
Words that are none of these are listed in ``docs_names.toml``, each with its reason. To see what does not
resolve, run ``python -m tests.test_docs_names``.
"""

import ast
import builtins
import importlib.util
import inspect
import json
import keyword
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lca", "lca_torch", "lca_tensorflow", "lca_keras")
KNOWN = tomllib.loads((ROOT / "tests" / "docs_names.toml").read_text(encoding="utf-8"))
VOCABULARY = {name for words in KNOWN["vocabulary"].values() for name in words}
UNRESOLVED = {(place, name) for place, names in KNOWN["unresolved"].items() for name in names}

_PATTERNS = ("*.md", ".github/*.md", "docs/**/*.md", "backends/*.md", "lca/**/*.md")
_PATTERNS += ("validation/**/README.md", "docs/**/*.ipynb")
_GENERATED = (
    ROOT / "docs" / "api",
    ROOT / "docs" / "_build",
)  # made of names that exist, when the docs are built
PAGES = sorted(
    path for pattern in _PATTERNS for path in ROOT.glob(pattern) if not set(_GENERATED) & set(path.parents)
)
MODULES = sorted(path for folder in ("lca", "backends") for path in (ROOT / folder).rglob("*.py"))
IDENTIFIER = r"[A-Za-z_]\w*"
DOTTED = re.compile(rf"{IDENTIFIER}(?:\.{IDENTIFIER})*")
SYMBOL = re.compile(r"[A-Za-z](_\w)?")  # of mathematics: A, L, w_k


def is_name(text: str) -> bool:
    """Whether a piece of code claims to be a name: an identifier, a dotted name, or a call of one."""
    return DOTTED.fullmatch(bare(text)) is not None


def bare(text: str) -> str:
    """The name in ``name(...)``, ``name=...`` and ``name[...]``."""
    text = re.sub(r"[(\[].*[)\]]$", "", text.strip(), flags=re.DOTALL)
    return re.sub(r"=.*$", "", text, flags=re.DOTALL)


def spans_of_page(text: str) -> Iterator[str]:
    """The code spans of a Markdown page, without its code blocks."""
    text = re.sub(r"^( *)(`{3,}|:::).*?^\1\2 *$", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from (
        found[1].strip() for found in re.findall(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", text, re.DOTALL)
    )


def text_and_code(path: Path) -> tuple[str, str]:
    """The prose and the code of a Markdown page or a notebook; the prose of a page holds its code blocks."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text, "\n".join(re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    cells = json.loads(text)["cells"]
    prose, code = (
        "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == kind)
        for kind in ("markdown", "code")
    )
    return prose, code


def spans_of_docstring(text: str) -> Iterator[str]:
    """The names in single and in double backticks of a docstring, without its examples."""
    text = re.sub(r"^ *>>>.*?(?:\n *\n|\Z)", "\n", text, flags=re.DOTALL | re.MULTILINE)
    for _, span in re.findall(r"(?<!`)(`{1,2})(?!`)(.+?)(?<!`)\1(?!`)", text, re.DOTALL):
        yield " ".join(span.split())


@cache
def imported(module: str) -> object | None:
    """The module of this name, or ``None``."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


@cache
def resolves_from_a_root(name: str) -> bool:
    """Whether a dotted name is a module of this project or an attribute reached from one."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        found = imported(".".join(parts[:split]))
        if found is not None:
            return _has_path(found, parts[split:])
    return False


def _has_path(found: object, attributes: list[str]) -> bool:
    for attribute in attributes:
        if isinstance(found, type) and attribute in _fields(found):
            return True  # a field without a default is no attribute of its class
        try:
            found = getattr(found, attribute)
        except AttributeError:
            return False
    return True


def _fields(owner: type) -> set[str]:
    """Annotated names of a class and its bases, and attributes that their methods set."""
    names = {name for base in owner.__mro__ for name in vars(base).get("__annotations__", ())}
    for base in owner.__mro__:
        if base.__module__.partition(".")[0] in PACKAGES:
            names |= set(re.findall(rf"self\.({IDENTIFIER})[ ,:=]", inspect.getsource(base)))
    return names


@cache
def definitions() -> frozenset[str]:
    """Public names of the project, and the parameters of public functions."""
    names = {part for path in MODULES for part in path.relative_to(ROOT).with_suffix("").parts}
    for path in MODULES:
        names |= _defined_in(ast.parse(path.read_text(encoding="utf-8")))
    return frozenset(names)


def _defined_in(scope: ast.AST) -> set[str]:
    """Names defined at the level of a module or class, and in the classes and public functions there."""
    names: set[str] = set()
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.ClassDef):
            names |= {node.name} | _defined_in(node)
        elif isinstance(node, ast.FunctionDef):
            names |= {node.name} | _parameters(node) if _is_public(node.name) else set()
            names |= {
                n.attr
                for n in ast.walk(node)
                if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
            }
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.If | ast.Try | ast.With):
            names |= _defined_in(node)
    return names


def _parameters(node: ast.FunctionDef) -> set[str]:
    return {arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)}


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name in ("__init__", "__call__")


@cache
def strings() -> frozenset[str]:
    """Short string constants of the project: keys of summaries, names of rules, commands, options."""
    return frozenset(
        node.value
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 60
    )


@cache
def files() -> frozenset[str]:
    """Paths of the repository, their last parts and their folders."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    paths = listed.stdout.split() or [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]
    folders = {str(parent) for path in paths for parent in Path(path).parents}
    return frozenset({*paths, *folders, *(Path(path).name for path in [*paths, *folders])})


def resolves(name: str, local: frozenset[str] = frozenset()) -> bool:
    """Whether a name in backticks refers to something; ``local`` are the names known where it stands."""
    first, _, rest = name.partition(".")
    if name in VOCABULARY or first in VOCABULARY or name in local or name in strings():
        return True
    if name.rstrip("/") in files() or keyword.iskeyword(name) or hasattr(builtins, first):
        return True
    if first in PACKAGES:
        return resolves_from_a_root(name)
    if not rest:
        return name in definitions() or importlib.util.find_spec(name) is not None
    if importlib.util.find_spec(first) is not None:
        return resolves_from_a_root(name)
    return first in local | definitions() and all(part in definitions() for part in rest.split("."))


def claims() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Every name in backticks: where it stands, the name, and the names known there."""
    for path in PAGES:
        text, code = text_and_code(path)
        local = frozenset(re.findall(IDENTIFIER, code))
        for span in spans_of_page(text):
            if is_name(span) and not SYMBOL.fullmatch(bare(span)):
                yield str(path.relative_to(ROOT)), bare(span), local
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = {
            (alias.asname or alias.name).partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        top = (
            imports
            | _defined_in(tree)
            | {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        )
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                local = frozenset(top if isinstance(node, ast.Module) else top | _used_in(node))
                for span in spans_of_docstring(ast.get_docstring(node) or ""):
                    if is_name(span) and not SYMBOL.fullmatch(bare(span)):
                        yield str(path.relative_to(ROOT)), bare(span), local


def _used_in(node: ast.AST) -> set[str]:
    """Names, parameters, attributes and string constants in the code of a class or function."""
    words = (getattr(n, key, None) for n in ast.walk(node) for key in ("id", "arg", "attr", "value"))
    return {word for word in words if isinstance(word, str) and " " not in word}


def unresolved() -> set[tuple[str, str]]:
    """Places and names that refer to nothing."""
    return {(place, name) for place, name, local in claims() if not resolves(name, local)}


def test_every_name_in_backticks_refers_to_something() -> None:
    found = unresolved() - UNRESOLVED
    lines = [f"{place}: `{name}`" for place, name in sorted(found)]
    assert not lines, "\n".join(["correct these names, or list them in tests/docs_names.toml:", *lines])


def test_no_exception_is_kept_that_is_not_needed() -> None:
    assert UNRESOLVED - unresolved() == set()
    used = {name for _, name, _ in claims()} | {name.partition(".")[0] for _, name, _ in claims()}
    assert VOCABULARY - used == set()


def test_the_search_covers_the_project() -> None:
    places = {place for place, _, _ in claims()}
    assert {"README.md", "docs/method.md", "lca/layout.py", "lca/testing/_checks.py"} <= places
    assert "docs/tutorials/first_run.ipynb" in places


def test_the_text_of_a_notebook_is_read_and_its_code_gives_names(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["Text of `a_name`,\n", "and `another`."]},
        {"cell_type": "code", "source": ["a_name = 1"], "outputs": [{"text": "`no_name`"}]},
    ]
    (tmp_path / "page.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    text, code = text_and_code(tmp_path / "page.ipynb")
    assert [*spans_of_page(text)] == ["a_name", "another"]
    assert code == "a_name = 1"


@pytest.mark.parametrize(
    "name",
    ["lca.no_such_name", "Layout.no_such_method", "no_such_function", "VectorOps.mass", "docs/none.md"],
)
def test_a_wrong_name_is_found(name: str) -> None:
    assert not resolves(name)


@pytest.mark.parametrize(
    "name", ["lca.Layout.flatten", "Layout.groups", "StepAllocation.residual", "numpy.ndarray"]
)
def test_a_right_name_is_accepted(name: str) -> None:
    assert resolves(name)


if __name__ == "__main__":
    for place, name in sorted(unresolved()):
        print(f"{place}: {name}")
