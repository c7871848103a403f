"""`Trajectory`: any stored sequence of points as steps, each row read once."""

import numpy as np
import pytest

from lca import SIMPSON, PathIntegral, Step, Trajectory, allocate
from lca.errors import TrajectoryError
from lca.step import ExampleScores
from lca.testing import problems

Array = np.ndarray


class CountingRows:
    """A store that notes each row it is asked for, as a Zarr or HDF5 data set would have to read it."""

    def __init__(self, rows: Array) -> None:
        self.rows = rows
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Array:
        self.read.append(index)
        return self.rows[index]


@pytest.fixture
def points() -> Array:
    return np.random.default_rng(3).normal(size=(5, 4))


def store(points: Array, kind: str, folder) -> object:
    if kind == "memmap":
        np.save(folder / "points.npy", points)
        return np.load(folder / "points.npy", mmap_mode="r")
    return {"array": points, "list": list(points), "rows": CountingRows(points)}[kind]


@pytest.mark.parametrize("kind", ["array", "list", "memmap", "rows"])
def test_steps_join_consecutive_points(points, kind, tmp_path):
    trajectory = Trajectory(store(points, kind, tmp_path))
    steps = list(trajectory)
    assert len(trajectory) == len(steps) == 4
    for t, step in enumerate(steps):
        assert step.index == t
        np.testing.assert_array_equal(step.start, points[t])
        np.testing.assert_array_equal(step.end, points[t + 1])


def test_a_step_alone_is_the_first():
    assert Step(np.zeros(2), np.ones(2)).index == 0


def test_scores_are_compared_by_identity():
    scores, same = (ExampleScores(np.array([0, 1]), np.array([0.5, 0.25])) for _ in range(2))
    assert scores != same
    assert len({scores, same}) == 2


def test_each_row_is_read_once_when_its_step_comes_up(points):
    rows = CountingRows(points)
    steps = iter(Trajectory(rows))
    assert rows.read == []
    next(steps)
    assert rows.read == [0, 1]
    next(steps)
    assert rows.read == [0, 1, 2]
    list(steps)
    assert rows.read == [0, 1, 2, 3, 4]


def test_a_trajectory_can_be_walked_again(points):
    trajectory = Trajectory(points)
    assert [step.index for step in trajectory] == [step.index for step in trajectory] == [0, 1, 2, 3]


def test_a_memory_map_allocates_like_the_array(tmp_path):
    problem = problems.network(2)
    mapped = store(problem.points, "memmap", tmp_path)
    pairs = zip(
        allocate(problem.objective, Trajectory(mapped), PathIntegral(SIMPSON)),
        allocate(problem.objective, problem.trajectory, PathIntegral(SIMPSON)),
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_array_equal(a.values, b.values)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_points_are_refused(points, count):
    message = rf"at least two points \(one step\), got {count}; keep the parameters before the first update"
    with pytest.raises(TrajectoryError, match=message):
        Trajectory(points[:count])


def test_a_buffer_stored_without_copying_is_refused(points):
    buffer = points[0].copy()
    with pytest.raises(TrajectoryError, match="points 1 and 2 are the same array object.*store a copy"):
        list(Trajectory([points[1], buffer, buffer]))


@pytest.mark.parametrize("make", [iter, lambda points: (p for p in points), lambda points: 3])
def test_points_without_a_length_are_refused(points, make):
    with pytest.raises(TrajectoryError, match=r"points with a length and an index .* got .*iterable of Step"):
        Trajectory(make(points))


def test_a_step_keeps_what_it_was_given(points):
    start, end, batch = points[0], points[1], object()
    step = Step(start, end, index=7, batch=batch)
    assert step.start is start
    assert step.end is end
    assert (step.index, step.batch) == (7, batch)
    assert (Step(start, end).index, Step(start, end).batch) == (0, None)
