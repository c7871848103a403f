"""`Forecast`: what measuring a run will cost, with the estimator of a tracker and with others.

The gradients of a step are those that each estimator declares (`lca.allocation.Estimator`). The time of one
is measured on the objective itself, and that of work on vectors on steps whose gradients cost nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil, log2

import numpy as np

from lca._shares import shared_losses
from lca.allocation import Cost, Estimator, largest_cost_of
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.estimators import REGISTRY
from lca.estimators._stochastic import required_fields_of
from lca.layout import Layout
from lca.objective import Objective, leaves
from lca.tracking._options import CheckEvery
from lca.tracking._own_work import OwnWork, own_work
from lca.tracking._self_check import FIRST, SHORT_WINDOWS
from lca.tracking._spans import LONGEST, is_compared
from lca.tracking._speed import Speed, examples_of, speeds_of
from lca.tracking._start_costs import StartCosts, start_costs

_SMALL = 1.1
"""Factors below this are shown with two digits, so that no estimator seems to cost nothing."""
ALTERNATIVES = (("rk4", 1), ("adaptive", 1), ("adaptive", 10), ("probe", 1), ("cross-fit", 1))
"""The named estimators that a forecast lists, with the number of updates under one straight line."""


@dataclass(frozen=True)
class ForecastRow:
    """What one estimator costs.

    Attributes
    ----------
    name
        The estimator in words.
    cost
        The declared cost of a step of training and one measured loss, on average; the least, if it depends
        on the step. With ``span`` that includes the lines whose updates are measured as well, and if the
        number of steps is not known, the least number of these.
    seconds
        The time that measuring adds to a step of training, with work on vectors and, if the number of steps
        is known, the self-check; ``None`` if a part of it is not known.
    factor
        The time of a step with measuring over that without; ``None`` if one of the two is not known.
    memory
        Bytes beyond training of the vectors (K,) that the estimator and the tracker hold; ``None`` if the
        estimator does not declare them (``vectors``).
    required_fields
        What the training loop has to supply.
    largest_cost
        As ``cost``, where every step costs the most that the estimator declares (``largest_cost``) and, if
        the number of steps is not known, every line is compared with its updates.

    Examples
    --------
    >>> ForecastRow("adaptive", Cost(full_gradients=1), 0.5, 3.0).factor
    3.0
    """

    name: str
    cost: Cost
    seconds: float | None
    factor: float | None
    memory: int | None = None
    required_fields: tuple[str, ...] = ()
    largest_cost: Cost | None = None


_EXAMPLES = "ex.: gradients of single examples, in samples; each of its micro_batches is a pass of its own"
_LEFT_OUT = (
    "time at least: declared gradients, work on vectors, self-checks; not in it: the Python of the\n"
    "tracker, from 0.4 ms a step, and more beside other processes"
)


@dataclass(frozen=True)
class Forecast:
    """What measuring a run costs; printed as a table, this tracker first.

    Attributes
    ----------
    rows
        This estimator and the alternatives.
    steps
        The number of updates of the run; ``None`` if it is not known.
    step_seconds
        The time of a step of training without measuring; ``None`` if it is not known.
    gradient_seconds
        The time of one gradient of all measured losses.

    Examples
    --------
    >>> one, most = Cost(full_gradients=1), Cost(full_gradients=34)
    >>> adaptive = ForecastRow("this: Adaptive", one, 0.5, 3.0, 4_000_000, largest_cost=most)
    >>> cross_fit = ForecastRow("cross-fit", Cost(), 0.01, 1.04, 8_000_000, ("micro_batches",))
    >>> print(Forecast((adaptive, cross_fit), steps=120, step_seconds=0.25, gradient_seconds=0.5))
    a gradient of the measured losses takes 500 ms, a step of training 250 ms; 120 steps take 30 s
                           gradients  at most       adds   training   memory
    this: Adaptive              1.00    34.00      1 min       x3.0     4 MB
    cross-fit                      0        0      1.2 s      x1.04     8 MB  needs micro_batches
    time at least: declared gradients, work on vectors, self-checks; not in it: the Python of the
    tracker, from 0.4 ms a step, and more beside other processes
    """

    rows: tuple[ForecastRow, ...]
    steps: int | None
    step_seconds: float | None
    gradient_seconds: float

    @property
    def line(self) -> str:
        """The rows whose time is known in one line."""
        each = "" if self.steps is not None else " a step"
        known = (row for row in self.rows if row.seconds is not None)
        parts = (
            ", ".join(filter(None, (self._time(row) + each, self._factor(row)))) + f" ({row.name})"
            for row in known
        )
        return "measuring adds at least " + "; ".join(parts) + "; not in it: the Python of the tracker"

    def __str__(self) -> str:
        """The costs as a table."""
        head = f"a gradient of the measured losses takes {_time(self.gradient_seconds)}"
        if self.step_seconds is not None:
            head += f", a step of training {_time(self.step_seconds)}"
            head += "" if self.steps is None else f"; {self.steps:,} steps take {_time(self._training)}"
        adds = "adds" if self.steps is not None else "adds/step"
        lines = [head, f"{'':22} {'gradients':>9} {'at most':>8} {adds:>10} {'training':>10} {'memory':>8}"]
        for row in self.rows:
            memory = "" if row.memory is None else _bytes(row.memory)
            needs = ", ".join(dict.fromkeys(field.removeprefix("next_") for field in row.required_fields))
            lines.append(
                f"{row.name:22} {_gradients(row.cost):>9} {_gradients(row.largest_cost or row.cost):>8} "
                f"{self._time(row):>10} {self._factor(row):>10} "
                f"{memory:>8}  {f'needs {needs}' if needs else ''}".rstrip()
            )
        samples = [_EXAMPLES] if any((row.largest_cost or row.cost).examples for row in self.rows) else []
        return "\n".join([*lines, *samples, _LEFT_OUT])

    @property
    def _training(self) -> float:
        assert self.step_seconds is not None
        assert self.steps is not None
        return self.step_seconds * self.steps

    def _time(self, row: ForecastRow) -> str:
        return "" if row.seconds is None else _time(row.seconds * (self.steps or 1))

    def _factor(self, row: ForecastRow) -> str:
        if row.factor is None:
            return ""
        digits = 2 if row.factor < _SMALL else 1 if row.factor < 10 else 0  # noqa: PLR2004
        return f"x{row.factor:.{digits}f}"


@dataclass(frozen=True)
class Run:
    """The run that is forecast.

    Parameters
    ----------
    estimator
        That of the tracker.
    measured
        The fraction of the updates that begin a measured step.
    steps
        As in `Forecast`.
    step_seconds, measuring_seconds
        Time of a step of training, and of measuring it, as far as it was seen.
    reading_seconds
        Time in which a tracker reads the model at a measured step.
    check_every
        The self-check of sampled estimators.
    span
        The number of updates under one straight line.
    apart
        The fraction of the updates that begin a measured step where no other one ended (``every``).
    """

    estimator: Estimator
    measured: float = 1.0
    steps: int | None = None
    step_seconds: float | None = None
    measuring_seconds: float | None = None
    reading_seconds: float = 0.0
    check_every: CheckEvery = None
    span: int = 1
    apart: float = 0.0

    @property
    def updates_on_a_line(self) -> int:
        """The updates under one straight line."""
        return self.span if self.steps is None else min(self.span, self.steps)

    @property
    def compared_lines(self) -> tuple[float, float]:
        """Lines that are compared with their updates, for each update of the run: the least and the most.

        These differ if the number of steps is not known.
        """
        if self.span == 1:
            return 0.0, 0.0
        if self.steps is None:
            return self.measured / LONGEST, self.measured
        lines = ceil(round(self.steps * self.measured, 6))
        compared = sum(map(is_compared, range(1, lines + 1))) / self.steps
        return compared, compared

    @property
    def compared_updates(self) -> float:
        """The fraction of the updates that are on such lines; the least."""
        return self.compared_lines[0] * self.updates_on_a_line

    def begun_anew(self, compared_lines: float) -> float:
        """Gradients at the start of a step that no step before has evaluated, for each update."""
        return compared_lines + self.apart


def forecast(objectives: Mapping[str, Objective], theta: Vector, run: Run) -> Forecast:
    """Time the objectives at θ, and apply the declared costs to that.

    Parameters
    ----------
    objectives
        The measured losses by name. Evaluating them changes nothing that can be seen from outside.
    theta
        θ (K,), a vector that nothing else writes.
    run
        The estimator and what is known of the run.

    Raises
    ------
    LCAError
        If ``steps`` or ``step_seconds`` is not positive.
    """
    for name, value in (("steps", run.steps), ("step_seconds", run.step_seconds)):
        if value is not None and not value > 0:
            raise LCAError(f"{name} must be positive, got {value!r}.")
    speeds = speeds_of(objectives, theta)
    rows = tuple(
        _row(name, one, _without(speeds, shared_losses(objectives, one.estimator)), objectives, theta)
        for name, one in _runs(run)
    )
    full = sum(s.gradient for s in _without(speeds, shared_losses(objectives, run.estimator)).values())
    return Forecast(rows, run.steps, run.step_seconds, full)


def _row(
    name: str, run: Run, speeds: Mapping[str, Speed], objectives: Mapping[str, Objective], theta: Vector
) -> ForecastRow:
    """The costs of a run, per update; ``speeds`` are those of the losses that are evaluated."""
    estimator, fields = run.estimator, required_fields_of(run.estimator)
    work, start = _own_work(estimator, objectives, theta), _start_costs(run, objectives)
    seconds = run.measuring_seconds
    if seconds is None:
        own = work.seconds * len(speeds) + run.reading_seconds + _split_seconds(fields, speeds)
        step = _plus(_seconds(estimator.cost, speeds, run.step_seconds, work.sizes), own)
        begin = _seconds(start.usual, speeds, run.step_seconds, work.sizes)
        if step is not None and begin is not None:
            seconds = run.measured * (step + _check_seconds(estimator, speeds, run))
            seconds += run.compared_updates * step + run.begun_anew(run.compared_lines[0]) * begin
    known = seconds is not None and run.step_seconds
    factor = 1 + seconds / run.step_seconds if known else None  # type: ignore[operator]
    least, most = run.compared_lines
    cost = _of_run(run, estimator.cost, start.usual, least)
    largest = _of_run(run, largest_cost_of(estimator), start.largest, most)
    return ForecastRow(name, cost, seconds, factor, _memory(run, len(speeds), theta), fields, largest)


def _of_run(run: Run, step: Cost, start: Cost, compared_lines: float) -> Cost:
    """The mean cost of an update of a run whose measured steps cost ``step``."""
    steps = run.measured + compared_lines * run.updates_on_a_line
    return _scaled(step, steps) + _scaled(start, run.begun_anew(compared_lines))


def _memory(run: Run, losses: int, theta: Vector) -> int | None:
    """Bytes of the vectors that the estimator and the tracker hold; ``None`` if it is not declared.

    The updates of a compared line are measured while that line is held, and so is the end of the update.
    """
    vectors = getattr(run.estimator, "vectors", None)
    if vectors is None:
        return None
    held = vectors * losses + _held_by_tracker(required_fields_of(run.estimator))
    return int((held if run.span == 1 else 2 * held + 1) * _bytes_of(theta))


def _own_work(estimator: Estimator, objectives: Mapping[str, Objective], theta: Vector) -> OwnWork:
    """The work on vectors for one measured loss; none if it cannot be timed."""
    layout, examples = _data_of(objectives)
    return own_work(estimator, layout, theta, examples) or OwnWork(0.0)


def _start_costs(run: Run, objectives: Mapping[str, Objective]) -> StartCosts:
    """What a step costs in addition at its start; none if every step begins where one ended."""
    if not run.begun_anew(run.compared_lines[1]):
        return StartCosts()
    return start_costs(run.estimator, *_data_of(objectives))


def _data_of(objectives: Mapping[str, Objective]) -> tuple[Layout, int | None]:
    """The layout of the first loss, and the number of its examples that can be drawn, if they can."""
    first = next(iter(objectives.values()))
    examples = [number for own in leaves(first) if (number := examples_of(own)) is not None]
    return first.layout, min(examples, default=None)


def _split_seconds(fields: tuple[str, ...], speeds: Mapping[str, Speed]) -> float:
    """The time of one more gradient call where the loop splits a batch in two; 0 if it is not known."""
    known = [speed.seconds[0] for speed in speeds.values() if speed.seconds]
    return min(known, default=0.0) if "micro_batches" in fields else 0.0


def _check_seconds(estimator: Estimator, speeds: Mapping[str, Speed], run: Run) -> float:
    """The time of the self-check of a sampled estimator, a step; 0 if the number of steps is not known."""
    if run.check_every is None or estimator.target == "full" or run.steps is None:
        return 0.0
    steps = max(1.0, run.steps * run.measured)
    ends, each = (2 * SHORT_WINDOWS, 2 * SHORT_WINDOWS) if run.apart else (2, 1)
    doubled = max(0.0, log2(steps / FIRST) + 1)
    checks = ends + (each * doubled if run.check_every == "doubling" else steps // run.check_every)
    return checks * sum(speed.loss for speed in speeds.values()) / steps


def _plus(seconds: float | None, more: float) -> float | None:
    return None if seconds is None else seconds + more


def _held_by_tracker(fields: tuple[str, ...]) -> int:
    """Vectors (K,) of the step itself: θ, also at its end if the step waits for the next one, and fields."""
    waits = any(field.startswith("next_") for field in fields)
    return 1 + waits + sum(map(_vectors_in, fields))


def _vectors_in(field: str) -> int:
    """Vectors (K,) in a field of a step; two micro-batches or halves are two gradients and two updates."""
    return {"gradient": 1, "micro_batches": 4, "halves": 4}.get(field.removeprefix("next_"), 0)


def _runs(run: Run) -> Iterator[tuple[str, Run]]:
    """The run itself, and the same run with the alternatives, by name."""
    yield f"this: {type(run.estimator).__name__}", run
    for name, span in ALTERNATIVES:
        label = name if span == 1 else f"{name}, span={span}"
        estimator = REGISTRY[name].make(_TOL)
        other = replace(run, estimator=estimator, measured=1 / span, span=span, apart=0.0)
        yield label, replace(other, measuring_seconds=None)


_TOL = 1e-3


def _seconds(
    cost: Cost, speeds: Mapping[str, Speed], step_seconds: float | None, sizes: tuple[int, ...]
) -> float | None:
    """The time that a declared cost takes for all measured losses; ``sizes`` are those of the samples."""
    total = 0.0
    for speed in speeds.values():
        total += cost.full_gradients * speed.gradient + cost.full_losses * speed.loss
        parts = (
            (cost.examples, _seconds_of_examples(cost.examples, sizes, speed) if cost.examples else 0.0),
            (cost.batch_gradients, step_seconds),  # a gradient on a batch is nearly all of a step
        )
        for number, seconds in parts:
            if number and seconds is None:
                return None
        total += (parts[0][1] or 0.0) + cost.batch_gradients * (step_seconds or 0.0)
    return total


def _seconds_of_examples(count: float, sizes: tuple[int, ...], speed: Speed) -> float | None:
    """The time of gradients on ``count`` examples, in samples of these sizes; ``None`` if not known."""
    each = [speed.of_examples(size) for size in sizes or (count,)]
    known = [seconds for seconds in each if seconds is not None]
    return sum(known) * count / sum(sizes or (count,)) if len(known) == len(each) else None


def _without(speeds: Mapping[str, Speed], shared: Mapping[str, str]) -> dict[str, Speed]:
    return {name: speed for name, speed in speeds.items() if name not in shared}


def _scaled(cost: Cost, factor: float) -> Cost:
    return replace(cost, **{name: factor * number for name, number in vars(cost).items()})


def _bytes_of(theta: Vector) -> float:
    """Bytes of a vector (K,) of the kind of θ, on all processes together."""
    first = array_ops(theta).take(theta, np.zeros(1, np.int64))
    return float(len(theta) * np.dtype(first.dtype).itemsize)


def _gradients(cost: Cost) -> str:
    """The numbers of a cost in a few characters.

    >>> _gradients(Cost(full_gradients=1.0)), _gradients(Cost(examples=100)), _gradients(Cost())
    ('1.00', '100 ex.', '0')
    """
    parts = (
        (cost.full_gradients, "{:.2f}"),
        (cost.examples, "{:.0f} ex."),
        (cost.batch_gradients, "{:g} batch"),
    )
    return " + ".join(text.format(number) for number, text in parts if number) or "0"


def _time(seconds: float) -> str:
    """Seconds as a person writes them.

    >>> _time(0.00123), _time(2.5), _time(150), _time(9000)
    ('1.2 ms', '2.5 s', '2.5 min', '2.5 h')
    """
    if not seconds:
        return "0 s"
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= size or unit == "ms":
            number = seconds / size
            digits = 1 if number < 10 else 0
            return f"{number:.{digits}f}".removesuffix(".0") + f" {unit}"
    raise AssertionError


def _bytes(number: int) -> str:
    """A number of bytes as a person writes it.

    >>> _bytes(500), _bytes(4_000_000), _bytes(2_500_000_000)
    ('1 kB', '4 MB', '2.5 GB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            digits = 1 if number < 10 * size else 0
            return f"{number / size:.{digits}f}".removesuffix(".0") + f" {unit}"
    return f"{max(1, round(number / 1e3))} kB"
