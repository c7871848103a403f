"""The distribution: what is built, what the configuration declares, and what ``import lca`` loads."""

import importlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import lca
import lca.reference
import lca.testing

ROOT = Path(__file__).resolve().parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = CONFIG["project"]
EXTRAS = PROJECT["optional-dependencies"]


def python(*args: str, cwd: Path) -> str:
    """The standard output of a new interpreter."""
    done = subprocess.run([sys.executable, *args], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT), cwd=out)
    return out


def test_wheel_is_complete_and_works_on_its_own(dist: Path, tmp_path: Path) -> None:
    [wheel] = dist.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    info = f"loss_change_allocation-{PROJECT['version']}.dist-info"
    assert {"lca/py.typed", "lca/reference/_data/digits.npz", f"{info}/licenses/LICENSE"} <= names
    assert {name.split("/")[0] for name in names} == {"lca", "lca_keras", "lca_tensorflow", "lca_torch", info}
    archive.extractall(tmp_path)
    code = "import lca, lca.reference; lca.reference.load_digits(); print(lca.__file__, lca.__version__)"
    # The current folder is first on the path of ``python -c``, so this imports the unpacked wheel.
    assert python("-c", code, cwd=tmp_path).split() == [
        str(tmp_path / "lca" / "__init__.py"),
        PROJECT["version"],
    ]


def test_sdist_has_what_make_test_needs(dist: Path) -> None:
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout: nothing to compare the sdist with")
    assert set(tracked.stdout.split()) <= names


def test_editable_install_points_at_the_source(tmp_path: Path) -> None:
    build = f"from hatchling.build import build_editable; build_editable({str(tmp_path)!r})"
    python("-c", build, cwd=ROOT)
    [wheel] = tmp_path.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    [pth] = [name for name in archive.namelist() if name.endswith(".pth")]
    assert archive.read(pth).decode().split() == [str(ROOT), str(ROOT / "backends")]


def test_every_path_named_in_the_configuration_exists() -> None:
    tool = CONFIG["tool"]
    hatch = tool["hatch"]["build"]
    paths = [PROJECT["readme"], *PROJECT["license-files"], *hatch["targets"]["wheel"]["packages"]]
    paths += [*hatch["dev-mode-dirs"], *(path.lstrip("/") for path in hatch["targets"]["sdist"]["include"])]
    paths += [*tool["mypy"]["files"], *tool["mypy"]["mypy_path"]]
    paths += [*tool["pytest"]["ini_options"]["testpaths"], *tool["pytest"]["ini_options"]["pythonpath"]]
    paths += [pattern.removesuffix("**") for pattern in tool["ruff"]["lint"]["per-file-ignores"]]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_extra_that_is_named_exists() -> None:
    texts = [ROOT / "Makefile", *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("lca/**/*.py")]
    mentions = [str(EXTRAS), *(path.read_text(encoding="utf-8") for path in texts)]
    found = re.findall(r"(?:loss-change-allocation|\.)\[([\w,]+)\]", "\n".join(mentions))
    assert (
        {"report", "testing", "dev"} <= {name for names in found for name in names.split(",")} <= set(EXTRAS)
    )


def test_every_row_of_a_table_is_one_line() -> None:
    """A row that is broken into lines ends the table."""
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("validation/**/*.md")]:
        prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        broken = [row for row in re.findall(r"^\|.*", prose, re.MULTILINE) if not row.rstrip().endswith("|")]
        assert not broken, (page, broken)


def test_every_entry_point_resolves() -> None:
    targets = list(PROJECT["scripts"].values())
    targets += [target for group in PROJECT["entry-points"].values() for target in group.values()]
    for target in targets:
        module, name = target.split(":")
        assert callable(getattr(importlib.import_module(module), name)), target


def test_the_version_is_the_same_everywhere() -> None:
    version = PROJECT["version"]
    assert lca.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_random_tests_repeat_their_cases_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make test` never fails by chance: the same cases in every run, and no deadline."""
    shown = "s.derandomize, s.database, s.deadline, s.max_examples"
    code = f"import conftest; from hypothesis import settings; s = settings(); print({shown})"
    monkeypatch.delenv("LCA_HYPOTHESIS_PROFILE", raising=False)
    assert python("-c", code, cwd=ROOT).split() == ["True", "None", "None", "25"]
    monkeypatch.setenv("LCA_HYPOTHESIS_PROFILE", "nightly")
    assert python("-c", code, cwd=ROOT).split()[0::3] == ["False", "2000"]


def test_import_lca_loads_only_what_it_needs(tmp_path: Path) -> None:
    """Only NumPy and SciPy, also with the reference backend; `lca.testing` is not loaded."""
    loaded = python("-c", "import sys, lca, lca.reference; print(*sys.modules)", cwd=tmp_path).split()
    unwanted = {"torch", "tensorflow", "matplotlib", "tqdm", "hypothesis", "pytest"}
    unwanted |= {"zarr", "xarray", "dask", "h5py", "lca.testing"}
    assert unwanted & set(loaded) == set()


@pytest.mark.parametrize("module", [lca.reference, lca.testing])
def test_packages_list_what_they_export(module: ModuleType) -> None:
    names = {name for name, value in vars(module).items() if not isinstance(value, ModuleType)}
    assert {name for name in names if not name.startswith("_")} - {"extra"} <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
