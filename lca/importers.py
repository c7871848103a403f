"""Read runs saved by other programs: HDF5 files with the parameters of every step, and checkpoint paths.

The checkpoints themselves are read by the backends: `lca_torch` (torch, safetensors) and
`lca_tensorflow` (Keras).
"""

import ast
import math
import re
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from lca._extras import extra
from lca._paths import local_path
from lca.errors import DataError, TrajectoryError
from lca.layout import Layout
from lca.step import Trajectory

__all__ = [
    "read_hdf5",
    "sorted_by_number",
]


def read_hdf5(path: str | PathLike[str], *, neuron_axis: int = -1) -> tuple[Layout, Trajectory]:
    """Read the layout and the trajectory of a run from one HDF5 file.

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

    Returns
    -------
    layout : Layout
        Names are those of the file in dotted form: ``fc1/kernel:0`` becomes ``fc1.kernel``.
    trajectory : Trajectory
        The T steps of the run.

    Raises
    ------
    DataError
        If the file cannot be read or has another content, or if the biases of all layers contradict
        ``neuron_axis``.
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
    with extra("report"):
        import h5py  # noqa: PLC0415 - an optional dependency
    try:
        file = h5py.File(local_path(path, DataError), "r")
    except OSError as error:
        raise DataError(f"{path} cannot be read as HDF5 ({error}).") from error
    _check_link(path, file.get("all_weights", getlink=True))
    weights = file.get("all_weights")
    if not isinstance(weights, h5py.Dataset) or weights.ndim != 2 or weights.dtype.kind != "f":
        found = f"{weights.shape} of {weights.dtype}" if isinstance(weights, h5py.Dataset) else weights
        raise DataError(
            f"{path}: expected a data set all_weights of shape (T + 1, K) with floating-point numbers, found "
            f"{found}; store one flattened parameter vector per row."
        )
    if weights.external or weights.is_virtual or weights.file.filename != file.filename:
        raise _outside(path)
    names = [_dotted(name) for name in _items(_attribute(path, weights, "var_names"))]
    shapes = [_shape(path, shape) for shape in _items(_attribute(path, weights, "var_shapes"))]
    described = sum(math.prod(shape) for shape in shapes)
    if len(names) != len(shapes) or described != weights.shape[1]:
        raise DataError(
            f"{path}: {len(names)} var_names and {len(shapes)} var_shapes with {described} entries in total "
            f"do not describe rows of {weights.shape[1]} entries."
        )
    axes = tuple(range(len(shape))[neuron_axis] if shape else None for shape in shapes)
    axes = _corrected_by_biases(path, Layout(tuple(names), tuple(shapes), axes))
    return Layout(tuple(names), tuple(shapes), axes), Trajectory(weights)


def _check_link(path: str | PathLike[str], link: Any) -> None:
    """Raise `DataError` if a link leads to another file, which opening it would read."""
    if type(link).__name__ == "ExternalLink":
        raise _outside(path)


def _outside(path: str | PathLike[str]) -> DataError:
    return DataError(
        f"{path}: the data of all_weights are outside of this file, and were not read; write them into it."
    )


def sorted_by_number(paths: Iterable[Path]) -> list[Path]:
    """Sort paths by the numbers in their names.

    Raises
    ------
    TrajectoryError
        If the order is ambiguous: names of different forms, equal numbers, or two numbers of which one
        increases where the other decreases.

    Examples
    --------
    >>> [path.name for path in sorted_by_number([Path("step-10.pt"), Path("step-9.pt")])]
    ['step-9.pt', 'step-10.pt']
    """
    numbers = {path: [int(digits) for digits in re.findall(r"\d+", path.name)] for path in paths}
    ordered = sorted(numbers, key=lambda path: (numbers[path], path.name))
    forms = sorted({re.sub(r"\d+", "#", path.name) for path in ordered})
    why = ""
    if len(forms) > 1:
        why = f"they have names of different forms ({', '.join(forms)})"
    for before, after in zip(ordered, ordered[1:], strict=False):
        if not why and numbers[before] == numbers[after]:
            why = f"{before.name} and {after.name} have the same numbers"
        elif not why and any(a > b for a, b in zip(numbers[before], numbers[after], strict=True)):
            why = f"one number increases and another decreases from {before.name} to {after.name}"
    if why:
        raise TrajectoryError(
            f"the order of the files in {ordered[0].parent} is ambiguous: {why}; pass a list of paths in the "
            "order of training."
        )
    return ordered


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


def _shape(path: str | PathLike[str], shape: Any) -> tuple[int, ...]:
    numbers = re.findall(r"\d+", shape) if isinstance(shape, str) else np.atleast_1d(shape).tolist()
    if not isinstance(shape, str | int | Sequence) or not all(str(n).isdigit() for n in numbers):
        raise DataError(f"{path}: {shape!r} in var_shapes is not a shape; expected integers, e.g. (2, 3).")
    return tuple(int(n) for n in numbers)


def _dotted(name: Any) -> str:
    return re.sub(r":\d+$", "", str(name)).replace("/", ".")
