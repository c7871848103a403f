"""`Division`: which ranks hold which part of a model, and which of them evaluate a batch together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lca.errors import LayoutError
from lca_torch._distribution import sharded_modules
from lca_torch._kinds import is_sharded, local_part
from lca_torch._process_group import MeasuringRanks
from lca_torch._shard_vector import Block


class Form(NamedTuple):
    """How the numbers of a `DTensor` are divided."""

    mesh: Any
    placements: tuple[Any, ...]
    shape: torch.Size
    stride: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Any) -> "Form | None":
        """That of a tensor; ``None`` if it is not divided."""
        if not is_sharded(tensor):
            return None
        return cls(tensor.device_mesh, tuple(tensor.placements), tensor.shape, tensor.stride())

    def around(self, local: Tensor) -> Tensor:
        """The `DTensor` of this form with these numbers on this rank."""
        from torch.distributed.tensor import DTensor  # noqa: PLC0415 - not in every torch

        mesh, placements, shape, stride = self
        with torch.inference_mode(False):
            made: Tensor = DTensor.from_local(
                local, mesh, placements, run_check=False, shape=shape, stride=stride
            )
        return made


class Division:
    """Which ranks hold which part of each parameter, and which of them evaluate a batch together.

    Under tensor parallelism the ranks of one mesh are a *team*: each computes with its part of a tensor, the
    *frame*. Without it each rank is a team, and frames are whole tensors. Ranks with the same place in their
    teams have the same frames, which `fully_shard` divides among them once more.

    Parameters
    ----------
    model
        The model. Its modules under `fully_shard` gather their parameters once, one module after another.
    parameters
        Those in θ, by name.
    ranks
        All ranks that measure; each of them must make a division.

    Attributes
    ----------
    held
        By name, which block of a parameter each of the ranks holds.
    forms
        By name, how a layer under tensor parallelism takes a parameter.
    teams, team
        The number of teams, and which of them is that of this rank.
    column
        The ranks with the same place in their teams as this one, in the order of the teams.
    frames
        By name, the part of a parameter that this rank computes with.
    blocks
        By name, which block of the frame each rank of the column holds.

    Raises
    ------
    LayoutError
        If other ranks hold parts of the model than those that measure, or a tensor is not divided into ranges
        along its axes.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, Tensor], ranks: MeasuringRanks) -> None:
        members = torch.distributed.get_process_group_ranks(ranks.group)
        self.forms = _parallel_forms(model, parameters)
        own = [_block(name, p.shape, Form.of(p), members) for name, p in parameters.items()]
        team = _team(self.forms, members, ranks.rank)
        told = ranks.gather("the shards of a model", [team, [[one.offset, one.shape] for one in own]])
        teams = list(dict.fromkeys(tuple(each) for each, _ in told))
        if sorted(chain(*teams)) != list(range(ranks.count)) or len({*map(len, teams)}) > 1:
            raise _other_ranks("the model", [members[rank] for rank in team], members)
        self.teams, self.team = len(teams), teams.index(tuple(team))
        self.column = [each[team.index(ranks.rank)] for each in teams]
        self.held, self.frames, self.blocks = (dict[str, Any]() for _ in range(3))
        for i, (name, parameter) in enumerate(parameters.items()):
            blocks = [Block(tuple(offset), tuple(shape)) for _, each in told for offset, shape in [each[i]]]
            frame = _block(name, parameter.shape, self.forms.get(name), members)
            column = [blocks[rank] for rank in self.column]
            fits = own[i].shape == tuple(local_part(parameter).shape)
            if not (fits and _divide(_whole(parameter), blocks) and _divide(frame, column)):
                raise _unknown(name, parameter)
            first = {block: rank for rank, block in reversed([*enumerate(blocks)])}
            self.held[name] = [replace(b, counted=first[b] == rank) for rank, b in enumerate(blocks)]
            self.frames[name] = frame
            self.blocks[name] = [block.within(frame) for block in column]


def _parallel_forms(model: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, Form]:
    """How layers under tensor parallelism take their parameters, by name."""
    forms = {name: Form.of(parameter) for name, parameter in parameters.items()}
    for module in sharded_modules(model):
        module.unshard()
        taken = dict(model.named_parameters())
        forms |= {name: Form.of(taken[name]) for name, own in parameters.items() if taken[name] is not own}
        module.reshard()
    return {name: form for name, form in forms.items() if form is not None}


def _team(forms: Mapping[str, Form], members: Sequence[int], rank: int) -> list[int]:
    """The ranks that compute together with this one."""
    meshes = {tuple(form.mesh.mesh.reshape(-1).tolist()): name for name, form in forms.items()}
    if len(meshes) > 1:
        (first, name), (second, other), *_ = meshes.items()
        raise LayoutError(
            f"the layers of {name!r} compute on the ranks {list(first)}, and those of {other!r} on "
            f"{list(second)}; measure an unsharded copy of the model, made before it is sharded."
        )
    return [members.index(one) for mesh in meshes for one in mesh] or [rank]


def _block(name: str, shape: Sequence[int], form: Form | None, members: Sequence[int]) -> Block:
    """The part of a tensor that this rank has in a form.

    Raises
    ------
    LayoutError
        If the tensor is not divided into ranges along its axes, among these ranks.
    """
    offset, size = [0] * len(shape), list(shape)
    if form is None:
        return Block(tuple(offset), tuple(size))
    mesh = form.mesh.mesh
    if not {*mesh.reshape(-1).tolist()} <= {*members}:
        raise _other_ranks(f"parameter {name!r}", mesh.reshape(-1).tolist(), members)
    steps = list(zip(form.placements, form.mesh.get_coordinate(), mesh.shape, strict=True))
    # `fully_shard` divides last, though its mesh comes first: what tensor parallelism has left of an axis.
    for placement, place, parts in sorted(steps, key=lambda step: _is_strided(step[0])):
        if placement.is_replicate():
            continue
        axis = placement.dim if type(placement).__name__ in (_SHARD, _STRIDED) else None
        if axis is None or (_is_strided(placement) and not _is_last(placement, steps)):
            raise _unknown(name, form)
        chunk = -(-size[axis] // parts)
        start = min(place * chunk, size[axis])
        offset[axis] += start
        size[axis] = min(chunk, size[axis] - start)
    return Block(tuple(offset), tuple(size))


_SHARD, _STRIDED = "Shard", "_StridedShard"
"""The names of the classes, of which the second is not public, and not in every torch one of the first."""


def _is_strided(placement: Any) -> bool:
    return type(placement).__name__ == _STRIDED


def _is_last(strided: Any, steps: Sequence[tuple[Any, int, int]]) -> bool:
    """Whether a strided shard is what all other divisions of its axis have left, and nothing else."""
    others = [parts for one, _, parts in steps if type(one).__name__ == _SHARD and one.dim == strided.dim]
    return sum(_is_strided(one) for one, _, _ in steps) == 1 and strided.split_factor == prod(others)


def _whole(tensor: Tensor) -> Block:
    return Block((0,) * tensor.ndim, tuple(tensor.shape))


def _divide(frame: Block, blocks: Sequence[Block]) -> bool:
    """Whether blocks, of which some may be the same, are all of a frame."""
    parts = {block for block in blocks if block.size}
    ends = [
        (end.start, end.stop, size)
        for block in parts
        for end, size in zip(block.within(frame).places, frame.shape, strict=True)
    ]
    inside = all(0 <= start <= stop <= size for start, stop, size in ends)
    return inside and sum(block.size for block in parts) == frame.size


def _other_ranks(what: str, found: Sequence[int], members: Sequence[int]) -> LayoutError:
    return LayoutError(
        f"{what} is sharded over the ranks {list(found)}, and the ranks that measure are {list(members)}; "
        "pass process_group= of the ranks over which the model is sharded."
    )


def _unknown(name: str, divided: Any) -> LayoutError:
    return LayoutError(
        f"parameter {name!r} is divided as {divided.placements}, which is not followed; measure an unsharded "
        "copy of the model, made before it is sharded."
    )
