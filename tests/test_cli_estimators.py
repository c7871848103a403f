"""`lca estimators`: the table shows what the estimators declare, all of them."""

import re

import pytest

from lca._cli import main
from lca._commands.estimators import HEADINGS
from lca.estimators import REGISTRY


def printed(capsys, *options):
    assert main(["estimators", *options]) == 0
    return capsys.readouterr().out


def test_every_estimator_has_a_line_with_what_it_declares(capsys):
    text = printed(capsys)
    heading, *lines = text.splitlines()
    assert tuple(re.split(r"  +", heading.strip())) == HEADINGS
    rows = {line.split()[0]: re.split(r"  +", line) for line in lines[: len(REGISTRY)]}
    assert list(rows) == list(REGISTRY)
    for name, row in REGISTRY.items():
        _, target, bias, _, required = rows[name]
        assert (target, required) == (row.target, ", ".join(row.required_fields) or "-")
        if row.sampled:
            assert bias == row.make(1e-3).bias
    assert rows["rk4"][1:] == ["full", "none up to degree 3", "2 full", "-"]
    assert rows["next-simpson"][3:] == ["2 batch", "next_batch, next_gradient"]
    assert rows["anchored"][3] == "0.025 full + 499.2 examples"
    assert rows["cross-fit"][3] == "0"


def test_what_is_better_exists_and_costs_no_more(capsys):
    text = printed(capsys)
    dominated = {name: row.better for name, row in REGISTRY.items() if row.better}
    assert {"left", "next-left", "probe-importance", "next-trapezoid"} <= dominated.keys()
    for name, better in dominated.items():
        assert re.search(rf"^  {name}: +{re.escape(better)}$", text, re.MULTILINE)
        assert re.search(rf"^better at its cost: +{re.escape(better)}$", printed(capsys, name), re.MULTILINE)
        own, other = (REGISTRY[which].make(1e-3).cost for which in (name, re.split("[;,]", better)[0]))
        assert other.full_gradients <= own.full_gradients
        assert other.batch_gradients + other.examples / 256 <= own.batch_gradients + own.examples / 256


def test_the_lines_fit_a_wide_terminal(capsys):
    assert max(map(len, printed(capsys).splitlines())) <= 180


@pytest.mark.parametrize("name", REGISTRY)
def test_one_estimator_is_described_in_detail(capsys, name):
    text = printed(capsys, name)
    row = REGISTRY[name]
    assert text.startswith(f"{name}: {row.description}\n")
    assert f" {row.make(1e-3)!r}\n" in text


def test_details_tell_the_most_that_a_step_costs(capsys):
    assert re.search(r"^at most: +1 full \+ 512 examples$", printed(capsys, "anchored"), re.MULTILINE)
    assert "at most:" not in printed(capsys, "probe")


def test_details_end_with_what_to_cite(capsys):
    assert "@inproceedings{johnson2013svrg," in printed(capsys, "anchored")
    assert "@" not in printed(capsys, "probe")


def test_an_unknown_estimator_is_refused(capsys):
    assert main(["estimators", "rk5"]) == 2
    assert "unknown estimator 'rk5'; known: adaptive, " in capsys.readouterr().err
