"""Whether a ``train_step`` of the user's changes the data before the loss, as far as its source tells."""

import ast
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from inspect import getsource, signature
from itertools import takewhile
from tokenize import TokenError
from types import FunctionType

import keras

from lca_keras._added_terms import DIFFERENTIATING, name_of
from lca_keras._train_step import INHERITED, WAYS, called, inherited, own_steps

_DATA = "x", "y", "sample_weight"
_PLACES: Mapping[str, Sequence[str]] = {
    "compute_loss": ("x", "y", "y_pred", "sample_weight"),
    "_compute_loss": ("x", "y", "y_pred", "sample_weight"),
    "compiled_loss": ("y", "y_pred", "sample_weight"),
    "_compile_loss": ("y", "y_pred", "sample_weight"),
    "compute_loss_and_updates": ("", "", *_DATA),
    "stateless_compute_loss": ("", "", "", "x", "y", "y_pred", "sample_weight"),
}
"""The arguments of the functions that take the compiled loss."""
_RESHAPING = frozenset(
    {"ensure_shape", "expand_1d", "expand_dims", "flatten", "permute", "ravel", "reshape", "slice", "split"}
    | {"squeeze", "to_dense", "to_tensor", "transpose", "unpack_x_y_sample_weight", "unsqueeze", "view"}
)
_CASTING = frozenset(
    {
        "as_tensor",
        "asarray",
        "astype",
        "cast",
        "convert_to_tensor",
        "copy",
        "detach",
        "double",
        "float",
        "get",
    }
    | {"identity", "int", "iter", "long", "next", "one_hot", "pop", "stop_gradient", "to", "to_categorical"}
    | {"tuple"}
)
_SAME = _RESHAPING | _CASTING
"""Functions whose result counts as their first argument."""
_TOGETHER = frozenset({"concat", "concatenate", "dict", "enumerate", "list", "stack", "zip"})
_EACH = frozenset({"map", "map_structure", "tree_map"})
_NOT_DATA = frozenset(
    {"dtype", "isinstance", "len", "ndim", "ones", "ones_like", "shape", "size", "zeros", "zeros_like"}
)
_FORWARD = frozenset({"__call__", "call", "stateless_call"})


class _Kind(IntEnum):
    """What an expression is; of several, the last."""

    OTHER = 0
    GIVEN = 1  # data of fit, as they come
    OUTPUT = 2  # of the model for these
    INNER = 3  # of one of its layers, or of another function of the data
    CHANGED = 4  # data or outputs that something was done to


def changed_data(model: keras.Model) -> str:
    """The statement by which the user's ``train_step`` changes x, y or outputs before the loss; "" if none.

    Read from the source of the step and of the functions that it calls, in the order of their statements.
    Casts, new shapes, slices and one-hot labels do not count.
    """
    for step in own_steps(model):
        names = [name for name in signature(step).parameters if name != "self"]
        data = _DATA if step.__name__ == "compute_loss_and_updates" else names[-1:]
        reader = _Reader(model, step, {name: _Kind.GIVEN for name in names if name in data}, ())
        if found := reader.read().changed:
            return found
    return ""


class _Reader(ast.NodeVisitor):
    """Follows the data through the statements of a function.

    Parameters
    ----------
    model, function
        The model, and one of the functions of its step.
    kinds
        What its parameters are.
    callers
        The functions that are being read.
    """

    def __init__(
        self,
        model: keras.Model,
        function: FunctionType,
        kinds: Mapping[str, _Kind],
        callers: Sequence[FunctionType],
    ) -> None:
        self._model, self._function, self._callers = model, function, [*callers, function]
        self._kinds, self._origins = dict(kinds), dict[str, str]()
        self._gradients = set[str]()
        self.returned, self.changed = _Kind.OTHER, ""

    def read(self) -> "_Reader":
        try:
            self.visit(ast.parse(textwrap.dedent(getsource(self._function))))
        except (OSError, TypeError, SyntaxError, TokenError):
            self.returned = max(self._kinds.values(), default=_Kind.OTHER)
        return self

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            self._assign(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if node.value is not None:
            self._assign(node.target, node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.generic_visit(node)
        if isinstance(node.target, ast.Name):
            before = ast.Name(node.target.id, ast.Load())
            self._assign(node.target, ast.BinOp(before, node.op, node.value))

    def visit_For(self, node: ast.For) -> None:
        self._assign(node.target, node.iter)
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        self.generic_visit(node)
        if node.value is not None:
            self.returned = max(self.returned, self._kind(node.value))

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        name = name_of(node.func)
        if self._is_gradient(node.func):  # of the variables, the state and the data
            self._look([("data", one) for one in _behind_state(node.args)])
        elif name in _PLACES:
            self._look([*zip(_PLACES[name], node.args, strict=False), *self._named(node)])
        elif name in INHERITED and self._called(name) is None:
            self._look([("data", value) for value in (*node.args[-1:], *(v for _, v in self._named(node)))])
        elif name not in _SAME:
            self._kind(node)  # which looks into the user's functions

    def _named(self, node: ast.Call) -> list[tuple[str, ast.expr]]:
        return [(one.arg or "", one.value) for one in node.keywords]

    def _look(self, arguments: Iterable[tuple[str, ast.expr]]) -> None:
        """Look whether data or outputs that the loss takes were changed."""
        arguments = list(takewhile(lambda one: not isinstance(one[1], ast.Starred), arguments))
        limits = {"data": _Kind.GIVEN, "y": _Kind.GIVEN, "sample_weight": _Kind.GIVEN, "y_pred": _Kind.INNER}
        if all(name != "y_pred" for name, _ in arguments):
            limits["x"] = _Kind.GIVEN
        for name, value in arguments:
            if self._kind(value) > limits.get(name, _Kind.CHANGED):
                self.changed = self.changed or self._origin(value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            parts = value.elts if isinstance(value, ast.Tuple | ast.List) else []
            values = parts if len(parts) == len(target.elts) else [value] * len(target.elts)
            found = [(self._kind(one), self._origin(one)) for one in values]
            for one, (kind, origin) in zip(target.elts, found, strict=True):
                self._set(one, kind, origin)
            return
        self._set(target, self._kind(value), self._origin(value))
        if isinstance(target, ast.Name) and isinstance(value, ast.Call):
            self._gradients |= {target.id} if name_of(value.func) in DIFFERENTIATING else set()

    def _set(self, target: ast.expr, kind: _Kind, origin: str) -> None:
        for one in ast.walk(target):
            if isinstance(one, ast.Name) and one.id != "self":
                known = isinstance(target, ast.Subscript) and self._kinds.get(one.id, _Kind.OTHER)
                self._kinds[one.id] = max(kind, known or kind)
                self._origins[one.id] = origin

    def _origin(self, value: ast.expr) -> str:
        """The code by which data were changed first."""
        names = [one.id for one in ast.walk(value) if isinstance(one, ast.Name)]
        changed = [name for name in names if self._kinds.get(name, _Kind.OTHER) > _Kind.OUTPUT]
        return self._origins.get(changed[0], changed[0]) if changed else ast.unparse(value)

    def _kind(self, node: ast.expr) -> _Kind:
        found = _Kind.OTHER
        match node:
            case ast.Name():
                found = self._kinds.get(node.id, _Kind.OTHER)
            case ast.Attribute() | ast.Subscript() | ast.Starred() | ast.NamedExpr():
                found = _Kind.OTHER if name_of(node) in _NOT_DATA else self._kind(node.value)
            case ast.Tuple() | ast.List() | ast.Set():
                found = self._last(node.elts)
            case ast.Dict() | ast.BoolOp():
                found = self._last(node.values)
            case ast.IfExp():
                found = self._last([node.body, node.orelse])
            case ast.BinOp() | ast.UnaryOp() | ast.Compare():
                found = self._computed(
                    [one for one in ast.iter_child_nodes(node) if isinstance(one, ast.expr)]
                )
            case ast.ListComp() | ast.GeneratorExp() | ast.SetComp():
                for one in node.generators:
                    self._assign(one.target, one.iter)
                found = self._kind(node.elt)
            case ast.Call():
                found = self._of_call(node)
        return found

    def _last(self, nodes: Iterable[ast.expr]) -> _Kind:
        return max(map(self._kind, nodes), default=_Kind.OTHER)

    def _computed(self, nodes: Sequence[ast.expr]) -> _Kind:
        """What is computed of these; data and outputs of the model count as changed."""
        lists = [node.elts if isinstance(node, ast.List | ast.Tuple) else [node] for node in nodes]
        kinds = {self._kind(one) for entries in lists for one in entries}
        last = max(kinds, default=_Kind.OTHER)
        return last if last in {_Kind.OTHER, _Kind.INNER} and _Kind.OUTPUT not in kinds else _Kind.CHANGED

    def _of_call(self, node: ast.Call) -> _Kind:
        name, values = name_of(node.func), [*node.args, *(value for _, value in self._named(node))]
        if self._is_forward(node.func):
            kind = self._last(values[2:] if name == "stateless_call" else values[:1])
            return _Kind.OUTPUT if kind == _Kind.GIVEN else _Kind.CHANGED if kind else kind
        if name in _NOT_DATA | DIFFERENTIATING | WAYS | INHERITED or self._is_gradient(node.func):
            return _Kind.OTHER
        if (found := self._called(name)) is not None:
            return self._of_function(found, node)
        if isinstance(node.func, ast.Attribute) and self._kind(node.func.value):
            values = [node.func.value, *values]
        return self._of_library(name, values)

    def _of_library(self, name: str, values: Sequence[ast.expr]) -> _Kind:
        """The result of a function that is not read, or of a layer."""
        if name in _EACH and values:
            return self._of_each(values[0], values[1:])
        if name in _SAME | _TOGETHER:
            return self._last(values[:1] if name in _SAME else values)
        return _Kind.INNER if self._last(values) == _Kind.GIVEN else self._computed(values)

    def _of_each(self, function: ast.expr, values: Sequence[ast.expr]) -> _Kind:
        """The result of a function for each of the data."""
        if isinstance(function, ast.Lambda):
            self._kinds |= {one.arg: self._last(values) for one in function.args.args}
            return self._kind(function.body)
        return self._last(values) if name_of(function) in _SAME else self._computed(values)

    def _of_function(self, function: FunctionType, node: ast.Call) -> _Kind:
        """What a function of the user's returns, which may take the loss of the data, too."""
        if function in self._callers:
            return _Kind.OTHER
        names = [name for name in signature(function).parameters if name != "self"]
        pairs = [*zip(names, node.args, strict=False), *self._named(node)]
        kinds = {name: self._kind(value) for name, value in pairs}
        reader = _Reader(self._model, function, kinds, self._callers)
        reader._origins = {name: self._origin(value) for name, value in pairs}
        self.changed = self.changed or reader.read().changed
        return reader.returned

    def _called(self, name: str) -> FunctionType | None:
        found = called(self._model, self._function, name)
        return inherited(self._model, found) if found is self._function and found is not None else found

    def _is_forward(self, function: ast.expr) -> bool:
        """Whether this is a call of the model."""
        if isinstance(function, ast.Attribute) and function.attr in _FORWARD:
            base = function.value
            return name_of(base.func if isinstance(base, ast.Call) else base) in {"self", "super"}
        return isinstance(function, ast.Name) and function.id == "self"

    def _is_gradient(self, function: ast.expr) -> bool:
        """Whether this is the gradient of a function, as that of JAX."""
        if isinstance(function, ast.Call):
            return name_of(function.func) in DIFFERENTIATING
        return isinstance(function, ast.Name) and function.id in self._gradients


def _behind_state(arguments: Sequence[ast.expr]) -> Sequence[ast.expr]:
    """The arguments of a function of trainable and other variables, and data, behind the variables."""
    starred = [n for n, one in enumerate(arguments) if isinstance(one, ast.Starred)]
    return arguments[starred[-1] + 1 if starred else 2 :]
