"""The summary of a run as text for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lca._commands.estimators import cost_in_words
from lca._verdict import LARGE_MISS, missed_part
from lca.allocation import Cost

Row = Sequence[str]


def summary_text(summary: Mapping[str, Any]) -> str:
    """The text that `lca demo` prints: settings, balance, totals of the tensors, times."""
    balance = _sampled_balance if summary["heldout"] is None else _balance
    parts = (_head(summary), balance(summary), _tensors(summary), _times(summary), *_warning(summary))
    return "\n\n".join(parts)


def _head(s: Mapping[str, Any]) -> str:
    return (
        f"{s['model']} ({s['parameters']:,} parameters) on {s['data']}: {s['steps']} steps of "
        f"{s['optimizer']}, {s['batch_size']} examples each\n"
        f"{s['backend']} {s['dtype']}, seed {s['seed']}; allocated by {s['estimator']}"
        + ("" if s["heldout"] is None else f", tolerance {s['tol']:g} a step")
    )


def _balance(s: Mapping[str, Any]) -> str:
    both = (s, s["heldout"])
    rows = [
        ("", "training", "held-out"),
        ("loss at the start", *(_number(x["loss_start"]) for x in both)),
        ("loss at the end", *(_number(x["loss_end"]) for x in both)),
        ("loss change", *(_number(x["loss_end"] - x["loss_start"], "+") for x in both)),
        ("sum of the allocation", *(_number(x["lca_total"], "+") for x in both)),
        ("residual", *(f"{x['residual']:+.1e}" for x in both)),
        ("largest residual of a step", *(f"{x['max_step_residual']:.1e}" for x in both)),
        ("steps not converged", *(f"{x['unconverged_steps']}" for x in both)),
        ("gradients a step", *(f"{x['full_gradients_per_step']:.3f}" for x in both)),
        ("helping, % of A ≠ 0", *(_percent(x["helping_percent"]) for x in both)),
        ("exactly zero, % of all", *(_percent(x["zero_percent"]) for x in both)),
    ]
    return _table(rows)


def _sampled_balance(s: Mapping[str, Any]) -> str:
    """For an estimate from batches or samples: the loss is measured at both ends of the run only."""
    change, total = s["loss_end"] - s["loss_start"], s["lca_total"]
    rows = [
        ("", "training"),
        ("loss at the start", _number(s["loss_start"])),
        ("loss at the end", _number(s["loss_end"])),
        ("loss change", _number(change, "+")),
        ("sum of the allocation", _number(total, "+")),
        ("difference", _number(total - change, "+")),
        ("cost of a step", cost_in_words(Cost(**s["cost_per_step"]))),
    ]
    return (
        f"{_table(rows)}\n\n"
        f"{s['estimator']} estimates from batches or samples of the training data, so there is no residual\n"
        "of a step to check, no held-out loss and no helping %. The difference is the error of the estimate."
    )


def _tensors(s: Mapping[str, Any]) -> str:
    if s["heldout"] is None:
        rows: list[Row] = [("", "training", "share")]
        rows += [(name, *_cells(s, name)[:2]) for name in s["per_tensor"]]
        return f"Total of each tensor (negative = helped), and its share of the sum:\n{_table(rows)}"
    rows = [("", "training", "share", "helping", "held-out", "share", "helping")]
    for name in s["per_tensor"]:
        rows.append((name, *_cells(s, name), *_cells(s["heldout"], name)))
    note = "Total of each tensor (negative = helped), its share of the sum, and helping % (mean over steps):"
    return f"{note}\n{_table(rows)}"


def _cells(s: Mapping[str, Any], name: str) -> Row:
    total, whole = s["per_tensor"][name], s["lca_total"]
    share = None if whole == 0 else 100 * total / whole
    return (_number(total, "+"), _percent(share), _percent(s["helping_percent_per_tensor"][name]))


def _times(s: Mapping[str, Any]) -> str:
    return f"Training took {s['seconds']['train']:.2f} s, allocating {s['seconds']['allocate']:.2f} s."


def _warning(s: Mapping[str, Any]) -> Iterator[str]:
    missed, sampled = s["unconverged_steps"], s["heldout"] is None
    if s["diverged"]:
        yield (
            f"WARNING: the run diverged: the loss went from {_number(s['loss_start'])} to "
            f"{_number(s['loss_end'])}, so the totals\n"
            "are about a run that did not learn. Use a smaller --lr."
        )
    if missed:
        yield (
            f"WARNING: {missed} of {s['steps']} steps missed the tolerance of {s['tol']:g}, so the totals "
            "miss part of the loss change. Use --estimator adaptive, a larger --tol, or a smaller --lr."
        )
    elif not sampled and _missed_part(s) > LARGE_MISS:
        yield (
            f"WARNING: the sum of the allocation misses {100 * _missed_part(s):.2g} % of the loss change. "
            "Use --estimator adaptive, a smaller --tol, or a smaller --lr."
        )


def _missed_part(s: Mapping[str, Any]) -> float:
    return missed_part(s["loss_end"] - s["loss_start"], s["residual"], s["max_step_residual"])


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.6f}" if abs(value) < 1e6 else f"{value:{sign}.4e}"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} %"


def _table(rows: Sequence[Row]) -> str:
    """Aligned columns: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )
