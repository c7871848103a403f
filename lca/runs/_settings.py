"""The settings of a run as a person writes them: rounded numbers, no empty entries, nothing twice."""

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lca.layout import _in_words

GROUPS = "groups"
"""The setting of a tracker's ``groups=``: the group of each tensor, by division."""
LONGEST = 2000
"""Longer text is shown as it is."""
DEEPEST = 4
_NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+(?:e[+-]?\d+)?(?![\w.])")
_RATE = re.compile(r"\b(?:lr|learning_rate)=(\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?![\w.])")
_SEED = re.compile(r"(, )?\bseed ?= ?\d+")
_CALL = re.compile(r"[A-Za-z_]\w*\(.*\)", re.DOTALL)


def setting_rows(attributes: Mapping[str, Any], steps: int) -> list[tuple[str, str]]:
    """The settings of a record as labels and text, beginning with the estimator.

    A setting that has no value is omitted, and so is one that another already states: ``lr`` beside
    ``Adam(lr=0.002)``, the name ``adam`` beside it, the number of steps, the version of the library.

    >>> settings = {"lr": 0.002, "optimizer": "adam", "optimizer_settings": "Adam(lr=0.002)", "seed": None}
    >>> setting_rows({"estimator": "Adaptive(tol=0.001)", "settings": settings}, steps=10)
    [('estimator', 'Adaptive, tol = 0.001'), ('optimizer', 'Adam, lr = 0.002')]
    """
    settings = {str(key): value for key, value in dict(attributes.get("settings", {})).items()}
    estimator = str(attributes.get("estimator") or "not recorded")
    if tied := _in_words(json.loads(attributes.get("layout", "{}")).get("tied", {})):
        settings["tied tensors"] = tied
    calls = [estimator, *(v for v in settings.values() if isinstance(v, str) and _CALL.fullmatch(v))]
    known = {"steps": steps, "version": attributes.get("lca_version"), "estimator": estimator}
    rows = [("estimator", _estimator_text(estimator, settings.get("estimator")))]
    for key, value in settings.items():
        told = key == "estimator" or (key in known and known[key] == value) or _is_told(key, value, calls)
        text = groups_text(value) if key == GROUPS and is_divisions(value) else to_text(value)
        if text and not told:
            rows.append((_label(key, settings), text))
    return rows


def without_seed(estimator: str) -> str:
    """What two runs have in common whose estimators draw different samples, which differ by chance only.

    >>> without_seed("ControlVariate(probe=SampledPathIntegral(size=8, seed=3), every=10)")
    'ControlVariate(probe=SampledPathIntegral(size=8), every=10)'
    """
    return _SEED.sub("", estimator)


def learning_rate(attributes: Mapping[str, Any]) -> str:
    """The learning rate of a run as text; empty if its settings do not state one, or different ones.

    >>> learning_rate({"settings": {"lr": 0.1}}), learning_rate({"settings": {"optimizer": "SGD(lr=0.5)"}})
    ('0.1', '0.5')
    """
    found: set[str] = set()
    for key, value in dict(attributes.get("settings", {})).items():
        if key in ("lr", "learning_rate") and isinstance(value, float | int) and not isinstance(value, bool):
            found.add(to_text(value))
        elif isinstance(value, str) and _CALL.fullmatch(value):
            found |= {to_text(float(number)) for number in _RATE.findall(value)}
    return found.pop() if len(found) == 1 else ""


def to_text(value: Any, depth: int = 0) -> str:
    """A value as a person writes it; empty for ``None`` and for an empty collection.

    >>> to_text(1 / 6), to_text(None), to_text([1, 2.50]), to_text({"widths": [8, 4], "bias": True})
    ('0.1667', '', '1, 2.5', 'widths 8, 4; bias yes')
    >>> to_text("PathIntegral(rule=QuadratureRule(name='simpson', nodes=(0.0, 0.5)), tol=None)")
    'PathIntegral, rule = simpson'
    """
    if isinstance(value, Mapping | list | tuple):
        return "…" if depth == DEEPEST else _collection_text(value, depth)
    if isinstance(value, str):
        return _call_text(value) if _CALL.fullmatch(value) else _NUMBER.sub(_rounded, value)
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−")
    words = {None: "", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _collection_text(value: Mapping[Any, Any] | Sequence[Any], depth: int) -> str:
    if isinstance(value, Mapping):
        parts = ((str(key).replace("_", " "), to_text(entry, depth + 1)) for key, entry in value.items())
        return "; ".join(f"{key} {text}" for key, text in parts if text)
    return ", ".join(to_text(entry, depth + 1) or "none" for entry in value)


def is_divisions(value: object) -> bool:
    """Whether a setting is that of a tracker's ``groups=``; a user may give another one the same name.

    >>> is_divisions({"kind": {"fc.weight": "weights"}}), is_divisions({"fc.weight": "weights"})
    (True, False)
    """
    return isinstance(value, Mapping) and all(isinstance(each, Mapping) for each in value.values())


def groups_text(divisions: Mapping[str, Mapping[str, Any]]) -> str:
    """The tensors of each group of each division, with their names as they are; three of each group.

    >>> groups_text({"kind": {"fc_1.weight": "weights", "fc_1.bias": "biases", "fc_2.weight": "weights"}})
    'kind: weights (fc_1.weight, fc_2.weight), biases (fc_1.bias)'
    """
    said = []
    for division, tensors in divisions.items():
        groups: dict[str, list[str]] = {}
        for tensor, group in tensors.items():
            groups.setdefault(str(group), []).append(str(tensor))
        parts = (f"{group} ({listed(own, longest=3)})" for group, own in groups.items())
        said.append(f"{division}: " + ", ".join(parts))
    return "; ".join(said)


def listed(names: Sequence[str], longest: int = 6) -> str:
    """Up to six names.

    >>> listed(["a", "b"])
    'a, b'
    """
    more = f" and {len(names) - longest} more" if len(names) > longest else ""
    return ", ".join(names[:longest]) + more


def _estimator_text(estimator: str, name: Any) -> str:
    """The estimator, after the name by which the user asked for it."""
    text = to_text(estimator)
    named = isinstance(name, str) and name and name.casefold() not in text.casefold()
    return f"{name}: {text}" if named else text


def _is_told(key: str, value: Any, calls: list[str]) -> bool:
    """Whether one of ``calls`` is a call of ``value``, or has the argument ``key`` with this value."""
    if isinstance(value, str):
        return any(call.partition("(")[0].casefold() == value.casefold() for call in calls)
    if isinstance(value, bool | int | float):
        argument = re.compile(rf"\b{re.escape(key)}={re.escape(repr(value))}(?![\w.])")
        return any(argument.search(call) for call in calls)
    return False


def _label(key: str, settings: Mapping[str, Any]) -> str:
    """``optimizer`` for ``optimizer_settings``, where the former only has its name."""
    base = key.removesuffix("_settings")
    return (base if base in settings else key).replace("_", " ")


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.4g}" if len(number[0]) > len("0.12345") else number[0]


def _call_text(call: str) -> str:
    """A call as words, such as a repr; in other text, numbers are only rounded."""
    try:
        tree = ast.parse(call, mode="eval") if len(call) <= LONGEST else None
        if tree is not None and isinstance(tree.body, ast.Call):
            return ", ".join(_parts(tree.body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    return _NUMBER.sub(_rounded, call)


def _parts(call: ast.Call) -> Iterator[str]:
    yield ast.unparse(call.func)
    yield from (_node_text(argument) or "none" for argument in call.args)
    for keyword in call.keywords:
        text = _node_text(keyword.value)
        if text:
            yield f"{keyword.arg} = {text}"


def _node_text(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        names = [k.value for k in node.keywords if k.arg == "name"]
        if names and isinstance(names[0], ast.Constant):
            return str(names[0].value)
        first, *others = _parts(node)
        return f"{first} ({', '.join(others)})" if others else first
    try:
        return to_text(ast.literal_eval(node))
    except (ValueError, TypeError):
        return _NUMBER.sub(_rounded, ast.unparse(node))
