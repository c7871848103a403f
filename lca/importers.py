"""Runs that others have saved: an HDF5 file with the parameters of every step, and checkpoints in order.

Checkpoints themselves are read by the backends, as their objectives want them: `lca_torch.replay` (torch,
safetensors) and `lca_tensorflow.replay` (Keras).
"""

import ast
import math
import re
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from lca.errors import DataError, TrajectoryError
from lca.extras import extra
from lca.layout import Layout
from lca.step import Trajectory


def read_hdf5(path: str | PathLike[str], *, neuron_axis: int = -1) -> tuple[Layout, Trajectory]:
    """Layout and trajectory of a run in one HDF5 file, as older LCA runs were saved.

    The file has a data set ``all_weights`` of shape (T + 1, K), θ_0 to θ_T, and the attributes ``var_names``
    and ``var_shapes`` (of the data set, or of the file) that say how a row is made up. Rows are read when
    their step comes up, so the file may be larger than memory; it stays open as long as the trajectory lives.

    Parameters
    ----------
    path
        The file.
    neuron_axis
        The axis of each tensor that runs over its output neurons: the last one, as TensorFlow has it; 0 for
        weights as PyTorch has them. Where the bias of a layer tells another (depthwise kernels), that one.

    Returns
    -------
    Layout, Trajectory
        Names as in the file, but with the dots that `Layout` goes by: ``fc1/kernel:0`` is ``fc1.kernel``.
        Needs the extra ``report``.

    Raises
    ------
    DataError
        If the file cannot be read, does not hold what is said above, or the biases tell that all weights have
        their neurons along another axis. Objects (pickles) are never loaded.
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
        import h5py  # noqa: PLC0415 - only for such files
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} cannot be read as HDF5 ({error}).") from error
    weights = file.get("all_weights")
    if not isinstance(weights, h5py.Dataset) or weights.ndim != 2 or weights.dtype.kind != "f":
        found = f"{weights.shape} of {weights.dtype}" if isinstance(weights, h5py.Dataset) else weights
        raise DataError(
            f"{path}: expected a data set all_weights of shape (T + 1, K) with floating-point numbers, found "
            f"{found}."
        )
    names = [_dotted(name) for name in _texts(_attribute(path, weights, "var_names"))]
    shapes = [_shape(path, shape) for shape in _texts(_attribute(path, weights, "var_shapes"))]
    held = sum(math.prod(shape) for shape in shapes)
    if len(names) != len(shapes) or held != weights.shape[1]:
        raise DataError(
            f"{path}: {len(names)} var_names and {len(shapes)} var_shapes that hold {held} numbers do not "
            f"describe rows of {weights.shape[1]}."
        )
    axes = tuple(range(len(shape))[neuron_axis] if shape else None for shape in shapes)
    axes = _told_by_biases(path, Layout(tuple(names), tuple(shapes), axes))
    return Layout(tuple(names), tuple(shapes), axes), Trajectory(weights)


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Paths by the numbers in their names, which must agree on the order.

    >>> [path.name for path in in_order([Path("step-10.pt"), Path("step-9.pt")])]
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
            why = f"some number goes up and another down from {before.name} to {after.name}"
    if why:
        raise TrajectoryError(
            f"the order of the files in {ordered[0].parent} is not clear: {why}; pass a list of paths in the "
            "order of training."
        )
    return ordered


def _told_by_biases(path: str | PathLike[str], layout: Layout) -> tuple[int | None, ...]:
    """The neuron axes, mended where a bias contradicts them: it has an entry a neuron.

    Raises
    ------
    DataError
        If one other axis is right for all weights: then the file has another convention than was supposed,
        and square weights would be taken wrongly without a word.
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
            f"{path}: {name} of shape {shape} belongs to a bias of {biases[layer]}, so its neurons are not "
            f"along axis {axes[wrong[0]]}; pass neuron_axis={min(common)}."
        )
    for which in wrong:
        axes[which] = fitting[which][-1]
    return tuple(axes)


def _attribute(path: str | PathLike[str], weights: Any, name: str) -> Any:
    for place in (weights, weights.file):
        if name in place.attrs:
            return place.attrs[name]
    raise DataError(f"{path}: neither all_weights nor the file has the attribute {name}.")


def _texts(value: Any) -> list[Any]:
    """The items of an attribute: an array of texts or numbers, a text of them, a Python list in a text."""
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)  # literals only: this runs no code
        except (ValueError, SyntaxError):
            value = [
                item.strip() for item in re.split(r"[;\n]" if re.search(r"[;\n]", value) else ",", value)
            ]
    return [item.decode() if isinstance(item, bytes) else item for item in np.asarray(value, object).tolist()]


def _shape(path: str | PathLike[str], shape: Any) -> tuple[int, ...]:
    numbers = re.findall(r"\d+", shape) if isinstance(shape, str) else np.atleast_1d(shape).tolist()
    if not isinstance(shape, str | int | Sequence) or not all(str(n).isdigit() for n in numbers):
        raise DataError(f"{path}: {shape!r} in var_shapes is no shape.")
    return tuple(int(n) for n in numbers)


def _dotted(name: Any) -> str:
    return re.sub(r":\d+$", "", str(name)).replace("/", ".")
