"""The progress bar of long commands; needs the extra ``report``."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from lca.extras import extra

with extra("report"):
    from tqdm import tqdm

T = TypeVar("T")


def progress_bar(items: Iterable[T], total: int, *, quiet: bool) -> Iterator[T]:
    """Pass ``items`` on and show on stderr how far they are; only where somebody is watching."""
    hidden = quiet or not sys.stderr.isatty()
    return iter(tqdm(items, total=total, unit="step", disable=hidden, leave=False, file=sys.stderr))
