"""TensorBoard gets the numbers of the run, from any tracker, and needs no framework."""

import struct
import subprocess
import sys

import numpy as np
import pytest

import lca
from lca import Layout, LCAError, StepAllocation
from lca.errors import OutputError
from lca.live import TensorBoard
from lca.live._outputs import LiveOutputs
from lca.live._tensorboard import layer_time_picture
from lca.reference import Quadratic
from lca.row import Row
from lca.tracking import FunctionalTracker

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


def log(logger, rows=ROWS, residual=0.25):
    live = LiveOutputs(log_to=logger)
    for step, row in enumerate(rows):
        allocation = StepAllocation(row, 2.0, 1.0 - step, residual=residual, mass=4.0, step=step)
        live.read({"train": Row(allocation, LAYOUT)})
    live.close()


def test_scalars_are_those_of_every_step(tmp_path):
    log(TensorBoard(tmp_path))
    scalars, _ = events(tmp_path / "train")
    assert scalars["loss"] == [(0, 1.0), (1, 0.0)]
    assert scalars["residual_so_far"] == [(0, 0.25), (1, 0.5)]
    assert scalars["LCA/fc1"] == [(0, -1.5), (1, -1.5)]
    assert scalars["LCA/fc2"] == [(0, 0.25), (1, -0.125)]
    assert scalars["LCA_so_far/fc1"] == [(0, -1.5), (1, -3.0)]


def test_a_writer_of_the_loop_is_shared_and_left_open(tmp_path):
    from tensorboardX import SummaryWriter  # noqa: PLC0415

    writer = SummaryWriter(str(tmp_path))
    log(TensorBoard(writer=writer, picture_every=2))
    assert events(tmp_path)[0]["lca/train/loss"][0] == (0, 1.0)  # flushed
    writer.add_scalar("mine", 1.0, 5)
    writer.close()
    scalars, pictures = events(tmp_path)
    assert scalars["lca/train/loss"] == [(0, 1.0), (1, 0.0)]
    assert scalars["mine"] == [(5, 1.0)]
    assert pictures == {"lca/train/layers_over_time": [(1, 32, 400)]}


def test_a_picture_every_so_many_steps(tmp_path):
    log(TensorBoard(tmp_path, picture_every=4), rows=np.tile(ROWS, (5, 1)))
    assert events(tmp_path / "train")[1] == {"layers_over_time": [(3, 32, 400), (7, 32, 400)]}


def test_the_picture_is_blue_where_a_layer_helped():
    picture = layer_time_picture(np.array([[-2.0, 0.0], [0.001, 2.0]]))
    blue, red, white = [0, 114, 178], [213, 94, 0], [255, 255, 255]
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == blue
    assert picture[-1, 0].tolist() == white
    assert picture[-1, -1].tolist() == red
    assert picture[0, -1].tolist() not in (white, red)


def test_the_picture_of_a_long_run_sums_equally_many_steps_and_is_no_wider():
    rows = np.ones((800, 1))
    assert len(np.unique(layer_time_picture(np.ones((900, 1)))[0], axis=0)) == 1
    rows[1::2] = -1.0  # a column has two steps, which cancel
    picture = layer_time_picture(rows)
    assert picture.shape == (16, 400, 3)
    assert (picture == 255).all()


@pytest.mark.parametrize(
    ("losses", "folders"),
    [
        (Quadratic(np.eye(2)), ["train"]),
        (
            {name: Quadratic(np.eye(2)) for name in ("by class", "a/b", "../up", "..")},
            ["%2E%2E", "..%2Fup", "a%2Fb", "by class"],
        ),
    ],
)
def test_losses_are_called_what_the_tracker_calls_them_inside_the_folder(tmp_path, losses, folders):
    logger = TensorBoard(tmp_path / "logs")
    with FunctionalTracker(np.ones(2), losses, lca.PathIntegral(), log_to=logger) as tracker:
        tracker.update(np.array([0.5, 1.0]))
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == folders
    assert events(tmp_path / "logs" / folders[-1])[0]["loss"] == [(0, 0.625)]


def test_bad_options_are_named(tmp_path):
    with pytest.raises(LCAError, match="^picture_every must be at least 1 step, got 0"):
        TensorBoard(tmp_path, picture_every=0)
    for given in ({}, {"folder": tmp_path, "writer": object()}):
        with pytest.raises(LCAError, match="a folder or writer="):
            TensorBoard(**given)


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
TensorBoard({str(tmp_path)!r}).log(0, "train", {{"loss": 1.0}})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_extra_it_says_how_to_get_it(tmp_path):
    code = "import sys; sys.modules['tensorboardX'] = None\nfrom lca.live import TensorBoard\n"
    code += f"TensorBoard({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "pip install 'pillow>=" in done.stderr
