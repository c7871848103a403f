"""`lca estimators`: what each estimator allocates, how far it may be off, what it costs and what it needs."""

from argparse import ArgumentParser, Namespace

from lca.allocation import Cost, Estimator
from lca.commands.command import Command
from lca.estimators.named import CHEAP, ESTIMATORS, make_estimator
from lca.estimators.stochastic import StochasticEstimator

HEADINGS = ("name", "target", "bias", "cost of a step", "needs from the loop")


def add_arguments(parser: ArgumentParser) -> None:
    """It has none."""


def run(args: Namespace) -> None:
    """Print the table."""
    print(table())


def table() -> str:
    """One line an estimator, columns lined up."""
    rows = [HEADINGS, *(row(name) for name in (*ESTIMATORS, *CHEAP))]
    widths = [max(len(line[column]) for line in rows) for column in range(len(HEADINGS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in rows
    ]
    return "\n".join([*lines, "", *NOTES])


NOTES = (
    "target: full, the loss of all measured data; batch, of training batches; probe, of drawn examples.",
    "cost: beyond training. `full` is a gradient over all measured data, `batch` one on a training batch,",
    "`examples` are gradients of single ones; the sampled estimators take any number.",
    "docs/choosing.md says which to take.",
)


def row(name: str) -> tuple[str, ...]:
    """What the estimator of this name declares."""
    estimator = make_estimator(name)
    bias, needs = _bias_and_needs(estimator)
    return name, estimator.target, bias, cost_in_words(estimator.cost), ", ".join(needs) or "-"


def _bias_and_needs(estimator: Estimator) -> tuple[str, tuple[str, ...]]:
    if isinstance(estimator, StochasticEstimator):
        return estimator.bias, estimator.required_fields
    return f"none to degree {estimator.degree}", ()


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


ESTIMATORS_COMMAND = Command(
    "estimators", "List the estimators: target, bias, cost, needs.", add_arguments, run
)
