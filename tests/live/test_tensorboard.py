"""TensorBoard gets the numbers of the run, from any loop, tracker or callback, and needs no framework."""

import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import lca
from lca import Layout, LCAError, StepAllocation
from lca.errors import OutputError
from lca.live import TensorBoard, TensorBoardView
from lca.live._tensorboard import layer_time_picture
from lca.reference import Quadratic
from lca.row import CheckedWindow, Row
from lca.summary import RunViews
from lca.tracking import Session
from tests.sampled import sampled_allocation

pytest.importorskip("tensorboardX", reason="the extra tensorboard is not installed")
LAYOUT = Layout(("fc1.w", "fc1.b", "fc2.w"), ((2,), (1,), (2,)))
ROWS = np.array([[-1.0, 0.0, -0.5, 0.25, 0.0], [0.5, -2.0, 0.0, 0.0, -0.125]])


def events(folder):
    """Scalars as {tag: [(step, value)]}, and pictures as {tag: [(step, height, width)]}."""
    from tensorboardX.proto.event_pb2 import Event  # noqa: PLC0415

    scalars, pictures = {}, {}
    for path in sorted(folder.glob("events*")):
        content, at = path.read_bytes(), 0
        while at < len(content):  # length, checksum, event, checksum
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
                elif value.HasField("image"):
                    size = (event.step, value.image.height, value.image.width)
                    pictures.setdefault(value.tag, []).append(size)
    return scalars, pictures


def log(folder, rows=ROWS, residual=0.25, **options):
    view = TensorBoardView(LAYOUT, folder, **options)
    for step, row in enumerate(rows):
        view.update(StepAllocation(row, 2.0, 1.0 - step, residual=residual, mass=4.0, step=step))
    view.close()
    return events(folder)


def test_self_checks_are_shown_as_sums_since_the_first(tmp_path):
    view = TensorBoardView(LAYOUT, tmp_path)
    for step, values in enumerate(ROWS):
        row = Row(StepAllocation(values, np.nan, np.nan, residual=np.nan, mass=4.0, step=step), LAYOUT)
        row.check = CheckedWindow(step, step, change=-1.0 - step, total=-0.5, margin=np.nan)
        view.read(row)
    view.close()
    scalars, _ = events(tmp_path)
    assert scalars["checked_change"] == [(0, -1.0), (1, -3.0)]
    assert scalars["checked_sum"] == [(0, -0.5), (1, -1.0)]


def test_scalars_are_those_of_every_step(tmp_path):
    scalars, _ = log(tmp_path)
    assert scalars["loss"] == [(0, 1.0), (1, 0.0)]
    assert scalars["residual_so_far"] == [(0, 0.25), (1, 0.5)]
    assert scalars["LCA/fc1"] == [(0, -1.5), (1, -1.5)]
    assert scalars["LCA/fc2"] == [(0, 0.25), (1, -0.125)]
    assert scalars["LCA_so_far/fc1"] == [(0, -1.5), (1, -3.0)]
    assert [round(p, 3) for _, p in scalars["helping_percent"]] == [66.667, 66.667]


def test_what_was_not_measured_is_left_out(tmp_path):
    scalars, _ = log(tmp_path, rows=np.zeros((1, 5)), residual=np.nan)
    assert set(scalars) == {
        f"{kind}/{layer}" for kind in ("LCA", "LCA_so_far") for layer in ("fc1", "fc2")
    } | {"loss"}


def test_signs_of_samples_are_no_helping_percent(tmp_path):
    view = TensorBoardView(LAYOUT, tmp_path)
    view.update(replace(sampled_allocation(), values=ROWS[0]))
    view.close()
    assert set(events(tmp_path)[0]) == {
        f"{kind}/{x}" for kind in ("LCA", "LCA_so_far") for x in ("fc1", "fc2")
    }


def test_every_so_many_steps(tmp_path):
    scalars, pictures = log(tmp_path, rows=np.tile(ROWS, (5, 1)), every=2, picture_every=4)
    assert [step for step, _ in scalars["LCA/fc1"]] == [1, 3, 5, 7, 9]
    assert scalars["LCA_so_far/fc1"][-1] == (9, -15.0)  # steps that are not logged count all the same
    assert pictures == {"layers_over_time": [(3, 32, 400), (7, 32, 400)]}


def test_the_picture_is_blue_where_a_layer_helped():
    picture = layer_time_picture(np.array([[-2.0, 0.0], [0.001, 2.0]]))
    blue, red, white = [0, 114, 178], [213, 94, 0], [255, 255, 255]
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == blue
    assert picture[-1, 0].tolist() == white
    assert picture[-1, -1].tolist() == red
    assert picture[0, -1].tolist() not in (white, red)


def test_the_picture_of_a_long_run_sums_and_is_no_wider():
    rows = np.ones((1000, 1))
    rows[1::2] = -1.0  # with a column for 2 or 3 steps, most cancel
    picture = layer_time_picture(rows)
    assert picture.shape == (16, 400, 3)
    assert (picture[0] == 255).all(axis=-1).mean() > 0.4


def test_a_tracker_takes_it_and_keeps_its_summary(tmp_path):
    losses = {"train": Quadratic(np.eye(2)), "heldout": Quadratic(2 * np.eye(2))}
    measurement = Session(losses, lca.PathIntegral(), views=TensorBoard(tmp_path))
    run = lca.Trajectory(np.array([[1.0, 1.0], [0.5, 1.0]]))
    for step in run:
        measurement.measure(step)
    for view in measurement.views.values():
        assert isinstance(view, RunViews)
        view.log.close()
    assert measurement.summary()["train"]["lca_total"] == -0.375
    for name, loss in (("train", 0.625), ("heldout", 1.25)):
        assert events(tmp_path / name)[0]["loss"] == [(0, loss)]


@pytest.mark.parametrize(
    ("losses", "folders"),
    [
        (Quadratic(np.eye(2)), ["train"]),
        ({"heldout": Quadratic(np.eye(2))}, ["heldout"]),
        (
            {name: Quadratic(np.eye(2)) for name in ("by class", "a/b", "../up", "..")},
            ["%2E%2E", "..%2Fup", "a%2Fb", "by class"],
        ),
    ],
)
def test_losses_are_called_what_the_tracker_calls_them_inside_the_folder(tmp_path, losses, folders):
    Session(losses, lca.PathIntegral(), views=TensorBoard(tmp_path / "logs"))
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == folders


@pytest.mark.parametrize("option", ["every", "picture_every"])
def test_bad_options_are_named(tmp_path, option):
    with pytest.raises(LCAError, match=f"^{option} must be at least 1 step, got 0"):
        TensorBoard(tmp_path, **{option: 0})


def test_an_unwritable_folder_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write to the folder"):
        TensorBoard(tmp_path / "file" / "logs")


def test_it_needs_no_framework(tmp_path):
    code = f"""
import sys
sys.modules.update(dict.fromkeys(["torch", "tensorflow", "tensorboard", "matplotlib"]))  # not to be found
import lca
from lca.live import TensorBoard
TensorBoard({str(tmp_path)!r}).view_of("train", lca.Layout(("w",), ((1,),)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_extra_it_says_how_to_get_it(tmp_path):
    code = "import sys; sys.modules['tensorboardX'] = None\nfrom lca.live import TensorBoard\n"
    code += f"TensorBoard({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "pip install 'pillow>=" in done.stderr


def test_what_was_logged_is_there_when_the_process_ends(tmp_path):
    code = f"""
import numpy as np, lca
from lca.live import TensorBoardView
view = TensorBoardView(lca.Layout(("w",), ((1,),)), {str(tmp_path)!r})
view.update(lca.StepAllocation(np.array([-1.0]), 2.0, 1.0, residual=0.0, mass=1.0))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert events(tmp_path)[0]["loss"] == [(0, 1.0)]
