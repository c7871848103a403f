"""State of the process that a call must not change: random generators, modes, threads, environment."""

import decimal
import gc
import locale
import logging
import os
import random
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from lca.arrays import array_ops

Array = np.ndarray


def process_state() -> dict[str, Any]:
    """A copy of the global state of Python, NumPy and the imported frameworks, by name.

    >>> sorted(name for name in process_state() if name.startswith("numpy"))
    ['numpy.get_printoptions()', 'numpy.geterr()', 'numpy.geterrcall()', 'numpy.random']
    """
    _, keys, position, *rest = np.random.get_state()  # noqa: NPY002 - this is the global state to watch
    found: dict[str, Any] = {
        "random": random.getstate(),
        "numpy.random": (np.append(keys, position), *rest),
        "numpy.geterr()": np.geterr(),
        "numpy.get_printoptions()": np.get_printoptions(),
        "gc.isenabled()": gc.isenabled(),
        "logging.disable": logging.root.manager.disable,
        "logging.getLogger()": (logging.root.level, tuple(logging.root.handlers)),
        "sys.getswitchinterval()": sys.getswitchinterval(),
        "sys.stdout, sys.stderr, sys.excepthook or sys.gettrace()": _hooks(),
        "decimal.getcontext()": (decimal.getcontext().prec, decimal.getcontext().rounding),
        "socket.getdefaulttimeout()": socket.getdefaulttimeout(),
        "locale.setlocale()": locale.setlocale(locale.LC_ALL),
        "signal.getsignal(SIGINT)": signal.getsignal(signal.SIGINT),
        "numpy.geterrcall()": np.geterrcall(),
        "sys.getrecursionlimit()": sys.getrecursionlimit(),
        "sys.path": tuple(sys.path),
        "os.environ": dict(os.environ),
        "the working directory": os.getcwd(),
    }
    return found | _torch_state() | _keras_state() | _jax_state()


def _hooks() -> tuple[Any, ...]:
    return sys.stdout, sys.stderr, sys.excepthook, sys.gettrace(), sys.getprofile()


def state_and_warnings() -> dict[str, Any]:
    """`process_state`, and the filters of Python's warnings, which hold for every caller.

    >>> "warnings.filters" in state_and_warnings()
    True
    """
    return process_state() | {"warnings.filters": tuple(warnings.filters)}


@contextmanager
def process_restored() -> Iterator[None]:
    """Puts back what a subject under test switched off or on, so that the next case sees it again."""
    collects, disabled, most = gc.isenabled(), logging.root.manager.disable, sys.getrecursionlimit()
    torch = sys.modules.get("torch")
    differentiates = torch is None or torch.is_grad_enabled()
    errors, shown, path, folder = np.geterr(), np.get_printoptions(), list(sys.path), os.getcwd()
    streams, called, level = _hooks(), np.geterrcall(), logging.root.level
    interval, timeout = sys.getswitchinterval(), socket.getdefaulttimeout()
    locales, context = locale.setlocale(locale.LC_ALL), decimal.getcontext().copy()
    try:
        yield
    finally:
        (gc.enable if collects else gc.disable)()
        logging.disable(disabled)
        sys.setrecursionlimit(most)
        sys.setswitchinterval(interval)
        sys.stdout, sys.stderr, sys.excepthook = streams[:3]
        logging.root.setLevel(level)
        decimal.setcontext(context)
        socket.setdefaulttimeout(timeout)
        locale.setlocale(locale.LC_ALL, locales)
        np.seterrcall(called)
        np.seterr(**errors)
        np.set_printoptions(**shown)
        sys.path[:] = path
        os.chdir(folder)
        if torch is not None:
            torch.set_grad_enabled(differentiates)


def threads() -> int:
    """The number of Python threads that are alive."""
    return threading.active_count()


def _torch_state() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_rng_state"):
        return {}
    return {
        "torch.get_rng_state()": torch.get_rng_state().numpy().copy(),
        "torch.get_default_device()": str(torch.get_default_device()),
        "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision(),
        "torch.is_anomaly_enabled()": torch.is_anomaly_enabled(),
        "torch.is_inference_mode_enabled()": torch.is_inference_mode_enabled(),
        "torch.is_autocast_enabled()": torch.is_autocast_enabled(),
        "torch.get_default_dtype()": str(torch.get_default_dtype()),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.get_num_threads()": torch.get_num_threads(),
        "torch.are_deterministic_algorithms_enabled()": torch.are_deterministic_algorithms_enabled(),
    }


def _keras_state() -> dict[str, Any]:
    keras = sys.modules.get("keras")
    if keras is None or not hasattr(keras, "config"):
        return {}
    names = ("floatx", "epsilon", "image_data_format", "dtype_policy")
    asked = {name: getattr(keras.config, name, None) for name in names}  # some while Keras is being imported
    return {f"keras.config.{name}()": str(ask()) for name, ask in asked.items() if ask is not None}


def _jax_state() -> dict[str, Any]:
    jax = sys.modules.get("jax")
    if jax is None or not hasattr(jax, "config"):
        return {}
    names = ("jax_enable_x64", "jax_default_matmul_precision", "jax_debug_nans", "jax_disable_jit")
    return {name: getattr(jax.config, name) for name in names if hasattr(jax.config, name)}


def arrays_in(value: Any, place: str = "") -> dict[str, Array]:
    """Copies of all arrays in a batch of any form, by their place in it."""
    if isinstance(value, str | bytes | int | float | type(None)):
        return {}
    if isinstance(value, Mapping):
        parts = {f"[{key!r}]": part for key, part in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {f".{f.name}": getattr(value, f.name) for f in fields(value)}
    elif isinstance(value, list | tuple):
        parts = {f"[{i}]": part for i, part in enumerate(value)}
    else:
        return _copied(value, place)
    return {
        name: array for key, part in parts.items() for name, array in arrays_in(part, place + key).items()
    }


def _copied(value: Any, place: str) -> dict[str, Array]:
    try:
        return {place: np.array(array_ops(value).to_numpy(value), copy=True)}
    except Exception:  # an object without numbers, or of a type that only the objective knows
        return {}


def same(a: Any, b: Any) -> bool:
    """Whether two entries of a state are equal, also tuples and mappings of arrays.

    >>> same((np.ones(2), 1), (np.ones(2), 1)), same(np.ones(2), np.zeros(2))
    (True, False)
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        return np.array_equal(a, b) or (a.dtype.kind in "fc" and np.array_equal(a, b, equal_nan=True))
    return bool(a == b)
