"""`RecordFiles`: the files of a record, as Zarr reads and writes them, with a digest of each.

What is written gets a digest, which the manifest keeps; what is read must have the digest that it was written
with.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lca._extras import extra
from lca.record._manifest import MANIFEST, Digest, Manifest, changed
from lca.record._schema import COMMITTED, RecordError

with extra("report"):
    from zarr.core.sync import iothread, sync
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
        self._replacing: dict[str, Any] | None = None  # what is to be written in place of committed files
        self._checked: set[str] = set()
        self._seen: Any = None  # so that a reader looks again at a manifest that grew while it was read

    @contextmanager
    def replacing(self) -> Iterator[None]:
        """Context manager: write files that hold committed rows at the end, once the manifest knows both.

        Until then, and if the writer is killed, each of them is the old or the new one, and is known as such.
        """
        self._replacing = {}
        try:
            yield
            if self._replacing:
                assert self.manifest is not None
                new = {name: [self.written[name]] for name in self._replacing}
                self.manifest.append(self.record, rewriting=new)
                sync(self._write_all(self._replacing))
        finally:
            self._replacing = None

    async def _write_all(self, files: Mapping[str, Any]) -> None:
        await asyncio.gather(*(super(RecordFiles, self).set(name, value) for name, value in files.items()))

    async def set(self, key: str, value: Any) -> None:
        if not _holds_rows_or_labels(key):
            await super().set(key, value)
            return
        self.written[key] = Digest.of(value.to_bytes())
        if self._replacing is not None and self.manifest is not None and key in self.manifest.files:
            self._replacing[key] = value
        else:
            await super().set(key, value)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        while True:
            seen = self._notice_changes()
            found = await super().get(key, prototype, byte_range)
            if self.manifest is None or not _holds_rows_or_labels(key):
                return found
            unchanged = self._notice_changes() == seen  # else a writer was at work while this was read
            if found is None:
                right = self.writing or key not in self.manifest.files
            else:
                right = self._is_right(key, None if byte_range is not None else found.to_bytes())
            if right:
                return found
            if unchanged:
                raise changed(self.record, key)

    def refresh(self) -> Manifest:
        """The manifest as it is now."""
        self._notice_changes()
        assert self.manifest is not None
        return self.manifest

    def _is_right(self, key: str, contents: bytes | None) -> bool:
        """Whether a file is as it was written; a file of which a part is read is looked at once."""
        assert self.manifest is not None
        if self.writing and key not in self.manifest.files:
            return True
        if contents is None and key in self._checked:
            return True
        right = self.manifest.knows(self.record, key, contents)
        if right and contents is None:
            self._checked.add(key)
        return right

    def _notice_changes(self) -> tuple[int, int, int] | None:
        """Read the manifest again if a writer has written to it."""
        if self.writing or self.manifest is None:
            return None
        now = _version(self.record)
        if now != self._seen:
            manifest = Manifest.read(self.record)
            if manifest.generation != self.manifest.generation:
                raise RecordError(
                    f"the record {str(self.record)!r} was cut or replaced after it was opened; open it again."
                )
            self.manifest, self._seen = manifest, now
            self._checked.clear()
        return now


def in_thread_of_zarr() -> bool:
    """Whether this is the thread of Zarr's event loop, in which waiting for Zarr would be a deadlock."""
    return threading.current_thread() is iothread[0]


def write_in_one_thread() -> None:
    """From now on, write files in the thread of Zarr's event loop; at exit of the process no other starts."""
    sync(_use_executor())


async def _use_executor() -> None:
    asyncio.get_running_loop().set_default_executor(_AtOnce(max_workers=1))


class _AtOnce(ThreadPoolExecutor):
    """Calls each function when it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def settle() -> None:
    """Wait for what Zarr still writes after an error: of several writes at once, the first to fail raises."""
    sync(_others_end())


async def _others_end() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others)


def _holds_rows_or_labels(key: str) -> bool:
    """Whether a file is one whose digest the manifest keeps; `zarr.json` have digests of their own."""
    return not key.endswith("zarr.json") and not key.startswith(f"{COMMITTED}/")


def _version(record: Path) -> tuple[int, int, int]:
    """Changes whenever the manifest does."""
    found = (record / MANIFEST).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
