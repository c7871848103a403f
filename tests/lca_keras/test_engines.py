"""`lca_keras` on each engine, in a process of its own in which TensorFlow cannot be imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lca.errors import LCAError
from lca_keras import Objective
from lca_keras._engine import engine

ROOT = Path(__file__).parents[2]
HIDDEN = "import sys; sys.modules['tensorflow'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
"""`import tensorflow` raises an ImportError, as where it is not installed."""

QUICK = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
"""Most of the time of these tests on JAX is that of its compiler."""


def python(code, *arguments, backend):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1", "XLA_FLAGS": QUICK},
    )


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_an_engine_passes_its_tests_without_tensorflow(backend):
    places = ["tests/lca_keras/engine", "docs/keras.md"]
    run = python(HIDDEN, "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *places, backend=backend)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


def test_keras_on_tensorflow_is_refused_with_the_fix():
    with pytest.raises(LCAError, match="Keras runs on 'tensorflow' here .*import lca_tensorflow"):
        engine()


def test_an_engine_without_gradients_is_refused_with_the_fix():
    code = "import lca_keras._engine as e, sys\ntry: e.engine()\nexcept ValueError as error: print(error)"
    run = python(code, backend="numpy")
    assert "set KERAS_BACKEND=torch or KERAS_BACKEND=jax before Keras is imported" in run.stdout, run.stderr


def test_it_can_be_imported_on_tensorflow_and_used_on_no_other_engine():
    import keras  # noqa: PLC0415 - TensorFlow is its engine here

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(LCAError, match="lca_keras measures Keras on PyTorch and JAX"):
        Objective(model, keras.losses.MeanSquaredError(), ([[1.0, 2.0]], [[1.0]]))
