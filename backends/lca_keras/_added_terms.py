"""Whether a ``train_step`` of the user's adds something to the compiled loss, as far as its source tells."""

import ast
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from inspect import getsource, signature
from tokenize import TokenError
from types import FunctionType
from typing import Any, TypeAlias

import keras

from lca.frameworks._code import names_in
from lca_keras._train_step import INHERITED, WAYS, called, inherited, own_steps, takes_compiled_loss

_DIFFERENTIATING = frozenset(
    {"backward", "compute_gradients", "grad", "gradient", "gradients", "minimize", "value_and_grad", "vjp"}
)
_ADDING = frozenset({"accumulate_n", "add", "add_n", "fsum", "reduce_sum", "subtract", "sum"})
_AVERAGING = frozenset({"concat", "concatenate", "mean", "reduce_mean", "stack"})
_PASSING = frozenset({"cast", "convert_to_tensor", "multiply", "scale_loss"})
"""Functions of a loss whose result counts as that loss."""
_WITHOUT_GRADIENT = frozenset({"constant", "detach", "float", "item", "numpy", "stop_gradient", "zeros"})
_PARAMETERS = "sources", "inputs", "var_list", "variables", "xs"
"""Names of arguments by which a loss is differentiated."""
_TARGETS = "target", "outputs", "loss", "tensors", "ys", "fun"
"""Names of arguments that are differentiated."""
Given: TypeAlias = frozenset[tuple[str, ast.expr | None]]
"""Parameters that hold the compiled loss, or a sum of it and more."""


def added_to_compiled_loss(model: keras.Model) -> str:
    """A sum of the compiled loss and more that the user's ``train_step`` trains; "" if none is found.

    Read from the source of the step and of the functions that it calls, each by itself, in the order of its
    statements. Nothing is found where there is no source.
    """
    steps = own_steps(model)
    waiting: list[tuple[FunctionType, Given]] = [(step, frozenset()) for step in steps]
    seen = set[tuple[FunctionType, frozenset[tuple[str, bool]]]]()
    while waiting:
        function, given = waiting.pop(0)
        key = function, frozenset((name, added is None) for name, added in given)
        if key in seen:
            continue
        seen.add(key)
        returns = function not in steps or function.__name__ in INHERITED
        reader = _Reader(model, function, given, returns=returns)
        with suppress(OSError, TypeError, SyntaxError, TokenError):
            reader.visit(ast.parse(textwrap.dedent(getsource(function))))
        if reader.trained is not None:
            return ast.unparse(reader.trained)
        waiting += reader.calls
    return ""


class _Reader(ast.NodeVisitor):
    """Follows the compiled loss through the statements of a function.

    Parameters
    ----------
    model, function
        The model, and one of the functions of its step.
    given
        What its parameters hold.
    returns
        Whether what the function returns is trained.
    """

    def __init__(self, model: keras.Model, function: FunctionType, given: Given, *, returns: bool) -> None:
        self._model, self._function, self._returns = model, function, returns
        self._depth = 0
        self._penalised = "compute_loss" in names_in(function.__code__)  # which has the penalties in it
        self._losses, self._constants = {name for name, added in given if added is None}, set[str]()
        self._sums = {name: added for name, added in given if added is not None}
        self._parts: dict[str, list[ast.expr]] = {}  # of lists and dictionaries
        self._computed: dict[str, tuple[ast.expr | None, bool]] = {}  # and whether of the compiled loss
        self._differentiated: list[tuple[str, bool]] = []
        self.trained: ast.expr | None = None
        self.calls: list[tuple[FunctionType, Given]] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        self._computed[node.name] = None, self._is_of_loss(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
                self._parts.setdefault(target.value.id, []).append(node.value)
            names = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
            of_loss = self._is_of_loss(node.value)
            self._computed |= {name.id: (node.value, of_loss) for name in names if isinstance(name, ast.Name)}
            first = names[0] if names else target
            if isinstance(first, ast.Name):
                self._assign(first.id, node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.generic_visit(node)
        if isinstance(node.target, ast.Name):
            before = ast.Name(node.target.id, ast.Load())
            self._assign(node.target.id, ast.BinOp(before, node.op, node.value))

    def visit_For(self, node: ast.For) -> None:
        self._loop(node)
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp | ast.GeneratorExp) -> None:
        for one in node.generators:
            self._loop(one)
        self.generic_visit(node)

    visit_GeneratorExp = visit_ListComp  # noqa: N815

    def _loop(self, node: ast.For | ast.comprehension) -> None:
        """In a loop over losses, each of them is what the name stands for."""
        if isinstance(node.target, ast.Name) and (parts := self._elements(node.iter)):
            self._parts[node.target.id] = parts

    def visit_Return(self, node: ast.Return) -> None:
        self.generic_visit(node)
        if node.value is not None and (self._returns or self._depth > 1):
            self._train(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        name = _name(node.func)
        base = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        if name == "append" and base and isinstance(base[0], ast.Name):
            self._parts.setdefault(base[0].id, []).extend(node.args)
        if name in _DIFFERENTIATING:
            for value in (*node.args, *(one.value for one in node.keywords), *base):
                self._train(value)
                self._train_all(value)
            self._train_beside(node)
        elif name not in WAYS and (found := called(self._model, self._function, name)) is not None:
            found = inherited(self._model, found) if found is self._function else found
            if found is not None:
                self.calls.append((found, self._given(found, node)))

    def _given(self, function: FunctionType, node: ast.Call) -> Given:
        """What the parameters of a function hold in this call."""
        names = [name for name in signature(function).parameters if name != "self"]
        pairs = [*zip(names, node.args, strict=False), *((one.arg, one.value) for one in node.keywords)]
        found = [(name, self._sum_of(value), self._is_loss(value)) for name, value in pairs if name]
        return frozenset((name, added) for name, added, is_loss in found if is_loss or added is not None)

    def _assign(self, name: str, value: ast.expr) -> None:
        is_loss, found, constant = self._is_loss(value), self._sum_of(value), self._is_constant(value)
        parts = self._elements(value)
        for known in (self._losses, self._constants):
            known.discard(name)
        self._sums.pop(name, None)
        self._parts.pop(name, None)
        self._losses |= {name} if is_loss else set()
        self._constants |= {name} if constant else set()
        if found is not None:
            self._sums[name] = found
        if parts:
            self._parts[name] = list(parts)

    def _train(self, value: ast.expr) -> None:
        first = value.elts[0] if isinstance(value, ast.Tuple | ast.List) and value.elts else value
        self.trained = self.trained or self._sum_of(first)

    def _train_all(self, value: ast.expr) -> None:
        """Look at a list or dictionary that is differentiated, which adds up the gradients of its entries."""
        parts = self._elements(value)
        if any(map(self._is_loss, parts)) and not self._are_losses(parts):
            self.trained = self.trained or value

    def _train_beside(self, node: ast.Call) -> None:
        """Look whether the compiled loss and another one are differentiated by the same parameters."""
        base = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        named = {one.arg: one.value for one in node.keywords}
        targets = [*node.args[:1], *(named[name] for name in _TARGETS if name in named), *base]
        if not targets:
            return
        target = targets[0]
        by = next(iter([*node.args[1:2], *(named[name] for name in _PARAMETERS if name in named)]), None)
        if isinstance(by, ast.Name):
            by = self._computed.get(by.id, (by, False))[0] or by
        text = "" if by is None or _name(node.func) == "backward" else ast.unparse(by)
        key = "" if "self.trainable_" in text else text
        of_loss = self._is_of_loss(target)
        if not of_loss and (self._is_constant(target) or not self._is_computed(target)):
            return
        if (key, not of_loss) in self._differentiated:
            self.trained = self.trained or node
        self._differentiated.append((key, of_loss))

    def _is_of_loss(self, node: ast.AST) -> bool:
        """Whether an expression or function takes the compiled loss."""
        for one in ast.walk(node):
            name = _name(one)
            if name in WAYS | INHERITED or name in self._losses or name in self._sums:
                return True
            if isinstance(one, ast.Name) and name in self._computed:
                if self._computed[name][1]:
                    return True
            else:
                found = called(self._model, self._function, name)
                if found is not None and takes_compiled_loss(self._model, found):
                    return True
        return False

    def _is_computed(self, node: ast.expr) -> bool:
        """Whether an expression is made of what this function computes, and not of its parameters alone."""
        return not isinstance(node, ast.Name) or node.id in self._computed

    def _is_loss(self, node: ast.expr) -> bool:
        """Whether an expression is the compiled loss, its sum over batches, or a multiple."""
        found = False
        match node:
            case ast.Name():
                found = node.id in self._losses
            case ast.Call() if _name(node.func) in WAYS | INHERITED:
                found = True
            case ast.Call():
                summed = self._summed(node)
                passed = node.args if _name(node.func) in _PASSING else ()
                found = any(map(self._is_loss, passed)) or (bool(summed) and self._are_losses(summed))
            case ast.BinOp(op=ast.Add() | ast.Sub()):
                found = self._are_losses([node.left, node.right])
            case ast.BinOp():
                found = self._is_loss(node.left) or self._is_loss(node.right)
            case ast.UnaryOp():
                found = self._is_loss(node.operand)
        return found

    def _are_losses(self, parts: Sequence[ast.expr]) -> bool:
        """Whether these add up to the compiled loss: one is, and the others have no gradient."""
        found = [part for part in parts if not self._is_constant(part)]
        return len(found) == 1 and self._is_loss(found[0])

    def _sum_of(self, node: ast.expr) -> ast.expr | None:
        """The sum of the compiled loss and more that an expression is, or is a multiple of."""
        adds, parts = False, list[ast.expr]()
        match node:
            case ast.Name():
                return self._sums.get(node.id)
            case ast.BinOp():
                adds, parts = isinstance(node.op, ast.Add | ast.Sub), [node.left, node.right]
            case ast.Call() if _name(node.func) in _PASSING:
                parts = node.args
            case ast.Call():
                adds, parts = True, self._summed(node)
        if adds and any(map(self._is_loss, parts)) and not self._are_losses(parts):
            return node
        found = (self._sum_of(part) for part in parts)
        return next((one for one in found if one is not None), None)

    def _summed(self, node: ast.Call) -> list[ast.expr]:
        """What a call adds up or averages; empty if it does not."""
        name, arguments = _name(node.func), list(node.args)
        if name not in _ADDING | _AVERAGING or not arguments:
            return []
        if isinstance(arguments[0], ast.GeneratorExp | ast.ListComp):
            return [arguments[0].elt]
        if isinstance(arguments[0], ast.Call) and _name(arguments[0].func) in _AVERAGING:
            return self._summed(arguments[0])
        return self._elements(arguments[0]) or (arguments if name in _ADDING else arguments[:1])

    def _elements(self, node: ast.expr) -> list[ast.expr]:
        """What a list holds, or a dictionary of which the values are taken."""
        match node:
            case ast.List() | ast.Tuple() | ast.Set():
                return node.elts
            case ast.Dict():
                return node.values
            case ast.Name():
                return self._parts.get(node.id, [])
            case ast.BinOp(op=ast.Add()):
                return [*self._elements(node.left), *self._elements(node.right)]
            case ast.Call(func=ast.Attribute(attr="values", value=held), args=[]):
                return self._elements(held)
        return []

    def _is_constant(self, node: ast.expr) -> bool:
        """Whether an expression has no gradient; penalties of the model count so where they are missing."""
        if isinstance(node, ast.Call) and _name(node.func) in _WITHOUT_GRADIENT:
            return True
        if not self._penalised and any(_name(one) == "losses" for one in ast.walk(node)):
            return True
        return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id in self._constants)


def _name(node: Any) -> str:
    """The last part of what an expression is called by."""
    match node:
        case ast.Attribute():
            return node.attr
        case ast.Name():
            return node.id
    return ""
