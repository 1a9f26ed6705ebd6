"""A benchmark's results: rows for the screen and for JSON."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One number and, if known, the limit for it on this machine."""

    name: str
    """The headline row has the benchmark's name."""
    value: float
    unit: str
    limit: float | None = None
    """The limit, in the same unit, measured in the same run."""
    against: str = ""
    """Description of the limit."""

    @property
    def ratio(self) -> float | None:
        """value / limit"""
        return None if self.limit is None else self.value / self.limit

    def cells(self) -> tuple[str, ...]:
        """name, value with unit, limit, ratio, against; as text."""
        limit = "" if self.limit is None else number(self.limit)
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}"
        return self.name, f"{number(self.value)} {self.unit}", limit, ratio, self.against


@dataclass(frozen=True)
class Result:
    """All rows of one benchmark."""

    sizes: str
    """Description of what was measured."""
    rows: tuple[Row, ...]


HEADINGS = ("what", "value", "limit", "ratio", "the limit is")


def number(value: float) -> str:
    """At least three digits, with thousands separators: 0.0123, 4.56, 78,901."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def show(console: Console, title: str, result: Result) -> None:
    """Print one benchmark's table."""
    table = Table(title=escape(f"{title}: {result.sizes}"), title_justify="left")
    for heading in HEADINGS:
        is_number = heading in HEADINGS[1:4]
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=is_number)
    for row in result.rows:
        table.add_row(*map(escape, row.cells()))
    console.print(table)


def markdown(results: dict[str, Result], about: dict[str, Any]) -> str:
    """All benchmarks' tables for one device."""
    lines = [f"## {about['device']}", "", f"jax {about['jax']}, {about['precision']}.", ""]
    for name, result in results.items():
        lines += [f"**{name}**: {result.sizes}", "", f"| {' | '.join(HEADINGS)} |", "|---|---:|---:|---:|---|"]
        lines += [f"| {' | '.join(row.cells())} |" for row in result.rows] + [""]
    return "\n".join(lines) + "\n"


def as_json(results: dict[str, Result], about: dict[str, Any]) -> dict[str, Any]:
    """`about` (device, versions, …), then {"sizes": {benchmark: words}, "rows": [one object for each row of all]}."""
    rows = [asdict(row) | {"ratio": row.ratio, "benchmark": name} for name, result in results.items()
            for row in result.rows]  # fmt: skip
    return {**about, "sizes": {name: result.sizes for name, result in results.items()}, "rows": rows}


def from_json(report: dict[str, Any]) -> dict[str, Result]:
    """The results stored by `as_json`."""
    results = {name: Result(sizes, ()) for name, sizes in report["sizes"].items()}
    for row in report["rows"]:
        found = results[row["benchmark"]]
        made = Row(row["name"], row["value"], row["unit"], row["limit"], row["against"])
        results[row["benchmark"]] = replace(found, rows=(*found.rows, made))
    return results
