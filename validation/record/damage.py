"""Damage a record at random or on purpose, and see whether it is read wrongly without an error.

Every trial damages a fresh copy of one record and reads all of it. Allowed is an error of this library, or
exactly the numbers, labels and attributes that were written.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from lca import Layout, Record, Step, StepAllocation, open_record
from lca.record import RecordError

LAYOUT = Layout(("a.weight", "a.bias", "b.weight"), ((3, 2), (3,), (1, 3)))
STEPS, BLOCK = 21, 4

Damage = Callable[[Path, random.Random], None]


def make(path: Path) -> None:
    """A complete record with everything a record can hold; files of many blocks and of one."""
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {"settings": {"seed": 0}, "values": "float64", "trace": ["a.weight[1, 0]"]}
    with (
        patch("lca.record._schema.FILE_BYTES", 4 * BLOCK * 8),
        Record(path, LAYOUT, block=BLOCK, **options) as record,
    ):
        for step in range(STEPS):
            values, start = rng.normal(size=(2, LAYOUT.size))
            mass = float(np.abs(values).sum())
            source = Step(start, start + 1.0, step)
            end = 2.0 + values.sum()
            record.update(StepAllocation(values, 2.0, end, 0.0, mass, step, source=source))


def everything(path: Path) -> dict[str, Any]:
    """All that a reader of the record sees."""
    run = open_record(path).load()
    found: dict[str, Any] = {name: run[name].values.tolist() for name in sorted(map(str, run.variables))}
    return {**found, "attributes": dict(run.attrs)}


def _same(a: object, b: object) -> bool:
    """Whether two contents are the same; NaN is the same as NaN."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


# --- at random ---------------------------------------------------------------------------------------------


def flip_bit(path: Path, rng: random.Random) -> None:
    file = rng.choice(_files(path))
    contents = bytearray(file.read_bytes() or b"\0")
    contents[rng.randrange(len(contents))] ^= 1 << rng.randrange(8)
    file.write_bytes(contents)


def cut_short(path: Path, rng: random.Random) -> None:
    file = rng.choice(_files(path))
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size + 1)])


def remove(path: Path, rng: random.Random) -> None:
    rng.choice(_files(path)).unlink()


def overwrite(path: Path, rng: random.Random) -> None:
    file = rng.choice(_files(path))
    contents = bytearray(file.read_bytes())
    at = rng.randrange(len(contents) + 1)
    contents[at : at + 16] = rng.randbytes(16)
    file.write_bytes(contents)


def swap(path: Path, rng: random.Random) -> None:
    a, b = rng.sample(_files(path), 2)
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def copy_over(path: Path, rng: random.Random) -> None:
    a, b = rng.sample(_files(path), 2)
    b.write_bytes(a.read_bytes())


RANDOM: dict[str, Damage] = {
    "flip a bit": flip_bit,
    "cut a file": cut_short,
    "remove a file": remove,
    "overwrite 16 bytes": overwrite,
    "swap two files": swap,
    "copy a file over another": copy_over,
}

# --- on purpose --------------------------------------------------------------------------------------------


def swap_chunks(path: Path, rng: random.Random) -> None:
    """Two files of one variable, of the same form."""
    arrays = [folder for folder in path.iterdir() if (folder / "c").is_dir()]
    several = [files for folder in arrays if len(files := _files(folder / "c")) > 2]
    a, b = rng.sample(rng.choice(several)[:-1], 2)
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def swap_variables(path: Path, rng: random.Random) -> None:
    """The folders of two variables of the same form."""
    a, b = rng.sample([path / name for name in ("loss_start", "loss_end", "total", "mass", "residual")], 2)
    a.rename(path / "other")
    b.rename(a)
    (path / "other").rename(b)


def _edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    held = json.loads(file.read_text())
    change(held)
    file.write_text(json.dumps(held))


def edit_attribute(path: Path, rng: random.Random) -> None:
    changes = [
        ("complete", False), ("settings", {"seed": 1}), ("measured", ["other"]), ("estimator", "other"),
        ("block", 3), ("lca_version", "9"), ("conventions", ""), ("created", "1999-01-01"),
    ]  # fmt: skip
    name, value = rng.choice(changes)
    _edit(path / "zarr.json", lambda held: held["attributes"].update({name: value}))


def remove_attribute(path: Path, rng: random.Random) -> None:
    names = ["layout", "content", "measured", "settings", "block", "estimator", "complete", "schema_version"]
    name = rng.choice(names)
    _edit(path / "zarr.json", lambda held: held["attributes"].pop(name))


def edit_array(path: Path, rng: random.Random) -> None:
    file = path / rng.choice(["total", "values", "tensor_total", "tensor", "step"]) / "zarr.json"
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda held: held.update(fill_value=1),
        lambda held: held.update(dimension_names=list(reversed(held["dimension_names"]))),
        lambda held: held["attributes"].update(units="other"),
        lambda held: held["shape"].__setitem__(0, rng.choice([0, 1, STEPS - 1, 10**9])),
    ]
    _edit(file, rng.choice(changes))


def edit_count(path: Path, rng: random.Random) -> None:
    import zarr  # noqa: PLC0415

    group: Any = zarr.open_group(path, mode="r+")
    group["committed"][()] = rng.choice([-1, 0, 3, STEPS - 1, STEPS + 1, 10**12])


def remove_count(path: Path, rng: random.Random) -> None:
    file = rng.choice(_files(path / "committed"))
    file.unlink()


def cut_manifest(path: Path, rng: random.Random) -> None:
    """Whole lines: the record looks as if fewer rows were ever complete."""
    file = path / "committed" / "manifest"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[: rng.randrange(len(lines))]))


def edit_manifest(path: Path, rng: random.Random) -> None:
    file = path / "committed" / "manifest"
    text = file.read_text()
    file.write_text(text.replace(f'"rows": {STEPS}', f'"rows": {rng.choice([4, 8, STEPS + 3])}'))


def remove_labels(path: Path, rng: random.Random) -> None:
    name = rng.choice(["measured", "tensor", "layer", "neuron", "tensor_size", "traced_name"])
    shutil.rmtree(
        path / name / rng.choice(["c", "."]) if rng.random() < 0.5 else path / name, ignore_errors=True
    )


DIRECTED: dict[str, Damage] = {
    "swap chunks of a variable": swap_chunks,
    "swap two variables": swap_variables,
    "edit an attribute": edit_attribute,
    "remove an attribute": remove_attribute,
    "edit an array's description": edit_array,
    "edit the number of rows": edit_count,
    "remove the number of rows": remove_count,
    "cut the manifest": cut_manifest,
    "edit the manifest": edit_manifest,
    "remove labels": remove_labels,
}


def trial(whole: Path, scratch: Path, damage: Damage, rng: random.Random, truth: dict[str, Any]) -> str:
    """``error``, ``intact``, ``fewer rows`` (which are right), or ``wrong``."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(whole, scratch)
    damage(scratch, rng)
    try:
        found = everything(scratch)
    except RecordError:
        return "error"
    if _same(found, truth):
        return "intact"
    rows = len(found["step"])
    shorter = {
        name: value[:rows] if name == "step" or len(value) == STEPS else value
        for name, value in truth.items()
        if name != "attributes"
    }
    same = all(_same(found[name], value) for name, value in shorter.items())
    incomplete = _same(found["attributes"], {**truth["attributes"], "complete": False})
    return "fewer rows" if same and incomplete else "wrong"


def run(folder: Path, damages: dict[str, Damage], trials: int, seed: int) -> dict[str, Counter[str]]:
    """The outcomes of ``trials`` trials of each kind of damage."""
    make(folder / "whole.zarr")
    truth = everything(folder / "whole.zarr")
    rng = random.Random(seed)
    found: dict[str, Counter[str]] = {}
    for name, damage in damages.items():
        outcomes = [
            trial(folder / "whole.zarr", folder / "copy.zarr", damage, rng, truth) for _ in range(trials)
        ]
        found[name] = Counter(outcomes)
    return found
