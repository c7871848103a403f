"""Runs in one HDF5 file: the forms of the attributes, reading row by row, and errors."""

import h5py
import numpy as np
import pytest

from lca import SIMPSON, PathIntegral, Trajectory, allocate
from lca.errors import DataError, LayoutError, TrajectoryError
from lca.importers import checkpoint_numbers, read_hdf5, replay_hdf5
from lca.reference import Quadratic
from lca.tolerances import EPS64, summed

POINTS = np.random.default_rng(0).normal(size=(4, 8))
NAMES, SHAPES = ["fc1/kernel:0", "fc1/bias:0", "scale:0"], [(2, 3), (1,), ()]

WRITTEN = {
    "lists of texts": (NAMES, [str(s) for s in SHAPES]),
    "bytes": ([name.encode() for name in NAMES], [str(s).encode() for s in SHAPES]),
    "one text each, a Python list": (str(NAMES), str(SHAPES)),
    "one text each, semicolons": (";".join(NAMES), "2,3;1;()"),
    "bytes, lines": (np.bytes_("\n".join(NAMES)), np.bytes_("(2, 3)\n(1,)\n()")),
    "one text each, names with commas": (", ".join(NAMES), "[(2, 3), (1,), ()]"),
}


def saved(path, points=POINTS, *, names=NAMES, shapes=str(SHAPES), on_file=True):
    with h5py.File(path, "w") as file:
        file["all_weights"] = points
        place = file if on_file else file["all_weights"]
        for name, value in (("var_names", names), ("var_shapes", shapes)):
            if value is not None:
                place.attrs[name] = value
    return path


@pytest.mark.parametrize("on_file", [True, False], ids=["on the file", "on the data set"])
@pytest.mark.parametrize("how", WRITTEN)
def test_layout_and_points_are_read(tmp_path, how, on_file):
    names, shapes = WRITTEN[how]
    layout, run = read_hdf5(saved(tmp_path / "run.h5", names=names, shapes=shapes, on_file=on_file))
    assert layout.names == ("fc1.kernel", "fc1.bias", "scale")
    assert (layout.shapes, layout.neuron_axes) == (((2, 3), (1,), ()), (1, 0, None))
    for step in run:
        np.testing.assert_array_equal([step.start, step.end], POINTS[step.index : step.index + 2])


def test_one_matrix_of_shapes_is_read(tmp_path):
    path = saved(tmp_path / "run.h5", names=["a", "b"], shapes=np.array([[2, 2], [1, 4]]))
    layout, _ = read_hdf5(path, neuron_axis=0)
    assert (layout.shapes, layout.neuron_axes) == (((2, 2), (1, 4)), (0, 0))


def test_the_run_is_allocated_like_the_same_points_in_memory(tmp_path):
    bowl = Quadratic(np.diag(np.arange(1.0, 9.0)))
    run = replay_hdf5(saved(tmp_path / "run.h5", names=["theta"], shapes="(8,)"), bowl)
    for t, found in enumerate(allocate(bowl, run, PathIntegral(SIMPSON))):
        change = bowl.loss(POINTS[t + 1]) - bowl.loss(POINTS[t])
        assert abs(found.values.sum() - change) <= summed(found.mass + bowl.loss(POINTS[t]), EPS64)


def test_points_of_another_layout_are_refused(tmp_path):
    layout, run = read_hdf5(saved(tmp_path / "run.h5"))
    bowl = Quadratic(np.eye(8))
    with pytest.raises(
        LayoutError, match=r"fc1\.kernel \(2, 3\) where the objective has theta \(8,\)\. .*replay_hdf5"
    ):
        allocate(bowl, run, PathIntegral(SIMPSON))
    assert len(list(allocate(bowl, Trajectory(run.points), PathIntegral(SIMPSON)))) == 3
    assert run.layout == layout


def test_rows_are_read_when_their_step_comes_up(tmp_path):
    points = POINTS.copy()
    points[2] = 0
    _, run = read_hdf5(saved(tmp_path / "run.h5", points))
    steps = iter(run)
    np.testing.assert_array_equal(next(steps).end, POINTS[1])
    with pytest.raises(DataError, match=r"row 2 of all_weights was never written.* rows=2 reads those"):
        next(steps)


@pytest.mark.parametrize(
    ("dtype", "kept"), [(">f4", "float32"), (">f8", "float64"), ("<f2", "float16"), ("<f8", "float64")]
)
def test_numbers_of_either_byte_order_are_read(tmp_path, dtype, kept):
    _, run = read_hdf5(saved(tmp_path / "run.h5", POINTS.astype(dtype)))
    [first, *_] = run
    assert first.start.dtype == np.dtype(kept)
    assert first.start.dtype.isnative
    np.testing.assert_array_equal(first.start, POINTS[0].astype(kept))


ONE = {
    "a tuple": ("w", (2, 4)),
    "an array of integers": (["w"], np.array([2, 4], ">i8")),
    "its text": ("w", "(2, 4)"),
    "a list of one": (["w"], ["(2, 4)"]),
    "a list of one list": (b"w", np.array([[2, 4]])),
}


@pytest.mark.parametrize("how", ONE)
def test_a_single_tensor_is_read(tmp_path, how):
    names, shapes = ONE[how]
    layout, _ = read_hdf5(saved(tmp_path / "run.h5", names=names, shapes=shapes))
    assert (layout.names, layout.shapes) == (("w",), ((2, 4),))


# --- runs that were interrupted --------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, (1, 8), (2, 3), (6, 8)])
@pytest.mark.parametrize("fill", [0.0, np.nan, 7.0])
def test_rows_that_were_never_written_are_refused(tmp_path, chunks, fill):
    path = tmp_path / "run.h5"
    with h5py.File(path, "w") as file:
        held = file.create_dataset("all_weights", (6, 8), "f8", chunks=chunks, fillvalue=fill)
        held[:4] = POINTS
        file.attrs["var_names"], file.attrs["var_shapes"] = NAMES, str(SHAPES)
    with pytest.raises(DataError, match=r"the last 2 of 6 rows of all_weights were never written.* rows=4 "):
        read_hdf5(path)
    _, run = read_hdf5(path, rows=4)
    np.testing.assert_array_equal([step.end for step in run], POINTS[1:])


def test_a_row_of_which_only_a_part_was_written_is_refused(tmp_path):
    path = tmp_path / "run.h5"
    with h5py.File(path, "w") as file:
        held = file.create_dataset("all_weights", (4, 8), "f8", chunks=(1, 4))
        held[:3] = POINTS[:3]
        held[3, :4] = POINTS[3, :4]
        file.attrs["var_names"], file.attrs["var_shapes"] = NAMES, str(SHAPES)
    with pytest.raises(DataError, match=r"the last 1 of 4 rows of all_weights were never written"):
        read_hdf5(path)


def test_a_network_may_begin_at_zero(tmp_path):
    points = np.vstack([np.zeros(8), POINTS])
    assert len(read_hdf5(saved(tmp_path / "run.h5", points))[1]) == 4


@pytest.mark.parametrize("rows", [0, 5, -1])
def test_rows_that_are_not_there_are_refused(tmp_path, rows):
    with pytest.raises(DataError, match=f"rows must lie between 1 and 4, the rows of .*, got {rows}"):
        read_hdf5(saved(tmp_path / "run.h5"), rows=rows)


# --- files of other kinds --------------------------------------------------------------------------------


def numpy_file(path):
    np.save(path, POINTS)


def zip_file(path):
    with path.open("wb") as file:
        np.savez(file, all_weights=POINTS)


def keras_file(path):
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = POINTS


def other_hdf5_file(path):
    with h5py.File(path, "w") as file:
        file["weights/0"] = POINTS


KINDS = {
    "a NumPy array": (numpy_file, r"it is a NumPy array; pass lca\.Trajectory"),
    "a zip archive": (zip_file, "it is a zip archive"),
    "a pickle": (lambda path: path.write_bytes(b"\x80\x04K\x01."), "it is a pickle, which is not loaded"),
    "a folder": (lambda path: path.mkdir(), r"it is a folder; lca_torch\.replay"),
    "no HDF5": (lambda path: path.write_text("hello"), r"cannot be read as HDF5 \("),
    "a Keras checkpoint": (
        keras_file,
        r"has no data set all_weights; it is a checkpoint of Keras: lca_tensor",
    ),
    "other HDF5": (other_hdf5_file, r"has no data set all_weights; it holds weights/0 \(4, 8\)"),
}


@pytest.mark.parametrize("what", KINDS)
def test_files_of_other_kinds_are_named(tmp_path, what):
    write, message = KINDS[what]
    path = tmp_path / "run.npy"
    write(path)
    with pytest.raises(DataError, match=message):
        read_hdf5(path)


REFUSED = {
    "no data": ({"points": np.zeros((3, 0))}, r"with 8 entries in total do not describe rows of 0"),
    "one row": ({"points": POINTS[0]}, r"all_weights of shape \(T \+ 1, K\).* found \(8,\) of float64"),
    "integers": ({"points": np.ones((2, 8), int)}, r"floating-point numbers, found \(2, 8\) of int64"),
    "no names": ({"names": None}, r"neither all_weights nor the file has the attribute var_names"),
    "other shapes": ({"shapes": "[(2, 2), (1,), ()]"}, r"3 var_names and 3 var_shapes with 6 entries"),
    "more names": ({"names": [*NAMES, "x"]}, r"4 var_names and 3 var_shapes"),
    "no shape": ({"shapes": "[{}, 2.5, 'a']"}, r"in var_shapes is not a shape"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_files_with_another_content_are_refused(tmp_path, what):
    options, message = REFUSED[what]
    with pytest.raises(DataError, match=message):
        read_hdf5(saved(tmp_path / "run.h5", **options))


def test_biases_that_contradict_the_neuron_axis_are_an_error(tmp_path):
    path = saved(tmp_path / "run.h5", names=["fc.weight", "fc.bias"], shapes="[(2, 3), (2,)]")
    with pytest.raises(
        DataError, match=r"the bias of fc\.weight \(shape \(2, 3\)\) has 2 entries.* pass neuron_axis=0"
    ):
        read_hdf5(path)
    assert read_hdf5(path, neuron_axis=0)[0].neuron_axes == (0, 0)


def test_a_bias_determines_the_neuron_axis_of_a_depthwise_kernel(tmp_path):
    names = ["dw.kernel", "dw.bias", "fc.kernel", "fc.bias"]
    points = np.ones((2, 12 + 3 + 6 + 2))
    path = saved(tmp_path / "run.h5", points, names=names, shapes="[(2, 2, 3, 1), (3,), (3, 2), (2,)]")
    assert read_hdf5(path)[0].neuron_axes == (2, 0, 1, 0)


def test_a_run_of_one_point_is_refused(tmp_path):
    with pytest.raises(TrajectoryError, match="at least two points"):
        read_hdf5(saved(tmp_path / "run.h5", POINTS[:1]))


def test_files_of_another_format_are_refused(tmp_path):
    (tmp_path / "run.h5").write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        read_hdf5(tmp_path / "run.h5")
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        read_hdf5(tmp_path / "none.h5")


def test_text_in_an_attribute_is_not_executed(tmp_path):
    path = saved(tmp_path / "run.h5", shapes="[__import__('os').getcwd()]")
    with pytest.raises(DataError, match="do not describe|is not a shape"):
        read_hdf5(path)


def test_pickled_objects_are_refused(tmp_path):
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file["all_weights"] = np.full((2, 8), np.void(b"\x80\x04K\x01."))
    with pytest.raises(DataError, match="floating-point numbers, found"):
        read_hdf5(tmp_path / "run.h5")


def outside(path, kind):
    """A file whose all_weights are in another file."""
    other = saved(path.with_name("other.h5"))
    (path.with_name("raw")).write_bytes(POINTS.tobytes())
    with h5py.File(path, "w") as file:
        if kind == "external link":
            file["all_weights"] = h5py.ExternalLink(str(other), "/all_weights")
        elif kind == "soft link through an external one":
            file["elsewhere"] = h5py.ExternalLink(str(other), "/")
            file["all_weights"] = h5py.SoftLink("/elsewhere/all_weights")
        elif kind == "external storage":
            storage = [(str(path.with_name("raw")), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("all_weights", POINTS.shape, POINTS.dtype, external=storage)
        else:
            layout = h5py.VirtualLayout(POINTS.shape, POINTS.dtype)
            layout[:] = h5py.VirtualSource(str(other), "all_weights", POINTS.shape)
            file.create_virtual_dataset("all_weights", layout)
        file.attrs["var_names"], file.attrs["var_shapes"] = NAMES, str(SHAPES)
    return path


@pytest.mark.parametrize(
    "kind", ["external link", "soft link through an external one", "external storage", "virtual data set"]
)
def test_data_outside_of_the_file_are_refused(tmp_path, kind):
    with pytest.raises(DataError, match="are outside of this file, and were not read"):
        read_hdf5(outside(tmp_path / "run.h5", kind))


def test_the_numbers_of_checkpoints_are_those_that_increase():
    assert checkpoint_numbers(["v2/m-0-10.h5", "v2/m-0-9000.h5"]) == [10, 9000]
    for names in (["a.pt", "b.pt"], ["s-1.pt", "s.pt"], ["s-2.pt", "s-1.pt"]):
        with pytest.raises(TrajectoryError, match="no number in the names"):
            checkpoint_numbers(names)
