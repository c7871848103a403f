"""Which tests of a group execute a statement, and how long each takes."""

from dataclasses import dataclass
from pathlib import Path

from coverage import CoverageData

from validation.mutation import trial
from validation.mutation.mutants import Mutant, statement
from validation.mutation.targets import Group

LONGEST = 3600.0  # seconds for all tests of a group
CAP = 10.0  # seconds of processor time of the tests that a mutant meets in a round, at most


@dataclass(frozen=True)
class Covering:
    """The tests of a group by the lines that they execute.

    Parameters
    ----------
    lines
        For each file and line, the tests that execute it.
    seconds
        The processor time of each test.
    """

    lines: dict[str, dict[int, set[str]]]
    seconds: dict[str, float]

    def rounds(self, mutant: Mutant, home: tuple[str, ...]) -> list[list[str]]:
        """The tests that a mutant meets: those of its own test files, then others; each quickest first.

        A statement that is executed only when the module is imported counts as executed by every test.
        """
        by_line = self.lines[mutant.file]
        found = set().union(*(by_line.get(line, set()) for line in statement(mutant)))
        found = found or set(self.seconds)
        own = {test for test in found if test.startswith(home)}
        return [chosen for tests in (own, found - own) if (chosen := self._quickest(tests))]

    def _quickest(self, tests: set[str]) -> list[str]:
        chosen, total = [], 0.0
        for test in sorted(tests, key=lambda test: (self.seconds[test], test)):
            total += self.seconds[test]
            if chosen and total > CAP:
                break
            chosen.append(test)
        return chosen


def measure(group: Group, work: Path) -> Covering:
    """Run all tests of a group once, without a mutant; they must pass."""
    homes = [test for home in group.files.values() for test in home]
    data = work / "coverage"
    folders = sorted({str(Path(file).parent) for file in group.files})
    options = [
        "-p",
        "pytest_cov",
        "--cov-context=test",
        "--cov-report=",
        *(f"--cov={folder}" for folder in folders),
    ]
    (work / "coveragerc").write_text(f"[run]\ndata_file = {data}\n")
    options.append(f"--cov-config={work / 'coveragerc'}")
    tests = list(dict.fromkeys([*homes, *group.tests]))
    found = trial.run(options, tests, limit=LONGEST, output=work / "output", chosen=False)
    if found.how != "survived":
        raise RuntimeError(f"the tests fail without any mutant:\n{(work / 'output').read_text()[-3000:]}")
    known = CoverageData(basename=str(data))
    known.read()
    lines = {file: _tests(known.contexts_by_lineno(str(Path(file).resolve()))) for file in group.files}
    data.unlink()
    return Covering(lines, found.seconds)


def _tests(contexts: dict[int, list[str]]) -> dict[int, set[str]]:
    """``"tests/test_row.py::test_a|call"`` without what the context says of the phase."""
    return {line: {name.rpartition("|")[0] for name in names if name} for line, names in contexts.items()}
