import shutil
import subprocess

import pytest

from jnn.comparison.report import write_report
from jnn.comparison.tables import Table, latex, markdown, measure_table, verdict_table

from synthetic import synthetic


@pytest.fixture(scope="module")
def comparison():
    return synthetic()


def test_a_markdown_table_has_a_cell_for_each_column(comparison):
    for table in (verdict_table(comparison), measure_table(comparison)):
        lines = [line for line in markdown(table).splitlines() if line.startswith("|")]
        assert len(lines) == 2 + 2 * 4
        assert {line.count("|") for line in lines} == {len(table.headings) + 2}
        assert markdown(table).endswith(f"{table.caption}\n")
    assert markdown(Table(["a"], {"t": [["x|y"]]}, "c")).splitlines()[2] == r"| t | x\|y |"


def test_the_reference_is_first_and_its_step_is_a_time(comparison):
    table = measure_table(comparison)
    first, second = (dict(zip(table.headings, row, strict=True)) for row in table.groups["one"][:2])
    assert (first["optimizer"], first["step time"], first["state"]) == ("adam", "200 µs", "1.23 kB")
    assert (second["optimizer"], second["step time"]) == ("worse", "2.00×")  # noqa: RUF001  # the table's own sign
    assert first["steps to target"].endswith("(25 % never)")
    assert second["steps to target"] == "> 20 (100 % never)"


def test_columns_without_a_measurement_are_left_out():
    headings = measure_table(synthetic(measured=False)).headings
    assert headings == ["optimizer", "test loss", "test accuracy", "diverged"]


def test_latex_escapes_what_is_special():
    text = latex(Table(["optimizer"], {"50 %_#&${}~^\\": [["\N{MINUS SIGN}1 ± 2"], ["< µ"]]}, "c"), "label")
    assert r"50 \%\_\#\&\$\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in text
    assert "\n$-$1 $\\pm$ 2 \\\\\n$<$ $\\mu$ \\\\\n" in text


def test_a_long_latex_table_is_several():
    text = latex(Table(["optimizer"], {"a": [["x"]] * 90, "b": [["x"]] * 20}, "caption"), "label")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
    assert text.count("\nx \\\\") == 110
    assert text.count(r"\label{tab:label}") == text.count(r"\label{tab:label-3}") == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex is installed")
def test_the_latex_tables_compile(comparison, tmp_path):
    write_report(comparison, tmp_path / "out")
    document = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\input{out/tables.tex}\end{document}"
    (tmp_path / "paper.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    log = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert log.returncode == 0, log.stdout
    assert "Overfull" not in log.stdout
    assert "Warning: Float too large" not in log.stdout
