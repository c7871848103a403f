"""The law about the process in which an estimator runs. It comes first, so that the first call is seen."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lca.allocation import Estimator
from lca.testing._estimator_checks.law import law_into
from lca.testing._laws import require
from lca.testing._process_state import process_state, same, state_and_warnings
from lca.testing._replicated import begin
from lca.testing._report import Check
from lca.testing.problems import Problem
from lca.testing.strategies import smooth_problems

CHECKS: list[Check] = []
law = law_into(CHECKS)


@law(lambda estimator: smooth_problems(steps=2), part=4)
def the_process_is_left_alone(estimator: Estimator, problem: Problem) -> None:
    """Global state of Python, NumPy and imported frameworks, the environment and warnings are not changed."""
    with _torch_restored():
        before, modules = state_and_warnings(), len(sys.modules)
        allocate_step = begin(estimator, problem.objective)
        for step in problem.trajectory:
            allocate_step(step)
            if len(sys.modules) > modules:  # a library that is imported sets modes of its own
                before, modules = before | process_state(), len(sys.modules)
            for name, value in state_and_warnings().items():
                require(name not in before or same(value, before[name]), f"{name} has changed.")


@contextmanager
def _torch_restored() -> Iterator[None]:
    """Puts PyTorch's generator into a state that no estimator sets by chance, and back."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_rng_state"):
        yield
        return
    kept = torch.get_rng_state()
    try:
        torch.manual_seed(0x717)
        yield
    finally:
        torch.set_rng_state(kept)
