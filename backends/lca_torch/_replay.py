"""`replay`: the steps of a run from checkpoints written during training."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from lca.errors import TrajectoryError
from lca.frameworks import steps_between
from lca.frameworks._checkpoints import AnyPath
from lca.layout import Layout, check_same_layout
from lca.objective import Objective, State, leaves, state_of
from lca.step import Step
from lca_torch._checkpoints import checkpoint_files, open_checkpoint
from lca_torch._form import VectorForm
from lca_torch._objective import Objective as TorchObjective
from lca_torch._stored import StoredTensors

WRAPPERS = "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_orig_mod"
"""What wrappers of torch (activation checkpointing, FSDP, compilation) add to the names of parameters."""


def replay(
    checkpoints: AnyPath | Iterable[AnyPath],
    objective: Objective | Mapping[str, Objective],
    *,
    key: str | None = None,
    prefix: str = "",
    strict: bool = True,
) -> Iterator[Step]:
    """The steps between consecutive checkpoints, for `lca.allocate`.

    Each step is the straight line from one checkpoint to the next, whatever happened between them: with a
    checkpoint after every update this is the run itself. Nodes inside a step are points on that line, where
    training has not been, however many gradients an estimator takes there. Files are read when their step
    comes up, one tensor at a time. Memory: θ at both ends of a step, for any number of checkpoints; while a
    checkpoint is read, the step before it as well.

    Parameters
    ----------
    checkpoints
        Paths in the order of training, or a folder as the trainer left it: its checkpoints, by the numbers
        in their names (`lca.frameworks.checkpoints_in_order`). Files of `torch.save` (only tensors and plain
        containers are loaded, never code) or safetensors; a checkpoint may be a folder, as `transformers`
        writes it, in one file or in shards with an index, or as `torch.distributed.checkpoint` writes it.
    objective
        What will be measured, one objective or several by name. Their layout, dtype, device and buffers say
        what is read from the files.
    key
        Key of the dictionary in the file that holds the tensors, if they are not at the top: ``"state_dict"``
        for checkpoints of Lightning, ``"model"`` for the sharded ones of accelerate.
    prefix
        Prefix of the names in the file: ``"net."``, ``"module."``, ... Names without it are ignored. What
        `torch.compile`, FSDP and activation checkpointing add to names (``_orig_mod`` and the like) is
        ignored by itself.
    strict
        Refuse a file with tensors that the model does not have; ``False`` ignores them, as for checkpoints of
        an older version of the model with buffers that it has no more (the masks of GPT-NeoX, for example).
        What the model needs must be there in both cases, but for the frozen parameters that ``frozen="omit"``
        leaves out of θ: where a file holds none of these, such as one of adapters alone (LoRA), they have the
        values that the model has now. The names that peft gives the tensors of a single adapter are known.

    Returns
    -------
    Iterator of Step
        ``Step.index`` counts steps from 0, and ``Step.checkpoints`` has the numbers in the names of both
        ends, in which records and pages count. ``Step.state`` holds the buffers that the loss depends on
        (running statistics), so that ``state_change`` is reported.

    Raises
    ------
    TrajectoryError
        At once: if there are fewer than two checkpoints, one does not exist or is a part without its index,
        or their order is not clear. When a file is read: if it is damaged or holds pickled code, a shard is
        missing or outside of the folder of its index, or tensors are missing, in two shards, unexpected or of
        another shape.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from torch import nn
    >>> from lca_torch import Objective
    >>> model = nn.Linear(2, 3)
    >>> objective = Objective(model, nn.functional.cross_entropy, (torch.eye(2), torch.tensor([0, 2])))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for step in range(3):
    ...         torch.save(model.state_dict(), f"{folder}/step-{step}.pt")
    ...         _ = nn.init.constant_(model.bias, step)
    ...     [step.checkpoints for step in replay(folder, objective)]
    [(0, 1), (1, 2)]
    """
    return steps_between(
        checkpoint_files(checkpoints), _Reader.of(objective, key, prefix, strict=strict).read
    )


@dataclass(frozen=True)
class _Reader:
    """What to look for in a checkpoint."""

    layout: Layout
    aliases: Mapping[str, tuple[str, ...]]
    """Every name of a parameter; tied ones have several, and a file may hold any of them."""
    state: Mapping[str, Tensor]
    """The buffers that the loss depends on and that checkpoints hold, with their values now."""
    known: frozenset[str] | None
    """All names that a file may hold; ``None``: any, as for other objectives and with ``strict=False``."""
    form: VectorForm | None
    """The dtype and device of θ; ``None``: as in the file."""
    frozen: frozenset[str]
    """The frozen parameters, which a checkpoint of trained parameters alone lacks."""
    key: str | None
    prefix: str

    @classmethod
    def of(
        cls,
        objective: Objective | Mapping[str, Objective],
        key: str | None,
        prefix: str,
        *,
        strict: bool,
    ) -> "_Reader":
        objectives = objective if isinstance(objective, Mapping) else {"train": objective}
        layout = check_same_layout((o.layout for o in objectives.values()), "the objectives of a replay")
        state = {name: b for o in objectives.values() for name, b in (state_of(o) or {}).items()}
        measured = next((o for o in leaves(objectives) if isinstance(o, TorchObjective)), None)
        if measured is None:
            return cls(
                layout, {name: (name,) for name in layout.names}, state, None, None, frozenset(), key, prefix
            )
        model = measured.model
        names: dict[int, tuple[str, ...]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names[id(parameter)] = (*names.get(id(parameter), ()), name)
        short = _without_adapter(model)
        aliases = {same[0]: (*same, *map(short, same)) for same in names.values() if same[0] in layout.names}
        # Buffers that are not persistent are in no file; they keep the values that they have.
        known = frozenset(model.state_dict())
        state = {name: buffer for name, buffer in state.items() if name in known}
        frozen = frozenset(name for name, own in model.named_parameters() if not own.requires_grad)
        wanted = known.union(map(short, known)) if strict else None
        return cls(layout, aliases, state, wanted, measured._form, frozen, key, prefix)

    def read(self, path: Path) -> tuple[Tensor, State | None]:
        """θ and the state in a checkpoint, as new tensors."""
        with open_checkpoint(path) as content:
            tensors = self._tensors(content, path)
            found = self._where(tensors, path)
            form = self.form or VectorForm.of({"": tensors[found[self.layout.names[0]]]})
            theta = form.zeros(self.layout.size)
            for name, view in self.layout.unflatten(theta).items():
                view.copy_(self._checked(tensors, found[name], name, view))
            state = {
                name: self._checked(tensors, found[name], name, now).to(now.device, now.dtype, copy=True)
                if name in found
                else now
                for name, now in self.state.items()
            }
        return theta, state or None

    def _tensors(self, content: StoredTensors, path: Path) -> StoredTensors:
        if self.key is None:
            return content
        inner = content.under(self.key)
        if inner is None:
            at_top = any(content.shape(name) is not None for name in content)
            fix = "its tensors are not nested: leave key out" if at_top else "pass one of these as key"
            raise TrajectoryError(
                f"{path} has no dictionary under key={self.key!r}, but {_listed(content)}; {fix}."
            )
        return inner

    def _where(self, tensors: StoredTensors, path: Path) -> dict[str, str]:
        """The name in the file of each parameter and buffer."""
        found = self._found(tensors, self.prefix)
        missing = [name for name in (*self.aliases, *self.state) if name not in found]
        omitted = self.frozen & self.state.keys()
        if omitted.issubset(missing):  # all or none of them, as a single one may have another name
            missing = [name for name in missing if name not in omitted]
        if missing:
            behind = f" with prefix={self.prefix!r}" if self.prefix else ""
            alone = "make the objective with frozen='omit', as the file has the trained parameters alone."
            hint = alone if self.frozen == {*missing} else self._hint(tensors)
            raise TrajectoryError(f"{path} lacks {_listed(missing)}{behind}; {hint}")
        if self.known is not None:
            known = frozenset(map(_unwrapped, self.known))
            unexpected = [name for name in self._plain(tensors, self.prefix) if name not in known]
            if unexpected:
                raise TrajectoryError(
                    f"{path} also holds {_listed(unexpected)}, which the model does not have; is it a "
                    "checkpoint of another model? strict=False ignores them."
                )
        return found

    def _found(self, tensors: StoredTensors, prefix: str) -> dict[str, str]:
        """The name in the file of each parameter and buffer that it holds under this prefix."""
        inside = self._plain(tensors, prefix)
        wanted = {**self.aliases, **{name: (name,) for name in self.state}}
        return {
            name: inside[_unwrapped(alias)]
            for name, aliases in wanted.items()
            for alias in reversed(aliases)
            if _unwrapped(alias) in inside
        }

    @staticmethod
    def _plain(tensors: StoredTensors, prefix: str) -> dict[str, str]:
        """The names in the file that begin with this prefix, by the names without it and without wrappers."""
        plain: dict[str, str] = {}
        prefix = _unwrapped(prefix)
        for name in tensors:
            own = _unwrapped(name)
            if own.startswith(prefix) and plain.setdefault(own.removeprefix(prefix), name) != name:
                raise TrajectoryError(
                    f"{tensors.place(name)} holds {plain[own.removeprefix(prefix)]!r} and {name!r}, two "
                    "names of one tensor; save the tensors of one model."
                )
        return plain

    def _fits(self, tensors: StoredTensors, prefix: str) -> bool:
        """Whether the file holds all parameters under this prefix, with their shapes."""
        found = self._found(tensors, prefix)
        shapes = zip(self.layout.names, self.layout.shapes, strict=True)
        return all(name in found and tensors.shape(found[name]) == shape for name, shape in shapes)

    def _hint(self, tensors: StoredTensors) -> str:
        """What would be found with another key or prefix."""
        groups = {name: group for name in tensors.groups() if (group := tensors.under(name)) is not None}
        inside = [name for name, group in groups.items() if any(group.shape(n) is not None for n in group)]
        if inside and self.key is None:
            return f"there are tensors one level down: pass key={inside[0]!r}."
        first = [_unwrapped(alias) for alias in self.aliases[self.layout.names[0]]]
        plain = {name: _unwrapped(name) for name in tensors}
        prefixes = [n.removesuffix(alias) for n in plain.values() for alias in first if n.endswith(alias)]
        for prefix in prefixes:
            if prefix != self.prefix and self._fits(tensors, prefix):
                if not prefix:
                    return f"its names begin with no prefix ({_listed(tensors)}): leave prefix out."
                return f"names in it begin with {prefix!r}: pass prefix={prefix!r}."
        return f"it holds {_listed(tensors)}; is it a checkpoint of another model?"

    @staticmethod
    def _checked(tensors: StoredTensors, stored: str, name: str, like: Tensor) -> Tensor:
        """A tensor of the file, of the shape of ``like``; its dtype may be another floating-point one."""
        tensor, path = tensors[stored], tensors.place(stored)
        if not isinstance(tensor, Tensor):
            raise TrajectoryError(f"{name} in {path} is {type(tensor).__name__}, not a tensor.")
        if like.is_floating_point() and not tensor.is_floating_point():
            raise TrajectoryError(f"{name} in {path} is {tensor.dtype}, not a floating-point tensor.")
        if tensor.shape != like.shape:
            raise TrajectoryError(
                f"{name} in {path} has shape {tuple(tensor.shape)}, the model's has {tuple(like.shape)}; is "
                "it a checkpoint of another model?"
            )
        return tensor


def _unwrapped(name: str) -> str:
    """A name without what the wrappers of torch add.

    >>> _unwrapped("blocks.0._orig_mod.norm.weight")
    'blocks.0.norm.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _without_adapter(model: nn.Module) -> Callable[[str], str]:
    """From the name of a tensor to that under which peft saves it: without the name of its adapter.

    >>> model = nn.Linear(1, 1)
    >>> model.peft_config = {"default": None}
    >>> _without_adapter(model)("layer.lora_A.default.weight")
    'layer.lora_A.weight'
    """
    adapters = getattr(model, "peft_config", None)
    adapter = next(iter(adapters), None) if isinstance(adapters, Mapping) and len(adapters) == 1 else None
    return lambda name: ".".join(part for part in name.split(".") if part != adapter)


def _listed(names: Iterable[str], most: int = 5) -> str:
    """Some names for a message.

    >>> _listed("abcdefg")
    "'a', 'b', 'c', 'd', 'e' and 2 more"
    """
    listed = [repr(name) for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
