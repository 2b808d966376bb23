"""A comparison as files: one page that needs nothing else, the figures, the results."""

import json
from dataclasses import replace
from pathlib import Path

from jnn.comparison.errors import ReportError
from jnn.comparison.figures import pdf, pictures, svg
from jnn.comparison.files import write, write_csv
from jnn.comparison.results import Comparison
from jnn.comparison.rows import HEADINGS, budget_words, certainty, cost, headline, rows, title
from jnn.comparison.tables import latex, markdown, measure_table, verdict_table


def write_report(comparison: Comparison, folder: Path) -> Comparison:
    """report.html, results.json, trials.csv, tables.md and tables.tex, and figures/ as SVG and PDF with captions.md. Each
    file is complete or absent.

    Returns the comparison with its folder. Raises ReportError, which holds the comparison, where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_files(comparison, folder)
    except OSError as error:
        raise ReportError(f"the report could not be written to {folder}: {error.strerror or error}", comparison) from error
    return replace(comparison, folder=folder)


def _write_files(comparison: Comparison, folder: Path):
    (folder / "figures").mkdir(exist_ok=True)
    outdated = _figures(folder)  # those of an earlier report; what else lies there is the user's
    write(folder / "results.json", comparison.to_json())
    table = comparison.trials
    records = table.itertuples(index=False)
    cells = ([json.dumps(value) if isinstance(value, dict) else value for value in record] for record in records)
    write_csv(folder / "trials.csv", table.columns, cells)
    verdicts, others = verdict_table(comparison), measure_table(comparison)
    write(folder / "tables.md", f"{markdown(verdicts)}\n{markdown(others)}")
    tex = latex(verdicts, "verdicts") + latex(others, "measures")
    write(folder / "tables.tex", f"% needs \\usepackage{{booktabs,graphicx}}\n{tex}")
    sections, captions = [], []
    for heading, caption, drawn in pictures(comparison):
        images = []
        for picture in drawn:
            image = svg(picture)
            write(folder / "figures" / f"{picture.name}.svg", image)
            write(folder / "figures" / f"{picture.name}.pdf", pdf(picture))
            images.append((f"{heading}: {picture.task}", image[image.index("<svg") :]))
        sections.append((heading, caption, images))
        captions.append(f"## {heading}\n\n{', '.join(picture.name for picture in drawn)}\n\n{caption}\n")
    write(folder / "figures" / "captions.md", "\n".join(captions))
    for name in outdated - _figures(folder):
        for suffix in (".svg", ".pdf"):
            (folder / "figures" / f"{name}{suffix}").unlink(missing_ok=True)
    write(folder / "report.html", page(comparison, sections))


def _figures(folder: Path) -> set[str]:
    """The names of those that captions.md lists."""
    captions, there = folder / "figures" / "captions.md", {path.stem for path in (folder / "figures").glob("*.svg")}
    lines = captions.read_text(encoding="utf-8").splitlines() if captions.exists() else []
    return {name for line in lines for name in line.split(", ") if there.issuperset(line.split(", "))}


def page(comparison: Comparison, sections) -> str:
    """The report as one HTML page. sections: (title, caption, [(label, svg)])."""
    return template("report.html.j2").render(
        comparison=comparison,
        protocol=comparison.protocol,
        environment=comparison.environment,
        title=title(comparison),
        headings=HEADINGS,
        rows=rows(comparison),
        headline=headline(comparison),
        certainty=certainty(comparison),
        cost=cost(comparison),
        unequal=bool(budget_words(comparison.protocol)),
        notes=comparison.notes(),
        measured=measure_table(comparison),
        sections=sections,
    )


def fragment(comparison: Comparison) -> str:
    """The verdict table as HTML, for notebooks."""
    return template("verdicts.html.j2").render(
        protocol=comparison.protocol,
        headings=HEADINGS,
        rows=rows(comparison),
        headline=headline(comparison),
        cost=cost(comparison),
    )


def template(name: str):
    import jinja2

    loader = jinja2.PackageLoader("jnn.comparison", "templates")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(name)
