"""The attributes of a record, and the plan that is read back from them."""

import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from lca.allocation import Estimator
from lca.layout import _layout_from
from lca.record._citation import citations_of
from lca.record._damage import damage_explained
from lca.record._schema import (
    CONVENTIONS,
    FORMAT,
    LARGEST_BLOCK,
    SCHEMA_VERSION,
    UNFINISHED,
    Content,
    Plan,
    RecordError,
)

Mode = Literal["x", "w", "a"]
Dtype = Literal["float32", "float64"]


def attributes(
    plan: Plan, estimator: Estimator | None, settings: Mapping[str, Any], training: Mapping[str, Any]
) -> dict[str, Any]:
    """The attributes of a new record.

    Parameters
    ----------
    plan
        The arrays of the record.
    estimator, settings, training
        As for `lca.Record.begin`.

    Raises
    ------
    RecordError
        If a name cannot be stored as text.
    """
    layout = plan.layout
    tensors = {
        "names": layout.names,
        "shapes": layout.shapes,
        "neuron_axes": layout.neuron_axes,
        **({"tied": layout.tied} if layout.tied else {}),
    }
    for name in (*layout.names, *chain.from_iterable(layout.tied.values()), *plan.measured):
        if not name.isascii():
            _check_text(name)
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "lca_version": version("loss-change-allocation"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "conventions": CONVENTIONS,
        **named(estimator),
        "settings": dict(settings),
        "training": {"versions": versions(), **training},
        "layout": json.dumps(tensors),
        "content": json.dumps(asdict(plan.content)),
        "measured": list(plan.measured),
        "block": plan.block,
        **UNFINISHED,
    }


def named(estimator: Estimator | None) -> dict[str, Any]:
    """The attributes that name the estimator.

    >>> named(None)["estimator"]
    ''
    """
    return {
        "estimator": "" if estimator is None else repr(estimator),
        "citations": list(citations_of(estimator)),
    }


def versions() -> dict[str, str]:
    """The versions of Python, and of the packages that compute and are imported.

    >>> {"numpy", "python"} <= set(versions())
    True
    """
    imported = (name for name in _PACKAGES if name in sys.modules)
    found = {name: getattr(sys.modules[name], "__version__", None) for name in imported}
    return {"python": platform.python_version()} | {
        name: v for name, v in found.items() if isinstance(v, str)
    }


_PACKAGES = (
    "numpy",
    "torch",
    "lightning",
    "pytorch_lightning",
    "transformers",
    "accelerate",
    "tensorflow",
    "keras",
    "jax",
)


def _check_text(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            f"the name {name!r} contains characters that cannot be encoded; rename it."
        ) from error


def plan_of(path: Path, about: Mapping[str, Any]) -> Plan:
    """The plan of the record at ``path``, from its attributes ``about``."""
    with damage_explained(path, "the description in its zarr.json"):
        check_types(about)
        layout, content = json.loads(about["layout"]), json.loads(about["content"])
        return Plan(
            _layout_from(layout),
            tuple(about["measured"]),
            Content.from_json(content),
            about["block"],
        )


def check_types(about: Mapping[str, Any]) -> None:
    """Raise `RecordError` unless the attributes that are used have the types with which they are written.

    >>> check_types({"settings": None})
    Traceback (most recent call last):
    lca.record._schema.RecordError: the attribute 'settings' of the record must be a dictionary, got None.
    """
    for name, (what, fits) in _TYPES.items():
        if name in about and not fits(about[name]):
            found = repr(about[name])
            found = found if len(found) <= 60 else f"{found[:57]}..."
            raise RecordError(f"the attribute {name!r} of the record must be {what}, got {found}.")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(entry, str) for entry in value)


def _differ(value: Sequence[str]) -> bool:
    return len(set(value)) == len(value) > 0


def _is_block(value: object) -> bool:
    return type(value) is int and 1 <= value <= LARGEST_BLOCK


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_TYPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "settings": ("a dictionary", lambda value: isinstance(value, Mapping)),
    "training": ("a dictionary", lambda value: isinstance(value, Mapping)),
    "citations": ("a list of strings", _are_texts),
    "final_checks": ("a dictionary", lambda value: isinstance(value, Mapping)),
    "metrics": ("a dictionary", lambda value: isinstance(value, Mapping)),
    "measured": ("a list of different strings", lambda value: _are_texts(value) and _differ(value)),
    "block": (f"a whole number from 1 to {LARGEST_BLOCK}", _is_block),
    "layout": ("JSON text", _is_text),
    "content": ("JSON text", _is_text),
}
