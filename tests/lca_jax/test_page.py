"""docs/write_a_backend.md shows every file of the example, which stays small."""

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
FILES = sorted((DOCS / "examples" / "lca_jax").glob("*.py"))
MOST_LINES = 700


def test_a_backend_takes_at_most_700_lines():
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES) <= MOST_LINES


def test_the_page_shows_every_file_once():
    page = (DOCS / "write_a_backend.md").read_text(encoding="utf-8")
    shown = re.findall(r"```{literalinclude} examples/lca_jax/(\S+)", page)
    assert sorted(shown) == [path.name for path in FILES if path.name != "__init__.py"]


def test_the_library_imports_no_jax():
    code = (
        "import sys, lca, lca._cli, lca.frameworks, lca.reference, lca.testing, lca.tracking; "
        "print('jax' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
