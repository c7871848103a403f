"""`lca estimators`: what each estimator allocates, its bias, its cost, and the step fields it requires."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import Any

from lca._commands.command import JSON, Command
from lca._commands.targets import find_estimator
from lca.allocation import Cost, Estimator, largest_cost_of
from lca.estimators._registry import REGISTRY, NamedEstimator
from lca.estimators._stochastic import StochasticEstimator
from lca.record._citation import citations_of

HEADINGS = ("name", "target", "bias", "cost of a step", "required step fields")


def add_arguments(parser: ArgumentParser) -> None:
    """The options of `lca estimators`."""
    parser.add_argument(
        "name",
        nargs="?",
        help="describe this one in detail (a name, or module:object); without it: the table of all",
    )
    parser.add_argument("--json", action="store_true", help=JSON)


def run(args: Namespace) -> None:
    """Print the table, or the details of one estimator."""
    rows = list(REGISTRY.values()) if args.name is None else [find_estimator(args.name)]
    if args.json:
        print(json.dumps([as_json(row) for row in rows], indent=2))
    else:
        print(table() if args.name is None else details(rows[0]))


def as_json(row: NamedEstimator) -> dict[str, Any]:
    """What one estimator declares, for a program."""
    estimator = row.make(1e-3)
    return {
        "name": row.name,
        "description": row.description,
        "target": row.target,
        "bias": _bias(estimator),
        "cost_per_step": asdict(estimator.cost),
        "largest_cost_of_a_step": asdict(largest_cost_of(estimator)),
        "required_fields": list(row.required_fields),
        "in_python": repr(estimator),
        "better_at_the_same_cost": row.better,
    }


def table() -> str:
    """One line an estimator, columns aligned."""
    rows = REGISTRY.values()
    better = _aligned([(f"  {row.name}:", row.better) for row in rows if row.better])
    return "\n".join([*_aligned([HEADINGS, *map(cells, rows)]), "", *NOTES, "", BETTER, *better])


BETTER = "More accurate at the same cost or for nothing:"


NOTES = (
    "target: the loss allocated; full: of all measured data; batch: of training batches; probe: of samples.",
    "cost: beyond training, in the long run. `full`: gradients over all measured data; `batch`: on a",
    "training batch; `examples`: of single examples, in samples of any size.",
    "`lca estimators NAME` describes one of them; docs/choosing.md says which to choose.",
)


def cells(row: NamedEstimator) -> tuple[str, ...]:
    """The cells of one line: what the estimator declares."""
    estimator = row.make(1e-3)
    cost, fields = cost_in_words(estimator.cost), ", ".join(row.required_fields) or "-"
    return row.name, row.target, _bias(estimator), cost, fields


def details(row: NamedEstimator) -> str:
    """All about one estimator: the cells of its line, how to make it in Python, what to cite."""
    estimator = row.make(1e-3)
    lines = [f"{row.name}: {row.description}", ""]
    pairs = [*zip(HEADINGS[1:], cells(row)[1:], strict=True), ("in Python", repr(estimator))]
    if (largest := largest_cost_of(estimator)) != estimator.cost:
        pairs.insert(3, ("at most", cost_in_words(largest)))
    pairs += [("better at its cost", row.better)] if row.better else []
    lines += _aligned([(f"{what}:", value) for what, value in pairs])
    return "\n".join([*lines, *(f"\n{entry}" for entry in citations_of(estimator))])


def _bias(estimator: Estimator) -> str:
    if isinstance(estimator, StochasticEstimator):
        return estimator.bias
    return f"none up to degree {estimator.degree}"


def cost_in_words(cost: Cost) -> str:
    """``1 full + 2 batch``.

    >>> cost_in_words(Cost(full_gradients=0.025, examples=512))
    '0.025 full + 512 examples'
    """
    parts = {
        "full": cost.full_gradients,
        "full forward": cost.full_losses,
        "batch": cost.batch_gradients,
        "examples": cost.examples,
    }
    return " + ".join(f"{count:g} {what}" for what, count in parts.items() if count) or "0"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


ESTIMATORS_COMMAND = Command(
    "estimators",
    "List the estimators: target, bias, cost, required step fields.",
    add_arguments,
    run,
    words={"name": tuple(REGISTRY)},
)
