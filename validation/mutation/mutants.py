"""The mutants of a file: every small change that cosmic-ray knows and that makes sense."""

import ast
import os
import random
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec

# Bit operators (on floats, or the | of annotations) and identity of numbers only raise; without @dataclass or
# @property nothing runs; arithmetic is replaced by + - * / only, as the tests that see // % ** are the same.
SENSELESS = re.compile(
    r".*(Bit|Shift|Invert|RemoveDecorator|(Lt|LtE|Gt|GtE|Eq|NotEq)_Is|IsNot_(?!Is)|_(Mod|Pow|FloorDiv)$)"
)


@dataclass(frozen=True, order=True)
class Mutant:
    """The ``occurrence``-th place where an operator of cosmic-ray applies to a file."""

    file: str
    operator: str
    occurrence: int
    line: int

    def source(self, original: str) -> str | None:
        """The source with the change; ``None`` for the bare ``*`` among parameters, which is no product."""
        changed = mutate_code(original, get_operator(f"core/{self.operator}")(), self.occurrence)
        if changed.count("*,") != original.count("*,"):
            return None
        try:
            compile(changed, self.file, "exec")
        except SyntaxError:
            return None
        return changed


def sensible(file: str, *, numbers: bool = True) -> list[Mutant]:
    """Every mutant of a file that makes sense, in a fixed order; with or without those of numbers."""
    with tempfile.TemporaryDirectory() as folder, use_db(f"{folder}/db", WorkDB.Mode.create) as db:
        init([Path(file)], db, {})
        found = [spec for item in db.work_items for spec in item.mutations]
    mutants = sorted(_mutant(spec) for spec in found if not SENSELESS.match(spec.operator_name))
    return [mutant for mutant in mutants if numbers or mutant.operator != "NumberReplacer"]


def sample(mutants: list[Mutant], n: int, seed: str) -> list[Mutant]:
    """As many mutants of a file, or all if there are fewer; those without a source are drawn again."""
    shuffled = random.Random(seed).sample(mutants, len(mutants))
    return list(islice((m for m in shuffled if m.source(Path(m.file).read_text()) is not None), n))


def _mutant(spec: MutationSpec) -> Mutant:
    operator = spec.operator_name.removeprefix("core/")
    return Mutant(str(spec.module_path), operator, spec.occurrence, spec.start_pos[0])


@contextmanager
def applied(mutant: Mutant) -> Iterator[str]:
    """The file with the change, until the end of the block; gives the lines that changed."""
    path = Path(mutant.file)
    original, times = path.read_text(), path.stat()
    changed = mutant.source(original)
    path.write_text(changed)
    try:
        yield _difference(original, changed)
    finally:
        path.write_text(original)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # so that its bytecode is still valid


def _difference(original: str, changed: str) -> str:
    """The lines of two sources of the same length that differ, without their indents."""
    pairs = zip(original.splitlines(), changed.splitlines(), strict=True)
    lines = [(" ".join(a.split()), " ".join(b.split())) for a, b in pairs if a != b]
    return "  ".join([*(f"- {a}" for a, _ in lines), *(f"+ {b}" for _, b in lines)])


def statement(mutant: Mutant) -> range:
    """The lines of the innermost statement around a mutant; of a compound one, those of its head."""
    spans = [range(0)]
    for node in ast.walk(ast.parse(Path(mutant.file).read_text())):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno
            spans.append(range(node.lineno, max(end, node.lineno) + 1))
    return min((s for s in spans if mutant.line in s), key=len, default=range(mutant.line, mutant.line + 1))
