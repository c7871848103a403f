"""Install the lowest versions that pyproject.toml admits in a fresh environment, and run the tests there.

``make lowest``, or ``python3.11 .ci/lowest.py``. What pyproject.toml names with ``>=`` is installed at that
version, for every extra; pip chooses what these packages need in turn. Unknown options go to pytest.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OWN = "loss-change-allocation"
UNTESTED = ("build", "furo", "mypy", "myst-parser", "ruff", "scipy-stubs", "sphinx", "types-tqdm")
"""Of the extra ``dev``: linters, type stubs and documentation, which no result depends on."""
TWICE = "tensorflow"
"""The same package as tensorflow-cpu, which the extra ``dev`` installs."""
BEAR = ["-W", "ignore::DeprecationWarning", "-W", "ignore::FutureWarning"]
"""Old releases warn of what newer ones of the packages below them have changed."""


def lowest(project: dict) -> dict[str, str]:
    """The lower bound of each package that the tests may need, by name; "" if it has none."""
    extras = project["optional-dependencies"].values()
    found = {}
    for text in [*project["dependencies"], *(each for extra in extras for each in extra)]:
        name, _, bound = re.sub(r"\[.*?\]|\s", "", text).partition(">=")
        if name not in (OWN, TWICE, *UNTESTED):
            found[name] = bound
    return found


def main() -> None:
    """Make the environment, and end with the status of the tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to make the environment (a temporary folder)")
    parser.add_argument(
        "--newest", action="append", default=[], metavar="PACKAGE",
        help="do not hold this package at its lowest version (torch, where its index has no old CPU build)",
    )  # fmt: skip
    options, for_pytest = parser.parse_known_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if "{}.{}".format(*sys.version_info) not in project["requires-python"]:
        print(f"Python is not the lowest: {project['requires-python']} is admitted.", file=sys.stderr)
    packages = {name: bound for name, bound in lowest(project).items() if name not in options.newest}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch, "venv")
        bounds = Path(scratch, "lowest.txt")
        pinned = [f"{name}=={bound}" for name, bound in packages.items() if bound]
        left = [
            line
            for line in (ROOT / "constraints.txt").read_text().splitlines()
            if line.partition("==")[0] in options.newest
        ]
        bounds.write_text("\n".join([*pinned, *left]) + "\n")
        print(bounds.read_text(), flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = str(folder / "bin" / "python")
        names = [*packages, *options.newest]
        install = [python, "-m", "pip", "install", "--quiet", "-c", bounds, "-e", str(ROOT), *names]
        subprocess.run(install, check=True)
        tests = [python, "-m", "pytest", *BEAR, *(for_pytest or ["tests", "lca", "backends"])]
        environment = {**os.environ, "USE_TF": "0"}  # an old transformers cannot be imported beside Keras 3
        sys.exit(subprocess.run(tests, cwd=ROOT, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
