"""The software paper: each number is computed again from the files of validation/, each reference exists."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAPER = (ROOT / "docs" / "paper" / "paper.md").read_text(encoding="utf-8")
BIBLIOGRAPHY = (ROOT / "docs" / "paper" / "paper.bib").read_text(encoding="utf-8")
PROSE = re.sub(r"<!--.*?-->|^---.*?^---$", "", PAPER, flags=re.DOTALL | re.MULTILINE)
SOURCES = re.findall(r"<!-- source: (\S+) = (.+?) in (\S+) -->", PAPER)
STATISTICS: dict[str, Callable[[list[float]], float]] = {"mean": mean, "deviation": stdev, "largest": max}


def computed(what: str, files: str) -> float:
    """The statistic of a key of several results, or a count of a summary."""
    paths = sorted(ROOT.glob(files))
    assert paths, f"no file {files}"
    texts = [path.read_text(encoding="utf-8") for path in paths]
    statistic, of, key = what.partition(" of ")
    if of:
        return STATISTICS[statistic]([json.loads(text)[key] for text in texts])
    [text] = texts
    return (wild_counts if "wild" in files else mutation_counts)(text)[what]


def wild_counts(table: str) -> dict[str, int]:
    """How many cases there are and have each verdict: "339 cases: right 279, refused 60, ..."."""
    [(cases, verdicts)] = re.findall(r"^(\d+) cases: (.*)$", table, re.MULTILINE)
    return {"cases": int(cases)} | {name: int(count) for name, count in re.findall(r"(\w+) (\d+)", verdicts)}


def mutation_counts(table: str) -> dict[str, int]:
    """How many mutants were tried, and are seen by a test or cannot be seen: the sums of the groups."""
    groups = table.partition("| **all**")[0].splitlines()[2:]
    columns = zip(*([int(cell) for cell in group.split("|")[3:9]] for group in groups), strict=True)
    tried, killed, by_others, by_added, unseen, invisible = map(sum, columns)
    seen = killed + by_others + by_added
    assert tried == seen + unseen + invisible
    return {"tried": tried, "seen": seen, "not seen": unseen + invisible, "invisible": invisible}


@pytest.mark.parametrize(("shown", "what", "files"), SOURCES, ids=[source[0] for source in SOURCES])
def test_a_number_is_that_of_its_source(shown: str, what: str, files: str) -> None:
    digits = len(shown.partition(".")[2])
    assert f"{computed(what, files):,.{digits}f}" == shown
    assert re.search(rf"(?<![\d.]){re.escape(shown)}(?![\d.]*\d)", PROSE), (
        "the paper no longer shows this number"
    )


def test_every_number_of_the_validation_has_a_source() -> None:
    section = PROSE.partition("# Validation")[2].partition("# References")[0]
    shown = set(re.findall(r"\d[\d.,]*\d|\d", section))
    stated = {source[0] for source in SOURCES} | {"55,000"}  # the images of MNIST that are no test images
    assert shown - stated == {"55.82", "0.09"}  # of the paper of the method


def test_every_citation_has_an_entry_and_every_entry_is_cited() -> None:
    entries = re.findall(r"^@\w+\{(\w+),", BIBLIOGRAPHY, re.MULTILINE)
    assert len(entries) == len(set(entries))
    assert set(re.findall(r"\[@(\w+)\]", PROSE)) == set(entries)


def test_the_figure_exists() -> None:
    [figure] = re.findall(r"!\[[^]]*\]\(([^)]+)\)", PROSE)
    assert (ROOT / "docs" / "paper" / figure).is_file()


def test_it_has_two_pages() -> None:
    assert 750 <= len(PROSE.split()) <= 1100
