"""The files under test by group, with how many mutants are drawn a file and which tests are asked."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Files that the same tests know.

    Parameters
    ----------
    per_file
        Mutants drawn a file, or all if there are fewer.
    files
        Each file, with the tests asked first.
    tests
        The tests asked after these. Only tests that execute the changed statement are run.
    numbers
        Whether a number that is changed makes sense as a mutant. In the kit most of them belong to cases,
        and another number makes another case of the same kind.
    """

    per_file: int
    files: Mapping[str, tuple[str, ...]]
    tests: tuple[str, ...]
    numbers: bool = True


def _files(folder: str, homes: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """``{"row": "tests/test_row.py tests/test_step.py"}`` as files of the folder and their tests."""
    return {f"{folder}/{name}.py": tuple(tests.split()) for name, tests in homes.items()}


ENGINE = "tests/estimators/test_engine.py"
SAMPLED = "tests/estimators/test_sampled_path_integral.py"
ADAPTIVE = "tests/estimators/test_adaptive.py"
PATH = "tests/estimators/test_path_integral.py"
MINIBATCH = "tests/estimators/test_minibatch.py"
KIT = "tests/meta/test_zoo.py"

GROUPS = {
    "arrays": Group(
        10,
        _files(
            "lca/arrays",
            {name: "tests/test_array_ops.py" for name in ("_host", "_operations", "_numpy_ops")},
        )
        | _files("backends/lca_torch", {"_arrays": "tests/lca_torch/test_array_ops.py"})
        | _files("backends/lca_tensorflow", {"_arrays": "tests/lca_tensorflow/test_array_ops.py"}),
        ("tests/test_row.py",),
    ),
    "numerics": Group(
        8,
        _files(
            "lca",
            {
                "quadrature": "tests/test_quadrature.py",
                "allocation": f"tests/test_allocation.py {ENGINE}",
                "_opening": "tests/test_state.py tests/tracking/test_moving_state.py",
                "row": "tests/test_row.py",
                "_state": "tests/test_state.py",
                "_shares": "tests/test_shares.py",
                "step": "tests/test_step.py",
                "objective": "tests/test_objective.py tests/test_state.py",
            },
        ),
        (PATH, ENGINE, "tests/test_allocation.py", "tests/estimators/test_vectors.py", MINIBATCH),
    ),
    "estimators": Group(
        6,
        _files(
            "lca/estimators",
            {
                "_path": PATH,
                "_path_integral": f"{PATH} {ENGINE}",
                "_integral": PATH,
                "_panel": ADAPTIVE,
                "_adaptive": f"{ADAPTIVE} {ENGINE}",
                "_audits": ADAPTIVE,
                "_checks": "tests/estimators/test_vectors.py tests/estimators/test_selective.py",
                "_crossfit": MINIBATCH,
                "_minibatch": MINIBATCH,
                "_lagged": "tests/estimators/test_lagged.py",
                "_replicates": f"{SAMPLED} tests/test_error_bars.py",
                "_stochastic": SAMPLED,
                "_sampling": SAMPLED,
                "_sampled_path_integral": SAMPLED,
                "_control_variate": SAMPLED,
                "_adaptive_sample_size": SAMPLED,
            },
        )
        | _files("lca/views", {"_error_bars": "tests/test_error_bars.py"}),
        ("tests/test_allocation.py", "tests/test_state.py"),
    ),
    "tracking": Group(
        8,
        _files(
            "lca/tracking",
            {
                "_follower": "tests/tracking/test_functional.py tests/tracking/test_ends.py",
                "_session": "tests/tracking/test_session.py",
                "_self_check": "tests/tracking/test_self_check.py",
                "_pending": "tests/tracking/test_functional.py",
                "_spans": "tests/tracking/test_spans.py",
                "_path_sums": "tests/tracking/test_self_check.py",
                "_clipping": "tests/tracking/test_clipping.py",
            },
        ),
        ("tests/tracking", "tests/laws/test_trackers.py", "tests/laws/test_callbacks.py"),
    ),
    "loops": Group(
        8,
        _files(
            "lca/tracking",
            {"_context": "tests/lca_torch/test_tracker_laws.py tests/lca_torch/test_step_fields.py"},
        ),
        ("tests/lca_torch/test_examples.py",),
    ),
    "kit": Group(
        4,
        _files(
            "lca/testing",
            {
                name: KIT
                for name in (
                    *("_array_checks", "_array_subject", "_backend_cases", "_backend_checks", "_domain"),
                    *("_gradient_checks", "_instruments", "_member_checks", "_objective_checks"),
                    *("_objective_laws", "_process_state", "_reference", "_replicated", "_sampled_runs"),
                    "_training_checks",
                    *("_stochastic_checks", "_estimator_checks/honesty", "_estimator_checks/integral"),
                    *("_estimator_checks/run", "_estimator_checks/values", "problems", "strategies"),
                )
            }
            | {"_report": "tests/meta/test_report.py"},
        ),
        ("tests/meta/test_subjects.py", "tests/meta/test_report.py"),
        numbers=False,
    ),
}
