"""`Traced`: a compiled function, and what its graph says that it reads, writes and draws."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

READERS = {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "VarIsInitializedOp"}
EPS = {tf.float64: 2.0**-52, tf.float32: 2.0**-23, tf.float16: 2.0**-10, tf.bfloat16: 2.0**-7}
PYTHON = {"PyFunc", "EagerPyFunc", "PyFuncStateless"}


@dataclass(frozen=True, eq=False)
class Traced:
    """A function that was traced once.

    Attributes
    ----------
    function
        Takes the tensors that it was traced for one after another.
    reads
        The variables that its results depend on, other than through its arguments.
    writes
        The variables that it may write.
    random
        Names of operations that draw random numbers which its results depend on.
    python
        Whether it calls Python code.
    definition
        The graph in bytes; the same for the same computation, unless it has loops.
    captures
        The tensors and handles of variables that the graph refers to.
    eps
        Machine epsilon of the coarsest precision in which its results depend on its first argument.
    """

    function: Any
    reads: list[tf.Variable]
    writes: list[tf.Variable]
    random: list[str]
    python: bool
    definition: bytes
    captures: list[Any]
    eps: float

    def same_as(self, other: "Traced") -> bool:
        """Whether both compute the same from the same variables; false if that is not certain."""
        if self.definition != other.definition or len(self.captures) != len(other.captures):
            return False
        return all(a is b for a, b in zip(self.captures, other.captures, strict=True))

    def __call__(self, *arguments: Any) -> Any:
        """The results for tensors that have the specs; to check that again would take as long as a layer."""
        flat = [*tf.nest.flatten(arguments), *self.function.captured_inputs]
        return self.function.inference_fn.call_preflattened(flat)


def trace(function: Callable[..., Any], signature: tuple[Any, ...], *, jit_compile: bool = False) -> Traced:
    """Trace ``function`` for arguments of these specs, and read its graph.

    Functions of the user's that are compiled themselves are traced as a part of it, so that nothing of this
    trace stays in their caches, and no variable in them is read past the values that replace it.
    """

    def packed(*flat: Any) -> Any:
        return function(*tf.nest.pack_sequence_as(signature, flat))

    compiled = tf.function(
        inlined(packed),
        input_signature=tf.nest.flatten(signature),
        jit_compile=jit_compile or None,
        autograph=False,
    )
    concrete = compiled.get_concrete_function()
    graph = concrete.graph
    variables = {id(variable.handle): variable for variable in graph.variables}
    resources = {inner.op: variables[id(outer)] for outer, inner in graph.captures if id(outer) in variables}
    written = {op: v for op, v in _uses(resources) if op.type not in READERS}
    reached = _reached(graph.outputs, written, resources)
    definition = graph.as_graph_def()
    random = [op.type for op in reached if _is_random(op.type)]
    inside = {node.op for function in definition.library.function for node in function.node_def}
    return Traced(
        concrete,
        _distinct(variable for op, variable in resources.items() if op in reached),
        _distinct(written.values()),
        random + sorted(filter(_is_random, inside)),
        any(op.type in PYTHON for op in graph.get_operations()) or bool(inside & PYTHON),
        definition.SerializeToString(deterministic=True),
        [outer for outer, _ in graph.captures],
        _coarsest(graph, reached),
    )


def _coarsest(graph: Any, reached: set[Any]) -> float:
    """The largest machine epsilon between the first input and the outputs."""
    between, found = {graph.inputs[0].op}, 0.0
    for op in graph.get_operations():  # in the order in which they were made
        if op in reached and any(tensor.op in between for tensor in op.inputs):
            between.add(op)
            found = max(found, *(EPS.get(tensor.dtype, 0.0) for tensor in op.outputs), 0.0)
    return found


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, inside which functions that are compiled themselves run as they are written."""

    def inlining(*arguments: Any) -> Any:
        before = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)
        try:
            return function(*arguments)
        finally:
            tf.config.run_functions_eagerly(before)

    return inlining


def _uses(resources: dict[Any, tf.Variable]) -> Iterator[tuple[Any, tf.Variable]]:
    for placeholder, variable in resources.items():
        for op in placeholder.outputs[0].consumers():
            yield op, variable


def _reached(outputs: Iterable[tf.Tensor], written: dict[Any, Any], resources: dict[Any, Any]) -> set[Any]:
    """The operations that the outputs depend on, also by way of a variable that is written and then read."""
    waiting = [output.op for output in outputs]
    found: set[Any] = set()
    while waiting:
        op = waiting.pop()
        if op in found:
            continue
        found.add(op)
        waiting += [tensor.op for tensor in op.inputs]
        if op in resources:
            waiting += [writer for writer, variable in written.items() if variable is resources[op]]
    return found


def _is_random(kind: str) -> bool:
    """Whether an operation draws from a generator: its own, with two seeds, or one of TensorFlow's."""
    definition = op_def_registry.get(kind)
    if definition is None or not definition.is_stateful:
        return False
    seeded = {"seed", "seed2"} <= {attribute.name for attribute in definition.attr}
    drawing = kind.startswith(("Rng", "NonDeterministic", "Stateful")) and kind != "StatefulPartitionedCall"
    return drawing or (seeded and not kind.startswith("Cudnn"))  # whose dropout is off


def _distinct(variables: Iterable[tf.Variable]) -> list[tf.Variable]:
    return list({id(variable): variable for variable in variables}.values())
