"""The laws of backends: on random networks and data, a backend equals the NumPy reference."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points

import numpy as np
from hypothesis import strategies as st

from lca import tolerances
from lca.allocation import allocate
from lca.arrays import array_ops
from lca.errors import LCAError
from lca.estimators import PathIntegral
from lca.objective import Sampled, Sum, evaluate
from lca.reference._backend import ENTRY_POINT_GROUP, Backend, Dtype, NumpyBackend
from lca.reference._models import mlp
from lca.reference._optimizers import SGD
from lca.step import Trajectory
from lca.testing._backend_cases import Case, cases, cases_of, make_case, plain_cases, require_same, to_float64
from lca.testing._laws import require, require_close
from lca.testing._report import Check
from lca.testing._training_checks import DECAY, TRAINING_CHECKS, Run, require_path
from lca.testing.strategies import Feature, networks

FRAMEWORKS = ("torch", "tensorflow", "jax")
BACKEND_CHECKS: list[Check] = []


Law = Callable[[Backend, Case], None]


def law(function: Law) -> Law:
    """Register a law of backends that is checked on random networks and data."""
    return _on(cases)(function)


def policy(*always: Feature) -> Callable[[Law], Law]:
    """Register a law that is checked on networks with exactly these features."""
    return _on(cases_of(networks(features=(), always=always)))


def _on(drawn: st.SearchStrategy[Case]) -> Callable[[Law], Law]:
    def register(function: Law) -> Law:
        BACKEND_CHECKS.append(Check(function.__name__, function, lambda backend: drawn, lambda backend: True))
        return function

    return register


@law
def layout_is_the_networks(backend: Backend, case: Case) -> None:
    """The layout has the tensors of the NumPy network: names, shapes, order, axes of neurons, other names."""
    layout, expected = case.objective(backend).layout, case.network.layout
    require(layout.names == expected.names, f"names are {layout.names}, expected {expected.names}.")
    require(layout.shapes == expected.shapes, f"shapes are {layout.shapes}, expected {expected.shapes}.")
    axes = f"the axes of neurons are {layout.neuron_axes}, expected {expected.neuron_axes}."
    require(layout.neuron_axes == expected.neuron_axes, axes)
    # A model that is a function has a tied tensor under one name only.
    known = not layout.tied or layout.tied == expected.tied
    require(known, f"other names of tensors are {layout.tied}, expected {expected.tied}.")


@law
def vectors_keep_their_numbers(backend: Backend, case: Case) -> None:
    """Converting a NumPy vector to the framework's type and back preserves values and precision."""
    vector = backend.vector(case.points[0])
    require(np.array_equal(to_float64(vector), case.points[0]), "a vector changed when converted and back.")
    eps = array_ops(vector).eps(vector)
    require(eps == case.eps, f"a {case.dtype} vector has machine epsilon {eps:.3g} in the framework.")


@law
def losses_equal_the_reference(backend: Backend, case: Case) -> None:
    """The losses of the whole data and of a batch equal those of the NumPy network in float64."""
    objective, reference = case.objective(backend), case.reference()
    batch = case.data.take(slice(7))
    for point in case.points:
        for part in (None, batch):
            expected = reference.loss(point.astype(np.float64), part)
            actual = objective.loss(backend.vector(point), part)
            tolerance = tolerances.summed(1 + abs(expected), case.eps)
            require_close(actual, expected, tolerance, "the loss of " + ("a batch" if part else "the data"))


@law
def allocations_equal_the_reference(backend: Backend, case: Case) -> None:
    """Every value of every step equals that of the NumPy network in float64, to a few eps·mass."""
    rule = PathIntegral()
    ours = Trajectory([backend.vector(point) for point in case.points])
    expected = allocate(case.reference(), Trajectory(case.points.astype(np.float64)), rule, check=False)
    for a, b in zip(allocate(case.objective(backend), ours, rule, check=False), expected, strict=True):
        tolerance = tolerances.allocation(b.mass, case.eps)
        require_close(to_float64(a.values), b.values, tolerance, f"step {a.step}: values")
        require_close(a.mass, b.mass, tolerance, f"step {a.step}: mass")


BACKEND_CHECKS += TRAINING_CHECKS


def samples_equal_the_reference(backend: Backend, case: Case) -> None:
    """`batch(index)` of the objective is the mean over exactly these examples, as in the reference."""
    objective, reference = case.objective(backend), case.reference()
    index = np.random.default_rng(len(case.network.layout.names)).integers(len(case.data), size=5)
    ours, theirs = objective.batch(index), reference.batch(index)  # type: ignore[attr-defined]
    found = evaluate(objective, backend.vector(case.points[0]), ours)
    expected = evaluate(reference, case.points[0].astype(np.float64), theirs)
    require_same(found, expected, case, f"of the examples {index.tolist()}")


def _makes_samples(backend: Backend) -> bool:
    network = mlp((3, 4, 2), activation="tanh")
    objective = make_case(network, 0, "float64", weighted=False).objective(backend)
    try:
        return isinstance(objective, Sampled) and objective.batch(np.zeros(1, int)) is not None
    except (LCAError, NotImplementedError):
        return False


BACKEND_CHECKS.append(
    Check(
        "samples_equal_the_reference",
        samples_equal_the_reference,
        lambda backend: plain_cases,
        _makes_samples,
    )
)


# --- policies: each gets a law of its own, so that a failure names it --------------------------------------


@policy("dropout")
def dropout_is_off(backend: Backend, case: Case) -> None:
    """Losses and gradients equal those of the network without its dropout layers."""
    _require_reference(backend, case, "with dropout layers, which must be disabled")


@policy("batch_norm")
def batch_statistics_are_those_of_the_measuring_batch(backend: Backend, case: Case) -> None:
    """BatchNorm "batch" uses the biased statistics of the measuring batch, and differentiates them."""
    _require_reference(backend, case, "with the statistics of the measuring batch")
    every: list[dict[str, int]] = [{"batch_size": 12}, {}]  # by default, 17 examples are one batch
    for options in every:
        ours = backend.objective(case.network, case.data, case.dtype, **options)
        reference = NumpyBackend().objective(case.network, case.data, "float64", **options)
        found = evaluate(ours, backend.vector(case.points[0]), None)
        expected = evaluate(reference, case.points[0].astype(np.float64), None)
        require_same(found, expected, case, f"in measuring batches of {options or 'the default size'}")


@policy("frozen_norm")
def frozen_statistics_are_used(backend: Backend, case: Case) -> None:
    """BatchNorm "frozen" uses the given running statistics as constants."""
    _require_reference(backend, case, "with frozen statistics")


@policy("frozen")
def frozen_parameters_get_zero(backend: Backend, case: Case) -> None:
    """A frozen tensor is part of the layout, has gradient exactly 0, and is not moved by training."""
    objective = case.objective(backend)
    theta = backend.vector(case.points[0])
    grads = case.network.layout.unflatten(to_float64(objective.loss_and_grad(theta)[1]))
    for name in case.network.frozen:
        require(not grads[name].any(), f"frozen tensor {name!r} has a gradient of {grads[name].ravel()}.")
    sizes = tuple(len(batch) for batch in case.measuring_batches)
    run = Run(case, (SGD(0.05, momentum=0.9), DECAY), sizes)
    for optimizer in run.optimizers:
        path = run.path(backend, objective, optimizer)
        moved = case.network.layout.unflatten(path[-1] - path[0])
        for name in case.network.frozen:
            require(not moved[name].any(), f"{optimizer} moved the frozen tensor {name!r}.")
        require_path(path, run, optimizer, ", with frozen tensors")


@policy("tied")
def tied_parameters_count_once(backend: Backend, case: Case) -> None:
    """A tied tensor occurs in the layout once, and its gradient is the sum over all its uses."""
    layout = case.objective(backend).layout
    twice = [name for name in case.network.tied if name in layout.names]
    require(not twice, f"{', '.join(twice)} is tied to another tensor, but has entries of its own in θ.")
    _require_reference(backend, case, "with tied tensors")
    run = Run(case, (DECAY,), (5, 5, 5))
    require_path(run.path(backend, case.objective(backend), DECAY), run, DECAY, ", with tied tensors")


@policy()
def penalty_is_a_separate_term(backend: Backend, case: Case) -> None:
    """With a penalty, the objective is a Sum of the unchanged term ``data`` and the term ``penalty``."""
    for penalty in (0.25, 3.0):
        objective, reference = case.objective(backend, penalty=penalty), case.reference(penalty=penalty)
        names = sorted(objective.terms) if isinstance(objective, Sum) else type(objective).__name__
        require(names == ["data", "penalty"], f"expected a Sum of the terms data and penalty, got {names}.")
        for point in case.points[:2]:
            for batch, where in ((None, "the data"), (case.measuring_batches[-1], "a batch of two")):
                found = evaluate(objective, backend.vector(point), batch).terms
                expected = evaluate(reference, point.astype(np.float64), batch).terms
                for name in names:
                    require_same(found[name], expected[name], case, f"the term {name!r} on {where}")


@policy("frozen", "tied")
def penalty_counts_what_trains_once(backend: Backend, case: Case) -> None:
    """The penalty is ``½ c Σ θ_i²`` over the tensors that are not frozen, a tied one once, and so trained."""
    objective, reference = case.objective(backend, penalty=0.25), case.reference(penalty=0.25)
    point = case.points[-1]
    found = evaluate(objective, backend.vector(point), None).terms["penalty"]
    expected = evaluate(reference, point.astype(np.float64), None).terms["penalty"]
    require_same(found, expected, case, "the penalty of a network with frozen and tied tensors")
    run = Run(case, (SGD(0.05, momentum=0.9),), (5, 5, 5), penalty=0.25)
    [optimizer] = run.optimizers
    require_path(run.path(backend, objective, optimizer), run, optimizer, ", with a penalty")


@policy()
def objectives_are_independent(backend: Backend, case: Case) -> None:
    """Objectives of one network with other data, penalty or precision do not affect each other."""
    halves = [  # of equal shape
        replace(case, data=case.data.take(slice(0, 8))),
        replace(case, data=case.data.take(slice(9, 17))),
    ]
    other: Dtype = "float32" if case.dtype == "float64" else "float64"
    cases = [case, *halves, replace(case, points=case.points.astype(other), dtype=other)]
    objectives = [each.objective(backend) for each in cases]
    penalised = case.objective(backend, penalty=0.25)
    for each, objective in zip(cases, objectives, strict=True):
        expected = evaluate(each.reference(), each.points[0].astype(np.float64), None)
        found = evaluate(objective, backend.vector(each.points[0]), None)
        what = f"of {len(each.data)} examples in {each.dtype}, beside objectives of other data and dtypes"
        require_same(found, expected, each, what)
    expected = evaluate(case.reference(penalty=0.25), case.points[0].astype(np.float64), None)
    require_same(
        evaluate(penalised, backend.vector(case.points[0]), None),
        expected,
        case,
        "with a penalty, beside others",
    )


@policy()
def batches_are_weighted_by_size(backend: Backend, case: Case) -> None:
    """The loss of the data is the mean over all examples, although the last batch is smaller."""
    theta, objective = backend.vector(case.points[0]), case.objective(backend)
    weighted = [batch.total_weight * objective.loss(theta, batch) for batch in case.measuring_batches]
    mean = sum(weighted) / case.data.total_weight
    require_close(objective.loss(theta), mean, tolerances.summed(1 + abs(mean), case.eps), "the mean loss")


def _require_reference(backend: Backend, case: Case, what: str) -> None:
    """Loss and gradient of the whole data and of a batch equal those of the reference."""
    theta, objective, reference = case.points[0], case.objective(backend), case.reference()
    single = replace(case, dtype="float32").objective(NumpyBackend())
    for batch in (None, case.measuring_batches[0]):
        found = evaluate(objective, backend.vector(theta), batch)
        expected = evaluate(reference, theta.astype(np.float64), batch)
        rounded = evaluate(single, theta.astype(np.float32), batch)
        # Some networks lose digits on the way to the gradient, also those of the reference.
        lost = float(np.abs(rounded.grad - expected.grad).max()) / tolerances.EPS32 * case.eps
        require_same(found, expected, case, what, lost)


def loads_no_other_framework(backend: Backend, samples: int, seed: int) -> None:
    """Loading the backend imports no framework (torch, tensorflow, jax) but its own."""
    code = f"from lca.reference._backend import load_backend; load_backend({backend.name!r})"
    loaded = _frameworks_after(code)
    # A framework may import another one itself: TensorFlow imports JAX where that is installed.
    own = len(loaded) <= 1 or any(loaded <= _frameworks_after(f"import {name}") for name in loaded)
    require(own, f"loading the backend imported {', '.join(sorted(loaded))}.")


def _frameworks_after(code: str) -> set[str]:
    """The frameworks that a new interpreter has imported after running ``code``."""
    code += f"; import sys; print('imported:', *[name for name in {FRAMEWORKS} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    require(run.returncode == 0, f"running {code!r} failed: {run.stderr.strip()[-500:]}")
    return set(run.stdout.rpartition("imported:")[2].split())


def _is_installed(backend: Backend) -> bool:
    return backend.name in entry_points(group=ENTRY_POINT_GROUP).names


BACKEND_CHECKS.append(Check("loads_no_other_framework", loads_no_other_framework, None, _is_installed))
