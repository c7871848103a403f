"""`Layout`: flatten and unflatten are inverse, groups partition θ, and errors name the tensor."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lca import Layout, tolerances
from lca.divisions import divisions
from lca.errors import LayoutError, LCAError, UnknownNameError
from lca.layout import check_same_layout
from lca.testing.strategies import dtypes, seeds

Array = np.ndarray

shapes = st.lists(st.integers(1, 4), max_size=4).map(tuple)
NETWORK = Layout(
    ("conv.weight", "conv.bias", "fc.weight", "fc.bias", "temperature"),
    ((3, 2, 2, 2), (3,), (2, 12), (2,), ()),
)


@st.composite
def layouts(draw) -> Layout:
    """One to six tensors of any shape in up to three layers, with or without a neuron axis."""
    drawn = draw(st.lists(shapes, min_size=1, max_size=6))
    names = [f"layer{draw(st.integers(0, 2))}.t{i}" for i in range(len(drawn))]
    axes = [draw(st.none() | st.integers(0, len(s) - 1)) if s else None for s in drawn]
    return Layout(names, drawn, axes)


def tensors_of(layout: Layout, seed: int, dtype: np.dtype) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    pairs = zip(layout.names, layout.shapes, strict=True)
    return {name: np.asarray(rng.normal(size=shape), dtype) for name, shape in pairs}


# --- packing and cutting ---------------------------------------------------------------------------------


@given(layouts(), seeds, dtypes())
def test_unflatten_undoes_flatten(layout, seed, dtype):
    tensors = tensors_of(layout, seed, dtype)
    back = layout.unflatten(layout.flatten(tensors))
    assert list(back) == list(layout.names)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)
        assert (back[name].dtype, back[name].shape) == (dtype, tensor.shape)


@given(layouts(), seeds)
def test_flatten_undoes_unflatten(layout, seed):
    theta = np.random.default_rng(seed).normal(size=layout.size)
    np.testing.assert_array_equal(layout.flatten(layout.unflatten(theta)), theta)


@given(layouts(), seeds)
def test_flatten_takes_a_mapping_or_a_sequence(layout, seed):
    tensors = tensors_of(layout, seed, np.dtype(np.float64))
    shuffled = dict(reversed(tensors.items()))
    np.testing.assert_array_equal(layout.flatten(list(tensors.values())), layout.flatten(shuffled))


@given(layouts(), seeds)
def test_flatten_uses_row_major_order(layout, seed):
    tensors = tensors_of(layout, seed, np.dtype(np.float64))
    slow = [tensor[index] for tensor in tensors.values() for index in np.ndindex(tensor.shape)]
    np.testing.assert_array_equal(layout.flatten(tensors), slow)


def test_tensors_are_views_of_theta():
    theta = np.zeros(NETWORK.size)
    NETWORK.unflatten(theta)["fc.bias"][1] = 7.0
    assert np.flatnonzero(theta).tolist() == [24 + 3 + 24 + 1]


def test_theta_does_not_alias_the_tensors():
    tensor = np.zeros(3)
    Layout(("w",), ((3,),)).flatten([tensor])[0] = 1.0
    assert not tensor.any()


def test_mixed_dtypes_are_flattened_to_their_common_dtype():
    layout = Layout(("a", "b"), ((2,), (1,)))
    assert layout.flatten([np.ones(2, np.float32), np.ones(1)]).dtype == np.float64
    assert layout.flatten([np.ones(2, np.float32), np.ones(1, np.float32)]).dtype == np.float32


@given(layouts())
def test_sizes_and_offsets_tile_theta(layout):
    assert layout.sizes == tuple(math.prod(shape) for shape in layout.shapes)
    assert layout.size == sum(layout.sizes)
    ends = [o + s for o, s in zip(layout.offsets, layout.sizes, strict=True)]
    assert [0, *ends[:-1]] == list(layout.offsets)
    assert ends[-1] == layout.size


@given(layouts())
def test_tensor_at_finds_the_tensor_of_every_entry(layout):
    slow = [name for name, size in zip(layout.names, layout.sizes, strict=True) for _ in range(size)]
    assert [layout.tensor_at(i) for i in range(layout.size)] == slow


def test_a_layout_is_a_value():
    again = Layout(list(NETWORK.names), [np.array(s, int) for s in NETWORK.shapes])
    assert again == NETWORK
    assert hash(again) == hash(NETWORK)


# --- groups ----------------------------------------------------------------------------------------------


def labels(layout: Layout, groups) -> list[str]:
    """The group name of every entry of θ."""
    assert len(groups.index) == layout.size
    return [groups.names[i] for i in groups.index]


@given(layouts())
def test_groups_by_tensor(layout):
    groups = layout.groups()
    assert groups.names == layout.names
    assert labels(layout, groups) == [layout.tensor_at(i) for i in range(layout.size)]


@given(layouts())
def test_groups_by_layer_use_the_part_before_the_last_dot(layout):
    slow = [layout.tensor_at(i).split(".")[0] for i in range(layout.size)]
    assert labels(layout, layout.groups("layer")) == slow


def test_the_layer_is_the_part_before_the_last_dot_or_the_whole_name():
    layout = Layout(("block1.conv.weight", "block1.conv.bias", "scale"), ((2,), (1,), (1,)))
    assert layout.groups("layer").names == ("block1.conv", "scale")


@given(layouts())
def test_groups_by_neuron_follow_the_neuron_axis(layout):
    slow = []
    for name, shape, axis in zip(layout.names, layout.shapes, layout.neuron_axes, strict=True):
        layer = name.split(".")[0]
        slow += [layer if axis is None else f"{layer}[{index[axis]}]" for index in np.ndindex(shape)]
    assert labels(layout, layout.groups("neuron")) == slow


def test_a_neuron_is_its_weights_and_its_bias():
    groups = NETWORK.groups("neuron")
    expected = {"conv[0]": 9, "conv[1]": 9, "conv[2]": 9, "fc[0]": 13, "fc[1]": 13, "temperature": 1}
    counts = groups.count(np.ones(NETWORK.size, bool))
    assert dict(zip(groups.names, counts.tolist(), strict=True)) == expected


def test_a_neuron_axis_other_than_the_first():
    layout = Layout(("fc.weight", "fc.bias"), ((3, 2), (2,)), neuron_axes=(1, 0))  # (in, out), as in Keras
    np.testing.assert_array_equal(layout.groups("neuron").index, [0, 1, 0, 1, 0, 1, 0, 1])


def test_groups_by_selectors_and_by_function_agree():
    kind = {end: rf"(^|\.){end}$" for end in ("temperature", "bias", "weight")}
    by_mapping, by_function = NETWORK.groups(kind), NETWORK.groups(lambda name: name.rpartition(".")[2])
    assert by_mapping.names == by_function.names == ("weight", "bias", "temperature")
    np.testing.assert_array_equal(by_mapping.index, by_function.index)


@given(layouts(), st.sampled_from(["tensor", "layer", "neuron"]), seeds, dtypes())
def test_totals_equal_a_slow_loop(layout, by, seed, dtype):
    groups = layout.groups(by)
    values = np.random.default_rng(seed).normal(size=layout.size).astype(dtype)
    totals = groups.total(values)
    assert totals.dtype == np.float64
    assert len(totals) == len(groups) == len(groups.names)
    for number, total in enumerate(totals):
        mine = [float(v) for v, g in zip(values, groups.index, strict=True) if g == number]
        assert abs(total - math.fsum(mine)) <= tolerances.summed(math.fsum(map(abs, mine)), tolerances.EPS64)


@given(layouts(), st.sampled_from(["tensor", "layer", "neuron"]), seeds)
def test_counts_equal_a_slow_loop(layout, by, seed):
    groups = layout.groups(by)
    mask = np.random.default_rng(seed).random(layout.size) < 0.5
    slow = [sum(g == n and m for g, m in zip(groups.index, mask, strict=True)) for n in range(len(groups))]
    counts = groups.count(mask)
    assert counts.dtype.kind == "i"
    np.testing.assert_array_equal(counts, slow)


def test_a_group_without_true_entries_counts_zero():
    groups = Layout(("a", "b", "c"), ((1,), (2,), (1,))).groups()
    np.testing.assert_array_equal(groups.count(np.array([False, True, True, False])), [0, 2, 0])


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("a", "b"), ((2,),)), "at least one tensor and one shape per name, got 2 names and 1 shapes"),
        (((), ()), "at least one tensor and one shape per name, got 0 names"),
        ((("a", "b", "a"), ((1,), (1,), (1,))), "tensor names must be unique; repeated: a"),
        ((("a", "b"), ((2,), (3, 0))), r"tensor 'b' has an empty shape \(3, 0\); omit it"),
        ((("a",), ((2.0,),)), r"a shape is a tuple of whole numbers, got \(2.0,\)"),
        ((("a",), (("2",),)), r"a shape is a tuple of whole numbers, got \('2',\)"),
        ((("a",), (2,)), "a shape is a tuple of whole numbers, got 2"),
        ((("a", "b"), ((2,), (3,)), (0,)), r"neuron_axes needs one entry per tensor \(2\), got 1"),
        ((("a", "b"), ((2,), (3,)), (0, 1)), r"neuron axis 1 of 'b' is not an axis of its shape \(3,\)"),
        ((("a", "b"), ((2,), (3,)), (0, -1)), r"neuron axis -1 of 'b' is not an axis"),
    ],
)
def test_an_impossible_layout_is_refused(arguments, message):
    with pytest.raises(LayoutError, match=message):
        Layout(*arguments)


TWO = Layout(("fc.weight", "fc.bias"), ((2, 3), (2,)))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"fc.weight": np.ones((2, 3))}, r"missing \['fc.bias'\], unexpected \[\]"),
        ({"fc.weight": np.ones((2, 3)), "b": np.ones(2)}, r"missing \['fc.bias'\], unexpected \['b'\]"),
        ([np.ones((2, 3))], "expected 2 tensors, got 1"),
        ([np.ones((3, 2)), np.ones(2)], r"tensor 'fc.weight': expected shape \(2, 3\), got \(3, 2\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(tensors, message):
    with pytest.raises(LayoutError, match=message):
        TWO.flatten(tensors)


@pytest.mark.parametrize("shape", [(7,), (9,), (8, 1), ()])
def test_a_vector_of_another_shape_is_refused(shape):
    fix = (
        r"start: expected shape \(8,\) for the tensors fc.weight, fc.bias, got .*build it with Layout.flatten"
    )
    with pytest.raises(LayoutError, match=fix):
        TWO.check(np.zeros(shape), "start")
    with pytest.raises(LayoutError, match=r"expected shape \(8,\)"):
        TWO.unflatten(np.zeros(shape))


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, object])
def test_a_vector_that_is_not_floating_point_is_refused(dtype):
    with pytest.raises(LayoutError, match=r"floating-point dtype, got .*; use .astype\(numpy.float64\)"):
        TWO.check(np.zeros(8, dtype))


def test_a_vector_that_is_not_an_array_is_refused():
    with pytest.raises(LayoutError, match=r"must be a NumPy array .* got builtins.list; .*numpy.asarray"):
        TWO.check([0.0] * 8)


@pytest.mark.parametrize("position", [-1, 8])
def test_a_position_outside_theta_is_refused(position):
    with pytest.raises(LayoutError, match=f"position {position} is outside θ, which has 8 entries"):
        TWO.tensor_at(position)


@pytest.mark.parametrize("entry", ["fc9", "fc9[0]"])
def test_an_entry_of_an_unknown_tensor_names_it(entry):
    with pytest.raises(UnknownNameError, match="unknown tensor 'fc9'; known: .*fc.weight"):
        TWO.position(entry)


def test_the_mapping_has_the_direction_of_the_tracker():
    groups = TWO.groups({"weights": ["fc.weight"]})
    assert (groups.names, groups.sizes.tolist()) == (("weights", "other"), [6, 2])
    labels = divisions({"weights": "weight$"}, TWO.names)["group"]
    np.testing.assert_array_equal(groups.index, [labels[TWO.tensor_at(i)] == "other" for i in range(8)])


def test_the_group_of_each_tensor_is_deprecated_and_works():
    with pytest.warns(FutureWarning, match="groups= of a tracker, .* or a function") as caught:
        groups = TWO.groups({"fc.weight": "a", "fc.bias": "b"})
    assert (groups.names, groups.sizes.tolist(), caught[0].filename) == (("a", "b"), [6, 2], __file__)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"fc.weight": "weights"}, r"the group 'fc.weight' \('weights'\) selects no tensor"),
        ({"kind": {"weights": "weight"}}, "the group 'kind' .* is itself a whole division"),
        ({"kind": r"(?P<kind>fc)"}, "the group 'kind' .* is itself a whole division"),
    ],
)
def test_groups_that_are_no_division_are_refused(groups, message):
    with pytest.raises(LCAError, match=message):
        TWO.groups(groups)


def test_an_unknown_grouping_lists_the_known():
    with pytest.raises(UnknownNameError, match=r"unknown grouping 'layers'; known: .*Did you mean 'layer'\?"):
        TWO.groups("layers")


def test_layouts_that_differ_are_shown():
    assert check_same_layout([TWO, Layout(TWO.names, TWO.shapes)], "the terms") is TWO
    other = Layout(("fc.weight",), ((2, 3),))
    with pytest.raises(
        LayoutError, match=r"the terms must share one layout; got .*'fc.bias'.* and \{'fc.weight'"
    ):
        check_same_layout([TWO, TWO, other], "the terms")
