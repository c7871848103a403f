"""Whether a ``train_step`` of the user's adds something to the compiled loss, as far as its source tells."""

import ast
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from inspect import getsource
from tokenize import TokenError
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias

import keras

from lca.frameworks._code import names_in
from lca_keras._train_step import INHERITED, WAYS, called, inherited, own_steps, users

Definition: TypeAlias = ast.FunctionDef | ast.Lambda


def added_to_compiled_loss(model: keras.Model) -> str:
    """A sum of the compiled loss and more that the user's ``train_step`` differentiates; "" if none is found.

    Read from the source of the step and of what it calls; nothing is found where there is no source.
    """
    steps = _Steps(model)
    with suppress(RecursionError):
        for function in own_steps(model):
            steps.read(function)
        return steps.added()
    return ""


_DIFFERENTIATING = frozenset(
    {
        *("backward", "compute_gradients", "grad", "gradient", "gradients", "manual_backward", "minimize"),
        *("scale_loss", "value_and_grad", "vjp"),
    }
)
"""What takes the loss that is minimised, or a function of which it is the result."""
_TAKEN_AS = frozenset({"f", "fun", "loss", "outputs", "target"})
"""The names of that argument."""
_ADDING = frozenset({"accumulate_n", "add", "add_n", "sub", "subtract"})
_SUMMING = frozenset({"concat", "concatenate", "fsum", "mean", "reduce_mean", "reduce_sum", "stack", "sum"})
"""Functions of a sequence."""
_WITHOUT_GRADIENT = frozenset(
    {"constant", "detach", "float", "item", "numpy", "stop_gradient", "zeros", "zeros_like"}
)
_CONVERTING = frozenset({"cast", "convert_to_tensor"})
"""Functions that pass on their first argument."""
_WITH_PENALTIES = frozenset({"compute_loss", "_compute_loss"})
"""Ways to take the compiled loss in which the penalties of the model are a part of it."""


def _closure(function: FunctionType) -> dict[str, Any]:
    """The variables of outer functions that a function refers to."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not assigned yet
            found[name] = cell.cell_contents
    return found


class _Kind(IntEnum):
    """What an expression is; of the parts of a product, the largest counts."""

    CONSTANT = 0  # without a gradient
    OTHER = 1
    LOSS = 2  # the compiled loss, or a multiple
    SUM = 3  # the compiled loss and something else


class _Assigned(NamedTuple):
    """What a name is assigned: a value, or its element at a place (-1: all), from a place of the code on."""

    value: ast.expr
    place: int
    since: tuple[int, int]


class _Scope:
    """The source of a function: what its names are assigned, and what it returns."""

    def __init__(self, node: Definition, function: FunctionType, outer: "_Scope | None" = None) -> None:
        self.function, self.outer = function, outer
        arguments = node.args
        self.parameters = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
        self.given: dict[str, list[tuple[ast.expr, _Scope]]] = {
            one: [] for one in (*self.parameters, *(one.arg for one in arguments.kwonlyargs))
        }
        self.assigned: dict[str, list[_Assigned]] = {}
        self.inside: dict[str, list[ast.expr]] = {}  # what is put into a list or dictionary
        self.inner: dict[str, _Scope] = {}
        self.nodes: list[ast.AST] = []
        self.returned: list[ast.expr] = []
        if isinstance(node, ast.Lambda):
            self.returned.append(node.body)
        for statement in [node.body] if isinstance(node, ast.Lambda) else node.body:
            self._walk(statement)

    def _walk(self, node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef):
            self.inner[node.name] = _Scope(node, self.function, self)
            return
        if isinstance(node, ast.Lambda):
            return
        self.nodes.append(node)
        match node:
            case ast.Return(value=ast.expr() as value):
                self.returned.append(value)
            case ast.Assign():
                for target in node.targets:
                    self._assign(target, node.value)
            case ast.AnnAssign(value=ast.expr() as value) | ast.NamedExpr(value=value):
                self._assign(node.target, value)
            case ast.AugAssign(target=ast.Name() as target):
                before = ast.copy_location(ast.Name(target.id, ast.Load()), node)
                self._assign(target, ast.copy_location(ast.BinOp(before, node.op, node.value), node))
            case ast.For():
                self._assign(node.target, node.iter)
            case ast.comprehension():  # which stands behind what uses it
                self._assign(node.target, node.iter, (0, 0))
            case ast.Call(func=ast.Attribute(attr="append", value=ast.Name() as into), args=[value]):
                self.inside.setdefault(into.id, []).append(value)
        for child in ast.iter_child_nodes(node):
            self._walk(child)

    def _assign(self, target: ast.expr, value: ast.expr, at: tuple[int, int] | None = None) -> None:
        since = at or (value.lineno, value.col_offset)
        match target:
            case ast.Name():
                self.assigned.setdefault(target.id, []).append(_Assigned(value, -1, since))
            case ast.Tuple() | ast.List():
                for place, one in enumerate(target.elts):
                    if isinstance(one, ast.Name):
                        self.assigned.setdefault(one.id, []).append(_Assigned(value, place, since))
            case ast.Subscript(value=ast.Name() as into):
                self.inside.setdefault(into.id, []).append(value)

    def outward(self) -> "Iterator[_Scope]":
        scope: _Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.outer


class _Steps:
    """The source of a training step and of the user's functions that it calls or passes on."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._scopes: dict[FunctionType, _Scope | None] = {}
        self._kinds: dict[tuple[int, int], _Kind] = {}
        self._sums: list[ast.expr] = []
        self._penalised = False  # the compiled loss is taken with the penalties of the model in it

    def read(self, function: FunctionType) -> _Scope | None:
        """The scope of a function, read once, with all that it refers to."""
        if function not in self._scopes:
            self._scopes[function] = None
            with suppress(OSError, TypeError, SyntaxError, TokenError):
                tree = ast.parse(textwrap.dedent(getsource(function)))
                found = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.Lambda)]
                self._scopes[function] = _Scope(found[0], function) if found else None
            if (scope := self._scopes[function]) is not None:
                self._penalised |= not _WITH_PENALTIES.isdisjoint(names_in(function.__code__))
                self._follow(scope)
        return self._scopes[function]

    def _follow(self, scope: _Scope) -> None:
        for inner in scope.inner.values():
            self._follow(inner)
        for node in scope.nodes:
            if isinstance(node, ast.Call) and (callee := self._callee(node, scope)) is not None:
                bound = isinstance(node.func, ast.Attribute) and callee.parameters[:1] in (["self"], ["cls"])
                given = [*zip(callee.parameters[bound:], node.args, strict=False)]
                for name, value in [*given, *((one.arg, one.value) for one in node.keywords)]:
                    if name in callee.given:
                        callee.given[name].append((value, scope))
            elif isinstance(node, ast.Attribute | ast.Name):
                self._scope_of(node, scope)

    def _scope_of(self, node: ast.expr, scope: _Scope) -> _Scope | None:
        """The user's function that an expression refers to."""
        match node:
            case ast.Lambda():
                return _Scope(node, scope.function, scope)
            case ast.Name():
                for place in scope.outward():
                    if node.id in place.inner:
                        return place.inner[node.id]
                    if node.id in place.assigned or node.id in place.given:
                        return None
                seen = _closure(scope.function)
                found = users(seen.get(node.id, scope.function.__globals__.get(node.id)))
            case ast.Attribute(value=ast.Name() | ast.Call(func=ast.Name(id="super"))):
                own = called(self._model, scope.function, node.attr)
                by_super = isinstance(node.value, ast.Call)
                found = inherited(self._model, scope.function) if by_super and own is scope.function else own
                found = None if node.attr in WAYS else found
            case ast.Call(func=func, args=[first, *_]) if _name(func) in ("partial", "function", "jit"):
                return self._scope_of(first, scope)
            case _:
                return None
        return None if found is None else self.read(found)

    def added(self) -> str:
        """The first sum that is differentiated."""
        scopes = [scope for scope in self._scopes.values() if scope is not None]
        for scope in scopes:
            scopes += scope.inner.values()
        for scope in scopes:
            calls = [node for node in scope.nodes if isinstance(node, ast.Call)]
            for node in (one for one in calls if _name(one.func) in _DIFFERENTIATING):
                if any(self._of_target(each, scope) == _Kind.SUM for each in _targets(node)):
                    return ast.unparse(self._sums[0])
        passed_on = [self._scopes.get(one) for one in own_steps(self._model) if one.__name__ in INHERITED]
        if any(scope is not None and self._of_returned(scope) == _Kind.SUM for scope in passed_on):
            return ast.unparse(self._sums[0])
        return ""

    def _of_target(self, node: ast.expr, scope: _Scope) -> _Kind:
        if (function := self._scope_of(node, scope)) is not None:
            return self._of_returned(function)
        parts = self._parts(node, scope)
        return self._sum(node, parts, scope) if parts else self._kind(node, scope)

    def _of_returned(self, function: _Scope, place: int = -1) -> _Kind:
        kinds = [self._kind(one, function, place) for one in function.returned]
        return max(kinds, default=_Kind.OTHER)

    def _kind(self, node: ast.expr, scope: _Scope, place: int = -1) -> _Kind:
        """The kind of an expression, or of its element at this place; -1: of the first of a tuple."""
        key = id(node), place
        if key not in self._kinds:
            self._kinds[key] = _Kind.CONSTANT  # while it is found: of a variable that is added to itself
            self._kinds[key] = self._found(node, scope, place)
        return self._kinds[key]

    def _found(self, node: ast.expr, scope: _Scope, place: int) -> _Kind:
        match node:
            case ast.Tuple() | ast.List():
                elements = node.elts[max(place, 0) :]
                found = self._kind(elements[0], scope) if elements else _Kind.OTHER
            case ast.Call() if (callee := self._callee(node, scope)) is not None:
                found = self._of_returned(callee, place)
            case _ if place > 0:
                found = _Kind.OTHER
            case ast.Constant():
                found = _Kind.CONSTANT
            case ast.Name():
                found = self._of_name(node, scope)
            case ast.BinOp(op=ast.Add() | ast.Sub()):
                found = self._sum(node, [node.left, node.right], scope)
            case ast.Call():
                found = self._of_call(node, scope)
            case ast.Attribute(attr="losses") if not self._penalised:
                found = _Kind.CONSTANT
            case ast.Attribute() if node.attr in WAYS:
                found = _Kind.LOSS
            case ast.Attribute():
                found = max(_Kind.OTHER, self._kind(node.value, scope))
            case _:
                parts = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
                found = max((self._kind(part, scope) for part in parts), default=_Kind.OTHER)
        return found

    def _of_name(self, node: ast.Name, scope: _Scope) -> _Kind:
        for place in scope.outward():
            values = place.assigned.get(node.id, [])
            if values or node.id in place.given:
                before = [
                    self._kind(one.value, place, one.place)
                    for one in values
                    if place is not scope or one.since <= (node.lineno, node.col_offset)
                ]
                given = [self._kind(value, where) for value, where in place.given.get(node.id, [])]
                return max([*before, *given], default=_Kind.OTHER)
        return _Kind.OTHER

    def _callee(self, node: ast.Call, scope: _Scope) -> _Scope | None:
        return None if _name(node.func) in WAYS else self._scope_of(node.func, scope)

    def _of_call(self, node: ast.Call, scope: _Scope) -> _Kind:
        name = _name(node.func)
        if name in WAYS or name in INHERITED:
            return _Kind.LOSS
        if name in _WITHOUT_GRADIENT:
            return _Kind.CONSTANT
        parts = [one.value if isinstance(one, ast.Starred) else one for one in node.args]
        base = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        if self._kind(base, scope) >= _Kind.LOSS:
            parts = [base, *parts]
        if name in _SUMMING:
            parts = self._parts(parts[0], scope) or parts[:1] if parts else []
        if name in _ADDING and len(parts) == 1:
            parts = self._parts(parts[0], scope) or parts
        if name in _SUMMING | _ADDING:
            return self._sum(node, parts, scope)
        if name in _CONVERTING and parts:
            return self._kind(parts[0], scope)
        return max([_Kind.OTHER, *(self._kind(part, scope) for part in parts)])

    def _parts(self, node: ast.expr, scope: _Scope) -> list[ast.expr]:
        """What a list, or a dictionary of which the values are taken, holds."""
        match node:
            case ast.List() | ast.Tuple() | ast.Set():
                return node.elts
            case ast.Dict():
                return node.values
            case ast.Call(func=ast.Attribute(attr="values", value=held), args=[]):
                return self._parts(held, scope)
            case ast.Name() if node.id in scope.assigned:
                literal = [
                    part
                    for one in scope.assigned[node.id]
                    if one.place < 0 and isinstance(one.value, ast.List | ast.Tuple | ast.Set | ast.Dict)
                    for part in self._parts(one.value, scope)
                ]
                return [*literal, *scope.inside.get(node.id, [])]
        return []

    def _sum(self, node: ast.expr, parts: Sequence[ast.expr], scope: _Scope) -> _Kind:
        kinds = [self._kind(part, scope) for part in parts]
        losses = kinds.count(_Kind.LOSS)
        if losses > 1 or (losses and _Kind.OTHER in kinds):
            self._sums.append(node)
            return _Kind.SUM
        return max(kinds, default=_Kind.OTHER)


def _name(node: ast.expr) -> str:
    """The last part of what an expression is called by."""
    match node:
        case ast.Attribute():
            return node.attr
        case ast.Name():
            return node.id
    return ""


def _targets(node: ast.Call) -> list[ast.expr]:
    """What a call differentiates."""
    named = [one.value for one in node.keywords if one.arg in _TAKEN_AS]
    own = [node.func.value] if isinstance(node.func, ast.Attribute) and node.func.attr == "backward" else []
    return [*node.args[:1], *named, *own]
