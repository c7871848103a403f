"""Which variables of a Keras model are in θ, their names and their neuron axes."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import keras

from lca.errors import LayoutError
from lca.frameworks import Frozen, check_frozen, require_one, require_precision
from lca.layout import Layout
from lca_keras._configuration import Place

Variable: TypeAlias = keras.Variable


def parameters_of(model: keras.Model, frozen: Frozen = "zero") -> dict[str, Variable]:
    """The variables in θ, by name, in the model's order; shared ones once.

    A name is the Keras path with dots and without the model's own name: ``dense_1.kernel``. Where two
    variables have one path, the later ones are numbered: ``dense_1.kernel_1``. Moving statistics, seeds and
    other state are not parameters.

    Raises
    ------
    LayoutError
        If the model has no parameters, they differ in dtype, are neither float32 nor float64, or have no
        entries.
    """
    check_frozen(frozen)
    if not isinstance(model, keras.Model):
        raise LayoutError(f"expected a keras.Model, got {type(model).__name__}; wrap layers in a Sequential.")
    if not model.built:
        raise LayoutError(
            f"the model {model.name!r} has no weights yet; call it on one batch first, or begin a "
            "keras.Sequential with keras.Input(shape)."
        )
    trained = {id(v) for v in model.trainable_variables}
    found = [v for v in all_parameters(model) if frozen == "zero" or id(v) in trained]
    if not trained:
        raise LayoutError(
            f"the model {model.name!r} has no trainable weight, so there is nothing to allocate to; set "
            "model.trainable = True."
        )
    named = dict(zip(unique_names(model, found), found, strict=True))
    _refuse_unsuitable(named)
    dtypes = {name: variable.dtype for name, variable in named.items()}
    require_precision(
        dtypes, "use the policy 'mixed_bfloat16' or 'mixed_float16', which keeps them in float32"
    )
    require_one("dtype", dtypes, "build the model under one dtype policy")
    return named


def _refuse_unsuitable(named: Mapping[str, Variable]) -> None:
    for name, variable in named.items():
        if variable.dtype.startswith("complex"):
            raise LayoutError(
                f"parameter {name!r} is {variable.dtype}; use two real weights, the real and the "
                "imaginary part, and combine them in call with keras.ops.view_as_complex."
            )
        if 0 in variable.shape:
            raise LayoutError(
                f"parameter {name!r} has no entries (shape {tuple(variable.shape)}); take the layer out of "
                "the model, or create the weight with trainable=False."
            )


def all_parameters(model: keras.Model) -> list[Variable]:
    """The weights of layers that were created trainable, whether or not they are now."""
    meant = {id(v) for layer in model._flatten_layers() for v in layer._trainable_variables}
    return [v for v in model.variables if id(v) in meant]


def check_same_variables(
    model: keras.Model, measured: Mapping[str, Variable], known: Iterable[Variable]
) -> None:
    """Raise `LayoutError` unless the model still has the variables that it had.

    Parameters
    ----------
    model
        The model.
    measured
        The variables in θ, by name.
    known
        All that the model had which were created trainable, those left out of θ included.
    """
    now, before = {id(v) for v in model.variables}, {id(v) for v in known}
    gone = [name for name, variable in measured.items() if id(variable) not in now]
    if gone:
        raise LayoutError(
            f"{', '.join(gone)}: no longer a weight of the model {model.name!r}, because a layer has been "
            "replaced, removed or converted; make a new Objective, and a new tracker, of the model as it is "
            "now."
        )
    added = [v.path for v in all_parameters(model) if id(v) not in before]
    if added:
        raise LayoutError(
            f"{', '.join(added)}: new in the model {model.name!r} since the objective was made; make a new "
            "Objective, and a new tracker, of the model as it is now."
        )


def unique_names(model: keras.Model, variables: Iterable[Variable]) -> list[str]:
    """A name for each variable: its path with dots, without the model's name, numbered where it repeats."""
    seen: Counter[str] = Counter()
    names = []
    for variable in variables:
        name = variable.path.removeprefix(f"{model.name}/").replace("/", ".")
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name] - 1}")
    return names


def layout_of(model: keras.Model, frozen: Frozen = "zero") -> Layout:
    """The `lca.Layout` of a model: names, shapes and neuron axes of its parameters.

    A neuron is an output unit or channel: the last axis of kernels, ``(in, out)`` and ``(h, w, in, out)`` in
    Keras, and of embeddings; the one before it in transposed and depthwise convolutions.

    Parameters
    ----------
    model
        A built `keras.Model`.
    frozen
        As in `Objective`.

    Raises
    ------
    LayoutError
        If the weights cannot be measured (`Objective`), or the model is not built.

    Examples
    --------
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="fc")])
    >>> layout_of(model).names, layout_of(model).neuron_axes
    (('fc.kernel', 'fc.bias'), (1, 0))
    """
    named = parameters_of(model, frozen)
    second_last = {
        id(v)
        for layer in model._flatten_layers()
        if isinstance(layer, _OUTPUTS_SECOND_LAST)
        for v in layer._trainable_variables
        if len(v.shape) > 1
    }
    shapes = tuple(tuple(v.shape) for v in named.values())
    axes = tuple(
        len(shape) - (2 if id(v) in second_last else 1) if shape else None
        for v, shape in zip(named.values(), shapes, strict=True)
    )
    return Layout(tuple(named), shapes, axes)


_OUTPUTS_SECOND_LAST = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)


def flags_of(variables: Sequence[Variable]) -> Place:
    """Whether each of these variables is trainable, as a part of a `Configuration`."""

    def read() -> tuple[bool, ...]:
        return tuple(variable._trainable for variable in variables)

    return Place(tuple(f"{variable.path}.trainable" for variable in variables), read, read())


def training(model: keras.Model, variables: Iterable[Variable]) -> list[bool]:
    """Whether each of these variables trains at the moment."""
    trained = {id(v) for v in model.trainable_variables}
    return [id(v) in trained for v in variables]
