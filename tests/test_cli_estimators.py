"""`lca estimators`: the table shows what the estimators declare, all of them."""

import re

from lca.cli import main
from lca.commands.estimators import HEADINGS
from lca.estimators.named import CHEAP, ESTIMATORS, make_estimator


def printed(capsys):
    assert main(["estimators"]) == 0
    return capsys.readouterr().out


def test_every_estimator_has_a_line_with_what_it_declares(capsys):
    text = printed(capsys)
    heading, *lines = text.splitlines()
    assert tuple(re.split(r"  +", heading.strip())) == HEADINGS
    rows = {line.split()[0]: re.split(r"  +", line) for line in lines[: len(ESTIMATORS) + len(CHEAP)]}
    assert list(rows) == [*ESTIMATORS, *CHEAP]
    for name, estimator in CHEAP.items():
        _, target, bias, _, needs = rows[name]
        assert (target, bias) == (estimator.target, estimator.bias)
        assert needs == (", ".join(estimator.required_fields) or "-")
    assert rows["rk4"][1:] == ["full", "none to degree 3", "2 full", "-"]
    assert rows["next-simpson"][3:] == ["2 batch", "next_batch, next_gradient"]
    assert rows["anchored"][3] == "0.025 full + 512 examples"
    assert rows["cross-fit"][3] == "0"


def test_the_lines_fit_a_wide_terminal(capsys):
    assert max(map(len, printed(capsys).splitlines())) <= 165


def test_the_cheap_ones_are_made_by_name():
    for name, estimator in CHEAP.items():
        assert make_estimator(name) == estimator
