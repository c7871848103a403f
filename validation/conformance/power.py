"""What the statistical checks can see: the bias that each would have found with a probability of 99 %.

Every right stochastic estimator of the zoo is given to every check of a mean, with the default of 20 samples
(200 training runs for most checks) and seed 0; the check says which bias it would have found, in units of the
value it is about. ``samples=`` buys power: four times as many samples halve the figure.
"""

import re
from pathlib import Path

from tqdm import tqdm

from tests.meta.zoo import ZOO
from validation.evidence import keep

FOLDER = Path(__file__).parent
KIND = ZOO["stochastic estimators"]
BIAS = re.compile(r"finds a bias of (\S+) times the value")


def found_by(check: str, name: str) -> float | None:
    """The bias that a check finds in a subject; ``None`` if it tests no mean of it."""
    law, subject = KIND.check(check), KIND.right[name]
    note = law.run(subject, samples=20, seed=0).note if law.applies(subject) else ""
    said = BIAS.search(note)
    return float(said[1]) if said else None


def table(found: dict[str, dict[str, float | None]]) -> str:
    """A row for each subject and a column for each check."""
    checks = list(next(iter(found.values())))
    lines = [
        "# The bias that the checks find with a probability of 99 %, in units of the value",
        "",
        "Made by `python -m validation.conformance.power`: 20 samples, seed 0. The probability of a false",
        "alarm is 1e-6. Empty: the check tests no mean of that estimator.",
        "",
        "| right one | " + " | ".join(f"`{check}`" for check in checks) + " |",
        "|---|" + "---|" * len(checks),
    ]
    for name, row in found.items():
        shown = ("" if bias is None else f"{bias:.2g}" for bias in row.values())
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Ask every check of every right subject, and keep the table."""
    statistical = [check.name for check in KIND.checks if check.cases is None]
    rows = {name: {check: found_by(check, name) for check in statistical} for name in tqdm(KIND.right)}
    asked = [check for check in statistical if any(row[check] is not None for row in rows.values())]
    found = {name: {check: row[check] for check in asked} for name, row in rows.items()}
    keep(FOLDER, "power.json", {"samples": 20, "seed": 0, "bias": found})
    (FOLDER / "power.md").write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    main()
