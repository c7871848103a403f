"""Which part of a tensor a rank holds, against cutting the tensor itself in the order of the two methods."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lca.errors import LayoutError
from lca_torch._division import Division, Form, block_of
from lca_torch._shard_vector import Block

tensors = pytest.importorskip("torch.distributed.tensor", reason="this torch has no torch.distributed")


def strided(axis, factor):
    from torch.distributed.tensor.placement_types import _StridedShard  # noqa: PLC0415

    return _StridedShard(axis, split_factor=factor)


def form(tensor, place, parts, *placements):
    """That of a tensor on the rank at a place of a mesh."""
    ranks = torch.arange(parts[0] * parts[1]).reshape(parts)
    mesh = SimpleNamespace(mesh=ranks, get_coordinate=lambda: list(place))
    return Form(mesh, placements, tensor.shape, tensor.stride())


def piece(tensor, parts, place, axis):
    """One of so many pieces, which may be empty."""
    pieces = tensor.split(-(-tensor.shape[axis] // parts), axis)
    return pieces[place] if place < len(pieces) else tensor.narrow(axis, 0, 0)


@pytest.mark.parametrize("parts", [(2, 2), (3, 2), (2, 3), (4, 4)])
@pytest.mark.parametrize("axis", [0, 1])
def test_what_tensor_parallelism_leaves_is_cut_again(parts, axis):
    tensor, members = torch.arange(35).reshape(7, 5), range(parts[0] * parts[1])
    outer = strided(0, parts[1]) if axis == 0 else tensors.Shard(0)
    for place in product(*map(range, parts)):
        found = block_of("w", tensor, form(tensor, place, parts, outer, tensors.Shard(axis)), members)
        expected = piece(piece(tensor, parts[1], place[1], axis), parts[0], place[0], 0)
        assert torch.equal(tensor[found.places], expected)
        plain = form(tensor, place, parts, tensors.Shard(0), tensors.Shard(axis))
        from_left = piece(piece(tensor, parts[0], place[0], 0), parts[1], place[1], axis)
        assert torch.equal(tensor[block_of("w", tensor, plain, members).places], from_left)


def test_refuses_other_ranks_and_what_is_not_a_range():
    tensor = torch.zeros(6, 4)
    whole = form(tensor, (0, 1), (2, 2), tensors.Replicate(), tensors.Replicate())
    with pytest.raises(LayoutError, match="sharded over the ranks"):
        block_of("w", tensor, whole, [0, 1])
    for outer in (strided(0, 3), tensors.Partial()):
        with pytest.raises(LayoutError, match="is divided as"):
            block_of("w", tensor, form(tensor, (0, 1), (2, 2), outer, tensors.Shard(0)), range(4))


@pytest.fixture
def one_of_two():
    """A process that is rank 0 of two, of which the other does not exist."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: PLC0415

    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield torch.distributed.init_device_mesh("cpu", (2,))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("other", "fits"),
    [
        (Block((3, 0), (3, 4)), True),
        (Block((2, 0), (3, 4)), False),  # as many entries, but one row twice and another not at all
        (Block((0, 0), (6, 2)), False),
        (Block((4, 0), (2, 4)), False),
        (Block((3, 0), (2, 6)), False),
    ],
)
def test_each_entry_is_held_once(one_of_two, other, fits):
    model = nn.Linear(4, 6, bias=False)
    weight = tensors.distribute_tensor(model.weight, one_of_two, [tensors.Shard(0)])
    model.weight = nn.Parameter(weight)
    told = [[0, 1], [[other.offset, other.shape]]]
    ranks = SimpleNamespace(group=None, rank=0, count=2, gather=lambda call, own: [own, told])
    if fits:
        assert Division(model, {"weight": model.weight}, ranks).held["weight"][1] == other
    else:
        with pytest.raises(LayoutError, match=r"'weight' is divided as \(Shard\(dim=0\),\)"):
            Division(model, {"weight": model.weight}, ranks)
