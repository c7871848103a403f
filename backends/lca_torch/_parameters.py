"""θ and the model: which parameters are in θ, θ as tensors of their shapes, and gradients as one vector."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from lca import frameworks
from lca.errors import LayoutError, LCAError, UnknownNameError
from lca.frameworks import Frozen, check_frozen, require_one, require_precision
from lca.frameworks._tensors import dtype_of
from lca.layout import Layout
from lca_torch._form import Precision
from lca_torch._kinds import refuse_kinds
from lca_torch._live import ParameterVector, flat
from lca_torch._slots import is_small


def parameters_of(
    model: nn.Module, frozen: Frozen = "zero", precision: Precision | None = None, *, sharded: bool = False
) -> dict[str, nn.Parameter]:
    """The parameters in θ, by name, in the model's order; tied ones once, under their first name.

    Raises
    ------
    LayoutError
        If the model has no parameters, they differ in dtype or device, or are neither float32 nor float64;
        with ``precision="float32"`` they may also be in half precision, and differ. If a parameter is a
        `DTensor`, unless ``sharded``.
    """
    check_frozen(frozen)
    if not isinstance(model, nn.Module):
        raise LayoutError(f"expected a torch.nn.Module, got {type(model).__name__}.")
    named = {n: p for n, p in model.named_parameters() if frozen == "zero" or p.requires_grad}
    if next(model.parameters(), None) is None:
        raise LayoutError(
            f"{type(model).__name__} has no parameters, so there is nothing to allocate to; pass the model "
            "that is trained (the order is Objective(model, loss_fn, data))."
        )
    if not any(p.requires_grad for p in named.values()):
        raise LayoutError(
            f"{type(model).__name__} has no parameter that requires a gradient, so there is nothing to "
            "allocate to; call model.requires_grad_(True)."
        )
    refuse_kinds(named, sharded=sharded)
    fix = (
        "convert the model, or leave parameters that do not train out of θ with requires_grad_(False) and "
        "frozen='omit'"
    )
    dtypes = {name: dtype_of(parameter) for name, parameter in named.items()}
    if precision is None:
        require_one("dtype", dtypes, fix)
    require_one("device", {name: parameter.device for name, parameter in named.items()}, fix)
    first = next(iter(named))
    if named[first].is_meta:
        raise LayoutError(
            f"parameter {first!r} has no numbers, as it is on the meta device; call "
            "model.to_empty(device=...) and load or draw the weights first."
        )
    if precision is None:
        require_precision(
            dtypes,
            "keep the parameters in float32 and use autocast for the forward pass, or measure the model on "
            "float32 copies of them, with precision='float32'",
        )
    else:
        _require_exact_copy(dtypes, precision)
    return named


def _require_exact_copy(dtypes: Mapping[str, str], precision: Precision) -> None:
    """Raise unless a float32 copy holds the numbers of all parameters exactly."""
    if precision != "float32":
        raise UnknownNameError("precision", str(precision), ("float32",))
    wide = [name for name, dtype in dtypes.items() if dtype not in ("float32", "float16", "bfloat16")]
    if wide:
        raise LayoutError(
            f"parameter {wide[0]!r} is {dtypes[wide[0]]}, which a float32 copy cannot represent exactly; "
            "omit precision."
        )


def layout_of(
    model: nn.Module, frozen: Frozen = "zero", precision: Precision | None = None, *, sharded: bool = False
) -> Layout:
    """The `lca.Layout` of a model: names, shapes and neuron axes of its parameters.

    A neuron is an output channel: axis 0 of a weight, but axis 1 of transposed convolutions and embeddings.

    Parameters
    ----------
    model
        Any `torch.nn.Module`.
    frozen, precision
        As in `Objective`.
    sharded
        Whether parameters may be spread over ranks; their shapes are those of the whole tensors.

    Raises
    ------
    LayoutError
        If the parameters cannot be measured (`Objective`), or a lazy one has no shape yet.

    Examples
    --------
    >>> layout_of(nn.Sequential(nn.Linear(3, 2), nn.Embedding(5, 4))).names
    ('0.weight', '0.bias', '1.weight')
    """
    named = parameters_of(model, frozen, precision, sharded=sharded)
    empty = [name for name, parameter in named.items() if isinstance(parameter, nn.UninitializedParameter)]
    if empty:
        raise LayoutError(f"{', '.join(empty)} has no shape yet; run the model on one batch first.")
    second = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _OUTPUTS_SECOND)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim > 1
    }
    axes = [1 if id(p) in second else 0 if p.ndim else None for p in named.values()]
    shapes = tuple(tuple(p.shape) for p in named.values())
    return Layout(tuple(named), shapes, tuple(axes), _tied(model, named))


def _tied(model: nn.Module, named: Mapping[str, nn.Parameter]) -> dict[str, list[str]]:
    """The further names of the parameters that the model holds more than once."""
    first, found = {id(parameter): name for name, parameter in named.items()}, dict[str, list[str]]()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = first.get(id(parameter), name)
        if known != name:
            found.setdefault(known, []).append(name)
    return found


_OUTPUTS_SECOND = (
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
    nn.EmbeddingBag,
)


def normal(tensor: Tensor) -> Tensor:
    """``tensor``, or a copy if it was made in inference mode, which autograd would refuse."""
    return tensor.clone() if tensor.is_inference() else tensor


_PRECISIONS = torch.float32, torch.float64


def check_theta(layout: Layout, theta: Tensor, device: torch.device) -> None:
    """Raise `LayoutError` unless θ is a (K,) float32 or float64 tensor on ``device``."""
    if type(theta) is not Tensor or theta.dtype not in _PRECISIONS or theta.shape != (layout.size,):
        frameworks.check_theta(layout, theta, Tensor)  # may be of another type, and says what is wrong
    if theta.device != device:
        raise LayoutError(
            f"theta is on {theta.device}, but the vectors of the objective are on {device}; take it from "
            "objective.theta(), or move the model first, then make the objective."
        )


def _views(theta: Tensor, layout: Layout, device: torch.device) -> list[Tensor]:
    """θ as tensors on a device, each with a version of its own; views, not copies, if θ is there."""
    if isinstance(theta, ParameterVector) and theta.persisted is None:
        return [normal(source).to(device, theta.dtype).data for source in theta.sources]
    parts = torch.split_with_sizes(normal(theta).detach(), layout.sizes)
    shaped = zip(parts, layout.shapes, strict=True)
    # With the numbers of a shape one by one, a view takes two thirds of the time.
    views = [(part if len(shape) == 1 else part.view(*shape or [()])).data for part, shape in shaped]
    return views if theta.device == device else [view.to(device) for view in views]


_versions = count(1 << 30)
_set_versions: Any = torch._C._autograd._unsafe_set_version_counter


def _renumber(tensors: Sequence[Tensor]) -> None:
    """Give tensors with a version counter of their own a version that no other has had.

    Some models keep what they compute from a weight until the version of the weight changes.
    """
    version = next(_versions)
    try:
        _set_versions(tuple(tensors), (version,) * len(tensors))
    except TypeError:  # torch 2.6 takes one at a time
        for tensor in tensors:
            _set_versions(tensor, version)


def _in_float16(device: str) -> bool:
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) is torch.float16


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient


def _move(leaf: Tensor, sums: Sequence[Tensor], which: int) -> None:
    """Add the gradient of a leaf to one of the sums, which may be elsewhere, and release it."""
    grad, leaf.grad = leaf.grad, None
    assert grad is not None
    sums[which].add_(_dense(grad).to(sums[which].device))


class Leaves:
    """θ as named tensors whose gradients are summed.

    The tensors are views of θ. The gradients of several batches are added in place, in one flat vector (K,);
    that of a single batch is only put together.

    Parameters
    ----------
    theta
        The parameter vector (K,).
    layout
        How it is divided into tensors.
    trainable
        The names of the tensors that are differentiated.
    copied
        The names of tensors that a forward pass writes into: they get memory of their own.
    device
        Where the tensors are, if not where θ is. The gradient is where θ is.
    streamed
        Move the gradient of each tensor to the sum as soon as a backward pass has it, so that on the device
        there is one of them at a time.
    """

    def __init__(  # noqa: PLR0917
        self,
        theta: Tensor,
        layout: Layout,
        trainable: Iterable[str],
        copied: Collection[str] = (),
        device: torch.device | None = None,
        *,
        streamed: bool = False,
    ) -> None:
        at, self._layout = theta.device, layout
        self._dtype, self._device, self._streamed = theta.dtype, at, streamed or device not in (None, at)
        views = _views(theta, layout, device or at)
        _renumber(views)
        self.tensors = tensors = dict(zip(layout.names, views, strict=True))
        self._given = {name: tensors[name] for name in copied} if copied else {}
        for name, view in self._given.items():
            tensors[name] = view.clone()
        self._trainable = tuple(trainable)
        if len(self._trainable) == len(layout.names):
            self._trainable = layout.names  # in the order in which gradients are put together
        self._wanted = [tensors[name].requires_grad_() for name in self._trainable]
        # Faster, but holds all pieces of a gradient at a time, and loses small numbers in float16.
        self._at_once = not self._streamed and is_small(theta) and not _in_float16(at.type)
        self._first: tuple[float, Sequence[Tensor | None]] | None = None  # weight and gradient of one batch
        self._total: Tensor | None = None  # the sum of several
        self._grads: list[Tensor] = []  # its pieces
        if self._streamed:
            for which, leaf in enumerate(self._wanted):
                # The hooks refer to the list, not to this object, which would be a cycle that keeps θ alive.
                move: Any = partial(_move, sums=self._grads, which=which)
                leaf.register_post_accumulate_grad_hook(move)  # type: ignore[no-untyped-call]

    def require_grad(self, names: Iterable[str]) -> None:
        """Let a loss that differentiates inside do so for these tensors, too."""
        for name in names:
            self.tensors[name].requires_grad_()

    def round_to(self, dtypes: Mapping[str, torch.dtype]) -> None:
        """Put the tensors into these dtypes; they have no gradient then."""
        self.tensors = {name: tensor.detach().to(dtypes[name]) for name, tensor in self.tensors.items()}

    def add_gradient(self, loss: Tensor, weight: float = 1.0) -> None:
        """Add ``weight · ∂loss/∂θ``; no other ``.grad`` is touched; frees the graph."""
        if not (self._wanted and loss.requires_grad):
            self._begin_sum()  # of zeros
            return
        if not self._at_once:
            self._begin_sum()
            torch.autograd.backward(loss * weight, inputs=self._wanted)
            return
        found = torch.autograd.grad(loss, self._wanted, allow_unused=True)
        if self._first is None and self._total is None:
            self._first = weight, found
            return
        self._begin_sum()
        self._add(weight, found)

    def take_mean(self, weight: float) -> Tensor:
        """The sum of the gradients divided by ``weight``, a new vector (K,); 0 for tensors without one.

        Another sum may begin.
        """
        if self._first is None:
            self._begin_sum()
            total, self._total = self._total, None
            assert total is not None
            return total.div_(weight)
        (own, found), self._first = self._first, None
        dense = [piece for piece in found if piece is not None and not piece.is_sparse]
        if len(dense) < len(found) or self._trainable != self._layout.names:
            pieces = dict(zip(self._trainable, found, strict=True))
            named = zip(map(pieces.get, self._layout.names), self._layout.sizes, strict=True)
            dense = [self._zeros(size) if p is None else _dense(p) for p, size in named]
        mean = flat(dense)
        return mean if own == weight else mean.mul_(own / weight)

    def _zeros(self, size: int) -> Tensor:
        return torch.zeros(size, dtype=self._dtype, device=self._device)

    def _begin_sum(self) -> None:
        """Begin to sum in place, with the gradient of the first batch."""
        if self._total is None:
            self._total = self._zeros(self._layout.size)
            pieces = self._layout.unflatten(self._total)
            self._grads[:] = [pieces[name] for name in self._trainable]
            for leaf, grad in zip(self._wanted, self._grads, strict=True):
                leaf.grad = None if self._at_once or self._streamed else grad
        first, self._first = self._first, None
        if first is not None:
            self._add(*first)

    def _add(self, weight: float, found: Sequence[Tensor | None]) -> None:
        used = [(grad, piece) for grad, piece in zip(self._grads, found, strict=True) if piece is not None]
        if used:
            grads, pieces = zip(*used, strict=True)
            torch._foreach_add_(grads, pieces, alpha=weight)

    def require_unwritten(self) -> None:
        """Raise `LCAError` if a forward pass has changed a tensor of which it got a copy."""
        for name, given in self._given.items():
            if not torch.equal(given, self.tensors[name]):
                raise LCAError(
                    f"the forward pass changes parameter {name!r} in place (an embedding with max_norm "
                    "does), so the loss is not a differentiable function of theta; take max_norm out, or "
                    "compute the changed tensor without writing into the parameter."
                )
