"""How pytest runs this project: hypothesis profiles, and the examples in the Markdown pages.

The profiles apply to tests, doctests and pages alike. ``LCA_HYPOTHESIS_PROFILE`` or hypothesis' own option
``--hypothesis-profile`` chooses one; the default is ``ci``, so that a run never fails by chance:

- ``ci``: 25 examples, the same in every run;
- ``dev``: 25 examples, other ones in every run; failures are kept in ``.hypothesis`` and tried first;
- ``nightly``: 2,000 examples, other ones in every run (``make nightly``).

In a page, Python blocks are executed, and a ``text`` block must hold exactly what the Python block before it
printed. All blocks of a page share one namespace.
"""

import gc
import os
from contextlib import redirect_stdout
from io import StringIO

from hypothesis import HealthCheck, settings
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser, SkipParser

# No profile looks at the clock: on a busy machine a deadline or a slow draw would fail a correct test.
for _name, _options in {
    "ci": {"max_examples": 25, "derandomize": True, "database": None},
    "dev": {
        "max_examples": 25,
        "derandomize": False,
    },  # said, because hypothesis derandomises where CI is set
    "nightly": {"max_examples": 2_000, "derandomize": False},
}.items():
    settings.register_profile(
        _name, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True, **_options
    )
settings.load_profile(os.environ.get("LCA_HYPOTHESIS_PROFILE", "ci"))
if os.environ.get("LCA_HYPOTHESIS_PROFILE") != "nightly":  # XLA need not optimize code that runs a few times
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    )


def pytest_collection() -> None:
    """Turn off the garbage collector, which would search what the imports make again and again."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave what the imports made out of all later collections, which search it in vain."""
    gc.collect()
    gc.freeze()
    gc.enable()


collect_ignore = [f"docs/{name}.py" for name in ("conf", "make_tutorials", "mathml")]  # need the extra `docs`
if os.environ.get("KERAS_BACKEND") not in ("torch", "jax"):
    collect_ignore += ["docs/keras.md", "backends/lca_keras/_torch.py", "backends/lca_keras/_jax.py"]
    # tests/lca_keras runs the page on both engines
_execute = PythonEvaluator()


def run(example: Example) -> None:
    """Execute a Python block and keep what it prints."""
    printed = StringIO()
    with redirect_stdout(printed):
        _execute(example)
    example.namespace["printed"] = printed.getvalue()


def compare(example: Example) -> str | None:
    """What is wrong with a block of expected output, or ``None``."""
    printed = example.namespace.pop("printed", "")
    if printed.rstrip() == example.parsed.rstrip():
        return None
    return f"the page shows\n{example.parsed}\nbut the example prints\n{printed}"


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", run), CodeBlockParser("text", compare), SkipParser()],
    patterns=["*.md"],
).pytest()
