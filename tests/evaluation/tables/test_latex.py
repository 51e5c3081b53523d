from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.corpus.predictions import Prediction
from lmrc.evaluation.metrics.scores import score
from lmrc.evaluation.report.artifacts import ReportItem, error_items, paper_items, summary_items
from lmrc.evaluation.scored_run import ScoredRun
from lmrc.evaluation.tables.latex import escaped, latex
from lmrc.evaluation.tables.table import Table
from tests.evaluation.examples import RELATIONS, family

EVIL = '[a\\b]_{c}^2 ~ $x$ #1 50% & "q", <†>| -- `é\' “Łódź” ± … \\end{tabular} \\par %'

BEGIN = r"\documentclass{article}\usepackage{array,booktabs,graphicx,longtable}\begin{document}"

needs_latex = pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="pdflatex is not installed (Debian: texlive-latex-recommended)"
)


def compiled(folder: Path, tables: Sequence[str]) -> str:
    """Compile a document with these tables and return the log."""
    (folder / "all.tex").write_text("\n".join([BEGIN, *tables, r"\end{document}"]), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=120)
    log = (folder / "all.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, log[-2000:]
    return log


def wider_than_the_line(log: str) -> list[str]:
    """Return warnings about tables that are too wide by more than a point."""
    return [line for line in log.splitlines() if "Overfull" in line and float(line.split("(")[1].split("pt")[0]) > 1]


def run_named(name: str) -> ScoredRun:
    found = [Prediction("Family", 0, 1, "P1"), Prediction("Family", 1, 2, "P2"), Prediction("Nobody", 0, 1, "P1")]
    return ScoredRun(name, [family()], RELATIONS, found, score([family()], found, RELATIONS), f"/data/{name}")


def test_table_with_headings_of_rows() -> None:
    table = Table(("System", "F1"), (("First & last",), ("a_b", "1.00"), ("Ours",), ("c", "38.4 ± 10.6")))
    assert latex(table, "F1 in %", "ours", ["100 % ours\nand more"]) == (
        "% \\usepackage{array,booktabs,graphicx}\n% 100 % ours and more\n"
        "\\begin{table}\n\\centering\n\\caption{F1 in \\%}\\label{tab:ours}\n"
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
        "\\begin{tabular}{lr}\n\\toprule\nSystem & F1 \\\\\n\\midrule\n"
        "\\multicolumn{2}{l}{\\textbf{First \\& last}} \\\\\na\\_b & 1.00 \\\\\n"
        "\\midrule\n\\multicolumn{2}{l}{\\textbf{Ours}} \\\\\nc & 38.4 $\\pm$ 10.6 \\\\\n"
        "\\bottomrule\n\\end{tabular}}\n\\end{table}\n"
    )


def test_long_headers_are_stacked_and_long_cells_break() -> None:
    table = Table(("Name", "Re-DocRED test Ign F1"), (("located in the administrative territorial entity", "1.00"),))
    text = latex(table, "x", "x")
    assert r"Name & \begin{tabular}[b]{@{}r@{}}Re-DocRED \\ {}test Ign F1\end{tabular} \\" in text
    assert r"\begin{tabular}{>{\raggedright\arraybackslash}p{0.3\linewidth}r}" in text


def test_long_table_is_a_longtable() -> None:
    text = latex(Table(("n",), tuple((str(number),) for number in range(96))), "Relations", "relations")
    assert text.count("\\begin{longtable}") == text.count("\\end{longtable}") == text.count("\\endlastfoot") == 1
    assert text.count("\\toprule") == 2  # header of the first page and of the others
    assert text.splitlines()[0] == "% \\usepackage{array,booktabs,longtable}"
    assert [line for line in text.splitlines() if line.endswith(" \\\\") and line[0].isdigit()] == [
        f"{number} \\\\" for number in range(96)
    ]


def test_special_characters_are_escaped() -> None:
    assert escaped('a\\b_{c}^2 ~ $x$ #1\n50% & "q", <†>| ---') == (
        r"a\textbackslash{}b\_\{c\}\textasciicircum{}2 \textasciitilde{} \$x\$ \#1 50\% \& "
        r'"q", \textless{}$\dagger$\textgreater{}\textbar{} -{}-{}-'
    )
    # The start of a row is not read as an argument of the previous line end.
    text = latex(Table(("(n)", "m"), (("[1]", "1"), ("*", "2"))), "x", "a_b c%")
    assert [line[:6] for line in text.splitlines() if line.endswith(" \\\\")] == ["{}(n) ", "{}[1] ", "{}* & "]
    assert "\\label{tab:a-b-c-}" in text


def test_characters_that_pdflatex_lacks_give_a_comment() -> None:
    table = Table(("n",), (("Łódź … “x”",),))
    assert "pdflatex" not in latex(table, "x", "x")
    assert "pdflatex lacks" in latex(table, "赤", "x")


@given(st.text(st.characters(codec="latin-1"), max_size=30))
def test_escaped_text_has_no_special_characters(text: str) -> None:
    known = r"\\(?:[&%$#_{}]|text[a-z]+\{\})|\$\\(?:pm|dagger|theta|approx|to)\$|-\{\}"
    left = re.sub(known, "", escaped(text))
    assert not set(left) & set("\\&%$#_{}~^<>|\n\r\t")


@needs_latex
def test_all_tables_of_a_report_compile_and_fit_the_line(tmp_path: Path) -> None:
    runs = [run_named(name) for name in (EVIL, "lmrc-llama2-13b-chat-seed_66", "*")]
    items: list[ReportItem] = [*summary_items(runs), *paper_items(runs), *error_items(runs)]
    tables = [latex(e.content, e.caption or e.title, e.name, e.notes) for e in items if isinstance(e.content, Table)]
    assert len(tables) > 15
    log = compiled(tmp_path, tables)
    assert "multiply" not in log
    assert wider_than_the_line(log) == []


@needs_latex
def test_special_characters_compile_in_every_position(tmp_path: Path) -> None:
    evil = Table((EVIL, EVIL), ((EVIL,), (EVIL, EVIL), ("[2pt]", "*"), ("(lr)",), ("*", "[")))
    log = compiled(tmp_path, [latex(evil, EVIL, EVIL, [EVIL]), latex(Table(evil.header, evil.rows * 20), EVIL, "x")])
    assert "undefined" not in log
