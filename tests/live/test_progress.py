"""The progress bar shows steps, rate and the residual so far, and only to somebody who is watching."""

import sys
import time

import numpy as np
import pytest

from lca import StepAllocation
from lca.live import progress_bar


class Terminal:
    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def rows(count=4):
    for step in range(count):
        yield StepAllocation(np.zeros(1), 2.0, 1.5, residual=-0.125, mass=1.0, step=step)


@pytest.mark.parametrize("named", [False, True])
def test_the_residual_so_far_is_shown(monkeypatch, named):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    given = [{"train": row, "heldout": row} if named else row for row in rows()]
    passed = []
    for row in progress_bar(given, 4):
        passed.append(row)
        time.sleep(0.15)  # a bar is drawn ten times a second
    assert passed == given
    assert "4/4" in terminal.text
    assert "step/s" in terminal.text
    assert "loss=1.5" in terminal.text
    assert "residual=-5.0e-01" in terminal.text


def test_nothing_is_shown_to_nobody(monkeypatch, capsys):
    assert len(list(progress_bar(rows(), 4))) == 4
    assert capsys.readouterr().err == ""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert len(list(progress_bar(rows(), 4, quiet=True))) == 4
    assert terminal.text == ""
