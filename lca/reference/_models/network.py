"""`Network`: layers and a loss as a pure function of the flat parameter vector θ.

A network is an immutable description without parameter values and without data. `mlp`,
`logistic_regression` and `small_cnn` create common ones.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from lca.errors import DataError, LayoutError, LCAError, UnknownNameError
from lca.layout import Layout
from lca.reference._data import Batch
from lca.reference._models.convolution import Conv2d, MaxPool2d
from lca.reference._models.layers import Array, Dense, Flatten, Layer, Params, ReLU, Shape, Tanh
from lca.reference._models.losses import CrossEntropy, OutputLoss, SquaredError
from lca.reference._models.normalization import BatchNorm, Statistics

T = TypeVar("T")
Activation = Literal["relu", "tanh"]
LossName = Literal["cross_entropy", "squared_error"]
_ACTIVATIONS: dict[str, Layer] = {"relu": ReLU(), "tanh": Tanh()}
_LOSSES: dict[str, OutputLoss] = {"cross_entropy": CrossEntropy(), "squared_error": SquaredError()}


@dataclass(frozen=True)
class Network:
    """``ℓ(layers(x; θ), y)``: layers applied in order, followed by a loss.

    Parameters
    ----------
    layers
        At least one layer with parameters; the output of the last layer must have shape (n, m).
    loss
        `CrossEntropy`, `SquaredError`, or another `OutputLoss`.
    input_shape
        Shape of one example.
    frozen
        Names of tensors to treat as constants. They remain in θ with gradient exactly 0, so their allocation
        is exactly 0 and training does not move them.
    tied
        ``{"fc3.weight": "fc1.weight"}`` makes fc3 use fc1.weight. A tied tensor has no entries of its own in
        θ, and the gradient of the tensor it is tied to is the sum over both uses.

    Attributes
    ----------
    n_outputs
        m, the number of outputs per example.
    layout
        Names, shapes and positions of the tensors in θ; names are ``fc1.weight``, ``fc1.bias``,
        ``conv1.weight``, ....

    Raises
    ------
    LayoutError
        If a layer does not accept the output shape of the previous one, or tied tensors differ in shape.
    UnknownNameError
        If ``frozen`` or ``tied`` refers to a tensor that does not exist.

    Examples
    --------
    >>> network = Network((Dense(4, 3), Tanh(), Dense(3, 2)), CrossEntropy(), input_shape=(4,))
    >>> network.layout.names
    ('fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias')
    >>> network.forward(network.init(seed=0), np.ones((5, 4))).shape
    (5, 2)

    Two layers that share their weight:

    >>> stack = (Dense(3, 3), Tanh(), Dense(3, 3))
    >>> Network(stack, SquaredError(), (3,), tied={"fc2.weight": "fc1.weight"}).layout.names
    ('fc1.weight', 'fc1.bias', 'fc2.bias')
    """

    layers: tuple[Layer, ...]
    loss: OutputLoss
    input_shape: Shape
    _: KW_ONLY
    frozen: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict, hash=False)
    n_outputs: int = field(init=False)
    layout: Layout = field(init=False)
    _names: tuple[tuple[str, ...], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape = self.input_shape
        for layer in self.layers:
            shape = layer.output_shape(shape)
        if len(shape) != 1:
            raise LCAError(
                f"the output of a network must be one vector per example, got shape {shape}; add Flatten()."
            )
        object.__setattr__(self, "n_outputs", shape[0])
        names = _names(self.named_layers)
        tensors = [
            (name, shape)
            for own, layer in zip(names, self.layers, strict=True)
            for name, shape in zip(own, layer.shapes.values(), strict=True)
        ]
        _check_tied(self.tied, dict(tensors))
        free = {name: shape for name, shape in tensors if name not in self.tied}
        _check_frozen(self.frozen, free, self.tied)
        object.__setattr__(self, "_names", names)
        object.__setattr__(self, "frozen", tuple(self.frozen))
        object.__setattr__(self, "tied", dict(self.tied))
        object.__setattr__(self, "layout", Layout(tuple(free), tuple(free.values()), tied=_uses(self.tied)))

    @property
    def mixes_examples(self) -> bool:
        """Whether the loss of an example depends on the other examples of its batch (batch statistics)."""
        return any(isinstance(layer, BatchNorm) and layer.statistics == "batch" for layer in self.layers)

    def init(self, seed: int, dtype: npt.DTypeLike = np.float64) -> Array:
        """Initial parameters θ_0 (K,): He-normal weights with variance 2 / fan-in, and zero biases.

        The scale of a `BatchNorm` is 1 and its shift 0. Values are drawn in float64 and then rounded to
        ``dtype``, so that a seed gives the same point in every dtype up to rounding.
        """
        rng = np.random.default_rng(seed)
        start = {
            name: values
            for own, layer in zip(self._names, self.layers, strict=True)
            for name, values in zip(own, layer.init(rng), strict=True)
            if name not in self.tied
        }
        return self.layout.flatten(start).astype(dtype, copy=False)

    def check_batch(self, batch: Batch) -> None:
        """Raise `DataError` unless the examples and targets of ``batch`` fit this network."""
        if batch.x.shape[1:] != self.input_shape:
            raise DataError(
                f"the network expects examples of shape {self.input_shape}, got {batch.x.shape[1:]}; use "
                f"x.reshape(len(x), {', '.join(map(str, self.input_shape))}) if the sizes agree."
            )
        self.loss.check_targets(batch.y, self.n_outputs)

    def forward(self, theta: Array, x: Array) -> Array:
        """The outputs (n, m) for examples x (n, *input_shape), in θ's dtype."""
        for layer, params in zip(self.layers, self._params(theta), strict=True):
            x, _ = layer.forward(params, x)
        return x

    def losses(self, theta: Array, batch: Batch) -> Array:
        """The loss of every example (n,), unweighted. Cost: one forward pass."""
        return self.loss.value_and_grad(self.forward(theta, batch.x), batch.y)[0]

    def losses_and_grad(self, theta: Array, batch: Batch, into: Array) -> Array:
        """The loss of every example (n,), unweighted; overwrites ``into`` (K,) with ``Σ_n w_n ∂ℓ_n/∂θ``.

        Cost: one gradient on the batch.
        """
        params, x, caches = self._params(theta), batch.x, []
        for layer, own in zip(self.layers, params, strict=True):
            x, cache = layer.forward(own, x)
            caches.append(cache)
        losses, grad = self.loss.value_and_grad(x, batch.y)
        if batch.weight is not None:
            grad *= batch.weight[:, None]
        tensors = self.layout.unflatten(into)
        second = {name: np.empty_like(tensors[other]) for name, other in self.tied.items()}
        targets = self._by_layer(tensors | second)
        # The gradient with respect to the input of the first layer with parameters is not needed; skipping it
        # saves the largest matrix product of an MLP.
        first = next(i for i, layer in enumerate(self.layers) if layer.shapes)
        for i in range(len(self.layers) - 1, first, -1):
            self.layers[i].write_gradient(caches[i], grad, targets[i])
            grad = self.layers[i].input_gradient(params[i], caches[i], grad)
        self.layers[first].write_gradient(caches[first], grad, targets[first])
        for name, other in self.tied.items():
            tensors[other] += second[name]
        for name in self.frozen:
            tensors[name][...] = 0
        return losses

    @cached_property
    def named_layers(self) -> tuple[tuple[str, Layer], ...]:
        """The layers with their names; layers of the same type are numbered from 1.

        >>> [name for name, layer in mlp((4, 3, 2)).named_layers]
        ['fc1', 'relu1', 'fc2']
        """
        seen: Counter[str] = Counter()
        named = []
        for layer in self.layers:
            prefix = layer.prefix or type(layer).__name__.lower()
            seen[prefix] += 1
            named.append((f"{prefix}{seen[prefix]}", layer))
        return tuple(named)

    @property
    def batch_norm(self) -> dict[str, Statistics]:
        """The statistics that each `BatchNorm` layer uses, by layer name: ``"batch"`` or ``"frozen"``."""
        return {name: layer.statistics for name, layer in self.named_layers if isinstance(layer, BatchNorm)}

    def _params(self, theta: Array) -> list[Params]:
        """Views of θ, grouped by layer; a tied tensor is the view of the tensor it is tied to."""
        tensors = self.layout.unflatten(theta)
        return self._by_layer(tensors | {name: tensors[other] for name, other in self.tied.items()})

    def _by_layer(self, tensors: Mapping[str, Array]) -> list[Params]:
        return [tuple(tensors[name] for name in own) for own in self._names]


def _names(named_layers: Sequence[tuple[str, Layer]]) -> tuple[tuple[str, ...], ...]:
    """The tensor names of each layer."""
    return tuple(tuple(f"{name}.{tensor}" for tensor in layer.shapes) for name, layer in named_layers)


def _uses(tied: Mapping[str, str]) -> dict[str, list[str]]:
    """The other names of each tensor that others are tied to."""
    return {name: [other for other, to in tied.items() if to == name] for name in tied.values()}


def _check_tied(tied: Mapping[str, str], shapes: Mapping[str, Shape]) -> None:
    for name, other in tied.items():
        for tensor in (name, other):
            if tensor not in shapes:
                raise UnknownNameError("tensor", tensor, shapes)
        if other == name or other in tied:
            raise LayoutError(
                f"{name!r} is tied to {other!r}, which is itself tied; tie all tensors of a group to one "
                "that is not tied."
            )
        if shapes[name] != shapes[other]:
            raise LayoutError(
                f"{name!r} has shape {shapes[name]} and cannot be tied to {other!r} of shape "
                f"{shapes[other]}; tied tensors must have the same shape."
            )


def _check_frozen(frozen: Iterable[str], free: Mapping[str, Shape], tied: Mapping[str, str]) -> None:
    for name in frozen:
        if name in tied:
            raise LayoutError(f"{name!r} is tied to {tied[name]!r}; freeze {tied[name]!r} to freeze both.")
        if name not in free:
            raise UnknownNameError("tensor", name, free)


def mlp(
    sizes: Sequence[int], *, activation: Activation = "relu", loss: LossName = "cross_entropy"
) -> Network:
    """Create a fully connected network (multilayer perceptron).

    Parameters
    ----------
    sizes
        Number of features, widths of the hidden layers, and number of outputs, in this order.
    activation
        ``"relu"`` or ``"tanh"``, applied between the dense layers.
    loss
        ``"cross_entropy"`` for integer labels, or ``"squared_error"`` for floating-point targets.

    Raises
    ------
    LCAError
        If there are fewer than two sizes.
    UnknownNameError
        If there is no activation or loss of this name; the message lists the names.

    Examples
    --------
    >>> mlp((784, 100, 50, 10)).layout.size
    84060
    """
    if len(sizes) < 2:
        raise LCAError(f"an MLP needs at least two sizes (features and outputs), got {tuple(sizes)}.")
    between = _named("activation", activation, _ACTIVATIONS)
    first, *rest = (Dense(n_in, n_out) for n_in, n_out in pairwise(sizes))
    layers: list[Layer] = [first]
    for dense in rest:
        layers += [between, dense]
    return Network(tuple(layers), _named("loss", loss, _LOSSES), (sizes[0],))


def logistic_regression(n_features: int, n_classes: int) -> Network:
    """Multinomial logistic regression: an MLP without hidden layers, whose loss is convex in θ.

    Parameters
    ----------
    n_features
        The number of features of an example.
    n_classes
        The number of classes.

    Examples
    --------
    >>> logistic_regression(64, 10).layout.shapes
    ((10, 64), (10,))
    """
    return mlp((n_features, n_classes))


def small_cnn(
    image_shape: Shape,
    n_classes: int,
    *,
    channels: Sequence[int] = (8, 16),
    kernel: int = 3,
    hidden: Sequence[int] = (32,),
) -> Network:
    """Create a small convolutional network with cross-entropy loss.

    It has one block (convolution, ReLU, 2x2 maximum pooling) for each entry of ``channels``, followed by an
    MLP. Convolutions keep the image size, and pooling halves it.

    Parameters
    ----------
    image_shape
        (channels, height, width) of an example.
    n_classes
        Number of outputs.
    channels
        Output channels of each convolution.
    kernel
        Height and width of the kernels, odd.
    hidden
        Widths of the hidden layers of the MLP.

    Raises
    ------
    LCAError
        If ``image_shape`` does not have three entries or ``kernel`` is even.
    LayoutError
        If pooling leaves no pixel.

    Examples
    --------
    The LeNet of the LCA paper, without its dropout:

    >>> small_cnn((1, 28, 28), 10, channels=(20, 40), kernel=5, hidden=(400,)).layout.size
    808970
    """
    if len(image_shape) != 3 or kernel % 2 == 0:
        raise LCAError(
            f"small_cnn takes images (channels, height, width) and an odd kernel, got {image_shape} and "
            f"kernel {kernel}; a grey-level image has one channel, e.g. (1, 28, 28)."
        )
    layers: list[Layer] = []
    shape: Shape = image_shape
    for width in channels:
        stage: tuple[Layer, ...] = (Conv2d(shape[0], width, kernel, kernel // 2), ReLU(), MaxPool2d(2))
        for layer in stage:
            shape = layer.output_shape(shape)
        layers += stage
    layers.append(Flatten())
    layers += mlp((*Flatten().output_shape(shape), *hidden, n_classes)).layers
    return Network(tuple(layers), CrossEntropy(), image_shape)


def _named(kind: str, name: str, known: dict[str, T]) -> T:
    if name not in known:
        raise UnknownNameError(kind, name, known)
    return known[name]
