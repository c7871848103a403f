"""Which tensor of a file is which parameter of an objective, and how its axes have to be put.

Keras and Flax store kernels with the output neurons on the last axis, PyTorch and `lca.reference` on the
first. All tensors of a file follow one of these conventions, which the shapes tell unless every kernel is
square.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from lca._listing import listed
from lca.errors import LayoutError
from lca.layout import Layout

Convention: TypeAlias = Literal["first", "last"]
"""Where the output neurons of a kernel are: on its first axis, or on its last."""

_SAME_ROLE = {
    "kernel": "weight", "weights": "weight", "w": "weight", "W": "weight", "depthwise_kernel": "weight",
    "gamma": "weight", "scale": "weight", "embedding": "weight", "embeddings": "weight",
    "biases": "bias", "b": "bias", "beta": "bias",
}  # fmt: skip
"""Names that other frameworks give to what PyTorch calls ``weight`` and ``bias``."""
_KERNELS = ("kernel", "depthwise_kernel")
"""Only frameworks with the neurons on the last axis use these names."""
_TABLES = ("embedding", "embeddings")
"""One row for each entry in every framework; never transposed."""
_PLAIN = (*_TABLES, "gamma", "beta", "scale", "bias", "biases", "b", "running_mean", "running_var")
"""Tables, and what is added or multiplied entry by entry."""


class Piece(NamedTuple):
    """How one parameter is taken from a row of a file: cut out, reshaped, its axes permuted, flattened."""

    name: str
    cut: slice
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def taken_from(self, row: np.ndarray) -> np.ndarray:
        """The parameter, flattened (size,)."""
        return row[self.cut].reshape(self.shape).transpose(self.axes).reshape(-1)


def pieces_of(
    held: Layout,
    wanted: Layout,
    *,
    names: Mapping[str, str] | None = None,
    neuron_axis: int | None = None,
    reorder_flattened: bool | None = None,
    strict: bool = True,
) -> list[Piece]:
    """How each parameter of ``wanted`` is taken from a row with the tensors ``held``; in the order of θ.

    Parameters are as in `lca.importers.replay_hdf5`.

    Raises
    ------
    LayoutError
        If a parameter is not found or has another shape, tensors are left over, or the shapes leave open how
        the axes are to be put.

    Examples
    --------
    >>> held = Layout(("fc/kernel:0", "fc/bias:0"), ((2, 3), (3,)))
    >>> [piece.axes for piece in pieces_of(held, Layout(("fc.weight", "fc.bias"), ((3, 2), (3,))))]
    [(1, 0), (0,)]
    """
    where = _where(held, wanted, names or {}, strict=strict)
    mine, theirs = _convention_of(wanted), _convention_of_file(held, wanted, where, neuron_axis)
    assert wanted.neuron_axes is not None
    found, images = [], _Images()
    for name, shape, neurons in zip(wanted.names, wanted.shapes, wanted.neuron_axes, strict=True):
        which = where[name]
        arranged = _arranged(held, which, name, shape, (theirs, mine))
        if arranged is None:
            raise LayoutError(
                f"{held.names[which]} in the file has shape {held.shapes[which]}; no order of its "
                f"axes gives {shape}, the shape of {name} of the objective; is it a run of another model?"
            )
        view, axes = arranged
        if len(shape) > 2 and not _is_plain(held.names[which], name):
            depthwise = mine == "last" and neurons == len(shape) - 2
            images = _Images(
                shape[neurons or 0] if mine == "first" else shape[-1] * (shape[-2] if depthwise else 1)
            )
        elif mine != theirs and len(shape) == 2 and images.are_read_by(name, shape, mine):
            view, axes = _flattened(name, held.shapes[which], images.channels, theirs, reorder_flattened)
        start = held.offsets[which]
        found.append(Piece(name, slice(start, start + held.sizes[which]), view, axes))
    return found


def _where(held: Layout, wanted: Layout, names: Mapping[str, str], *, strict: bool) -> dict[str, int]:
    """The number of the tensor in the file for each parameter, found by its name."""
    unknown = [name for name in names if name not in wanted.names]
    absent = [name for name in names.values() if name not in held.names]
    if unknown or absent:
        raise LayoutError(
            f"names= maps the parameters of the objective ({_listed(wanted.names)}) to the tensors in the "
            f"file ({_listed(held.names)}); {_listed(unknown or absent)} is not among them."
        )
    where = {}
    for name in wanted.names:
        candidates = [held.names.index(names[name])] if name in names else _called(name, held.names)
        if len(candidates) == 1:
            where[name] = candidates[0]
    missing = [name for name in wanted.names if name not in where]
    twice = sorted({held.names[which] for which in where.values() if list(where.values()).count(which) > 1})
    if missing or twice:
        problem = (
            f"no tensor for {_listed(missing)}" if missing else f"{_listed(twice)} for several parameters"
        )
        raise LayoutError(
            f"the file holds {_listed(held.names)}: {problem} of the objective; say which is which: "
            "names={parameter: tensor in the file}. If they are in the same order: "
            "names=dict(zip(objective.layout.names, read_hdf5(path)[0].names))."
        )
    left = [name for which, name in enumerate(held.names) if which not in where.values()]
    if left and strict:
        raise LayoutError(
            f"the file also holds {_listed(left)}, which the objective does not have; is it a run of another "
            "model? strict=False ignores them."
        )
    return where


def _called(name: str, held: Sequence[str]) -> list[int]:
    """The tensors that may be meant by a name: the same one, else the same role, else with a prefix."""
    role = _role(name)
    for fits in (
        lambda other: other == name,
        lambda other: _role(other) == role,
        lambda other: _role(other).endswith(f".{role}"),
    ):
        found = [which for which, other in enumerate(held) if fits(other)]
        if found:
            return found
    return []


def _role(name: str) -> str:
    layer, dot, last = _dotted(name).rpartition(".")
    return f"{layer}{dot}{_SAME_ROLE.get(last, last)}"


def _leaf(name: str) -> str:
    return _dotted(name).rpartition(".")[2]


def _dotted(name: str) -> str:
    return name.partition(":")[0].replace("/", ".")


def _convention_of(layout: Layout) -> Convention:
    """Where a layout has its neurons; a transposed or depthwise kernel has them one axis further in.

    What two axes or three leave open, a table or a transposed convolution alone, the name ``weight`` decides.
    """
    assert layout.neuron_axes is not None
    tensors = zip(layout.names, layout.neuron_axes, layout.shapes, strict=True)
    kernels = [(_leaf(name), axis, len(shape)) for name, axis, shape in tensors if len(shape) > 1 and axis]
    if len(kernels) < sum(len(shape) > 1 for shape in layout.shapes):  # some are on axis 0
        return "first"
    clear = [axis == 1 for _, axis, ndim in kernels if ndim > 3 or ndim - axis == 1 < axis]
    return "first" if all(clear or [name == "weight" for name, *_ in kernels]) else "last"


def _convention_of_file(
    held: Layout, wanted: Layout, where: Mapping[str, int], neuron_axis: int | None
) -> Convention:
    if neuron_axis not in (None, 0, -1):
        raise LayoutError(
            f"neuron_axis is 0 (as in PyTorch), -1 (as in TensorFlow) or None, got {neuron_axis!r}."
        )
    if neuron_axis is not None:
        return "last" if neuron_axis else "first"
    mine = _convention_of(wanted)
    both: tuple[Convention, Convention] = ("first", "last")
    arranged = {
        theirs: [
            _arranged(held, where[name], name, shape, (theirs, mine))
            for name, shape in zip(wanted.names, wanted.shapes, strict=True)
        ]
        for theirs in both
    }
    fitting = [theirs for theirs in both if None not in arranged[theirs]]
    kernels = any(_leaf(held.names[which]) in _KERNELS for which in where.values())
    if not fitting:
        return mine  # the shapes differ, which is said for the first tensor
    if arranged["first"] == arranged["last"]:
        return mine  # there are no kernels
    if len(fitting) == 1 and (not kernels or fitting == ["last"]):
        return fitting[0]
    if kernels and "last" in fitting:
        return "last"
    square = [held.names[which] for which in where.values() if len(held.shapes[which]) > 1]
    problem = "are square" if len(fitting) == 2 else "are called kernel, but fit only with the neurons first"
    raise LayoutError(
        f"{_listed(square)} in the file {problem}, so their shapes do not say whether they have to be "
        "transposed; pass neuron_axis=-1 if the output neurons are on the last axis of the file's kernels "
        "(TensorFlow, Keras, Flax), neuron_axis=0 if they are on the first (PyTorch)."
    )


def _arranged(
    held: Layout, which: int, name: str, shape: tuple[int, ...], conventions: tuple[Convention, Convention]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """How a tensor is reshaped and its axes permuted to get ``shape``; ``None`` if no order of axes fits.

    ``conventions`` are that of the file and that of the objective.
    """
    theirs, mine = conventions
    has, axes = held.shapes[which], tuple(range(len(held.shapes[which])))
    if mine == theirs or len(axes) < 2 or _is_plain(held.names[which], name):
        return (has, axes) if has == shape else None
    into_first = (*axes[:-3:-1], *axes[:-2])  # (..., in, out) -> (out, in, ...)
    into_last = (*axes[2:], 1, 0)
    put = into_first if mine == "first" else into_last
    if tuple(has[axis] for axis in put) == shape:
        return has, put
    return _depthwise(has, shape, mine)


def _is_plain(*names: str) -> bool:
    """Whether a tensor of these names has its axes in one order in every framework."""
    return any(_leaf(name) in _PLAIN for name in names)


class _Images:
    """The flattened output of the last convolution, if there is one, and which dense kernels read it."""

    def __init__(self, channels: int = 0) -> None:
        self.channels = channels
        self._size = 0  # of the flattened output, once a dense kernel has read it
        self._outputs = set[int]()  # of the dense kernels behind it

    def are_read_by(self, name: str, kernel: tuple[int, ...], convention: Convention) -> bool:
        """Whether a dense kernel reads it: the first one, and others with as many inputs.

        Raises
        ------
        LayoutError
            If another dense layer gives as many outputs, so that this kernel may read those.
        """
        inputs, outputs = kernel if convention == "last" else kernel[::-1]
        if not self.channels or inputs <= self.channels or inputs % self.channels:
            reads = False
        elif self._size and inputs == self._size and inputs in self._outputs:
            raise LayoutError(
                f"the number of inputs of {name} equals both the size of the flattened output of a "
                "convolution and the number of outputs of another dense layer, so which of them it reads is "
                "unknown; read the rows with read_hdf5, and put the axes in order yourself."
            )
        else:
            reads = self._size in (0, inputs)
        self._size = self._size or inputs
        self._outputs.add(outputs)
        return reads


def _depthwise(
    has: tuple[int, ...], shape: tuple[int, ...], mine: Convention
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Keras (height, width, in, multiplier) and PyTorch (in · multiplier, 1, height, width), either way."""
    if len(has) != 4 or len(shape) != 4:
        return None
    if mine == "first":
        fits = shape == (has[2] * has[3], 1, *has[:2])
        return (has, (2, 3, 0, 1)) if fits else None
    fits = has == (shape[2] * shape[3], 1, *shape[:2])
    return ((*shape[2:], *has[2:]), (2, 3, 0, 1)) if fits else None


def _flattened(
    name: str, has: tuple[int, ...], channels: int, theirs: Convention, reorder: bool | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A dense kernel behind a convolution, whose inputs are ordered by position, or by channel."""
    if reorder is None:
        raise LayoutError(
            f"{name} follows a convolution with {channels} channels. Flattened images have their channels "
            "last in TensorFlow and first in PyTorch and lca.reference; pass reorder_flattened=True to put "
            "the inputs of this kernel in order, or False if the file has them in that of the objective."
        )
    if not reorder:
        return has, (1, 0)
    if theirs == "last":
        return (has[0] // channels, channels, has[1]), (2, 1, 0)
    return (has[0], channels, has[1] // channels), (2, 1, 0)


def _listed(names: Sequence[str], most: int = 6) -> str:
    return listed([*map(repr, names)], most)
