"""The verdict table on a terminal."""

from jnn.comparison.results import Comparison
from jnn.comparison.rows import HEADINGS, cost, headline, rows

STYLES = {"better": "bold green", "worse": "bold red", "equivalent": "cyan", "reference": "dim"}


# what a table leaves out first where it does not fit: (width of the terminal, columns)
NARROW = ((100, {"detectable", "p (Holm)"}), (78, {"detectable", "p (Holm)", "95 % interval"}))


def tables(comparison: Comparison, width: int):
    """A rich renderable: a table for each task, the verdicts in sentences, notes, cost."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    left_out = set().union(*(columns for limit, columns in NARROW if width < limit))
    shown = [i for i, heading in enumerate(HEADINGS) if heading not in left_out]
    parts = []
    for task, task_rows in rows(comparison).items():
        about = comparison.protocol["tasks"][task]
        title = f"{task}, after {about['steps']} steps of {about['batch_size'] or 'the full batch'}"
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title=title, title_justify="left", title_style="bold")
        for i in shown:
            table.add_column(HEADINGS[i], justify="left" if HEADINGS[i] in ("optimizer", "verdict") else "right")
        for row in task_rows:
            cells = [row.optimizer, Text(row.verdict, STYLES.get(row.verdict, "")), *row[2:]]
            table.add_row(*(cells[i] for i in shown), style="dim" if row.verdict == "reference" else "")
        parts.append(table)
    parts += [Text(sentence, "bold") for sentence in headline(comparison)]
    parts += [Text(f"Note: {note}.", "yellow") for note in comparison.notes()]
    parts.append(Text(cost(comparison) + ".", "dim"))
    return Group(*parts)


def render(comparison: Comparison, width: int = 110) -> str:
    """The same as plain text."""
    import io

    from rich.console import Console

    file = io.StringIO()
    Console(file=file, width=width, no_color=True, highlight=False).print(tables(comparison, width))
    return file.getvalue()
