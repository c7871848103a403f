"""Part (a): the conformance kit on the device, in float32 with TF32 off and on, and in float64."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import assume

from lca.reference import Dtype
from lca.testing import ArraySubject, generate_checks
from lca_torch import TorchBackend
from validation.gpu.setting import Setting

REHEARSED = ("losses_equal_the_reference", "allocation_adds_up", "totals_are_summed_in_float64")


@dataclass(frozen=True)
class InOneDtype(TorchBackend):
    """`TorchBackend` that discards the cases of the other dtype."""

    dtype: Dtype = "float32"

    def objective(self, network: Any, data: Any, dtype: Dtype, **options: Any) -> Any:
        assume(dtype == self.dtype)
        return super().objective(network, data, dtype, **options)


def kit(setting: Setting) -> None:
    """Run the kit in each precision; TF32 is expected to fail where a matrix product is judged by float32."""
    for name, dtype, tf32 in (
        ("float32", "float32", False),
        ("float64", "float64", False),
        ("float32, TF32 on", "float32", True),
    ):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        try:
            _checked(setting, name, InOneDtype(setting.device, dtype))  # type: ignore[arg-type]
        finally:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def _checked(setting: Setting, name: str, backend: InOneDtype) -> None:
    def vector(array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=setting.device)

    samples = 2 if setting.small else 5
    only = {"only": REHEARSED[:2]} if setting.small else {}
    arrays = {"only": REHEARSED[2:]} if setting.small else {}
    found: dict[str, Any] = {"passed": 0, "failed": {}, "not_in_this_precision": 0, "unfinished": 0}
    checks = [*generate_checks(backend, samples=samples, **only)]
    checks += generate_checks(ArraySubject(vector), samples=samples, **arrays)
    found["unfinished"] = len(checks)
    for check in checks:
        if setting.left < 0:
            break
        result = check.result()
        found["unfinished"] -= 1
        if result.status == "passed":
            found["passed"] += 1
        elif "no case could be drawn" in result.message:  # the check has a precision of its own
            found["not_in_this_precision"] += 1
        else:
            found["failed"][check.name] = f"{result.status}: {result.message}"[:600]
        setting.results.add(**{name: found})
