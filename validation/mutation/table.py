"""The table of the results."""

from validation.mutation.groups import Row
from validation.mutation.reasons import ADDED, BEFORE, seen, visible

COLUMNS = (
    "mutants that make sense",
    "tried",
    "killed",
    "by a test of no list",
    "by a test added",
    "unseen",
    "cannot be seen",
)


def table(results: dict[str, Row]) -> str:
    """Counts by group, then by file, then every survivor with its reason."""
    rows = [row for found in results.values() for row in found["rows"]]
    sizes = {name: sum(found["populations"].values()) for name, found in results.items()}
    lines = _head("group")
    lines += [_line(name, sizes[name], found["rows"]) for name, found in results.items()]
    lines += [_line("**all**", sum(sizes.values()), rows), "", *_head("file")]
    lines += [
        _line(f"`{file}`", population, [row for row in rows if row["file"] == file])
        for found in results.values()
        for file, population in found["populations"].items()
    ]
    for title, chosen in (("seen by no test", False), ("seen by a test of no list, or one added", True)):
        lines += ["", f"| {title} | change | reason |", "|---|---|---|"]
        lines += [_survivor(r) for r in rows if r["outcome"] == "survived" and seen(r) == chosen]
    return "\n".join([*lines, ""])


def _head(first: str) -> list[str]:
    return ["| " + " | ".join((first, *COLUMNS, "score (of all)")) + " |", "|---" * (len(COLUMNS) + 2) + "|"]


def _line(name: str, population: int, rows: list[Row]) -> str:
    counts = [
        population,
        len(rows),
        sum(row["outcome"] != "survived" for row in rows),
        *(
            sum(seen(row) and row.get("reason", "").startswith(kind) for row in rows)
            for kind in (BEFORE, ADDED)
        ),
        sum(visible(row) and not seen(row) for row in rows),
        sum(not visible(row) for row in rows),
    ]
    count = sum(map(seen, rows))
    score = f"{count / sum(map(visible, rows)):.1%} ({count / len(rows):.1%})"
    return f"| {name} | " + " | ".join(map(str, counts)) + f" | {score} |"


def _survivor(row: Row) -> str:
    change = row["change"].replace("|", "\\|")
    return f"| `{row['file']}:{row['line']}` | `{change}` | {row['reason'].replace('|', chr(92) + '|')} |"
