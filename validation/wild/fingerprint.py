"""`fingerprint`: everything that training may change, as text by path, to be compared bit for bit."""

import hashlib
import random
import sys
from collections import deque
from collections.abc import Mapping
from numbers import Number
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

# Of trainers and their surroundings: clocks, folders, and references back to the trainer.
SKIPPED = {
    "trainer",
    "_trainer",
    "_fabric",
    "_jit_internal",
    "_compiled_call_impl",
    "_torchdynamo_wrapper_id",
    "_state_dict_hooks",
}
DEEPEST = 12


def fingerprint(things: Any, log: list[str]) -> dict[str, str]:
    """Text by path: parameters, buffers, optimizer state, flags, hooks, generators, order of data."""
    found: dict[str, str] = {f"log[{i}]": entry for i, entry in enumerate(log)}
    found["random"] = digest(repr(random.getstate()))
    found["numpy.random"] = digest(repr(np.random.get_state(legacy=False)))  # noqa: NPY002
    if "torch" in sys.modules:
        import torch  # noqa: PLC0415 - only where the case uses it

        found["torch.random"] = digest(torch.get_rng_state())
        found["torch.grad"] = str(torch.is_grad_enabled())
        found["torch.dtype"] = str(torch.get_default_dtype())
    if "tensorflow" in sys.modules:
        import tensorflow as tf  # noqa: PLC0415 - only where the case uses it

        found["tf.random"] = digest(tf.random.get_global_generator().state.numpy())
        found["tf.random.next"] = digest(tf.random.uniform([2]))
    if "keras" in sys.modules:
        import keras  # noqa: PLC0415 - only where the case uses it

        found["keras.random.next"] = digest(keras.random.uniform((2,)))
    _walk("", things, found, {}, 0)
    return found


def difference(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """The paths at which two fingerprints differ."""
    return [path for path in {**expected, **found} if expected.get(path) != found.get(path)]


def digest(thing: Any) -> str:
    """A short text that differs where a bit differs."""
    if isinstance(thing, str):
        data = thing.encode()
    elif isinstance(thing, np.ndarray):
        data = repr((thing.dtype, thing.shape)).encode() + np.ascontiguousarray(thing).tobytes()
    elif hasattr(thing, "detach"):
        dense = thing.detach().to_dense() if thing.is_sparse else thing.detach()
        import torch  # noqa: PLC0415 - it is a tensor of torch

        raw = dense.contiguous().reshape(-1).view(torch.uint8) if dense.numel() else dense.reshape(-1)
        data = repr((dense.dtype, tuple(dense.shape))).encode() + bytes(raw.numpy().tobytes())
    elif hasattr(thing, "numpy"):
        return digest(np.asarray(thing.numpy()))
    elif isinstance(thing, tuple | list):
        data = "".join(map(digest, thing)).encode()
    elif isinstance(thing, Mapping):
        data = "".join(f"{key}{digest(value)}" for key, value in thing.items()).encode()
    else:
        data = repr(thing).encode()
    return hashlib.sha1(data).hexdigest()[:12]


def _walk(path: str, thing: Any, found: dict[str, str], seen: dict[int, str], depth: int) -> None:  # noqa: PLR0911
    if thing is None or isinstance(thing, bool | Number | str | bytes):
        found[path] = repr(thing)
        return
    if id(thing) in seen:
        found[path] = f"the object at {seen[id(thing)]}"  # tied weights stay tied
        return
    if isinstance(thing, FunctionType | BuiltinFunctionType | MethodType | ModuleType | type):
        found[path] = getattr(thing, "__qualname__", repr(type(thing)))
        return
    seen[id(thing)] = path
    seen[-id(thing)] = thing  # type: ignore[assignment]  # keeps it alive, so that its id is not used again
    if depth > DEEPEST:
        return
    for name, entry in _entries(path, thing, found):
        _walk(f"{path}.{name}", entry, found, seen, depth + 1)


def _entries(path: str, thing: Any, found: dict[str, str]) -> list[tuple[Any, Any]]:  # noqa: PLR0911
    """What is inside; writes what the thing itself is to ``found``."""
    name = type(thing).__name__
    found[path] = name
    if isinstance(thing, np.ndarray):
        found[path] = digest(thing)
        return []
    module = type(thing).__module__.partition(".")[0]
    if hasattr(thing, "requires_grad") and hasattr(thing, "is_sparse"):
        found[path] = f"{name} {digest(thing)} grad={thing.requires_grad} leaf={thing.is_leaf}"
        found[path] += f" hooks={len(thing._backward_hooks or ())}" if thing.is_leaf else ""
        return [("grad", thing.grad)] if thing.is_leaf and thing.grad is not None else []
    if module == "torch" and name == "Generator":
        found[path] = digest(thing.get_state())
        return []
    if module in ("tensorflow", "keras") and hasattr(thing, "numpy"):
        found[path] = f"{digest(thing.numpy())} trainable={getattr(thing, 'trainable', '')}"
        return []
    if isinstance(thing, Mapping):
        # Handles of hooks and tensors as keys are numbered: they differ from run to run.
        return [(key if isinstance(key, str) else i, v) for i, (key, v) in enumerate(thing.items())]
    if isinstance(thing, list | tuple | deque):
        return list(enumerate(thing))
    if isinstance(thing, set | frozenset):
        found[path] = f"{name} of {len(thing)}"
        return []
    if hasattr(thing, "variables") and hasattr(thing, "save_own_variables"):
        return _keras(thing)
    if isinstance(thing, random.Random):
        found[path] = digest(repr(thing.getstate()))
        return []
    attributes = vars(thing) if hasattr(thing, "__dict__") else {}
    return [
        (key, value) for key, value in sorted(attributes.items(), key=lambda a: a[0]) if key not in SKIPPED
    ]


def _keras(thing: Any) -> list[tuple[Any, Any]]:
    """Of models, layers and optimizers: the variables, the flags, and what the user's own classes keep."""
    inside = [*enumerate(thing.variables), ("trainable", getattr(thing, "trainable", None))]
    layers = thing._flatten_layers() if hasattr(thing, "_flatten_layers") else []
    for i, layer in enumerate(layers):
        inside.append((f"{i}.trainable", layer.trainable))
        if not type(layer).__module__.startswith("keras"):
            inside += [(f"{i}.{k}", v) for k, v in vars(layer).items() if isinstance(v, bool | Number | str)]
    if "apply" in vars(thing):
        inside.append(("apply", "replaced"))
    return inside
