"""What a diagnosis says: findings, and the table that they make."""

import math
from html import escape
from typing import Any, NamedTuple

COLUMNS = ("check", "verdict", "measured", "expected")


class Finding(NamedTuple):
    """One check."""

    name: str
    ok: bool | None  # None where it was not checked
    measured: float  # NaN where it was not checked
    expected: str
    advice: str = ""  # what to do; why it was not checked
    where: tuple[Any, ...] = ()  # parameters by path, or examples by index, that it is about

    @property
    def verdict(self) -> str:
        return {True: "ok", False: "PROBLEM", None: "not checked"}[self.ok]

    def cells(self) -> tuple[str, ...]:
        measured = "" if self.ok is None and math.isnan(self.measured) else f"{self.measured:.3g}"
        return self.name, self.verdict, measured, self.expected


def unchecked(name: str, expected: str, reason: str) -> Finding:
    return Finding(name, None, math.nan, expected, reason)


class Diagnosis(NamedTuple):
    """All findings: prints itself as text, in a terminal by rich and in notebooks as HTML."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Those that fail."""
        return tuple(finding for finding in self.findings if finding.ok is False)

    def __str__(self) -> str:
        table = [COLUMNS, *(finding.cells() for finding in self.findings)]
        widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]

        def line(cells):
            name, verdict, measured, expected = cells
            return f"{name:<{widths[0]}}  {verdict:<{widths[1]}}  {measured:>{widths[2]}}  {expected}".rstrip()

        rule = "  ".join("-" * width for width in widths)
        return "\n".join([line(table[0]), rule, *map(line, table[1:]), rule, *self._notes()])

    __repr__ = __str__

    def __rich__(self):
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, caption="\n".join(self._notes()), caption_justify="left")
        for title, justify in zip(COLUMNS, ("left", "left", "right", "left"), strict=True):
            table.add_column(title, justify=justify, overflow="fold")
        for finding in self.findings:
            style = {True: None, False: "bold", None: "dim"}[finding.ok]
            table.add_row(*map(Text, finding.cells()), style=style)
        return table

    def _repr_html_(self) -> str:
        def line(tag, cells, style=""):
            aligns = ("left", "left", "right", "left")
            aligned = [
                f'<{tag} style="text-align: {align}; padding: 0.1em 0.7em">{escape(cell)}</{tag}>'
                for cell, align in zip(cells, aligns, strict=True)
            ]
            return f"<tr{style}>{''.join(aligned)}</tr>"

        styles = {True: "", False: ' style="font-weight: bold"', None: ' style="opacity: 0.65"'}
        rows = [line("td", finding.cells(), styles[finding.ok]) for finding in self.findings]
        notes = "".join(f"<p>{escape(note)}</p>" for note in self._notes())
        return (
            f'<div style="overflow-x: auto"><table><thead>{line("th", COLUMNS)}</thead>'
            f"<tbody>{''.join(rows)}</tbody></table>{notes}</div>"
        )

    def _notes(self) -> list[str]:
        total = len(self.findings)
        skipped = [finding for finding in self.findings if finding.ok is None]
        notes = [f"{len(self.problems)} of {total} checks found a problem, {len(skipped)} could not be made"]
        return notes + [f"{finding.name}: {finding.advice}" for finding in (*self.problems, *skipped)]
