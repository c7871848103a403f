"""`Division`: which ranks hold which part of a model, and which of them evaluate a batch together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lca.errors import LayoutError
from lca_torch._distribution import gathered
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
        """The form of a tensor; ``None`` if it is not divided."""
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
    forms
        By name, how a layer under tensor parallelism takes a parameter.
    teams, team
        The number of teams, and which of them is that of this rank.
    leads
        Whether this rank is the first of its team.
    column
        The ranks with the same place in their teams as this one, in the order of the teams.
    held
        By name, which block of a parameter each of the ranks holds. Among those that hold the same one, the
        first counts it.
    holders
        By name, the ranks that hold the same block of a parameter as this one.
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
        own = {name: block_of(name, p, Form.of(p), members) for name, p in parameters.items()}
        self.frames = {
            name: block_of(name, p, self.forms.get(name), members) for name, p in parameters.items()
        }
        team = _team(self.forms, members) or [ranks.rank]
        told = ranks.gather("the shards of a model", [team, [[b.offset, b.shape] for b in own.values()]])
        teams = list(dict.fromkeys(tuple(each) for each, _ in told))
        if sorted(chain(*teams)) != list(range(ranks.count)) or len({*map(len, teams)}) > 1:
            raise _other_ranks("the model", [members[rank] for rank in team], members)
        self.teams, self.team, self.leads = len(teams), teams.index(tuple(team)), team[0] == ranks.rank
        self.column = [each[team.index(ranks.rank)] for each in teams]
        self.held, self.holders, self.blocks = dict[str, Any](), dict[str, Any](), dict[str, Any]()
        for i, (name, parameter) in enumerate(parameters.items()):
            held = [Block(tuple(each[i][0]), tuple(each[i][1])) for _, each in told]
            column, frame = [held[rank] for rank in self.column], self.frames[name]
            fits = own[name].shape == tuple(local_part(parameter).shape)
            if not (fits and _divide(_whole(parameter), held) and _divide(frame, column)):
                raise _unknown(name, parameter)
            holders = dict[Block, list[int]]()
            for rank, block in enumerate(held):
                holders.setdefault(block, []).append(rank)
            self.holders[name] = holders[own[name]]
            self.held[name] = [replace(b, counted=holders[b][0] == rank) for rank, b in enumerate(held)]
            self.blocks[name] = [block.within(frame) for block in column]


def _parallel_forms(model: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, Form]:
    """How layers under tensor parallelism take their parameters, by name."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    forms = {name: Form.of(parameter) for name, parameter in parameters.items()}
    forms |= {names[id(own)]: Form.of(taken) for own, taken in gathered(model) if id(own) in names}
    return {name: form for name, form in forms.items() if form is not None}


def _team(forms: Mapping[str, Form], members: Sequence[int]) -> list[int]:
    """The ranks among ``members`` on which the layers of this rank compute together, if they do."""
    meshes = {tuple(form.mesh.mesh.reshape(-1).tolist()): name for name, form in forms.items()}
    if len(meshes) > 1:
        (first, name), (second, other), *_ = meshes.items()
        raise LayoutError(
            f"the layers of {name!r} compute on the ranks {list(first)}, and those of {other!r} on "
            f"{list(second)}; measure an unsharded copy of the model, made before it is sharded."
        )
    return [members.index(rank) for mesh in meshes for rank in mesh]


def block_of(name: str, tensor: Tensor, form: Form | None, members: Sequence[int]) -> Block:
    """The part of a tensor that this rank has in a form.

    Raises
    ------
    LayoutError
        If the tensor is not divided into ranges along its axes, among these ranks.
    """
    if form is None:
        return _whole(tensor)
    mesh, offset, size = form.mesh.mesh, [0] * tensor.ndim, list(tensor.shape)
    if not {*mesh.reshape(-1).tolist()} <= {*members}:
        raise _other_ranks(f"parameter {name!r}", mesh.reshape(-1).tolist(), members)
    steps = list(zip(form.placements, form.mesh.get_coordinate(), mesh.shape, strict=True))
    # `fully_shard` divides last, though its mesh comes first: what tensor parallelism has left of an axis.
    for placement, place, parts in sorted(steps, key=lambda step: _is_strided(step[0])):
        if placement.is_replicate():
            continue
        if not (_is_plain(placement) or (_is_strided(placement) and _is_last(placement, steps))):
            raise _unknown(name, form)
        axis = placement.dim
        chunk = -(-size[axis] // parts)
        start = min(place * chunk, size[axis])
        offset[axis] += start
        size[axis] = min(chunk, size[axis] - start)
    return Block(tuple(offset), tuple(size))


def _is_plain(placement: Any) -> bool:
    return type(placement).__name__ == "Shard"


def _is_strided(placement: Any) -> bool:
    return type(placement).__name__ == "_StridedShard"


def _is_last(strided: Any, steps: Sequence[tuple[Any, int, int]]) -> bool:
    """Whether a strided shard divides what the plain shards of its axis have left, and no other does."""
    plain = [parts for one, _, parts in steps if _is_plain(one) and one.dim == strided.dim]
    return strided.split_factor == prod(plain) and sum(_is_strided(one) for one, _, _ in steps) == 1


def _whole(tensor: Tensor) -> Block:
    return Block((0,) * tensor.ndim, tuple(tensor.shape))


def _divide(frame: Block, blocks: Sequence[Block]) -> bool:
    """Whether each entry of a frame is in exactly one of these blocks, of which some may be the same."""
    parts = [block.within(frame).places for block in set(blocks) if block.size]
    cells = []  # by axis, from the edges of blocks to their numbers in order
    for axis, size in enumerate(frame.shape):
        edges = {0, size, *(edge for part in parts for edge in (part[axis].start, part[axis].stop))}
        if min(edges) < 0 or max(edges) > size:
            return False
        cells.append({edge: i for i, edge in enumerate(sorted(edges))})
    covered = np.zeros([len(edges) - 1 for edges in cells], int)
    for part in parts:
        covered[
            tuple(slice(of[place.start], of[place.stop]) for of, place in zip(cells, part, strict=True))
        ] += 1
    return bool((covered == 1).all())


def _other_ranks(what: str, found: Sequence[int], members: Sequence[int]) -> LayoutError:
    return LayoutError(
        f"{what} is sharded over the ranks {list(found)}, and the ranks that measure are {list(members)}; "
        "pass process_group= of the ranks over which the model is sharded."
    )


def _unknown(name: str, divided: Any) -> LayoutError:
    how = getattr(divided, "placements", "a whole tensor")
    return LayoutError(
        f"parameter {name!r} is divided as {how}, which is not followed; measure an unsharded copy of the "
        "model, made before it is sharded."
    )
