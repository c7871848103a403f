"""Sphinx configuration; `make docs` builds with warnings as errors."""

import importlib
import re
import sys
from pathlib import Path

from sphinx.util.nodes import make_refnode

import lca

sys.path.insert(0, str(Path(__file__).parent))  # for api_reference.py and mathml.py

from api_reference import write_pages  # noqa: E402

project = "loss-change-allocation"
author = "The loss-change-allocation developers"
copyright = "2026, The loss-change-allocation developers"  # noqa: A001
version = release = lca.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
html_math_renderer = "mathml"  # no formula needs the network
exclude_patterns = ["_build", "paper"]  # the paper is set by its journal
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # make_tutorials.py executes the notebooks and stores what they show
nb_merge_streams = True

default_role = "py:obj"  # `Sum` in a docstring is a link
nitpicky = True  # a link that leads nowhere is a warning, and so an error
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_class_signature = "mixed"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
toc_object_entries = False  # an API page would have a table of contents longer than a screen
napoleon_google_docstring = False
napoleon_use_ivar = True  # else attributes of a dataclass would be described twice
napoleon_use_rtype = False
math_number_all = False
math_eqref_format = "({number})"

html_theme = "furo"
html_title = f"loss-change-allocation {release}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_sphinx = False
html_copy_source = False


# The documentation is built offline, so the pages of other projects cannot be looked up.
_OTHER_PROJECTS = """
    collections dask hypothesis jax keras matplotlib numpy os pathlib re
    tensorflow tf torch transformers xarray
"""
nitpick_ignore_regex = [(r"py:.*", rf"{name}(\..*)?") for name in _OTHER_PROJECTS.split()]
# Names that the API reference does not describe, one a line.
nitpick_ignore = [
    (role, name)
    for name in (Path(__file__).parent / "not_linked.txt").read_text(encoding="utf-8").splitlines()
    if name and not name.startswith("#")
    for role in ("py:obj", "py:class")
]

_VERBATIM = re.compile(r"(``.*?``|^ *>>>.*?(?:\n *\n|\Z))", re.DOTALL | re.MULTILINE)


def plain_mathematics(*event):
    """Escape |A| and (N, *shape), which are mathematics in docstrings and markup in reStructuredText."""
    lines = event[-1]
    pieces = _VERBATIM.split("\n".join(lines))
    pieces[::2] = [re.sub(r"\||(?<=, )\*(?=[\w.]+\))", r"\\\g<0>", text) for text in pieces[::2]]
    lines[:] = "".join(pieces).split("\n")


def undo_napoleon(*event):
    """Correct two misreadings of napoleon.

    It reads the part before a colon in the first line of a property as a type, and in a list of attributes it
    reads "a, b" as a name and a type.
    """
    lines = event[-1]
    types = [i for i, line in enumerate(lines) if line.startswith(":type: ")]
    for i in types:
        lines[0] = f"{lines[i].removeprefix(':type: ')}: {lines[0]}"
        del lines[i]
    lines[:] = [re.sub(r"^( *:ivar \w+), (\w+:)", r"\1,\2", line) for line in lines]


def link_by_any_name(app, env, node, contnode):
    """Resolve references by another name of the same object, such as `Step` or an inherited method.

    An attribute that has no entry of its own, such as a field of a dataclass, is linked to its class.
    """
    if node.get("refdomain") != "py":
        return None
    domain, target = env.get_domain("py"), node["reftarget"]
    package = (node.get("py:module") or "lca").partition(".")[0]
    member = ".".join(filter(None, (node.get("py:module"), node.get("py:class"), target)))
    for name in (target, _canonical_name(target), _canonical_name(member), target.rpartition(".")[0]):
        matches = domain.find_obj(env, None, None, name, None, 1) if name else []
        # Both backends have a `Tracker`: a docstring means that of its own package.
        own = [match for match in matches if match[0].partition(".")[0] == package]
        entries = {entry.node_id: (found, entry) for found, entry in own or matches}
        if len(entries) == 1:
            [(found, entry)] = entries.values()
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, found)
    return None


def _canonical_name(target):
    """The public module and the name under which an object is defined; empty if there is no such object."""
    parts = target.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
            for part in parts[split:]:
                found = getattr(found, part)
        except (ImportError, AttributeError):
            continue
        found = getattr(found, "fget", found)  # of a property, the function
        module = re.sub(r"\._\w+", "", getattr(found, "__module__", ""))
        return f"{module}.{getattr(found, '__qualname__', '')}"
    return ""


def setup(app):
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", plain_mathematics)
    app.connect("autodoc-process-docstring", undo_napoleon)
    app.connect("missing-reference", link_by_any_name)
