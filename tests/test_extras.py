"""Where an optional package is missing, the advice is a command that works: it lists the packages."""

import re
import tomllib
from pathlib import Path

import pytest

from lca._extras import MissingExtraError, extra, install_command, packages_of

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]


def test_every_extra_that_the_code_names_is_declared() -> None:
    modules = [path for folder in ("lca", "backends") for path in (ROOT / folder).rglob("*.py")]
    named = {
        name for path in modules for name in re.findall(r'with extra\("(\w+)"\)', path.read_text("utf-8"))
    }
    assert {"report", "testing"} <= named <= set(EXTRAS)


def test_the_packages_of_an_included_extra_are_named_instead_of_it() -> None:
    lines = [
        "numpy>=2",
        "loss-change-allocation[torch]; extra == 'lightning'",
        "lightning>=2.4; extra == 'lightning'",
        "torch>=2.6; extra == 'torch'",
        "tensorflow>=2.18; (python_version < '3.14') and extra == 'tests'",
    ]
    assert packages_of("lightning", lines) == {"lightning>=2.4", "torch>=2.6"}
    assert packages_of("tests", lines) == {"tensorflow>=2.18"}
    assert packages_of("light", lines) == set()


@pytest.mark.parametrize("name", ["report", "tensorboard", "testing", "lightning", "transformers"])
def test_the_command_lists_what_pyproject_declares(name: str) -> None:
    declared = [package for package in EXTRAS[name] if not package.startswith("loss-change-allocation")]
    command = install_command(name).lower()
    assert [package for package in declared if f"'{package.lower()}'" not in command] == []
    assert "loss-change-allocation" not in command  # there is no release on the index


def test_a_missing_package_is_named() -> None:
    with (
        pytest.raises(MissingExtraError, match="no_such_package is not installed; .* 'zarr>="),
        extra("report"),
    ):
        import no_such_package  # noqa: F401, PLC0415


def test_advice_names_the_package_itself_where_the_extra_is_not_installed_metadata() -> None:
    assert install_command("no-such-extra", "wandb") == "pip install 'wandb'"
