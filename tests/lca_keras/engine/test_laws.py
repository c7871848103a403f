"""The conformance kit, the laws of objectives and those of callbacks."""

import keras
import numpy as np
import pytest

from lca.arrays import array_ops
from lca.frameworks._trees import take
from lca.testing import check_backend
from lca.testing._array_edges import ALL_ARRAY_CHECKS
from lca.testing._array_subject import SUBNORMAL, ArraySubject
from lca.testing._backend_checks import BACKEND_CHECKS
from lca_keras import KerasBackend
from lca_keras._engine import engine
from tests.laws.callbacks import LAWS as CALLBACK_LAWS
from tests.laws.objectives import LAWS
from tests.lca_keras.engine.fits import Fits
from tests.lca_keras.engine.subject import Keras, shared
from tests.nightly import NIGHTLY

engine()  # registers the operations of its tensors
KIT = [check.name for check in BACKEND_CHECKS if check.name != "loads_no_other_framework"]


@pytest.mark.parametrize("law", shared(LAWS.values()), ids=lambda law: law.__name__)
def test_law(law):
    with Keras.context():
        law(Keras())


@pytest.mark.parametrize("law", shared(CALLBACK_LAWS), ids=lambda law: law.__name__)
def test_law_of_callbacks(law, tmp_path):
    law(Fits(), tmp_path)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="tests/lca_torch/test_array_ops.py has them")
@pytest.mark.parametrize("check", ALL_ARRAY_CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("values", SUBNORMAL.values(), ids=SUBNORMAL)
def test_law_of_array_operations(check, values):
    ops = array_ops(keras.ops.ones(1))
    check.law(ArraySubject(KerasBackend().vector, ops), values)


@pytest.mark.parametrize("index", [np.array([3, -1, 3]), slice(1, None), slice(0, 2)], ids=str)
def test_rows_are_taken_and_nothing_is_compiled(compilations, index):
    numbers = np.arange(12.0).reshape(4, 3)
    tensor = keras.ops.convert_to_tensor(numbers)
    compilations()
    found = take({"x": tensor}, index)["x"]
    assert compilations() == []
    assert (type(found), found.dtype, found.device) == (type(tensor), tensor.dtype, tensor.device)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(found), numbers[index])


def test_the_backend_conforms():
    report = check_backend(KerasBackend(), samples=5 if NIGHTLY else 1, only=shared(KIT))
    assert not report.failed, str(report)
