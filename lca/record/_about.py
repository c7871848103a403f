"""The attributes of a record, and the plan that is read back from them."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from lca.allocation import Estimator
from lca.layout import Layout
from lca.record._citation import citations_of
from lca.record._damage import damage_explained
from lca.record._schema import CONVENTIONS, FORMAT, SCHEMA_VERSION, Content, Plan, RecordError

Mode = Literal["x", "w", "a"]
Dtype = Literal["float32", "float64"]


def attributes(plan: Plan, estimator: Estimator | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a new record.

    Parameters
    ----------
    plan
        The arrays of the record.
    estimator, settings
        As for `lca.Record`.

    Raises
    ------
    RecordError
        If the settings do not fit in JSON.
    """
    layout = plan.layout
    tensors = {"names": layout.names, "shapes": layout.shapes, "neuron_axes": layout.neuron_axes}
    try:
        json.dumps(settings, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecordError(
            f"the settings do not fit in JSON ({error}); pass numbers, strings, lists and dictionaries."
        ) from error
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "lca_version": version("loss-change-allocation"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "conventions": CONVENTIONS,
        "estimator": "" if estimator is None else repr(estimator),
        "citations": list(citations_of(estimator)),
        "settings": dict(settings),
        "layout": json.dumps(tensors),
        "content": json.dumps(asdict(plan.content)),
        "measured": list(plan.measured),
        "block": plan.block,
        "complete": False,
        "final_losses": {},
    }


def plan_of(path: Path, about: Mapping[str, Any]) -> Plan:
    """The plan of the record at ``path``, from its attributes ``about``."""
    with damage_explained(path, "the description in its zarr.json"):
        layout, content = json.loads(about["layout"]), json.loads(about["content"])
        content["traced"] = tuple(content["traced"])
        return Plan(
            Layout(layout["names"], layout["shapes"], layout["neuron_axes"]),
            tuple(about["measured"]),
            Content(**content),
            about["block"],
        )
