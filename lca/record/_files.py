"""`RecordFiles`: the files of a record, as Zarr reads and writes them, with a digest of each.

What is written gets a digest, which the manifest keeps; what is read must have the digest that it was written
with.
"""

from pathlib import Path
from typing import Any

from lca._extras import extra
from lca.record._manifest import MANIFEST, Digest, Manifest
from lca.record._schema import COMMITTED, RecordError

with extra("report"):
    from zarr.storage import LocalStore


class RecordFiles(LocalStore):
    """The folder of a record as a Zarr store.

    Parameters
    ----------
    record
        The folder.
    manifest
        The digests of its files; ``None`` while it is being made, when nothing is checked.
    writing
        Whether this is the writer, which may meet files that a killed writer left behind.

    Attributes
    ----------
    written
        The digests of the files that were written since it was last emptied.
    """

    def __init__(self, record: Path, manifest: Manifest | None = None, *, writing: bool = False) -> None:
        super().__init__(record, read_only=not writing)
        self.record, self.manifest, self.writing = record, manifest, writing
        self.written: dict[str, Digest] = {}
        self._checked: set[str] = set()
        self._seen = None if manifest is None else _version(record)

    async def set(self, key: str, value: Any) -> None:
        await super().set(key, value)
        if _holds_rows_or_labels(key):
            self.written[key] = Digest.of(value.to_bytes())

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        found = await super().get(key, prototype, byte_range)
        if found is None or self.manifest is None or not _holds_rows_or_labels(key):
            return found
        if not self.writing:
            self._notice_changes(self.manifest)
        self._check(key, None if byte_range is not None else found.to_bytes())
        return found

    def _check(self, key: str, contents: bytes | None) -> None:
        """Compare a file with its digest; a part of a file by its ends, once."""
        assert self.manifest is not None
        if self.writing and key not in self.manifest.files:
            return
        if contents is not None:
            self.manifest.check(self.record, key, contents)
        elif key not in self._checked:
            self.manifest.check_part(self.record, key)
            self._checked.add(key)

    def _notice_changes(self, known: Manifest) -> None:
        """Read the manifest again if a writer has written to it."""
        now = _version(self.record)
        if now == self._seen:
            return
        manifest = Manifest.read(self.record)
        if manifest.generation != known.generation:
            raise RecordError(
                f"the record {str(self.record)!r} was cut or replaced after it was opened; open it again."
            )
        self.manifest, self._seen = manifest, now
        self._checked.clear()


def _holds_rows_or_labels(key: str) -> bool:
    """Whether a file is one whose digest the manifest keeps; `zarr.json` have digests of their own."""
    return not key.endswith("zarr.json") and not key.startswith(f"{COMMITTED}/")


def _version(record: Path) -> tuple[int, int, int]:
    """Changes whenever the manifest does."""
    found = (record / MANIFEST).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
