"""What the workflows, hooks and community files name exists: commands, options, tools, extras, files."""

import ast
import builtins
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_architecture import FLOORS

ROOT = Path(__file__).resolve().parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = CONFIG["project"]["optional-dependencies"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
PAGES = sorted((ROOT / ".github").glob("*.md"))
TARGETS = set(re.findall(r"^([a-z]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
MATRIX_SYSTEMS = {"ubuntu-latest", "macos-latest", "windows-latest"}


def read(path: Path) -> dict[str, Any]:
    """A YAML file; its key ``on`` is the Boolean true in YAML 1.1."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in content.items()}


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of all jobs."""
    return [step for job in workflow["jobs"].values() for step in job.get("steps", ())]


def unknown_commands(script: str) -> list[str]:
    """The commands of a step that name a target or a file that does not exist."""
    found = [word for word in re.findall(r"\bmake ([a-z]+)", script) if word not in TARGETS]
    files = re.findall(r"(?:^|\s)(\.ci/\S+|tests|lca|backends)(?=\s|$)", script)
    return found + [path for path in files if not (ROOT / path).exists()]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_what_exists(path: Path) -> None:
    workflow = read(path)
    assert {"name", "on", "permissions", "jobs"} <= set(workflow)
    scripts = [step["run"] for step in steps(workflow) if "run" in step]
    called = [job["uses"] for job in workflow["jobs"].values() if "uses" in job]
    assert scripts
    assert all(unknown_commands(script) == [] for script in scripts)
    assert all((ROOT / place).is_file() for place in called)
    for step in steps(workflow):
        assert ("run" in step) != ("uses" in step)
        # A tag can be moved to other code; a commit cannot.
        assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_an_action_has_one_commit_in_all_workflows_and_its_version_beside_it() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    used = re.findall(r"uses: ([\w/-]+@[^\s#]+)(?:  # (v[\d.]+))?$", text, re.MULTILINE)
    assert len(used) == text.count("@")
    assert all(version for _, version in used)
    assert len(set(used)) == len({action.partition("@")[0] for action, _ in used})


def test_a_command_that_does_not_exist_is_found() -> None:
    assert unknown_commands("make test && make tset\n.ci/run .ci/rum tests") == ["tset", ".ci/rum"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_need_jobs_that_exist_and_have_the_rights_they_use(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}  # more only where a job states it
    for job in workflow["jobs"].values():
        assert set(job.get("needs", ())) <= set(workflow["jobs"])
        publishes = "pypi-publish" in str(job.get("steps"))
        assert ("id-token" in job.get("permissions", {})) == publishes


def test_the_matrix_is_every_system_python_and_end_of_the_versions() -> None:
    matrix = read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["versions"]["strategy"]["matrix"]
    assert set(matrix["os"]) == MATRIX_SYSTEMS
    assert set(matrix["versions"]) == {"lowest", "newest"}
    lowest = re.search(r"3\.\d+", CONFIG["project"]["requires-python"])
    assert lowest is not None
    assert matrix["python"][0] == lowest[0]
    claimed = re.findall(r"Python :: (3\.\d+)", str(CONFIG["project"]["classifiers"]))
    assert claimed
    assert set(claimed) <= set(matrix["python"])


def test_a_release_is_tested_and_checked_before_it_is_published() -> None:
    release = read(ROOT / ".github" / "workflows" / "release.yml")
    assert release["on"] == {"push": {"tags": ["v*"]}}
    assert set(release["jobs"]["publish"]["needs"]) == {"tests", "build"}
    assert "--release" in str(release["jobs"]["build"]["steps"])


def test_hooks_run_tools_of_the_environment_that_make_installs() -> None:
    tools = {re.split(r"[\[>;]", package)[0] for extra in EXTRAS.values() for package in extra}
    hooks = [
        hook for repository in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]
    ]
    assert {"ruff", "mypy", "pytest"} == {
        hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks
    }
    assert tools >= {"ruff", "mypy", "pytest"}
    named = [word for hook in hooks for word in hook["entry"].split() if word.startswith("tests/")]
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_read_the_docs_installs_an_extra_that_exists_and_builds_the_same_pages() -> None:
    config = read(ROOT / ".readthedocs.yaml")
    [command] = config["build"]["jobs"]["install"]
    assert re.findall(r"\.\[(\w+)\]", command) == ["docs"]
    assert "docs" in EXTRAS
    assert (ROOT / config["sphinx"]["configuration"]).is_file()
    assert config["sphinx"]["fail_on_warning"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_what_the_site_requires(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= set(form)
    names = [item["id"] for item in form["body"]]
    assert len(names) == len(set(names))
    assert all({"type", "attributes"} <= set(item) and item["attributes"]["label"] for item in form["body"])


def test_bugs_and_wrong_numbers_ask_for_a_case() -> None:
    assert {"bug", "wrong_number", "feature"} == {path.stem for path in FORMS}
    for path in FORMS:
        required = {item["id"] for item in read(path)["body"] if item.get("validations", {}).get("required")}
        assert path.stem == "feature" or {"case", "versions"} <= required


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_community_page_names_what_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
    assert set(re.findall(r"\.\[(\w+)\]", text)) <= set(EXTRAS)
    scripts = re.findall(r"python (docs/\w+\.py)", text)
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


def test_the_page_for_contributors_names_every_command_of_the_makefile_but_steps_of_the_tests() -> None:
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    named = set(re.findall(r"^make ([a-z]+)", blocks, re.MULTILINE))
    assert named <= TARGETS
    assert TARGETS - named == {"help", "lint", "types", "docs", "clean"}


def undefined(code: str) -> set[str]:
    """The names that a block reads and neither assigns nor imports."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    given = {
        alias.asname or alias.name.partition(".")[0] for node in nodes for alias in getattr(node, "names", ())
    }
    given |= {name.id for name in names if isinstance(name.ctx, ast.Store)} | set(dir(builtins))
    return {name.id for name in names} - given


def test_each_block_of_the_readme_can_be_pasted_alone() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    assert [undefined(block) for block in blocks] == [set(), set(), set()]
    assert undefined("from a.b import c as d\nimport e.f\nprint(d, e, c, b)") == {"b", "c"}


def test_links_and_pictures_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_nothing_advises_a_release_that_does_not_exist() -> None:
    """Until there is a release on the index, what is installed is a checkout, or the packages of an extra."""
    places = [ROOT / "README.md", *PAGES, *ROOT.glob("docs/**/*.md")]
    places += [path for folder in ("lca", "backends") for path in (ROOT / folder).rglob("*.py")]
    advice = re.compile(r"pip3? install (?:-\S+ )*['\"]?(?:loss.change.allocation|lca)\b")
    assert advice.search("pip install --upgrade 'loss-change-allocation[report]'")
    assert [str(path) for path in places if advice.search(path.read_text(encoding="utf-8"))] == []


def test_the_picture_of_the_house_has_the_floors_in_their_order() -> None:
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    picture = text.partition("## The house")[2].split("```")[1]
    floor = {name: height for height, names in enumerate(FLOORS) for name in names}
    rows = [re.findall(r"\blca[._]\w+", line.partition("(")[0]) for line in picture.strip().splitlines()]
    assert len(rows) > 10
    assert {name for row in rows for name in row} <= set(floor)
    heights = [(min(floor[name] for name in row), max(floor[name] for name in row)) for row in rows]
    assert all(below[1] < above[0] for above, below in zip(heights, heights[1:], strict=False))
