"""`private_copy`: a `tf.data.Dataset` that can be read without moving the one that training reads.

A data set keeps state from one pass to the next: the seed generator of ``shuffle``, memory and files of
``cache``, variables that its functions use. A copy has its own.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.python.framework import op_def_registry
from tensorflow.python.ops import gen_dataset_ops, script_ops

from lca.errors import DataError, LCAWarning

IGNORE = 1  # what a graph cannot hold, `undisturbed` looks after
LARGEST = 2**30
"""Bytes of tensors in a data set, above which it is not copied: a graph holds at most 2 GiB."""
_OWN = {"seed_generator": "DummySeedGenerator", "cache": "DummyMemoryCache"}
"""The state of an operation, by the name of its argument, and what makes one that nothing else uses."""


def private_copy(dataset: tf.data.Dataset) -> tuple[tf.data.Dataset, list[Callable[..., Any]]]:
    """The same elements from a data set of its own, and the Python functions that both call.

    ``shuffle`` has one order in the copy, which is not that of any pass of training.

    Raises
    ------
    DataError
        If it holds more than 1 GiB of tensors.

    Examples
    --------
    >>> copy, functions = private_copy(tf.data.Dataset.range(3).shuffle(3).batch(2))
    >>> sorted(int(n) for batch in copy for n in batch), functions
    ([0, 1, 2], [])
    """
    if _bytes_in(dataset) > LARGEST:
        raise DataError(
            "the Dataset holds more than 1 GiB of tensors, too much to read a copy of it; pass the arrays "
            "themselves: (x, y)."
        )
    graph = graph_pb2.GraphDef.FromString(
        gen_dataset_ops.dataset_to_graph_v2(
            dataset._variant_tensor, external_state_policy=IGNORE, strip_device_assignment=False
        ).numpy()
    )
    nodes = {node.name: node for node in graph.node}
    for node in list(graph.node):
        _make_private(graph, nodes, node)
    copy = tf.data.experimental.from_variant(_evaluated(graph), dataset.element_spec)
    copy._original = dataset  # keeps the Python functions alive
    return copy, list(_python_functions(graph))


def refuse_partial(dataset: tf.data.Dataset) -> None:
    """Raise `DataError` if a data set leaves out examples of its own; warn if that is not known.

    >>> refuse_partial(tf.data.Dataset.range(6).batch(3, drop_remainder=True))
    """
    if int(getattr(dataset, "_num_shards", 1)) > 1:
        raise DataError(
            f"the Dataset is one of {int(dataset._num_shards)} shards, and the loss over the others would "
            "not be measured; pass the Dataset without .shard(...)."
        )
    inputs = dataset._inputs()
    if bool(getattr(dataset, "_drop_remainder", False)) and hasattr(dataset, "_batch_size"):
        size, number = int(dataset._batch_size), int(inputs[0].cardinality())
        _check_remainder(size, number)
    for one in inputs:
        refuse_partial(one)


def _check_remainder(size: int, number: int) -> None:
    """``number`` of elements in batches of ``size``; negative if it is not known."""
    if number < 0:
        warnings.warn(
            f"the Dataset may drop examples: .batch({size}, drop_remainder=True) leaves out a last batch "
            "that is not full; measure on .batch(n) without it.",
            LCAWarning,
            stacklevel=2,
        )
    elif number % size:
        raise DataError(
            f".batch({size}, drop_remainder=True) leaves out {number % size} of the {number} examples, which "
            "would not be measured; pass the Dataset with .batch(n) without it."
        )


def _bytes_in(dataset: tf.data.Dataset) -> int:
    tensors = [t for t in getattr(dataset, "_tensors", ()) if tf.is_tensor(t) and t.dtype != tf.variant]
    own = sum(int(tensor.dtype.size) * int(tf.size(tensor)) for tensor in tensors)
    return own + sum(map(_bytes_in, dataset._inputs()))


def _make_private(graph: Any, nodes: dict[str, Any], node: Any) -> None:
    """Give one operation of the graph a state of its own."""
    definition = op_def_registry.get(node.op)
    for index, argument in enumerate(definition.input_arg if definition else ()):
        if argument.name in _OWN:
            own = graph.node.add(name=f"{node.name}/{argument.name}", op=_OWN[argument.name])
            node.input[index] = own.name
        if argument.name == "filename" and node.op.startswith("CacheDataset"):
            nodes[node.input[index]].attr["value"].tensor.string_val[:] = [b""]
    for flag in ("reshuffle_each_iteration", "rerandomize_each_iteration"):
        if flag in node.attr:
            node.attr[flag].b = False


def _evaluated(graph: Any) -> tf.Tensor:
    """The data set that a graph describes, as a variant tensor."""
    [result] = [node for node in graph.node if node.op == "_Retval"]
    name = f"{result.input[0]}:0"
    graph.node.remove(result)
    build = tf.compat.v1.wrap_function(
        lambda: tf.graph_util.import_graph_def(graph, return_elements=[name], name=""), []
    )
    [variant] = build()
    return variant


def _python_functions(graph: Any) -> Iterator[Callable[..., Any]]:
    """The functions behind ``from_generator``, ``py_function`` and ``numpy_function``."""
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    for token in sorted({node.attr["token"].s for node in nodes if "PyFunc" in node.op}):
        function = script_ops._py_funcs.get(token.decode())
        if function is not None:
            yield getattr(function, "_func", function)  # of py_function
