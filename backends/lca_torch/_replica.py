"""`Replica`: a private copy of a model and its loss, evaluated at any θ and in any state."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lca.frameworks import BatchNormPolicy, PyTree
from lca_torch._configuration import Configuration
from lca_torch._copies import Pair, Trial
from lca_torch._copying import Copier
from lca_torch._examples import BatchLoss, LossFn, default_loss, with_samples
from lca_torch._form import Cast
from lca_torch._global_hooks import GlobalHooks, require_no_modes
from lca_torch._memory import Memory
from lca_torch._policies import dropout_rates
from lca_torch._shared_variables import Shared, installed
from lca_torch._slots import Slots, is_small

PARAMETRISATIONS = WeightNorm, SpectralNorm, BasePruningMethod
"""Forward hooks that compute a weight from parameters; they belong to the model, whatever else is dropped."""


class Replica:
    """A model and its loss that share tensors with the user's objects, and nothing else.

    Flags are set once: evaluation mode, and normalisation layers as their policy says; those that use the
    statistics of the batch track none, so they read and write no buffers.

    Parameters
    ----------
    model, batch_loss, loss_fn
        The user's.
    parameters
        The tensors in θ, by name.
    norms
        The policies of normalisation layers, by name.
    prefix
        Begins the names of tensors that the loss holds.
    trial
        If it is run in training mode: it then shares nothing with the user's objects that this may move.
    """

    def __init__(  # noqa: PLR0917
        self,
        model: nn.Module,
        batch_loss: BatchLoss | None,
        loss_fn: LossFn | None,
        parameters: Mapping[str, Tensor],
        norms: Mapping[str, BatchNormPolicy],
        prefix: str,
        trial: Trial | None = None,
    ) -> None:
        copier = Copier(trial=trial)
        self.trial = trial
        self.model: nn.Module = copier.copy(model, "")
        self.loss_fn: LossFn | None = copier.copy(loss_fn, prefix)
        own: BatchLoss | None = copier.copy(batch_loss, prefix)
        self.batch_loss = with_samples(own or default_loss(self.loss_fn), self.loss_fn)
        self.function = self.batch_loss
        self._global_hooks = GlobalHooks(copier)
        named = dict[str, Tensor](model.named_parameters()) | dict(parameters)
        self._attributes = _attributes(copier, named, model.named_buffers())
        self._shared, self._originals = copier.finish(), copier.originals  # which keep copies alive
        given: Any = {"batch_loss": batch_loss, "loss_fn": loss_fn}
        copier.pairs.append(Pair(prefix, given, {"batch_loss": own, "loss_fn": self.loss_fn}))
        self.configuration = Configuration(copier.pairs, model, copier.opaque, copier.objects)
        self._norms = norms
        _set_modes(self.model, norms)
        self.hooks = _hooks(self.model, self._global_hooks.private)
        self.slots = Slots(copier.pairs, parameters)
        self._memory = Memory(copier.pairs, self.slots.places)
        self.written: set[str] = set()
        """Names of tensors outside θ that a forward pass writes into; it gets copies of them each time."""
        self.tried: Callable[[Exception | None], None] = lambda error: None
        """Called with the error, or ``None``, of a forward pass that is repeated in another way after an
        error."""

    def holding(self, leaves: Mapping[str, Tensor], state: Mapping[str, Tensor], cast: Cast | None) -> "Held":
        """Hold θ and these tensors inside; all others as ``cast`` makes them, or as they are."""
        require_no_modes()
        tensors = self._tensors(leaves, state, cast)
        self.label(tensors)
        for name, leaf in leaves.items():
            if name in self._attributes:
                leaf.__class__ = nn.Parameter  # losses may ask for it
        around = self._global_hooks
        return Held(self, tensors, self._shared, _with(around, self._shared) if self._shared else around)

    def label(self, tensors: Mapping[str, Tensor]) -> None:
        """Give tensors the attributes of the parameters in whose places they are."""
        for name, attributes in self._attributes.items():
            if name in tensors:
                tensors[name].__dict__ = attributes

    def switch(self) -> None:
        """Call ``train()`` and ``eval()`` of the copy, which may compute things, and set the modes again."""
        self.model.train()
        self.model.eval()
        _set_modes(self.model, self._norms)

    def train(self, names: Collection[str]) -> None:
        """Set these modules in training mode, but without dropout; normalisation layers stay as measured."""
        if self.trial is not None:
            self.trial.training = bool(names)
        for name, module in self.model.named_modules():
            module.training = name in names or (isinstance(module, _NormBase) and module.training)
            for rate in dropout_rates(module):
                setattr(module, rate, 0.0)

    def restore(self) -> None:
        """Undo what forward passes have written into Python variables."""
        self._memory.restore()

    def _tensors(
        self, leaves: Mapping[str, Tensor], state: Mapping[str, Tensor], cast: Cast | None
    ) -> dict[str, Tensor]:
        """All tensors that go into slots; those that the loss is not known to read are as they are now."""
        found = dict(leaves)
        for name in self.slots.others:
            tensor = state[name] if name in state else self.slots.now(name)
            shared = tensor.detach()
            ready = shared if cast is None else cast(shared, tensor.device)
            found[name] = ready.clone() if ready is shared and is_small(ready) else ready
        return found

    def losses(self, batch: PyTree) -> Tensor:
        """The loss of one batch."""
        return self.batch_loss(self.model, batch)


class Held:
    """The tensors that a replica holds for the time of an evaluation, and the context of one.

    A class, because a context made by a generator takes three times as long.
    """

    __slots__ = "_around", "_shared", "replica", "tensors"

    def __init__(
        self,
        replica: Replica,
        tensors: dict[str, Tensor],
        shared: Sequence[Shared],
        around: AbstractContextManager[object],
    ) -> None:
        self.replica, self.tensors, self._shared, self._around = replica, tensors, shared, around

    def __enter__(self) -> "Held":
        self._around.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self._around.__exit__(*error)
        finally:
            self.replica.restore()
            self.replica.slots.release()

    def begin(self, instead: Mapping[str, Tensor] | None = None) -> None:
        """Begin a batch: every batch finds the same tensors, but those given, and Python variables."""
        replica, tensors = self.replica, self.tensors
        replica.restore()
        if replica.written or instead:
            copies = {name: tensors[name].clone() for name in replica.written} | dict(instead or {})
            tensors = tensors | copies
            replica.label(copies)
        replica.slots.write(tensors)
        for shared in self._shared:
            shared.install()


class Hooks:
    """Users' forward hooks in a replica: which of them the loss depends on."""

    def __init__(self, places: list[tuple[dict[int, Any], int]]) -> None:
        self._places = places

    def __bool__(self) -> bool:
        return bool(self._places)

    def drop_unless(self, needed: Callable[[], bool]) -> None:
        """Drop all hooks; where ``needed`` then says so, drop one by one, and keep those that are needed."""
        dropped = [(hooks, key, hooks.pop(key)) for hooks, key in self._places]
        self._places = []
        if dropped and needed():
            for hooks, key, hook in dropped:
                hooks[key] = hook
            for hooks, key, hook in dropped:
                del hooks[key]
                if needed():
                    hooks[key] = hook
                    self._places.append((hooks, key))


def _attributes(
    copier: Copier, parameters: Mapping[str, Tensor], buffers: Iterable[tuple[str, Tensor]]
) -> dict[str, dict[str, Any]]:
    """Private copies of the attributes that users give to tensors (``p.strength = 0.1``), by name.

    With the mark by which torch tells that a tensor is a parameter, and with the identity of the original.
    """
    found = dict[str, dict[str, Any]]()
    for name, parameter in (*parameters.items(), *buffers):
        found[name] = {key: copier.copy(value, f"{name}.{key}") for key, value in parameter.__dict__.items()}
        if found[name]:
            copier.pairs.append(Pair(name, parameter.__dict__, found[name], frozenset(found[name])))
        if name in parameters:
            found[name]["_is_param"] = True
        copier.originals.mark(found[name], parameter)
    return found


def _hooks(model: nn.Module, others: Iterable[dict[int, Any]]) -> Hooks:
    """The forward hooks that may be dropped; backward hooks are, because gradients must be true."""
    places = [(hooks, key) for hooks in others for key in hooks]
    for module in model.modules():
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            places += [(hooks, key) for key, hook in hooks.items() if not isinstance(hook, PARAMETRISATIONS)]
    return Hooks(places)


@contextmanager
def _with(hooks: GlobalHooks, shared: Iterable[Shared]) -> Iterator[None]:
    with hooks, installed(shared):
        yield


def _set_modes(model: nn.Module, norms: Mapping[str, BatchNormPolicy]) -> None:
    for name, module in model.named_modules():
        module.training = norms.get(name) == "batch"
        if module.training:
            module.track_running_stats = False


def switches_by_itself(model: nn.Module) -> bool:
    """Whether a class in a model has a ``train()`` or ``eval()`` of its own."""
    kinds = {type(module) for module in model.modules()}
    return any((kind.train, kind.eval) != (nn.Module.train, nn.Module.eval) for kind in kinds)
