"""The zoo in one table: the checks, the correct and the incorrect subjects of each kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lca.testing._array_edges import ALL_ARRAY_CHECKS
from lca.testing._backend_checks import BACKEND_CHECKS
from lca.testing._checks import ALL_ESTIMATOR_CHECKS, ALL_OBJECTIVE_CHECKS, objective_of
from lca.testing._report import Check
from tests.meta.animals import Wrong
from tests.meta.right_estimators import RIGHT_ESTIMATORS
from tests.meta.right_objectives import UNUSUAL_OBJECTIVES
from tests.meta.zoo_arrays import RIGHT_ARRAYS, WRONG_ARRAYS
from tests.meta.zoo_backends import RIGHT_BACKENDS, WRONG_BACKENDS
from tests.meta.zoo_by_example import RIGHT_BY_EXAMPLE, WRONG_BY_EXAMPLE
from tests.meta.zoo_calls import RIGHT_CALLS, WRONG_CALLS
from tests.meta.zoo_domain import WRONG_IN_A_CORNER
from tests.meta.zoo_edges import WRONG_EDGES, WRONG_SHARED
from tests.meta.zoo_estimators import WRONG_ESTIMATORS
from tests.meta.zoo_fields import RIGHT_SAMPLES, WRONG_FIELDS, WRONG_SAMPLES
from tests.meta.zoo_habits import RIGHT_HABITS, WRONG_BACKEND_HABITS, WRONG_HABITS
from tests.meta.zoo_late import RIGHT_LATE, WRONG_LATE, WRONG_LATE_SAMPLES
from tests.meta.zoo_members import WRONG_MEMBERS
from tests.meta.zoo_objectives import RIGHT_OBJECTIVES, WRONG_OBJECTIVES
from tests.meta.zoo_rare import (
    NAMED_FULL,
    NAMED_SAMPLED,
    RIGHT_RARE,
    RIGHT_RARE_SAMPLES,
    WRONG_RARE,
    WRONG_RARE_SAMPLES,
)
from tests.meta.zoo_results import WRONG_RESULTS
from tests.meta.zoo_runs import WRONG_NODES, WRONG_RUNS
from tests.meta.zoo_selected import RIGHT_SELECTED, WRONG_SELECTED
from tests.meta.zoo_stochastic import RIGHT_STOCHASTIC, WRONG_STOCHASTIC
from tests.meta.zoo_training import RIGHT_TRAINING, WRONG_TRAINING
from tests.meta.zoo_variants import RIGHT_VARIANTS, WRONG_VARIANTS


@dataclass(frozen=True)
class Kind:
    """One kind of subject."""

    checks: Sequence[Check]
    right: Mapping[str, Any]
    wrong: Mapping[str, Wrong]

    def check(self, name: str) -> Check:
        """The check of this name."""
        return next(check for check in self.checks if check.name == name)


ZOO = {
    "estimators": Kind(
        ALL_ESTIMATOR_CHECKS,
        RIGHT_ESTIMATORS | RIGHT_RARE | NAMED_FULL,
        WRONG_ESTIMATORS | WRONG_IN_A_CORNER | WRONG_FIELDS | WRONG_RUNS | WRONG_LATE | WRONG_RARE,
    ),
    "stochastic estimators": Kind(
        ALL_ESTIMATOR_CHECKS,
        RIGHT_STOCHASTIC | RIGHT_SAMPLES | RIGHT_LATE | RIGHT_RARE_SAMPLES | NAMED_SAMPLED,
        WRONG_STOCHASTIC | WRONG_SAMPLES | WRONG_NODES | WRONG_LATE_SAMPLES | WRONG_RARE_SAMPLES,
    ),
    "objectives": Kind(
        ALL_OBJECTIVE_CHECKS,
        RIGHT_OBJECTIVES
        | RIGHT_CALLS
        | RIGHT_SELECTED
        | RIGHT_BY_EXAMPLE
        | RIGHT_VARIANTS
        | UNUSUAL_OBJECTIVES
        | RIGHT_HABITS
        # The objective that a backend makes must obey all laws of objectives.
        | {f"{name} backend": objective_of(b) for name, b in RIGHT_BACKENDS.items()},
        WRONG_OBJECTIVES
        | WRONG_CALLS
        | WRONG_MEMBERS
        | WRONG_BY_EXAMPLE
        | WRONG_SELECTED
        | WRONG_HABITS
        | WRONG_VARIANTS,
    ),
    "backends": Kind(
        BACKEND_CHECKS,
        RIGHT_BACKENDS | RIGHT_TRAINING,
        WRONG_BACKENDS | WRONG_TRAINING | WRONG_SHARED | WRONG_BACKEND_HABITS,
    ),
    "array operations": Kind(ALL_ARRAY_CHECKS, RIGHT_ARRAYS, WRONG_ARRAYS | WRONG_EDGES | WRONG_RESULTS),
}
