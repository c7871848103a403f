"""The progress bar shows steps, rate and the residual so far, and only to somebody who is watching."""

import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lca
from lca import StepAllocation
from lca.frameworks import steps_between
from lca.frameworks._checkpoints import Checkpoint
from lca.live import progress_bar
from lca.reference import Quadratic


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


def replayed():
    """Three steps between four checkpoints, the last of which takes long."""

    def read(path):
        time.sleep(0.11 * (path.name == "3"))  # a bar is drawn ten times a second
        return np.full(2, float(path.name)), None

    return steps_between([Checkpoint(Path(str(i)), 100 * i) for i in range(4)], read)


@pytest.mark.parametrize(("progress", "shown"), [(True, "3/3"), (4, "3/4"), (False, "")])
def test_a_replay_shows_how_many_steps_there_are(monkeypatch, progress, shown):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    lca.measure(Quadratic(np.eye(2)), replayed(), progress=progress)
    assert shown in terminal.text
    if progress:
        assert f"0/{shown[-1]}" in terminal.text  # from the beginning
        assert "residual=" in terminal.text
        assert re.search(r"\[00:0\d<00:0\d", terminal.text)  # the time left
    else:
        assert terminal.text == ""
