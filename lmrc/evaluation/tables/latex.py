"""Tables in LaTeX, for \\input: never wider than the line, whatever stands in a cell."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

from lmrc.evaluation.tables.table import Table, one_line

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
"""What stands for the characters that mean something there, or that its fonts lack."""

KNOWN = frozenset("\u2013\u2014\u2018\u2019\u201c\u201d\u201e\u2026\u2022\u20ac")
"""Dashes, quotation marks, ellipsis, bullet, euro: of the characters beyond Latin letters those that pdfLaTeX has."""

PAGE_ROWS = 50
"""A table with more rows than a page holds is a longtable."""

LONG_WORDS = 30
"""Characters: a column of words with longer cells breaks its lines."""

HEADING, LONG_HEADING = 12, 8
"""Characters that the head of a column may have in any case; a longer one than this and its cells is stacked. A
longtable, which cannot be scaled, has less room."""

LINE = 60
"""Characters of a line that heads rows."""

ROOM = ((46, 0.38, r"\footnotesize"), (56, 0.2, r"\footnotesize"), (66, 0.2, r"\scriptsize"))
"""Of a longtable: at most so many characters in the columns that do not break their lines, what part of the line one
that does has then, and the size. Wider ones are \\tiny, with 0.18."""


def latex(table: Table, caption: str, label: str, notes: Sequence[str] = ()) -> str:
    """A float, or a `longtable` where it is longer than a page. Its first line names the packages it needs.

    Notes become comments. A float that is wider than the line is scaled down to it; a longtable cannot be, and has room
    for some ten columns of numbers.
    """
    long = len(table.rows) > PAGE_ROWS
    widths = [
        _longest(row[column] for row in table.rows if not table.heads(row)) for column in range(len(table.header))
    ]
    heads = [
        _wrapped(cell, max(width, LONG_HEADING if long else HEADING))
        for cell, width in zip(table.header, widths, strict=True)
    ]
    share, size = _room(widths, heads) if long else (0.3, "")
    breaking = rf">{{\raggedright\arraybackslash}}p{{{share}\linewidth}}"
    columns = "".join(breaking if width > LONG_WORDS else "l" for width in widths[: table.labels])
    columns += "r" * (len(table.header) - table.labels)
    named = f"\\caption{{{escaped(caption)}}}\\label{{tab:{re.sub(r'[^A-Za-z0-9/.-]', '-', label)}}}"
    first = [_stacked(lines, "l" if column < table.labels else "r") for column, lines in enumerate(heads)]
    head = f"\\toprule\n{_row(first)}\n\\midrule"
    inner = "\n".join(_body(table))
    lines = [f"% \\usepackage{{array,booktabs,{'longtable' if long else 'graphicx'}}}"]
    lines += [f"% {one_line(note)}" for note in notes]
    if any(ord(c) > 0x17F and c not in KNOWN for c in f"{named}{head}{inner}"):
        lines.append("% Some characters are beyond Latin letters: pdflatex lacks them, lualatex and xelatex may not.")
    if long:
        lines += [
            f"{{{size}\\setlength{{\\tabcolsep}}{{2pt}}",
            f"\\begin{{longtable}}{{{columns}}}",
            f"{named} \\\\\n{head}\n\\endfirsthead\n{head}\n\\endhead\n\\bottomrule\n\\endlastfoot",
            f"{inner}\n\\end{{longtable}}}}",
        ]
    else:
        lines += [
            f"\\begin{{table}}\n\\centering\n{named}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            f"\\begin{{tabular}}{{{columns}}}\n{head}\n{inner}\n\\bottomrule\n\\end{{tabular}}}}\n\\end{{table}}",
        ]
    return "\n".join([*lines, ""])


def escaped(text: str) -> str:
    """Any text as text, on one line."""
    safe = "".join(SPECIAL.get(character, character) for character in one_line(text))
    # Hyphens in a row would become a dash.
    return re.sub(r"-(?=-)", "-{}", safe)


def _body(table: Table) -> list[str]:
    body = []
    for number, row in enumerate(table.rows):
        if table.heads(row):
            rule = "\\midrule\n" if number else ""
            lines = [rf"\textbf{{{escaped(line)}}}" for line in textwrap.wrap(row[0], LINE) or [""]]
            columns = len(table.header)
            body += [
                f"{rule if place == 0 else ''}\\multicolumn{{{columns}}}{{l}}{{{line}}} \\\\"
                for place, line in enumerate(lines)
            ]
        else:
            body.append(_row([escaped(cell) for cell in row]))
    return body


def _row(cells: Sequence[str]) -> str:
    # After the end of a line, LaTeX takes [ * ( for an argument of that end, or of the rule above.
    first = f"{{}}{cells[0]}" if cells[0][:1] in {"[", "*", "("} else cells[0]
    return f"{' & '.join([first, *cells[1:]])} \\\\"


def _stacked(lines: Sequence[str], side: str) -> str:
    """A cell of several lines."""
    if len(lines) < 2:
        return "".join(map(escaped, lines))
    below = "".join(rf" \\ {{}}{escaped(line)}" for line in lines[1:])
    return f"\\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}{escaped(lines[0])}{below}\\end{{tabular}}"


def _wrapped(cell: str, width: int) -> list[str]:
    """The lines of a head; only a word that is longer than any usual one is cut."""
    return textwrap.wrap(cell, width, break_long_words=_longest(cell.split()) > HEADING) or [""]


def _longest(cells: Iterable[str]) -> int:
    return max((len(one_line(cell)) for cell in cells), default=0)


def _room(widths: Sequence[int], heads: Sequence[Sequence[str]]) -> tuple[float, str]:
    """The share of the line for a column that breaks, and the size of a longtable."""
    columns = [max(width, _longest(lines)) + 1 for width, lines in zip(widths, heads, strict=True)]
    whole = sum(width for width in columns if width <= LONG_WORDS)
    return next(((share, size) for most, share, size in ROOM if whole <= most), (0.18, r"\tiny"))
