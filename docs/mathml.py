"""Writes the formulas of the documentation as MathML, which browsers show without JavaScript or network.

The formulas are converted when the documentation is built, by latex2mathml. One that cannot be converted is a
warning, and so fails the build.
"""

import re
from html import escape

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

LOGGER = logging.getLogger(__name__)
GREEK_CAPITAL = re.compile(r"<mi>(?=(?:&#x003(?:9[1-9A-F]|A[0-9]);|[\u0391-\u03a9])</mi>)")


def to_mathml(node, *, display):
    try:
        formula = convert(node.astext(), display=display)
        return GREEK_CAPITAL.sub('<mi mathvariant="normal">', formula)  # upright, as in TeX
    except Exception as error:  # the converter has an exception of its own for every mistake
        LOGGER.warning("the formula cannot be converted (%s): %s", error, node.astext(), location=node)
        return f"<code>{escape(node.astext())}</code>"


def visit_inline(translator, node):
    translator.body.append(to_mathml(node, display="inline"))
    raise nodes.SkipNode


def visit_block(translator, node):
    number = get_node_equation_number(translator, node) if node["number"] else ""
    label = f'<span class="eqno">({number})</span>' if number else ""
    translator.body.append(translator.starttag(node, "div", CLASS="math-block"))
    translator.body.append(f"{label}{to_mathml(node, display='block')}</div>")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
