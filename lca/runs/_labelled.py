"""The numbers of `Runs` as datasets with labels."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lca._extras import extra
from lca.runs._members import SEED, Condition, Measured
from lca.runs._settings import to_text

if TYPE_CHECKING:
    from xarray import Dataset

    from lca.runs._runs import Runs

UNIT = "units of the loss; negative: helping"


def totals(runs: "Runs", by: str, measured: Measured, ci: float) -> "Dataset":
    """As `Runs.totals`."""
    values = [runs.values(condition, by, measured) for condition in runs.conditions]
    pooled = [runs.pool(c, v, ci=ci) for c, v in zip(runs.conditions, values, strict=True)]
    dims = ("condition", by)
    data = {
        "mean": (dims, np.array([each.mean for each in pooled])),
        "lower": (dims, np.array([each.lower for each in pooled])),
        "upper": (dims, np.array([each.upper for each in pooled])),
        "n": (dims, np.array([np.isfinite(v).sum(axis=0) for v in values])),
    }
    coordinates = {"condition": [c.name for c in runs.conditions], by: list(runs.names(by))}
    return _dataset(
        data,
        {**coordinates, **_defining([dict(c.values) for c in runs.conditions], "condition")},
        {"measured": _name_of(measured), "units": UNIT, "confidence": ci, "cautions": list(runs.cautions)},
    )


def difference(
    runs: "Runs", pair: tuple[Condition, Condition], by: str, measured: Measured, ci: float
) -> "Dataset":
    """As `Runs.difference`."""
    first, second = pair
    values = runs.values(first, by, measured), runs.values(second, by, measured)
    found = runs.compare_values(first, second, values, ci=ci)
    names = ("mean", "lower", "upper", "p_value", "p_adjusted")
    attributes = {
        "difference": f"{second.name} - {first.name}",
        "test": test_name(found.paired),
        "measured": _name_of(measured),
        "units": UNIT,
        "confidence": ci,
        "cautions": list(runs.cautions),
    }
    return _dataset({n: (by, getattr(found, n)) for n in names}, {by: list(runs.names(by))}, attributes)


def series(runs: "Runs", by: str, measured: Measured) -> "Dataset":
    """As `Runs.series`."""
    steps = np.unique(np.concatenate([m.run.steps for m in runs.members]))
    names, shape = runs.names(by), (len(runs.members), len(steps))
    total = np.full((*shape, len(names)), np.nan)
    losses = {name: np.full(shape, np.nan) for name in ("loss_start", "loss_end")}
    for at, member in enumerate(runs.members):
        where = np.searchsorted(steps, member.run.steps)
        total[at, where] = runs.place(member, member.rows(by, measured), by, names)
        for name, found in losses.items():
            found[at, where] = member.per_step(name, measured)
    data = {"total": (("run", "step", by), total), **{k: (("run", "step"), v) for k, v in losses.items()}}
    of_run = [c for c in runs.conditions for _ in c.members]
    values = [
        {SEED: m.settings.get(SEED), **dict(c.values)} for m, c in zip(runs.members, of_run, strict=True)
    ]
    coordinates = {
        "run": [m.label for m in runs.members],
        "step": steps,
        by: list(names),
        "condition": ("run", [c.name for c in of_run]),
        **_defining(values, "run"),
    }
    return _dataset(data, coordinates, {"measured": _name_of(measured), "units": UNIT})


def _name_of(measured: Measured) -> str:
    return measured if isinstance(measured, str) else " - ".join(measured)


def test_name(paired: bool) -> str:  # noqa: FBT001
    """The test that is behind a p-value."""
    return "Student's t-test, paired by seed" if paired else "Welch's t-test"


def _defining(values: list[dict[str, Any]], dim: str) -> dict[str, tuple[str, list[Any]]]:
    """Settings as coordinates: plain numbers and text as they are, anything else as text."""
    names = dict.fromkeys(
        name for found in values for name in found if name not in ("condition", "run", "step")
    )
    columns = {name: [found.get(name) for found in values] for name in names}
    return {
        name: (dim, column if _is_plain(column) else [to_text(value) for value in column])
        for name, column in columns.items()
        if any(value is not None for value in column)
    }


def _is_plain(column: list[Any]) -> bool:
    return all(isinstance(value, int | float) for value in column) or all(
        isinstance(value, str) for value in column
    )


def _dataset(
    data: Mapping[str, Any], coordinates: Mapping[str, Any], attributes: dict[str, Any]
) -> "Dataset":
    with extra("report"):
        import xarray as xr  # noqa: PLC0415 - half a second
    return xr.Dataset(data, coordinates, attributes)
