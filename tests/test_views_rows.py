"""`Rows`: the same rows in memory and in a file, and none lost when the file cannot be written."""

import copy
import os
import pickle
import tracemalloc

import numpy as np
import pytest

from lca import Layout, StepAllocation
from lca.summary import RunViews, summarize
from lca.views import _rows
from lca.views._rows import Rows

RAGGED = np.dtype([("a", np.float64), ("b", np.bool_)])  # 9 bytes


@pytest.fixture
def few_held(monkeypatch):
    monkeypatch.setattr(_rows, "HELD_BYTES", 400)


def filled(count, first=0):
    rows = Rows(RAGGED)
    for i in range(first, first + count):
        rows.append((i / 2, i % 3 == 0))
    return rows


def expected(count):
    return np.array([(i / 2, i % 3 == 0) for i in range(count)], RAGGED)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000])
def test_rows_in_a_file_are_those_in_memory(few_held, count):
    rows = filled(count)
    np.testing.assert_array_equal(rows.array(), expected(count))
    assert len(rows) == count
    rows.append((-1.0, False))  # an array that was given out stays, and the rows go on
    np.testing.assert_array_equal(rows.array()[:-1], expected(count))
    assert rows.array()[-1]["a"] == -1.0


def test_an_array_that_was_given_out_is_not_the_rows(few_held):
    rows = filled(200)
    rows.array()["a"] = 7.0
    np.testing.assert_array_equal(rows.array(), expected(200))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda rows: pickle.loads(pickle.dumps(rows))])
def test_a_copy_has_rows_of_its_own(few_held, copied):
    rows = filled(200)
    other = copied(rows)
    for i in range(200, 400):
        rows.append((i / 2, i % 3 == 0))
        other.append((0.0, False))
    np.testing.assert_array_equal(rows.array(), expected(400))
    np.testing.assert_array_equal(other.array()[:200], expected(200))
    assert not other.array()[200:]["a"].any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
@pytest.mark.filterwarnings(r"ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_does_not_write_to_the_rows_of_the_first(few_held):
    rows = filled(200)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(writing)
        os.read(reading, 1)  # until the first process has written its rows
        for _ in range(200):
            rows.append((-1.0, False))
        right = np.array_equal(rows.array()[:200], expected(200)) and (rows.array()["a"][200:] == -1).all()
        os._exit(0 if right else 1)
    os.close(reading)
    for i in range(200, 400):
        rows.append((i / 2, i % 3 == 0))
    os.close(writing)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(rows.array(), expected(400))


@pytest.mark.parametrize("room", [0, 1, 2])
def test_without_room_on_the_disk_rows_stay_in_memory(few_held, monkeypatch, room):
    real, left = _rows._write_all, [room]

    def write(*args):
        if not left[0]:
            raise OSError(28, "No space left on device")
        left[0] -= 1
        real(*args)

    monkeypatch.setattr(_rows, "_write_all", write)
    rows = filled(500)
    np.testing.assert_array_equal(rows.array(), expected(500))
    left[0] = 10**6
    for i in range(500, 900):
        rows.append((i / 2, i % 3 == 0))
    np.testing.assert_array_equal(rows.array(), expected(900))


# --- the default views -----------------------------------------------------------------------------------

LAYOUT = Layout(("a.weight", "a.bias", "b.weight"), ((2, 3), (2,), (4, 2)))


def run_of(steps):
    run, rng = RunViews.of(LAYOUT), np.random.default_rng(0)
    for step in range(steps):
        values = rng.normal(size=LAYOUT.size)
        values[rng.random(LAYOUT.size) < 0.3] = 0
        run.update(
            StepAllocation(
                values, 2.0 - step, 1.5 - step, residual=rng.normal(), mass=rng.random(), step=step
            )
        )
    return run


def test_no_number_of_a_summary_depends_on_where_the_rows_are(monkeypatch):
    in_memory = run_of(300)
    monkeypatch.setattr(_rows, "HELD_BYTES", 400)
    in_a_file = run_of(300)
    assert in_a_file.trace._rows._written > 200
    assert summarize(in_a_file) == summarize(in_memory)
    monkeypatch.setattr("lca.views._signs._PIECE", 7)
    assert summarize(in_a_file) == summarize(in_memory)
    np.testing.assert_array_equal(in_a_file.tensors.rows, in_memory.tensors.rows)
    np.testing.assert_array_equal(in_a_file.trace.rows, in_memory.trace.rows)
    for a, b in zip(
        vars(in_a_file.signs.per_group()).values(), vars(in_memory.signs.per_group()).values(), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_memory_does_not_grow_with_the_steps(monkeypatch):
    monkeypatch.setattr(_rows, "HELD_BYTES", 10_000)
    run, values = RunViews.of(LAYOUT), np.ones(LAYOUT.size)

    def steps(first, count):
        for step in range(first, first + count):
            run.update(StepAllocation(values, 2.0, 1.5, residual=0.0, mass=1.0, step=step))

    steps(0, 1500)
    tracemalloc.start()
    try:
        steps(1500, 100)
        before = tracemalloc.get_traced_memory()[0]
        steps(1600, 1000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 5_000  # it was more than 1,000,000
    assert len(run.trace.rows) == 2600
