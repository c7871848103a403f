"""Run the tests in a fresh environment with the lowest or the newest versions that pyproject.toml admits.

    python3.12 .ci/versions.py lowest        (or: make lowest PYTHON=python3.12)
    python3.12 .ci/versions.py newest        (or: make newest PYTHON=python3.12)

``lowest`` is the lowest admitted version that has a wheel for this Python and system, for every package that
pyproject.toml names; what these need in turn is the newest that fits. Where TensorFlow has no wheel, the
tests that need it are left out, with a line that says so. Unknown options go to pytest.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESOLUTION = {"lowest": "lowest-direct", "newest": "highest"}
BEAR = "-W ignore::DeprecationWarning -W ignore::FutureWarning"
"""Old releases warn of what the packages below them have changed, and new ones of what they will change.
In the environment, so that the processes that tests start bear it, too."""


def resolve(python: str, versions: str, held: Path) -> list[str]:
    """One line ``name==version`` for each package of the extra ``tests``; ``held`` lists exceptions."""
    command = [
        python,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--no-header",
        "--no-annotate",
        "--python",
        python,
    ]
    command += ["--only-binary", ":all:", "--resolution", RESOLUTION[versions], "--extra", "tests"]
    command += ["--constraint", str(held), str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def need_tensorflow() -> list[str]:
    """The tests that mention TensorFlow or Keras."""
    folders = [
        ROOT / "tests" / "lca_tensorflow",
        ROOT / "tests" / "laws",
        ROOT / "backends" / "lca_keras",
        ROOT / "backends" / "lca_tensorflow",
    ]
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if mentions_tensorflow(path)]
    return [str(path.relative_to(ROOT)) for path in [*folders, *sorted(files)]]


def mentions_tensorflow(path: Path) -> bool:
    """Whether a file names one of the two."""
    return re.search("tensorflow|keras", path.read_text(encoding="utf-8"), re.IGNORECASE) is not None


def main() -> None:
    """Make the environment, and end with the status of the tests."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("versions", choices=RESOLUTION)
    parser.add_argument("--folder", type=Path, help="where to make the environment (a temporary folder)")
    parser.add_argument("--list", action="store_true", help="list the versions, and run nothing")
    parser.add_argument(
        "--hold", action="append", default=[], metavar="NAME==VERSION",
        help="take this version of a package (of torch, where the index has no old CPU build)",
    )  # fmt: skip
    options, for_pytest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch, "venv")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "uv"], check=True)
        held = Path(scratch, "held.txt")
        held.write_text("\n".join(options.hold), encoding="utf-8")
        packages = resolve(python, options.versions, held)
        print(*packages, sep="\n", flush=True)
        if options.list:
            return
        bounds = Path(scratch, "bounds.txt")
        bounds.write_text("\n".join(packages) + "\n", encoding="utf-8")
        subprocess.run([*install, "-c", bounds, "-e", f"{ROOT}[tests]"], check=True)
        tests = [python, "-m", "pytest", *(for_pytest or ["tests", "lca", "backends"])]
        if not any(package.startswith("tensorflow") for package in packages):
            print("TensorFlow has no wheel here; the tests that name it are left out.", flush=True)
            tests += [f"--ignore={path}" for path in need_tensorflow()]
        # USE_TF: an old transformers cannot be imported beside Keras 3.
        environment = {**os.environ, "USE_TF": "0", "PYTEST_ADDOPTS": BEAR}
        sys.exit(subprocess.run(tests, cwd=ROOT, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
