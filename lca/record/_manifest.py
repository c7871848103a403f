"""The manifest of a record: how many rows are complete, and a digest of every file they are in.

A text file to which the writer appends; every line ends the work that it describes, and begins with its own
checksum. Readers go by the last valid line, so they see only whole rows, whatever happened to the writer, and
they notice a file that was changed, lost, or put in another's place.
"""

import json
import os
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lca._extras import extra
from lca.record._metrics import Metrics
from lca.record._schema import COMMITTED, UNFINISHED, RecordError

with extra("report"):
    import google_crc32c

MANIFEST = f"{COMMITTED}/manifest"
"""Its place in a record: inside the folder of an array, where readers of Zarr do not look for arrays."""
_ENDS = 4096
_LONG = 2**18
"""Bytes of a manifest from which it may be written anew."""


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
    metrics
        What training gave: a line holds what is new, and the outcome all of it.
    files
        The digest of every file with labels or complete rows, by its place in the record.
    descriptions
        The digest of every `zarr.json`, without what changes while rows are added.
    redescribing
        The digest that a `zarr.json` may have besides its own, while its attributes are being changed.
    rewriting
        The digests that files may have besides their own: those with which they are being replaced, or were
        when the writer was killed.
    counts
        The last two numbers of complete rows: the array `committed` is written after the manifest.
    length
        Bytes of the valid lines; what follows them was left by a writer that was killed, or by a full disk.
    """

    generation: str = field(default_factory=lambda: uuid.uuid4().hex)
    rows: int = 0
    outcome: Mapping[str, Any] = field(default_factory=lambda: UNFINISHED)
    metrics: Metrics = field(default_factory=Metrics)
    files: dict[str, Digest] = field(default_factory=dict)
    descriptions: dict[str, int] = field(default_factory=dict)
    redescribing: dict[str, int] = field(default_factory=dict)
    rewriting: dict[str, list[Digest]] = field(default_factory=dict)
    counts: tuple[int, ...] = (0,)
    length: int = 0
    _shortest: int = 0  # the length when it was last written anew

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
            found.length += len(line) + 1
        if not lines or not found.descriptions:
            raise _damaged(record, f"it ends after {len(unfinished)} bytes")
        return found

    def apply(self, entry: Mapping[str, Any]) -> None:
        """Take in one line."""
        self.generation = entry.get("generation", self.generation)
        self.descriptions |= entry.get("descriptions", {})
        self.redescribing |= entry.get("redescribing", {})
        self.outcome = entry.get("outcome", UNFINISHED)
        for given in entry.get("metrics", ()):
            self.metrics.add(*given)
        if self.outcome.get("metrics"):
            self.metrics = Metrics.of(self.outcome["metrics"])
        for name, digest in entry.get("files", {}).items():
            self.files[name] = Digest(*digest)
            self.rewriting.pop(name, None)
        for name, digests in entry.get("rewriting", {}).items():
            self.rewriting.setdefault(name, []).extend(Digest(*digest) for digest in digests)
        if "rows" in entry:
            self.rows = entry["rows"]
            self.counts = (*self.counts[-1:], self.rows)

    def shortened(self, length: int) -> "Manifest":
        """The manifest of the record without the rows from ``length`` on."""
        shorter = Manifest(
            metrics=self.metrics,
            files=self.files,
            descriptions=self.descriptions,
            redescribing=self.redescribing,
            rewriting=self.rewriting,
        )
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
            "redescribing": self.redescribing,
            "files": self.files,
            "rewriting": self.rewriting,
            "rows": self.counts[0],
            "metrics": self.metrics.given(),
        }
        text = _line(first) + _line({"rows": self.rows, "outcome": self.outcome})
        staged.write_bytes(text)
        staged.replace(file)
        self.length = self._shortest = len(text)

    def append(self, record: Path, **entry: Any) -> None:
        """Append a line and take it in; when the lines have become many, write the manifest anew.

        So its length is that of the digests of all files, and not of all that was ever written.
        """
        line = _line(entry)
        with (record / MANIFEST).open("r+b") as file:
            file.seek(self.length)
            file.truncate()
            file.write(line)
        self.length += len(line)
        self.apply(entry)
        if self.length > _LONG + 2 * self._shortest:
            with suppress(OSError):  # a full disk: the long one is as good
                self.write(record)

    def knows(self, record: Path, name: str, contents: bytes | None) -> bool:
        """Whether a file has the contents that were written; if they are ``None``, its ends are compared."""
        digests = [*([self.files[name]] if name in self.files else ()), *self.rewriting.get(name, ())]
        if contents is None:
            return any(digest.fits(record / name) for digest in digests)
        return Digest.of(contents) in digests

    def check_descriptions(self, record: Path, names: Collection[str]) -> None:
        """Raise `RecordError` unless these `zarr.json` describe the arrays as they were made."""
        for name in names:
            try:
                contents = (record / name).read_bytes()
            except OSError as error:
                raise _damaged(record, f"{name!r} cannot be read ({error.strerror})") from error
            if not self.describes(name, contents):
                raise changed(record, name)

    def describes(self, name: str, contents: bytes) -> bool:
        """Whether this `zarr.json` has the contents that were written."""
        return describe(contents) in (self.descriptions.get(name), self.redescribing.get(name))


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


def _line(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(entry).encode()
    return b"%08x %s\n" % (google_crc32c.value(text), text)


def _entry(line: bytes) -> dict[str, Any] | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % google_crc32c.value(text):
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


def changed(record: Path, name: str) -> RecordError:
    """The error that a file is not what was written."""
    return RecordError(
        f"the record {str(record)!r} is damaged: {name!r} is not as it was written. If it was copied in part "
        "or while it was written, copy it again; the other variables can still be read."
    )


def _damaged(record: Path, what: str) -> RecordError:
    return RecordError(f"the record {str(record)!r} is damaged: {MANIFEST!r}: {what}. Was it copied in part?")
