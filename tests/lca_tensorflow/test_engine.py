"""What lca_tensorflow does to the process it is imported in, and on other engines of Keras."""

import os
import subprocess
import sys

import pytest

from lca.errors import LCAError
from lca_tensorflow._engine import check_engine


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_keras_on_another_engine_is_refused_with_the_fix():
    run = python("import lca_tensorflow", KERAS_BACKEND="torch")
    assert run.returncode != 0
    assert "LCAError: Keras runs on 'torch' here" in run.stderr
    assert "import lca_keras for PyTorch and JAX, or set KERAS_BACKEND=tensorflow before" in run.stderr
    with pytest.raises(LCAError, match="Keras runs on 'jax' here"):
        check_engine("jax")


def test_threads_can_still_be_set_after_the_import():
    code = (
        "import lca_tensorflow, tensorflow as tf; tf.config.threading.set_intra_op_parallelism_threads(1); "
        "print(float(tf.reduce_sum(tf.ones(3))), tf.config.threading.get_intra_op_parallelism_threads())"
    )
    run = python(code)
    assert run.stdout.split() == ["3.0", "1"], run.stderr
