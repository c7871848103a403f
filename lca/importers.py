"""Read runs saved by other programs: HDF5 files with the parameters of every step, and names of checkpoints.

The checkpoints themselves are read by the backends: `lca_torch` (torch, safetensors) and
`lca_tensorflow` (Keras).
"""

import ast
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from lca._checkpoint_names import checkpoint_numbers, sorted_by_number
from lca._extras import extra
from lca._listing import listed
from lca._matching import Piece, pieces_of
from lca._paths import local_path
from lca.arrays import Vector, array_ops
from lca.errors import DataError, LayoutError, LCAWarning
from lca.layout import Layout, check_same_layout
from lca.objective import Objective, leaves, state_of
from lca.step import Trajectory

__all__ = [
    "checkpoint_numbers",
    "read_hdf5",
    "replay_hdf5",
    "sorted_by_number",
]


def read_hdf5(
    path: str | PathLike[str], *, neuron_axis: int = -1, rows: int | None = None
) -> tuple[Layout, Trajectory]:
    """Read the layout and the trajectory of a run from one HDF5 file, as they are stored.

    To allocate the run, use `replay_hdf5`, which puts the tensors into the form of an objective.

    The file contains a data set ``all_weights`` of shape (T + 1, K), with θ_0 to θ_T as rows, and the
    attributes ``var_names`` and ``var_shapes``, of the data set or of the file, which describe a row. Each
    row is read when its step is requested, so the file may be larger than memory; it stays open as long as
    the trajectory exists. Needs the extra ``report``.

    Parameters
    ----------
    path
        The HDF5 file. It is untrusted input: pickled objects are never loaded, and data outside of the file
        (external links, external storage, virtual data sets) are refused.
    neuron_axis
        The axis of each tensor that indexes output neurons: -1 for weights in the order of TensorFlow, 0 for
        the order of PyTorch. If the length of a layer's bias matches only another axis of its weight, as for
        depthwise kernels, that axis is used.
    rows
        How many rows to read, the first ones; ``None``: all.

    Returns
    -------
    layout : Layout
        Names are those of the file in dotted form: ``fc1/kernel:0`` becomes ``fc1.kernel``.
    trajectory : Trajectory
        The T steps of the run, with this layout, which `lca.allocate` compares with that of the objective.

    Raises
    ------
    DataError
        If the file cannot be read or has another content, or if the biases of all layers contradict
        ``neuron_axis``. If rows were never written, because the run was interrupted: at once if they are the
        last ones, else when the row is read.
    TrajectoryError
        If there are fewer than two points.

    Examples
    --------
    >>> import tempfile, h5py
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with h5py.File(f"{folder}/run.h5", "w") as file:
    ...         file["all_weights"] = np.arange(18.0).reshape(3, 6)
    ...         file.attrs["var_names"] = ["fc1/kernel:0", "fc1/bias:0"]
    ...         file.attrs["var_shapes"] = ["(2, 2)", "(2,)"]
    ...     layout, run = read_hdf5(f"{folder}/run.h5")
    >>> layout.names, layout.shapes, len(run)
    (('fc1.kernel', 'fc1.bias'), ((2, 2), (2,)), 2)
    """
    layout, points = _opened(path, rows)
    axes = tuple(range(len(shape))[neuron_axis] if shape else None for shape in layout.shapes)
    axes = _corrected_by_biases(path, Layout(layout.names, layout.shapes, axes))
    layout = Layout(layout.names, layout.shapes, axes)
    return layout, Trajectory(points, layout)


def replay_hdf5(
    path: str | PathLike[str],
    objective: Objective | Mapping[str, Objective],
    *,
    rows: int | None = None,
    names: Mapping[str, str] | None = None,
    neuron_axis: int | None = None,
    reorder_flattened: bool | None = None,
    strict: bool = True,
) -> Trajectory:
    """The steps of a run in one HDF5 file (`read_hdf5`) as an objective takes them, of any framework.

    Parameters are found by name: the same name, or one that another framework uses (``fc1/kernel:0`` is
    ``fc1.weight``), with or without the name of the model before it. Kernels of dense layers and convolutions
    are transposed if the shapes, or else the name ``kernel``, say that the file has its output neurons on
    another axis than the objective. Where they leave that open, nothing is guessed: an error asks for an
    option. Rows get the type, dtype and device of the objective's θ; float64 for an objective without
    ``theta()``.

    Parameters
    ----------
    path
        The file.
    objective
        What will be measured, one objective or several by name.
    rows
        How many rows to read, the first ones; ``None``: all.
    names
        The name in the file for parameters that have another one: ``{"0.weight": "dense/kernel:0"}``.
    neuron_axis
        The axis of output neurons in the kernels of the file: -1 as in TensorFlow, 0 as in PyTorch; needed if
        all kernels are square and not called ``kernel``.
    reorder_flattened
        Whether the inputs of a dense layer behind a convolution are reordered from channels last (TensorFlow)
        to channels first (PyTorch, `lca.reference`), or the other way; needed for such networks if the file
        and the objective differ in ``neuron_axis``.
    strict
        Refuse a file with tensors that the objective does not have; ``False`` ignores them.

    Raises
    ------
    DataError, TrajectoryError
        As for `read_hdf5`.
    LayoutError
        If a parameter is not found or has another shape, tensors are left over, or it is not clear how the
        axes are to be put.

    Warns
    -----
    LCAWarning
        If the loss also depends on a state, such as running statistics: the file has none, so that all steps
        are measured with the present one.

    Examples
    --------
    >>> import tempfile, h5py
    >>> from lca.reference import DatasetLoss, mlp
    >>> objective = DatasetLoss(mlp((2, 3)), np.eye(2), np.array([0, 2]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with h5py.File(f"{folder}/run.h5", "w") as file:
    ...         file["all_weights"] = np.arange(18, dtype=">f4").reshape(2, 9)
    ...         file.attrs["var_names"] = ["net/fc1/kernel:0", "net/fc1/bias:0"]
    ...         file.attrs["var_shapes"] = ["(2, 3)", "(3,)"]
    ...     [step] = replay_hdf5(f"{folder}/run.h5", objective)
    >>> objective.layout.shapes, step.start
    (((3, 2), (3,)), array([0., 3., 1., 4., 2., 5., 6., 7., 8.]))
    """
    objectives = objective if isinstance(objective, Mapping) else {"": objective}
    layout = check_same_layout((o.layout for o in objectives.values()), "the objectives of a replay")
    held, points = _opened(path, rows)
    try:
        pieces = pieces_of(
            held, layout, names=_dotted_names(names), neuron_axis=neuron_axis,
            reorder_flattened=reorder_flattened, strict=strict,
        )  # fmt: skip
    except LayoutError as error:
        raise LayoutError(f"{path}: {error}") from error
    state = sorted({name for o in objectives.values() for name in state_of(o) or ()} - {"configuration"})
    if state:  # the configuration is numbers and flags in Python, and no tensors
        warnings.warn(
            f"the loss also depends on {', '.join(state)}, and {path} holds no state: every step is measured "
            "with the present one.",
            LCAWarning,
            stacklevel=2,
        )
    return Trajectory(_Converted(points, pieces, _theta_of(objectives)), layout)


class _Written:
    """The rows of a data set in the native byte order; those that were never written are an error."""

    def __init__(self, path: str | PathLike[str], weights: Any, count: int) -> None:
        self._path, self._weights, self._count = path, weights, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: int) -> np.ndarray:
        row = np.asarray(self._weights[at])
        if not self.is_written(at, row):
            raise DataError(
                f"{self._path}: row {at} of all_weights was never written; was the run interrupted? "
                f"rows={at} reads those before it."
            )
        return row.astype(row.dtype.newbyteorder("="), copy=False)

    def is_written(self, at: int, row: np.ndarray) -> bool:
        """Whether a row holds anything; a network may begin at 0, the first row, but hardly returns there."""
        empty = np.asarray(self._weights.fillvalue)
        blank = np.isnan(row) if np.isnan(empty) else row == empty
        if not at and not empty:
            blank = np.zeros(1, bool)
        return not bool(blank.all()) and self._has_chunks(at)

    def _has_chunks(self, at: int) -> bool:
        """Whether every chunk with a piece of a row is in the file, so far as it is stored in chunks."""
        if self._weights.chunks is None:
            return True
        height, width = self._weights.chunks
        found = (
            self._weights.id.get_chunk_info_by_coord((at - at % height, first)).byte_offset
            for first in range(0, self._weights.shape[1], width)
        )
        return all(offset is not None for offset in found)


class _Converted:
    """The rows of a file as vectors θ (K,) of an objective."""

    def __init__(self, rows: _Written, pieces: Sequence[Piece], like: Vector) -> None:
        self._rows, self._pieces, self._like = rows, pieces, like

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: int) -> Vector:
        row = self._rows[at]
        theta = np.concatenate([piece.taken_from(row) for piece in self._pieces])
        return array_ops(self._like).vector(theta, self._like)


def _theta_of(objectives: Mapping[str, Objective]) -> Vector:
    """A vector (0,) of the type, dtype and device of θ; float64 in NumPy if no objective says."""
    for leaf in leaves(objectives):
        theta = getattr(leaf, "theta", None)
        if callable(theta):
            return theta()[:0]
    return np.zeros(0)


def _dotted_names(names: Mapping[str, str] | None) -> dict[str, str]:
    return {parameter: _dotted(name) for parameter, name in (names or {}).items()}


def _opened(path: str | PathLike[str], rows: int | None) -> tuple[Layout, _Written]:
    """The tensors in a file, in order, and its rows."""
    with extra("report"):
        import h5py  # noqa: PLC0415 - an optional dependency
    local = local_path(path, DataError)
    try:
        file = h5py.File(local, "r")
    except OSError as error:
        raise DataError(f"{path} cannot be read as HDF5{_kind(local)} ({error}).") from error
    _check_link(path, file.get("all_weights", getlink=True))
    weights = file.get("all_weights")
    if weights is None:
        raise DataError(f"{path} has no data set all_weights; {_contents(file)}")
    if not isinstance(weights, h5py.Dataset) or weights.ndim != 2 or weights.dtype.kind != "f":
        found = f"{weights.shape} of {weights.dtype}" if isinstance(weights, h5py.Dataset) else weights
        raise DataError(
            f"{path}: expected a data set all_weights of shape (T + 1, K) with floating-point numbers, found "
            f"{found}; store one flattened parameter vector per row."
        )
    if weights.external or weights.is_virtual or weights.file.filename != file.filename:
        raise _outside(path)
    names = [_dotted(name) for name in _items(_attribute(path, weights, "var_names"))]
    shapes = _shapes(path, _attribute(path, weights, "var_shapes"), len(names))
    described = sum(math.prod(shape) for shape in shapes)
    if len(names) != len(shapes) or described != weights.shape[1]:
        raise DataError(
            f"{path}: {len(names)} var_names and {len(shapes)} var_shapes with {described} entries in total "
            f"do not describe rows of {weights.shape[1]} entries."
        )
    if rows is not None and not 0 < rows <= len(weights):
        raise DataError(f"rows must lie between 1 and {len(weights)}, the rows of {path}, got {rows}.")
    points = _Written(path, weights, len(weights) if rows is None else rows)
    _check_last(path, points, weights)
    return Layout(tuple(names), tuple(shapes), (None,) * len(names)), points


def _check_last(path: str | PathLike[str], points: _Written, weights: Any) -> None:
    """Raise `DataError` if the last rows were never written, and say how many were."""
    count = len(points)
    while count and not points.is_written(count - 1, weights[count - 1]):
        count -= 1
    if count < len(points):
        raise DataError(
            f"{path}: the last {len(points) - count} of {len(points)} rows of all_weights were never "
            f"written; was the run interrupted? rows={count} reads the ones before them."
        )


def _kind(path: Path) -> str:
    """The likely kind of a file that is not HDF5, and what reads it, for a message."""
    if path.is_dir():
        return ": it is a folder; lca_torch.replay and lca_tensorflow.replay read folders of checkpoints"
    try:
        with path.open("rb") as file:
            begin = file.read(8)
    except OSError:
        return ""
    known = {
        b"\x93NUMPY": "a NumPy array; pass lca.Trajectory(numpy.load(path, mmap_mode='r'), layout)",
        b"PK": "a zip archive (.npz, .pt, .keras); numpy.load or the replay of a backend reads it",
        b"\x80": "a pickle, which is not loaded, because that runs code",
    }
    return next((f": it is {what}" for magic, what in known.items() if begin.startswith(magic)), "")


def _contents(file: Any) -> str:
    """What an HDF5 file without a run holds, for a message."""
    found: list[str] = []
    file.visititems(
        lambda name, held: found.append(f"{name} {held.shape}") if hasattr(held, "shape") else None
    )
    if (
        any(name in file for name in ("layers", "model_weights", "layer_names"))
        or "layer_names" in file.attrs
    ):
        return "it is a checkpoint of Keras: lca_tensorflow.replay reads several of them as a run."
    return (
        f"it holds {listed(found, 5) or 'no data'}. Expected one flattened parameter vector per row, and the "
        "attributes var_names and var_shapes."
    )


def _check_link(path: str | PathLike[str], link: Any) -> None:
    """Raise `DataError` if a link leads to another file, which opening it would read."""
    if type(link).__name__ == "ExternalLink":
        raise _outside(path)


def _outside(path: str | PathLike[str]) -> DataError:
    return DataError(
        f"{path}: the data of all_weights are outside of this file, and were not read; write them into it."
    )


def _corrected_by_biases(path: str | PathLike[str], layout: Layout) -> tuple[int | None, ...]:
    """The neuron axes, corrected where a bias, which has one entry per neuron, contradicts them.

    Raises
    ------
    DataError
        If one other axis fits all weights: the file then uses another convention, and correcting only the
        contradicted weights would silently leave square weights wrong.
    """
    assert layout.neuron_axes is not None
    groups, axes = layout.groups("layer"), list(layout.neuron_axes)
    layers = [groups.names[groups.index[at]] for at in layout.offsets]
    biases = {layer: s[0] for layer, s in zip(layers, layout.shapes, strict=True) if len(s) == 1}
    fitting = {
        which: [axis for axis, length in enumerate(shape) if length == biases[layer]]
        for which, (layer, shape) in enumerate(zip(layers, layout.shapes, strict=True))
        if len(shape) > 1 and biases.get(layer) in shape
    }
    wrong = [which for which, found in fitting.items() if axes[which] not in found]
    if wrong and (common := set.intersection(*map(set, fitting.values()))):
        name, shape, layer = layout.names[wrong[0]], layout.shapes[wrong[0]], layers[wrong[0]]
        raise DataError(
            f"{path}: the bias of {name} (shape {shape}) has {biases[layer]} entries, so its neurons are not "
            f"along axis {axes[wrong[0]]}; pass neuron_axis={min(common)}."
        )
    for which in wrong:
        axes[which] = fitting[which][-1]
    return tuple(axes)


def _attribute(path: str | PathLike[str], weights: Any, name: str) -> Any:
    for place in (weights, weights.file):
        if name in place.attrs:
            return place.attrs[name]
    raise DataError(
        f"{path}: neither all_weights nor the file has the attribute {name}, which describes the rows."
    )


def _items(value: Any) -> list[Any]:
    """The items of an attribute: an array, a string that contains a Python list, or a separated string."""
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)  # parses literals only and runs no code
        except (ValueError, SyntaxError):
            value = [
                item.strip() for item in re.split(r"[;\n]" if re.search(r"[;\n]", value) else ",", value)
            ]
    return [item.decode() if isinstance(item, bytes) else item for item in np.asarray(value, object).tolist()]


def _shapes(path: str | PathLike[str], value: Any, tensors: int) -> list[tuple[int, ...]]:
    """One shape for each tensor; for a single tensor, the numbers may stand for themselves."""
    items = _items(value)
    if tensors == 1 and all(isinstance(item, int | np.integer) for item in items):
        return [tuple(int(item) for item in items)]
    return [_shape(path, shape) for shape in items]


def _shape(path: str | PathLike[str], shape: Any) -> tuple[int, ...]:
    numbers = re.findall(r"\d+", shape) if isinstance(shape, str) else np.atleast_1d(shape).tolist()
    if not isinstance(shape, str | int | np.integer | np.ndarray | Sequence) or not all(
        str(n).isdigit() for n in numbers
    ):
        raise DataError(f"{path}: {shape!r} in var_shapes is not a shape; expected integers, e.g. (2, 3).")
    return tuple(int(n) for n in numbers)


def _dotted(name: Any) -> str:
    return re.sub(r":\d+$", "", str(name)).replace("/", ".")
