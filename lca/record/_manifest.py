"""The manifest of a record: how many rows are complete, and a digest of every file they are in.

A text file to which the writer appends; every line ends the work that it describes, and begins with its own
checksum. Readers go by the last valid line, so they see only whole rows, whatever happened to the writer, and
they notice a file that was changed, lost, or put in another's place.
"""

import json
import os
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lca._extras import extra
from lca.record._schema import COMMITTED, UNFINISHED, RecordError

with extra("report"):
    import google_crc32c

MANIFEST = f"{COMMITTED}/manifest"
"""Its place in a record: inside the folder of an array, where readers of Zarr do not look for arrays."""
_ENDS = 4096


class Digest(NamedTuple):
    """What identifies the contents of a file: its size, the checksum of all bytes, and that of both ends.

    The ends are for files of which only a part is read.

    >>> Digest.of(b"abc").size
    3
    """

    size: int
    whole: int
    ends: int

    @classmethod
    def of(cls, contents: bytes) -> "Digest":
        ends = _checksum_of_ends(contents[:_ENDS], contents[-_ENDS:])
        return cls(len(contents), google_crc32c.value(contents), ends)

    def fits(self, file: Path) -> bool:
        """Whether a file has this size and these ends."""
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            head = opened.read(_ENDS)
            opened.seek(max(0, size - _ENDS))
            return (size, _checksum_of_ends(head, opened.read())) == (self.size, self.ends)


def _checksum_of_ends(head: bytes, tail: bytes) -> int:
    return int(google_crc32c.extend(google_crc32c.value(head), tail))


@dataclass
class Manifest:
    """The contents of a manifest.

    Attributes
    ----------
    generation
        Changes when rows are taken away, so that an open reader notices.
    rows
        Number of complete rows.
    outcome
        The attributes that say how the run ended (`UNFINISHED`).
    files
        The digest of every file with labels or complete rows, by its place in the record.
    descriptions
        The digest of every `zarr.json`, without what changes while rows are added.
    rewriting
        Files that were about to be replaced when the writer was killed, so that they may be newer than their
        digest.
    counts
        The last two numbers of complete rows: the array `committed` is written after the manifest.
    """

    generation: str = field(default_factory=lambda: uuid.uuid4().hex)
    rows: int = 0
    outcome: Mapping[str, Any] = field(default_factory=lambda: UNFINISHED)
    files: dict[str, Digest] = field(default_factory=dict)
    descriptions: dict[str, int] = field(default_factory=dict)
    rewriting: set[str] = field(default_factory=set)
    counts: tuple[int, ...] = (0,)

    @classmethod
    def read(cls, record: Path) -> "Manifest":
        """The manifest of a record.

        Raises
        ------
        RecordError
            If it is missing or damaged.
        """
        try:
            lines = (record / MANIFEST).read_bytes().split(b"\n")
        except OSError as error:
            raise RecordError(
                f"the record {str(record)!r} is damaged: {MANIFEST!r} cannot be read "
                f"({error.strerror or error}). Was it copied in part?"
            ) from error
        found = cls()
        unfinished = lines.pop()  # empty, or a line whose writer was killed
        for number, line in enumerate(lines, 1):
            entry = _entry(line)
            if entry is None:
                raise _damaged(record, f"line {number} does not match its checksum")
            found.apply(entry)
        if not lines or not found.descriptions:
            raise _damaged(record, f"it ends after {len(unfinished)} bytes")
        return found

    def apply(self, entry: Mapping[str, Any]) -> None:
        """Take in one line."""
        self.generation = entry.get("generation", self.generation)
        self.descriptions |= entry.get("descriptions", {})
        self.outcome = entry.get("outcome", UNFINISHED)
        files = {name: Digest(*digest) for name, digest in entry.get("files", {}).items()}
        self.files |= files
        self.rewriting = (self.rewriting - files.keys()).union(entry.get("rewriting", ()))
        if "rows" in entry:
            self.rows = entry["rows"]
            self.counts = (*self.counts[-1:], self.rows)

    def shortened(self, length: int) -> "Manifest":
        """The manifest of the record without the rows from ``length`` on."""
        shorter = Manifest(files=self.files, descriptions=self.descriptions, rewriting=self.rewriting)
        shorter.apply({"rows": self.rows})
        shorter.apply({"rows": length})
        return shorter

    def write(self, record: Path) -> None:
        """Write the whole manifest anew, either completely or not at all."""
        file = record / MANIFEST
        staged = file.with_name("manifest.partial")
        first = {
            "generation": self.generation,
            "descriptions": self.descriptions,
            "files": self.files,
            "rewriting": list(self.rewriting),
            "rows": self.counts[0],
        }
        staged.write_bytes(_line(first) + _line({"rows": self.rows, "outcome": self.outcome}))
        staged.replace(file)

    def append(self, record: Path, **entry: Any) -> None:
        """Append a line and take it in."""
        with (record / MANIFEST).open("ab") as file:
            file.write(_line(entry))
        self.apply(entry)

    def check(self, record: Path, name: str, contents: bytes) -> None:
        """Raise `RecordError` unless a file has the contents that were written."""
        if name not in self.rewriting and self.files.get(name) != Digest.of(contents):
            raise _changed(record, name)

    def check_part(self, record: Path, name: str) -> None:
        """Like `check` for a file of which only a part is read: its size and its ends."""
        if name not in self.rewriting and not (name in self.files and self.files[name].fits(record / name)):
            raise _changed(record, name)

    def check_descriptions(self, record: Path, names: Collection[str]) -> None:
        """Raise `RecordError` unless these `zarr.json` describe the arrays as they were made."""
        for name in names:
            try:
                contents = (record / name).read_bytes()
            except OSError as error:
                raise _damaged(record, f"{name!r} cannot be read ({error.strerror})") from error
            if describe(contents) != self.descriptions.get(name):
                raise _changed(record, name)


def describe(contents: bytes) -> int:
    """The digest of a `zarr.json`, without the number of rows and how the run ended; -1: no JSON.

    >>> describe(b'{"shape": [3, 2]}') == describe(b'{"shape": [4, 2]}') != describe(b'{"shape": [3, 1]}')
    True
    """
    try:
        found = json.loads(contents)
        for name in UNFINISHED:
            found.get("attributes", {}).pop(name, None)
        found["shape"] = [0, *found.get("shape", ())[1:]]
    except (ValueError, AttributeError, TypeError, RecursionError):
        return -1
    return int(google_crc32c.value(json.dumps(found, sort_keys=True).encode()))


def files_of(array: Any, rows: slice) -> Iterable[str]:
    """The places of the files of an array that hold some rows; ``rows.start`` begins a file."""
    import numpy as np  # noqa: PLC0415

    sizes = array.shards or array.chunks
    lengths = (rows.stop - rows.start, *array.shape[1:])
    first = rows.start // sizes[0]
    for at in np.ndindex(*(-(-length // size) for length, size in zip(lengths, sizes, strict=True))):
        yield "/".join([array.basename, "c", str(at[0] + first), *map(str, at[1:])])


def _line(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(entry).encode()
    return b"%08x %s\n" % (google_crc32c.value(text), text)


def _entry(line: bytes) -> dict[str, Any] | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % google_crc32c.value(text):
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


def _changed(record: Path, name: str) -> RecordError:
    return RecordError(
        f"the record {str(record)!r} is damaged: {name!r} is not as it was written. If it was copied in part "
        "or while it was written, copy it again; the other variables can still be read."
    )


def _damaged(record: Path, what: str) -> RecordError:
    return RecordError(f"the record {str(record)!r} is damaged: {MANIFEST!r}: {what}. Was it copied in part?")
