"""The text of Python's own standard library, which every machine has, as bytes."""

import sysconfig
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def library_bytes(limit: int = 8_000_000) -> np.ndarray:
    """The first ``limit`` bytes of the modules of the standard library, in the order of their names."""
    parts, found = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        parts.append(np.frombuffer(path.read_bytes(), np.uint8))
        found += len(parts[-1])
        if found >= limit:
            break
    return np.concatenate(parts)[:limit]


def prose_bytes() -> np.ndarray:
    """The help texts of Python on its own syntax: English prose."""
    import pydoc_data.topics  # noqa: PLC0415 - large, and read here alone

    texts = "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    return np.frombuffer(texts.encode(), np.uint8)


class Windows:
    """Independent windows of ``length + 1`` tokens, each from a random place of the text."""

    def __init__(self, text: np.ndarray, length: int, *, seed: int, device: str = "cpu") -> None:
        self._text, self._length, self._device = text, length, device
        self._random = np.random.default_rng(seed)

    def draw(self, count: int) -> Tensor:
        """Integers (count, length + 1)."""
        places = self._random.integers(len(self._text) - self._length, size=(count, 1))
        rows = self._text[places + np.arange(self._length + 1)]
        return torch.from_numpy(rows.astype(np.int64)).to(self._device)
