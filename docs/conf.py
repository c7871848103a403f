"""Sphinx configuration; `make docs` builds with warnings as errors."""

import re

import lca

project = "loss-change-allocation"
author = "The loss-change-allocation developers"
copyright = "2026, The loss-change-allocation developers"  # noqa: A001
version = release = lca.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "py:obj"  # `Sum` in a docstring is a link
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_class_signature = "mixed"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
toc_object_entries = False  # the API page would have a table of contents longer than a screen
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


_VERBATIM = re.compile(r"(``.*?``|^ *>>>.*?(?:\n *\n|\Z))", re.DOTALL | re.MULTILINE)


def plain_mathematics(*event):
    """Docstrings are written for the terminal: |A| and (N, *shape) in them are mathematics, not markup."""
    lines = event[-1]
    pieces = _VERBATIM.split("\n".join(lines))
    pieces[::2] = [re.sub(r"\||(?<=, )\*(?=[\w.]+\))", r"\\\g<0>", text) for text in pieces[::2]]
    lines[:] = "".join(pieces).split("\n")


def undo_napoleon(*event):
    """Two readings that napoleon gets wrong here, put right.

    "``a - b``: what it is", as the first line of a property, is a formula and not a type; and "a, b" in a
    list of attributes are two names, not a type and a name.
    """
    lines = event[-1]
    types = [i for i, line in enumerate(lines) if line.startswith(":type: ``")]
    for i in types:
        lines[0] = f"{lines[i].removeprefix(':type: ')}: {lines[0]}"
        del lines[i]
    lines[:] = [re.sub(r"^( *:ivar \w+), (\w+:)", r"\1,\2", line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", plain_mathematics)
    app.connect("autodoc-process-docstring", undo_napoleon)
