"""Writes the pages of the API reference, by subject, from the `__all__` of the public modules.

Each page begins with a table of its names and their first sentences; the full descriptions follow. A name
that two modules export (`lca.Step` is `lca.step.Step`) is described once, under the shorter one. The pages
are written to docs/api/ when the documentation is built, and are not part of the repository.
"""

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import NamedTuple

from sphinx.pycode import ModuleAnalyzer

from lca.estimators import REGISTRY
from lca.tracking import CallbackBase

FOLDER = Path(__file__).parent / "api"


class Page(NamedTuple):
    """A page of the reference: its file, title, introduction and the modules it describes."""

    name: str
    title: str
    about: str
    modules: tuple[str, ...]


PAGES = (
    Page(
        "allocation",
        "Allocating a run",
        "[The method](../method.md) explains what is computed.",
        ("lca.allocation",),
    ),
    Page(
        "by_example",
        "Allocation by example",
        "[The guide](../by_example.md) shows what it answers and what it costs.",
        ("lca.by_example",),
    ),
    Page(
        "estimators",
        "Estimators",
        "[Choosing an estimator](../choosing.md) compares them; "
        "[writing one](../write_an_estimator.md) shows "
        "what the other names are for.",
        ("lca.estimators",),
    ),
    Page(
        "quadrature",
        "Quadrature rules",
        "[The table](../method.md#quadrature) has nodes and weights.",
        ("lca.quadrature",),
    ),
    Page(
        "objectives",
        "Objectives, steps and layouts",
        "[Writing an objective](../write_an_objective.md) shows how they are used.",
        ("lca.objective", "lca.step", "lca.layout", "lca.groups", "lca.divisions"),
    ),
    Page(
        "views",
        "Views and summaries",
        "What a run is reduced to, step by step.",
        ("lca.views", "lca.row", "lca.summary", "lca.tables"),
    ),
    Page(
        "record",
        "Records",
        "[The record](../record.md) describes the files.",
        ("lca.record", "lca.importers"),
    ),
    Page(
        "analysis",
        "Analysis",
        "[The definitions](../analysis.md), with their limits.",
        ("lca.analysis", "lca.runs"),
    ),
    Page("plots", "Figures", "[The gallery](../figures.md) shows them all.", ("lca.plots",)),
    Page(
        "report",
        "Reports and live views",
        "[The report](../report.md) shows the page.",
        ("lca.report", "lca.live"),
    ),
    Page(
        "pytorch",
        "PyTorch",
        "[The guide](../pytorch.md) is the place to start.",
        ("lca_torch", "lca_torch.lightning", "lca_torch.huggingface"),
    ),
    Page(
        "tensorflow",
        "Keras and TensorFlow",
        "[The guide](../tensorflow.md) is the place to start.",
        ("lca_tensorflow",),
    ),
    Page(
        "keras",
        "Keras on PyTorch and JAX",
        "[The guide](../keras.md) is the place to start.",
        ("lca_keras",),
    ),
    Page(
        "reference",
        "The NumPy reference",
        "Models with hand-derived gradients, and training loops.",
        ("lca.reference",),
    ),
    Page(
        "backends",
        "For backends",
        "[Writing a backend](../write_a_backend.md) uses all of this.",
        ("lca.frameworks", "lca.tracking", "lca.arrays"),
    ),
    Page(
        "testing",
        "The conformance kit",
        "`lca check --list` prints every check; [tolerances](../tolerances.md) explains the limits.",
        ("lca.testing", "lca.testing.problems", "lca.testing.strategies"),
    ),
    Page("errors", "Errors", "Each one is an `LCAError`, which is a `ValueError`.", ("lca.errors",)),
)


def write_pages(*_event) -> None:
    """Write every page, and the index that lists them."""
    FOLDER.mkdir(exist_ok=True)
    described: set[int] = set()
    for page in PAGES:
        _write(FOLDER / f"{page.name}.md", _text(page, described))
    rows = [f"| [{page.title}]({page.name}.md) | {_modules(page)} |" for page in PAGES]
    table = ["| subject | modules |", "|---|---|", *rows]
    toctree = ["```{toctree}", ":hidden:", "", *(page.name for page in PAGES), "```"]
    about = (
        "Everything public, by subject; `lca.tolerances` is described with [tolerances](../tolerances.md). "
        "Names not listed here are internal and may change at any time."
    )
    _write(FOLDER / "index.md", "\n".join(["# API reference", "", about, "", *table, "", *toctree, ""]))


def _modules(page: Page) -> str:
    return ", ".join(f"`{module}`" for module in page.modules)


def _text(page: Page, described: set[int]) -> str:
    lines = [f"# {page.title}", "", page.about, ""]
    for module in page.modules:
        entries = _entries(module, described)
        if not entries:
            continue
        lines += [f"## `{module}`", "", "```{eval-rst}", f".. module:: {module}", "```", ""]
        lines += ["| name | description |", "|---|---|"]
        lines += [f"| {{py:obj}}`{path}` | {_first_sentence(path, value)} |" for path, value in entries]
        lines += ["", "```{eval-rst}", *(_directive(path, value) for path, value in entries), "```", ""]
    return "\n".join(lines + (_names() if page.name == "estimators" else []))


def _names() -> list[str]:
    """The table of the registry: every name that the command line takes."""
    rows = []
    for row in REGISTRY.values():
        fields = ", ".join(f"`{field}`" for field in row.required_fields)
        rows.append(f"| `{row.name}` | {row.description} | {row.target} | {fields} |")
    about = "For `lca demo --estimator NAME` and `lca.estimators.make_estimator`."
    return [
        "## All names",
        "",
        about,
        "",
        "| name | description | target | required step fields |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def _entries(module: str, described: set[int]) -> list[tuple[str, object]]:
    """The names of a module with their objects, but for those that have been described already."""
    top, own, found = importlib.import_module("lca"), importlib.import_module(module), []
    for name in own.__all__:
        value = getattr(own, name)
        if inspect.ismodule(value) or id(value) in described:
            continue
        if inspect.isclass(value) or inspect.isfunction(value):
            described.add(id(value))
        found.append((f"lca.{name}" if getattr(top, name, None) is value else f"{module}.{name}", value))
    return found


def _directive(path: str, value: object) -> str:
    if inspect.isclass(value):
        return f".. autoclass:: {path}" + ("\n   :no-members:" if _is_callback(value) else "")
    if inspect.isfunction(value):
        return f".. autofunction:: {path}"
    return "\n".join([f".. py:data:: {path}", "", *(f"   {line}" for line in _constant_doc(path)), ""])


def _constant_doc(path: str) -> list[str]:
    """The docstring below a constant or a type alias, in whichever module of the package defines it."""
    module, _, name = path.rpartition(".")
    inside = (other for other in list(sys.modules) if other == module or other.startswith(f"{module}."))
    for candidate in sorted(inside, key=len):
        docs = ModuleAnalyzer.for_module(candidate).find_attr_docs()
        if ("", name) in docs:
            return [line.replace("|", r"\|") for line in docs["", name] if line]
    return []


def _is_callback(value: type) -> bool:
    """Whether a framework calls the methods, so that users need no description of them."""
    return issubclass(value, CallbackBase) and value is not CallbackBase


def _first_sentence(path: str, value: object) -> str:
    """The beginning of the docstring, on one line, as Markdown in a table."""
    if inspect.isclass(value) or inspect.isfunction(value):
        text = inspect.getdoc(value) or ""
    else:
        text = "\n".join(_constant_doc(path))
    paragraph = text.partition("\n\n")[0].replace("\n", " ")
    sentence = re.split(r"(?<=[.:;]) (?=[A-Z])|(?<=\w\w\.) (?=[\d`])", paragraph)[0]
    return sentence.replace("``", "`").replace("|", "\\|")


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:  # an unchanged page is not built again
        path.write_text(text, encoding="utf-8")
