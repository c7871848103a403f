"""Tensors of a file and parameters of an objective: found by name, put in order, or asked for."""

import numpy as np
import pytest

from lca import Layout
from lca._matching import pieces_of
from lca.errors import LayoutError
from lca.tolerances import EPS64, summed


def taken(held, wanted, tensors, **options):
    """The parameters of ``wanted``, by name, from a row with these tensors."""
    row = held.flatten(tensors)
    pieces = pieces_of(held, wanted, **options)
    return wanted.unflatten(np.concatenate([piece.taken_from(row) for piece in pieces]))


def held(**shapes):
    """The layout of a file; its neuron axes are not known."""
    names = tuple(name.replace("__", "/") for name in shapes)
    return Layout(names, tuple(shapes.values()), (None,) * len(names))


def tensors_of(layout):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape) for name, shape in zip(layout.names, layout.shapes, strict=True)}


def torch_like(*shapes):
    names = [f"{layer}.{what}" for layer in "abc"[: len(shapes)] for what in ("weight", "bias")]
    return Layout(names, [s for shape in shapes for s in (shape, shape[:1])])


def keras_like(*shapes):
    names = [f"{layer}.{what}" for layer in "abc"[: len(shapes)] for what in ("kernel", "bias")]
    both = [s for shape in shapes for s in (shape, shape[-1:])]
    return Layout(names, both, [len(shape) - 1 for shape in both])


OUT_IN = {"ndim 2": (2, 3), "ndim 3": (2, 3, 4), "ndim 4": (2, 3, 4, 5), "ndim 5": (2, 3, 4, 5, 6)}


def into_last(array):
    """(out, in, ...) to (..., in, out), by hand."""
    return np.moveaxis(np.moveaxis(array, 0, -1), 0, -2)


@pytest.mark.parametrize("shape", OUT_IN.values(), ids=OUT_IN)
def test_kernels_are_put_in_the_order_of_the_objective(shape):
    weight = np.random.default_rng(0).normal(size=shape)
    first, last = torch_like(shape), keras_like(into_last(weight).shape)
    mine = {"a.weight": weight, "a.bias": np.arange(shape[0])}
    theirs = {"a.kernel": into_last(weight), "a.bias": np.arange(shape[0])}
    file = Layout(last.names, last.shapes, (None, None))
    for name, array in taken(file, first, theirs).items():
        np.testing.assert_array_equal(array, mine[name])
    for name, array in taken(file, last, theirs).items():
        np.testing.assert_array_equal(array, theirs[name])
    file = Layout(first.names, first.shapes, (None, None))
    for name, array in taken(file, last, mine).items():
        np.testing.assert_array_equal(array, theirs[name])
    for name, array in taken(file, first, mine).items():
        np.testing.assert_array_equal(array, mine[name])


def test_tensors_may_come_in_any_order():
    wanted = torch_like((2, 3), (4, 2))
    file = held(b__bias=(4,), a__kernel=(3, 2), b__kernel=(2, 4), a__bias=(2,))
    tensors = tensors_of(file)
    found = taken(file, wanted, tensors)
    np.testing.assert_array_equal(found["a.weight"], tensors["a/kernel"].T)
    np.testing.assert_array_equal(found["b.weight"], tensors["b/kernel"].T)
    np.testing.assert_array_equal(found["b.bias"], tensors["b/bias"])


def test_one_kernel_that_is_not_square_tells_how_square_ones_are():
    wanted = torch_like((3, 3), (2, 3))
    for weight, shape, transposed in (("w", (3, 2), True), ("w", (2, 3), False)):
        file = held(**{f"a__{weight}": (3, 3), "a__bias": (3,), f"b__{weight}": shape, "b__bias": (2,)})
        tensors = tensors_of(file)
        expected = tensors["a/w"].T if transposed else tensors["a/w"]
        np.testing.assert_array_equal(taken(file, wanted, tensors)["a.weight"], expected)


def test_square_kernels_are_asked_for_unless_their_name_tells():
    wanted = torch_like((3, 3))
    file = held(a__weight=(3, 3), a__bias=(3,))
    tensors = tensors_of(file)
    with pytest.raises(LayoutError, match=r"'a/weight' in the file are square.* pass neuron_axis=-1 if"):
        taken(file, wanted, tensors)
    for axis, expected in ((0, tensors["a/weight"]), (-1, tensors["a/weight"].T)):
        np.testing.assert_array_equal(taken(file, wanted, tensors, neuron_axis=axis)["a.weight"], expected)
    keras = held(a__kernel=(3, 3), a__bias=(3,))
    tensors = tensors_of(keras)
    np.testing.assert_array_equal(taken(keras, wanted, tensors)["a.weight"], tensors["a/kernel"].T)
    np.testing.assert_array_equal(taken(keras, keras_like((3, 3)), tensors)["a.kernel"], tensors["a/kernel"])


def test_a_name_that_contradicts_the_shapes_is_asked_about():
    file, wanted = held(a__kernel=(2, 3)), Layout(("a.weight",), ((2, 3),))
    with pytest.raises(LayoutError, match=r"'a/kernel' in the file are called kernel, but fit only"):
        pieces_of(file, wanted)
    assert pieces_of(file, wanted, neuron_axis=0)[0].axes == (0, 1)
    with pytest.raises(LayoutError, match="neuron_axis is 0 .* got 1"):
        pieces_of(file, wanted, neuron_axis=1)


def test_tables_of_embeddings_are_never_transposed():
    wanted = Layout(("e.weight", "a.weight"), ((5, 3), (2, 3)))
    file = held(e__embeddings=(5, 3), a__kernel=(3, 2))
    tensors = tensors_of(file)
    np.testing.assert_array_equal(taken(file, wanted, tensors)["e.weight"], tensors["e/embeddings"])


@pytest.mark.parametrize("size", [(4,), (4, 5), (4, 5, 6)], ids=["1-D", "2-D", "3-D"])
@pytest.mark.parametrize("table", [False, True], ids=["alone", "with a table"])
def test_a_network_of_transposed_convolutions_is_put_in_order(size, table):
    """PyTorch has the neurons of such a kernel on axis 1, Keras on the last but one."""
    mine = Layout(("a.weight", "a.bias"), ((7, 3, *size), (3,)), (1, 0))
    theirs = Layout(("a.kernel", "a.bias"), ((*size, 3, 7), (3,)), (len(size), 0))
    if table:
        mine = Layout(("e.weight", *mine.names), ((9, 7), *mine.shapes), (1, *mine.neuron_axes))
        theirs = Layout(("e.embeddings", *theirs.names), ((9, 7), *theirs.shapes), (1, *theirs.neuron_axes))
    for layout, wanted in ((theirs, mine), (mine, theirs), (mine, mine), (theirs, theirs)):
        file = Layout(layout.names, layout.shapes, (None,) * len(layout.names))
        tensors = tensors_of(file)
        kernel = tensors["a.kernel" if layout is theirs else "a.weight"]
        if layout is theirs and wanted is mine:
            kernel = np.moveaxis(kernel, (-1, -2), (0, 1))
        if layout is mine and wanted is theirs:
            kernel = np.moveaxis(kernel, (0, 1), (-1, -2))
        found = taken(file, wanted, tensors)
        np.testing.assert_array_equal(found["a.kernel" if wanted is theirs else "a.weight"], kernel)


def test_depthwise_kernels_are_put_in_order():
    keras = Layout(("d.depthwise_kernel", "p.kernel"), ((2, 3, 4, 2), (1, 1, 8, 5)), (2, 3))
    torch = Layout(("d.weight", "p.weight"), ((8, 1, 2, 3), (5, 8, 1, 1)))
    file = Layout(keras.names, keras.shapes, (None, None))
    tensors = tensors_of(keras)
    found = taken(file, torch, tensors)
    for channel in range(4):
        for copy in range(2):
            np.testing.assert_array_equal(
                found["d.weight"][2 * channel + copy, 0], tensors["d.depthwise_kernel"][:, :, channel, copy]
            )
    back = taken(Layout(torch.names, torch.shapes, (None, None)), keras, found)
    for name, array in tensors.items():
        np.testing.assert_array_equal(back[name], array)


def test_the_inputs_of_a_layer_behind_a_convolution_are_asked_for():
    """Flattened images: by position and then channel in TensorFlow, the other way round in PyTorch."""
    images = np.random.default_rng(0).normal(size=(6, 4, 5))  # height, width, channels
    keras, torch = keras_like((2, 2, 3, 5), (120, 7)), torch_like((5, 3, 2, 2), (7, 120))
    file = Layout(keras.names, keras.shapes, (None,) * 4)
    tensors = tensors_of(keras)
    out = images.reshape(-1) @ tensors["b.kernel"]
    with pytest.raises(
        LayoutError, match=r"b\.weight follows a convolution with 5 channels.* reorder_flattened=True"
    ):
        taken(file, torch, tensors)
    found = taken(file, torch, tensors, reorder_flattened=True)
    mass = abs(images.reshape(-1)) @ abs(tensors["b.kernel"])
    error = abs(found["b.weight"] @ images.transpose(2, 0, 1).reshape(-1) - out)
    assert (error <= summed(mass, EPS64)).all()
    kept = taken(file, torch, tensors, reorder_flattened=False)
    np.testing.assert_array_equal(kept["b.weight"], tensors["b.kernel"].T)
    back = taken(Layout(torch.names, torch.shapes, (None,) * 4), keras, found, reorder_flattened=True)
    np.testing.assert_array_equal(back["b.kernel"], tensors["b.kernel"])
    np.testing.assert_array_equal(taken(file, keras, tensors)["b.kernel"], tensors["b.kernel"])


def test_a_layer_behind_global_pooling_needs_no_order():
    keras, torch = keras_like((2, 2, 3, 5), (5, 7)), torch_like((5, 3, 2, 2), (7, 5))
    assert pieces_of(Layout(keras.names, keras.shapes, (None,) * 4), torch)[2].axes == (1, 0)


NAMED = {
    "the same": ("a.weight", "a.bias"),
    "with slashes": ("a/weight:0", "a/bias:0"),
    "of Keras": ("a/kernel:0", "a/bias:0"),
    "of TF-Slim": ("net/a/weights:0", "net/a/biases:0"),
    "short": ("mlp.a.w", "mlp.a.b"),
}


@pytest.mark.parametrize("how", NAMED)
def test_parameters_are_found_by_their_names(how):
    file = Layout(NAMED[how], ((3, 2), (2,)), (None, None))
    assert [piece.cut for piece in pieces_of(file, torch_like((2, 3)))] == [slice(0, 6), slice(6, 8)]


def test_names_that_differ_are_asked_for():
    file, wanted = held(dense__kernel=(3, 2), dense__bias=(2,)), torch_like((2, 3))
    with pytest.raises(
        LayoutError,
        match=r"holds 'dense/kernel', 'dense/bias': no tensor for 'a\.weight', 'a\.bias'.* names=\{",
    ):
        pieces_of(file, wanted)
    names = dict(zip(wanted.names, file.names, strict=True))
    assert [piece.axes for piece in pieces_of(file, wanted, names=names)] == [(1, 0), (0,)]
    with pytest.raises(LayoutError, match="'dense/gamma' is not among them"):
        pieces_of(file, wanted, names={"a.weight": "dense/gamma"})
    with pytest.raises(LayoutError, match="'dense/bias' for several parameters"):
        pieces_of(
            file,
            Layout(("a.bias", "b.bias"), ((2,), (2,))),
            names={"a.bias": "dense/bias", "b.bias": "dense/bias"},
        )


def test_two_tensors_that_may_be_meant_are_no_guess():
    file = held(one__a__kernel=(3, 2), two__a__kernel=(3, 2), a__bias=(2,))
    with pytest.raises(LayoutError, match=r"no tensor for 'a\.weight'"):
        pieces_of(file, torch_like((2, 3)))


def test_tensors_that_are_left_over_are_refused_or_ignored():
    file, wanted = held(a__kernel=(3, 2), a__bias=(2,), a__kernel__Adam=(3, 2)), torch_like((2, 3))
    with pytest.raises(LayoutError, match=r"also holds 'a/kernel/Adam', .* strict=False ignores them"):
        pieces_of(file, wanted)
    assert len(pieces_of(file, wanted, strict=False)) == 2


def test_shapes_that_fit_in_no_order_are_refused():
    with pytest.raises(
        LayoutError,
        match=r"a/kernel in the file has shape \(3, 3\); no order .* \(2, 3\), the shape of a\.weight",
    ):
        pieces_of(held(a__kernel=(3, 3), a__bias=(2,)), torch_like((2, 3)))


def test_every_head_behind_a_convolution_is_put_in_order():
    keras, torch = keras_like((2, 2, 3, 5), (120, 7), (120, 2)), torch_like((5, 3, 2, 2), (7, 120), (2, 120))
    tensors = tensors_of(keras)
    found = taken(Layout(keras.names, keras.shapes, (None,) * 6), torch, tensors, reorder_flattened=True)
    images = np.random.default_rng(0).normal(size=(6, 4, 5))
    for head in "bc":
        out = images.reshape(-1) @ tensors[f"{head}.kernel"]
        mass = abs(images.reshape(-1)) @ abs(tensors[f"{head}.kernel"])
        error = abs(found[f"{head}.weight"] @ images.transpose(2, 0, 1).reshape(-1) - out)
        assert (error <= summed(mass, EPS64)).all()


def test_a_layer_that_may_read_images_or_another_layer_is_refused():
    keras = keras_like((2, 2, 3, 5), (120, 120), (120, 2))
    torch, file = (
        torch_like((5, 3, 2, 2), (120, 120), (2, 120)),
        Layout(keras.names, keras.shapes, (None,) * 6),
    )
    with pytest.raises(
        LayoutError, match=r"inputs of c\.weight equals both the size of the flattened output"
    ):
        pieces_of(file, torch, reorder_flattened=True)


def test_scales_over_several_axes_are_not_transposed():
    keras = Layout(("n.gamma", "n.beta", "a.kernel"), ((3, 3), (3, 3), (2, 4)), (None, None, 1))
    torch = Layout(("n.weight", "n.bias", "a.weight"), ((3, 3), (3, 3), (4, 2)), (None, None, 0))
    tensors = tensors_of(keras)
    found = taken(Layout(keras.names, keras.shapes, (None,) * 3), torch, tensors)
    np.testing.assert_array_equal(found["n.weight"], tensors["n.gamma"])
    np.testing.assert_array_equal(found["n.bias"], tensors["n.beta"])
