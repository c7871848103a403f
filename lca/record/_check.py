"""Finds which variables and rows of a damaged record are intact, and saves these in a new record."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from lca._output import move_into, scratch_folder
from lca.by_example._history import RECORDED_LABEL
from lca.record._manifest import Manifest
from lca.record._ownership import LABELS
from lca.record._reading import open_group
from lca.record._schema import COMMITTED, RecordError


@dataclass
class VariableCheck:
    """What was found about one variable.

    Attributes
    ----------
    name
        The variable; empty: the description of the record itself.
    has_rows
        Whether it has one row per step; the others are labels.
    damage
        What is wrong, one line for each file; empty if the variable is whole.
    lost
        The rows in damaged files, as pairs of the first row and the end.
    """

    name: str
    has_rows: bool
    damage: list[str] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class RecordCheck:
    """The state of a record.

    Attributes
    ----------
    path
        The record.
    rows
        The number of rows that were complete when they were written.
    complete
        Whether the run reached its end.
    variables
        All variables, in the order of their names.
    """

    path: Path
    rows: int
    complete: bool
    variables: list[VariableCheck]

    @property
    def whole(self) -> bool:
        """Whether everything is as it was written."""
        return not any(variable.damage for variable in self.variables)

    @property
    def whole_rows(self) -> int:
        """The number of rows before the first damaged one of any variable; 0 if labels are damaged."""
        if any(variable.damage and not variable.lost for variable in self.variables):
            return 0
        return min((first for each in self.variables for first, _ in each.lost), default=self.rows)


def check_record(path: Path) -> RecordCheck:
    """Read every file of a record and compare it with its digest.

    Parameters
    ----------
    path
        The record; nothing is changed in it.

    Raises
    ------
    RecordError
        If there is no record, it was written by lca 0.1.0 (without digests), or its manifest is damaged.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from lca import Layout, Record, StepAllocation
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Record(f"{folder}/run.zarr", Layout(("w",), ((2,),))) as record:
    ...         record.update(StepAllocation(np.array([-1.0, 0.5]), 2.0, 1.5, residual=0.0, mass=1.5))
    ...     found = check_record(Path(folder, "run.zarr"))
    >>> found.rows, found.whole
    (1, True)
    """
    if not path.exists():
        raise RecordError(f"there is no record {str(path)!r}.")
    manifest = _manifest(path)
    checks: dict[str, VariableCheck] = {}
    for name in sorted(manifest.descriptions):
        variable = name.rpartition("/")[0]
        is_label = variable in (*LABELS, COMMITTED, "") or variable.startswith(RECORDED_LABEL.format(""))
        checks[variable] = VariableCheck(variable, not is_label)
        contents = _read(path / name)
        if contents is None or not manifest.describes(name, contents):
            checks[variable].damage.append(_what(path, name))
    for name in sorted(manifest.files):
        check = checks[name.partition("/")[0]]
        first, end = _rows_of(path, name) if check.has_rows and not check.damage else (0, manifest.rows)
        contents = _read(path / name)
        if first < manifest.rows and (contents is None or not manifest.knows(path, name, contents)):
            check.damage.append(_what(path, name))
            if check.has_rows:
                check.lost.append((first, min(end, manifest.rows)))
    found = sorted(checks.values(), key=lambda check: check.name)
    return RecordCheck(path, manifest.rows, manifest.outcome["complete"], found)


def save_rows(found: RecordCheck, target: Path) -> None:
    """Write a new record of the first rows of a damaged one, which are whole in all variables.

    Parameters
    ----------
    found
        What `check_record` found.
    target
        The new record, where nothing exists yet. ``lca.Record(target, mode="a")`` continues it.

    Raises
    ------
    RecordError
        If not one row is whole, or something exists at ``target``.
    """
    if not found.whole_rows:
        raise RecordError(f"no row of the record {str(found.path)!r} is complete in all variables.")
    if target.exists():
        raise RecordError(f"{str(target)!r} exists already; choose another path for the rows.")
    with scratch_folder(target.parent) as scratch:
        copy = scratch / target.name
        shutil.copytree(found.path, copy)
        Manifest.read(copy).shortened(found.whole_rows).write(copy)
        description = json.loads((copy / "zarr.json").read_bytes())
        description["attributes"]["complete"] = False
        (copy / "zarr.json").write_text(json.dumps(description, indent=2))
        move_into(target.parent, scratch)


def _manifest(path: Path) -> Manifest:
    try:
        return Manifest.read(path)
    except RecordError:
        open_group(path)  # raises if this is not a record, or too new
        attributes = json.loads((path / "zarr.json").read_bytes())["attributes"]
        if attributes.get("schema_version") == 1:
            raise RecordError(
                f"the record {str(path)!r} was written by lca 0.1.0, which kept no digests, so it cannot "
                "be checked; lca.open_record finds missing files and damaged values."
            ) from None
        raise


def _rows_of(path: Path, name: str) -> tuple[int, int]:
    """The first row in a file of a variable, and the end."""
    variable, _, place = name.partition("/c/")
    array = json.loads((path / variable / "zarr.json").read_bytes())
    length = array["chunk_grid"]["configuration"]["chunk_shape"][0]
    at = int(place.partition("/")[0])
    return at * length, (at + 1) * length


def _read(file: Path) -> bytes | None:
    """The contents of a file; ``None`` if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError:
        return None


def _what(path: Path, name: str) -> str:
    return f"{name} is {'not as it was written' if (path / name).is_file() else 'missing'}"
