"""LaTeX tables for \\input that fit the line, whatever the cells contain.

tabulate's LaTeX has no repeated headers of a longtable, no scaling, no stacked headers and no headings of rows.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

from lmrc.evaluation.tables.table import Table, one_line

# Replacements for characters that are special in LaTeX or missing in its fonts.
SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "†": r"$\dagger$",
    "±": r"$\pm$",
    "θ": r"$\theta$",
    "≈": r"$\approx$",
    "→": r"$\to$",
}

# Characters beyond Latin letters that pdfLaTeX has: dashes, quotation marks, ellipsis, bullet, euro.
PDFLATEX_CHARACTERS = frozenset("\u2013\u2014\u2018\u2019\u201c\u201d\u201e\u2026\u2022\u20ac")

# A table with more rows than a page holds is a longtable.
PAGE_ROWS = 50

# A column of words breaks its lines if a cell has more characters.
LONG_WORDS = 30

# A column header is stacked if it is wider than the cells and than this many characters. A longtable cannot be scaled
# and has less room.
HEADER, LONG_HEADER = 12, 8

# Characters per line of a heading of rows.
HEADING_LINE = 60

# Longtable: largest number of characters in columns that do not break, share of the line for a column that breaks, and
# font size. Wider tables are tiny with a share of 0.18.
ROOM = ((46, 0.38, r"\footnotesize"), (56, 0.2, r"\footnotesize"), (66, 0.2, r"\scriptsize"))


def latex(table: Table, caption: str, label: str, notes: Sequence[str] = ()) -> str:
    """Return a float, or a `longtable` if the table is longer than a page. The first line names the packages.

    A float that is wider than the line is scaled down. A longtable has room for about ten columns of numbers. Notes
    become comments.
    """
    long = len(table.rows) > PAGE_ROWS
    widths = [
        _longest(row[column] for row in table.rows if not table.is_heading(row)) for column in range(len(table.header))
    ]
    headers = [
        _wrapped(cell, max(width, LONG_HEADER if long else HEADER))
        for cell, width in zip(table.header, widths, strict=True)
    ]
    share, size = _room(widths, headers) if long else (0.3, "")
    breaking = rf">{{\raggedright\arraybackslash}}p{{{share}\linewidth}}"
    columns = "".join(breaking if width > LONG_WORDS else "l" for width in widths[: table.labels])
    columns += "r" * (len(table.header) - table.labels)
    titled = f"\\caption{{{escaped(caption)}}}\\label{{tab:{re.sub(r'[^A-Za-z0-9/.-]', '-', label)}}}"
    stacked = [_stacked(lines, "l" if column < table.labels else "r") for column, lines in enumerate(headers)]
    head = f"\\toprule\n{_row(stacked)}\n\\midrule"
    body = "\n".join(_body(table))
    lines = [f"% \\usepackage{{array,booktabs,{'longtable' if long else 'graphicx'}}}"]
    lines += [f"% {one_line(note)}" for note in notes]
    if any(ord(c) > 0x17F and c not in PDFLATEX_CHARACTERS for c in f"{titled}{head}{body}"):
        lines.append("% Some characters are beyond Latin letters: pdflatex lacks them, lualatex and xelatex may not.")
    if long:
        lines += [
            f"{{{size}\\setlength{{\\tabcolsep}}{{2pt}}",
            f"\\begin{{longtable}}{{{columns}}}",
            f"{titled} \\\\\n{head}\n\\endfirsthead\n{head}\n\\endhead\n\\bottomrule\n\\endlastfoot",
            f"{body}\n\\end{{longtable}}}}",
        ]
    else:
        lines += [
            f"\\begin{{table}}\n\\centering\n{titled}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            f"\\begin{{tabular}}{{{columns}}}\n{head}\n{body}\n\\bottomrule\n\\end{{tabular}}}}\n\\end{{table}}",
        ]
    return "\n".join([*lines, ""])


def escaped(text: str) -> str:
    """Return LaTeX that prints `text` on one line."""
    safe = "".join(SPECIAL.get(character, character) for character in one_line(text))
    # LaTeX prints consecutive hyphens as a dash.
    return re.sub(r"-(?=-)", "-{}", safe)


def _body(table: Table) -> list[str]:
    body = []
    for index, row in enumerate(table.rows):
        if table.is_heading(row):
            if index:
                body.append("\\midrule")
            for line in textwrap.wrap(row[0], HEADING_LINE) or [""]:
                bold = rf"\textbf{{{escaped(line)}}}"
                body.append(f"\\multicolumn{{{len(table.header)}}}{{l}}{{{bold}}} \\\\")
        else:
            body.append(_row([escaped(cell) for cell in row]))
    return body


def _row(cells: Sequence[str]) -> str:
    # At the start of a row, LaTeX reads [ * ( as an argument of the line end or rule before it.
    first = f"{{}}{cells[0]}" if cells[0][:1] in {"[", "*", "("} else cells[0]
    return f"{' & '.join([first, *cells[1:]])} \\\\"


def _stacked(lines: Sequence[str], side: str) -> str:
    if len(lines) < 2:
        return "".join(map(escaped, lines))
    below = "".join(rf" \\ {{}}{escaped(line)}" for line in lines[1:])
    return f"\\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}{escaped(lines[0])}{below}\\end{{tabular}}"


def _wrapped(cell: str, width: int) -> list[str]:
    """Return the lines of a column header; only unusually long words are cut."""
    return textwrap.wrap(cell, width, break_long_words=_longest(cell.split()) > HEADER) or [""]


def _longest(cells: Iterable[str]) -> int:
    return max((len(one_line(cell)) for cell in cells), default=0)


def _room(widths: Sequence[int], headers: Sequence[Sequence[str]]) -> tuple[float, str]:
    """Return the share of the line for a column that breaks, and the font size of a longtable."""
    columns = [max(width, _longest(lines)) + 1 for width, lines in zip(widths, headers, strict=True)]
    characters = sum(width for width in columns if width <= LONG_WORDS)
    return next(((share, size) for limit, share, size in ROOM if characters <= limit), (0.18, r"\tiny"))
