"""The table of the results."""

from typing import Any

UNJUDGED = "not judged yet"
OUTCOMES = ("killed", "timeout", "crash", "survived")
Row = dict[str, Any]


def counts(rows: list[Row]) -> dict[str, int]:
    """How many mutants had each outcome."""
    return {outcome: sum(row["outcome"] == outcome for row in rows) for outcome in OUTCOMES}


def table(results: dict[str, Row]) -> str:
    """Counts by group, then by file, then every survivor with its reason."""
    lines = ["| group | mutants that make sense | tried | killed | by timeout | by crash | survived | score |"]
    lines.append("|---" * 8 + "|")
    lines += [_line(name, sum(r["populations"].values()), r["rows"]) for name, r in results.items()]
    rows = [row for found in results.values() for row in found["rows"]]
    lines.append(_line("all", sum(sum(r["populations"].values()) for r in results.values()), rows))
    lines += ["", "| file | mutants that make sense | tried | killed | by timeout | by crash | survived | score |"]
    lines.append("|---" * 8 + "|")
    lines += [
        _line(f"`{file}`", population, [row for row in found["rows"] if row["file"] == file])
        for found in results.values()
        for file, population in found["populations"].items()
    ]
    lines += ["", "| survivor | change | why no test is missing, or which was added |", "|---|---|---|"]
    lines += [_survivor(row) for row in rows if row["outcome"] == "survived"]
    return "\n".join([*lines, ""])


def _line(name: str, population: int, rows: list[Row]) -> str:
    n = counts(rows)
    score = f"{1 - n['survived'] / len(rows):.1%}" if rows else "none"
    return f"| {name} | {population} | {len(rows)} | " + " | ".join(str(n[o]) for o in OUTCOMES) + f" | {score} |"


def _survivor(row: Row) -> str:
    change, reason = row["change"].replace("|", "\\|"), row.get("reason", UNJUDGED)
    if "killed_since" in row:
        reason = f"`{reason}` was added" + ("" if row["killed_since"] else ", but does not see it")
    return f"| `{row['file']}:{row['line']}` | `{change}` | {reason} |"
