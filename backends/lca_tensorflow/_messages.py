"""Errors of TensorFlow and of the data that say what is wrong, in few words."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import keras
import tensorflow as tf

from lca.errors import LCAError
from lca.frameworks import PyTree, loss_errors
from lca.frameworks._code import names_in
from lca_keras._reach import is_users

_TRACE = re.compile(r'File "[^"]*", line \d+, in [^\n]*')
_NODE = re.compile(r"\[\[\{\{node.*|\[Op:.*", re.DOTALL)


@contextmanager
def batch_errors(batch: PyTree) -> Iterator[None]:
    """`loss_errors` with TensorFlow's own sentence and without its stack; out of memory is passed on."""
    with loss_errors(batch, (tf.errors.ResourceExhaustedError,)):
        try:
            yield
        except tf.errors.ResourceExhaustedError:
            raise
        except tf.errors.OpError as error:
            raise type(error)(error.node_def, error.op, sentence(error.message)) from error
        except AttributeError as error:
            if "SymbolicTensor" in str(error) and "'assign" in str(error):
                raise LCAError(
                    "the loss assigns to a weight of the model, but is measured at given weights; compute "
                    "the other weights as tensors and use those, as in keras.ops.matmul(x, kernel - step)."
                ) from error
            raise


def sentence(message: str) -> str:
    r"""What an error of a graph says, without where its operation was defined.

    >>> sentence('Graph execution error:\nFile "a.py", line 1, in f\n\nindex too large\n\t [[{{node g}}]]')
    'index too large'
    """
    return _NODE.sub("", _TRACE.split(message)[-1]).strip() or message


def why_batches_matter(model: keras.Model, batch: PyTree, written: Iterable[tf.Variable]) -> str:
    """What may make the loss depend on its batches, to end a message with; empty if nothing is seen."""
    names = [variable.name.partition(":")[0] for variable in written]
    if names:
        return f" The loss writes the variable {names[0]!r} itself, so it depends on the calls before."
    if shapes := _broadcast(model, batch):
        y, outputs = shapes
        return (
            f" The targets have shape {y} and the outputs {outputs}, and operations on both broadcast to "
            f"{(*y, *y)}, if the loss does not squeeze them; pass y[:, None]."
        )
    adding = [layer.name for layer in model._flatten_layers() if _adds_loss(layer)]
    return f" The add_loss of {adding[0]!r} has to be a mean over the examples too." if adding else ""


def _broadcast(model: keras.Model, batch: PyTree) -> tuple[tuple[Any, ...], tuple[Any, ...]] | None:
    shape = getattr(model, "output_shape", None) if hasattr(model, "outputs") else None
    if not isinstance(batch, tuple) or len(batch) < 2 or not tf.is_tensor(batch[1]):
        return None
    y = tuple(batch[1].shape)
    return (y, (*y, 1)) if len(y) == 1 and isinstance(shape, tuple) and shape == (None, 1) else None


def _adds_loss(layer: keras.Layer) -> bool:
    kinds = [kind for kind in type(layer).__mro__ if is_users(kind)]
    functions = [f for kind in kinds for f in vars(kind).values() if isinstance(f, FunctionType)]
    return any("add_loss" in names_in(function.__code__) for function in functions)
