"""Checkpoints of torch: which files and folders are checkpoints; their tensors, read without running code."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from lca.errors import TrajectoryError
from lca.frameworks import Checkpoint, checkpoints_in_order
from lca.frameworks._checkpoints import AnyPath
from lca_torch._shards import INDEX, ShardedTensors
from lca_torch._stored import StoredTensors, open_file

SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")
METADATA = ".metadata"
"""The file of a folder of `torch.distributed.checkpoint` that says what the others hold."""
_NAMES = "model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors"
INSIDE = (
    *(name + index for name in _NAMES for index in ("", INDEX)),
    METADATA,
    f"pytorch_model_fsdp_0/{METADATA}",
)
"""The weights inside a checkpoint that is a folder, as `transformers`, diffusers, accelerate and
`torch.distributed.checkpoint` write it: one file, or the index of several."""
_PARTS = (
    *(name.replace(".", "-*-of-*.") for name in _NAMES),
    *("*.distcp", "pytorch_model_fsdp_0/*.distcp"),
)
"""Files that have an index beside them, unless saving or copying them was interrupted."""


def checkpoint_files(checkpoints: AnyPath | Iterable[AnyPath]) -> list[Checkpoint]:
    """The files to read, in order (`lca.frameworks.checkpoints_in_order`).

    Raises
    ------
    TrajectoryError
        If a file does not exist, there are fewer than two, the names in a folder do not give one order, or
        the index of a checkpoint in several files is missing.
    """
    kinds = f"{', '.join(SUFFIXES)}, or folders with weights"
    found = checkpoints_in_order(checkpoints, _is_checkpoint, kinds)
    return [Checkpoint(_weights(path), number) for path, number in found]


def _is_checkpoint(path: Path) -> bool:
    if not path.is_dir():
        return path.suffix in SUFFIXES
    return any((path / name).exists() for name in INSIDE) or _without_index(path) is not None


def _without_index(folder: Path) -> Path | None:
    """A file in a folder that belongs to an index."""
    return next((file for pattern in _PARTS for file in sorted(folder.glob(pattern))), None)


def _weights(path: Path) -> Path:
    """The file itself, or the one with the weights in a checkpoint that is a folder."""
    candidates = [path / name for name in INSIDE] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    part = _without_index(path)
    if part is not None:
        index = METADATA if part.suffix == ".distcp" else f"*{INDEX}"
        raise TrajectoryError(
            f"the folder {path} holds {part.name}, but not its index ({index}); saving was interrupted, or "
            "not all files were copied. Copy all files, or remove the folder."
        )
    raise TrajectoryError(f"the folder {path} holds none of {', '.join(INSIDE)}; pass files.")


@contextmanager
def open_checkpoint(path: Path) -> Iterator[StoredTensors]:
    """What a checkpoint holds, by name; tensors are read when they are used, one at a time.

    Memory: the file that is open is mapped, and the system may drop its pages from memory. A file written by
    torch before 1.6 cannot be mapped and is read whole.

    Raises
    ------
    TrajectoryError
        If the file is damaged, or holds pickled objects of other types than tensors and plain containers:
        to load those would run code.
    """
    with ExitStack() as stack:
        if path.name == METADATA:
            if not torch.distributed.is_available():
                raise TrajectoryError(f"{path} is read by torch.distributed, which this torch does not have.")
            from lca_torch._distcp import DistributedTensors  # noqa: PLC0415 - only for such folders

            yield DistributedTensors.of(path)
        elif path.name.endswith(INDEX):
            yield ShardedTensors(path, stack)
        else:
            yield stack.enter_context(open_file(path))
