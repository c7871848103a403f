"""Build the sdist and the wheel, check both, and use the wheel as a stranger would, in fresh environments.

    make wheel                            (or: python .ci/wheel.py, with the extra ``dev`` installed)
    python .ci/wheel.py --release v0.2.0  (also: the tag is the version, the links of the index page work)

The distributions are left in dist/. The environments have neither torch nor TensorFlow.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*command: object, cwd: Path = ROOT, status: int = 0) -> str:
    """What a command prints; an error if it ends with another status."""
    print("$", *command, flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    print(done.stdout, flush=True)
    require(done.returncode == status, f"ended with status {done.returncode}, not {status}")
    return done.stdout


def require(condition: object, message: str) -> None:
    """End with the message unless the condition holds."""
    if not condition:
        sys.exit(f"FAILED: {message}")


def build() -> Path:
    """Build both distributions, check their metadata and README, and return the wheel."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST)
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(DIST.iterdir()))
    [wheel] = DIST.glob("*.whl")
    return wheel


def bare(wheel: Path, scratch: Path) -> None:
    """The wheel alone: the library works, and the demo names the packages that it lacks."""
    python, lca = install(scratch / "bare", wheel)
    require(PROJECT["version"] in run(lca, "-V", cwd=scratch), "`lca -V` does not print the version")
    run(lca, "estimators", cwd=scratch)
    code = "import lca.reference; print(lca.reference.load_digits().x_train.shape)"
    run(python, "-c", code, cwd=scratch)
    advice = run(lca, "demo", "--steps", 3, cwd=scratch, status=2)
    require("pip install 'bokeh>=" in advice, "the demo does not say what to install")
    message = run(python, "-c", "import lca_torch", cwd=scratch, status=1)
    require("No module named 'torch'" in message, "lca_torch does not say that torch is missing")


def with_report(wheel: Path, scratch: Path) -> None:
    """The wheel with the extra ``report``: the demo, its record and its report."""
    _, lca = install(scratch / "report", f"{wheel}[report]")
    run(lca, "demo", "--steps", 10, "--quiet", "--out", "demo", cwd=scratch)
    run(lca, "record", "check", "demo/run.zarr", cwd=scratch)
    run(lca, "report", "demo/run.zarr", "--out", "page.html", cwd=scratch)
    require((scratch / "page.html").stat().st_size, "the report is empty")


def install(folder: Path, target: object) -> tuple[Path, Path]:
    """Make an environment with the target in it, and return its ``python`` and ``lca``."""
    venv.create(folder, with_pip=True)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    run(scripts / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", target)
    installed = run(scripts / "python", "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check")
    require(not re.search(r"^(torch|tensorflow)\b", installed, re.MULTILINE), "a framework was installed")
    return scripts / "python", scripts / "lca"


def check_release(tag: str) -> None:
    """The tag is the version, the index knows the repository, and no link of the README is relative."""
    require(tag == f"v{PROJECT['version']}", f"the tag {tag} is not v{PROJECT['version']}, the version")
    dated = rf"^## \[{re.escape(PROJECT['version'])}\] - \d{{4}}-\d\d-\d\d$"
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    require(re.search(dated, changelog, re.MULTILINE), "CHANGELOG.md has no dated entry for the version")
    require("Source" in PROJECT.get("urls", {}), "[project.urls] in pyproject.toml lacks Source")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", readme) if not re.match(r"https:|#", link)]
    require(not links, f"README.md has relative links, which lead nowhere on the index: {', '.join(links)}")


def main() -> None:
    """Run all checks; the first that fails ends the program with its message."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--release", metavar="TAG", help="check also what a release under this tag needs")
    options = parser.parse_args()
    if options.release:
        check_release(options.release)
    wheel = build()
    with tempfile.TemporaryDirectory() as scratch:
        bare(wheel, Path(scratch))
        with_report(wheel, Path(scratch))
    print(f"{wheel.name} and the sdist can be used.")


if __name__ == "__main__":
    main()
