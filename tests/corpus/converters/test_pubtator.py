"""PubTator files: CDR's and BioRED's lines become documents in DocRED's format, and nothing is dropped in silence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from lmrc.cli.main import lmrc
from lmrc.common.errors import UserError
from lmrc.corpus.build import build_corpus
from lmrc.corpus.converters.base import CONVERTERS, convert
from lmrc.corpus.corpus import Corpus

# Made up, with the forms of CDR (composite mentions in a seventh column, -1) and of BioRED (a fifth column, commas).
FILE = """\
17|t|Naloxine lowers pressure.
17|a|Naloxine (NLX) was given. Ovarian and breast cancer grew, e.g. in rats.
17\t0\t8\tNaloxine\tChemical\tD009
17\t26\t34\tNaloxine\tChemical\tD009
17\t36\t39\tNLX\tChemical\tD009
17\t52\t77\tOvarian and breast cancer\tDisease\tD010|D001\tOvarian cancer|breast cancer
17\t92\t96\trats\tSpecies\t-1
17\tCID\tD009\tD010
17\tCID\tD009\tD001
17\tCID\tD009\tD999

18|t|GENE2 and GENE3
18|a|Bind.
18\t0\t5\tGENE2\tGeneOrGeneProduct\t2,3
18\t10\t15\tGene3\tGeneOrGeneProduct\t3
18\tBind\t2\t3\tNovel
18\tBind\t2\t3\tNo
18\tBind\t2\t2\tNo

19|t|Nothing here
19|a|
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "cdr.txt"
    path.write_text(FILE)
    return path


def test_documents(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "cdr.json"
    conversion = convert(path, out, CONVERTERS["pubtator"])
    assert (conversion.documents, conversion.entities, conversion.triples) == (2, 6, 3)
    assert +conversion.remarks == {
        "mentions without an identifier, each now an entity": 1,
        "relations of an identifier without a mention left out": 1,
        "mentions whose name is not the text at their offsets": 1,
        "repeated relations kept once": 1,
        "relations of an entity with itself left out": 1,
        "documents without an entity left out": 1,
    }
    first, second = json.loads(out.read_text())
    assert [" ".join(tokens) for tokens in first["sents"]] == [
        "Naloxine lowers pressure .",
        "Naloxine ( NLX ) was given .",
        "Ovarian and breast cancer grew , e . g . in rats .",
    ]
    assert [[(m["name"], m["sent_id"], m["pos"], m["type"]) for m in entity] for entity in first["vertexSet"]] == [
        [
            ("Naloxine", 0, [0, 1], "Chemical"),
            ("Naloxine", 1, [0, 1], "Chemical"),
            ("NLX", 1, [2, 3], "Chemical"),
        ],
        [("Ovarian and breast cancer", 2, [0, 4], "Disease")],
        [("Ovarian and breast cancer", 2, [0, 4], "Disease")],
        [("rats", 2, [11, 12], "Species")],
    ]
    assert [(label["h"], label["t"], label["r"]) for label in first["labels"]] == [(0, 1, "CID"), (0, 2, "CID")]
    assert [(label["h"], label["t"], label["r"]) for label in second["labels"]] == [(0, 1, "Bind")]
    assert conversion.relations == tmp_path / "cdr.relations.json"
    build_corpus(out, tmp_path / "corpus", conversion.relations)
    assert [document.title for document in Corpus.open(tmp_path / "corpus")] == ["17", "18"]


def test_gzip_and_command(path: Path, tmp_path: Path) -> None:
    packed = tmp_path / "cdr.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    out = tmp_path / "out.json"
    result = CliRunner().invoke(lmrc, ["data", "convert", str(packed), "--from", "pubtator", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0] == (
        f"{out}: 2 documents, 6 entities, 3 triples; relations in {tmp_path / 'out.relations.json'}"
    )
    assert "  1 documents without an entity left out" in result.output


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("17\tonly", r"cdr.txt: line 1 is '17\\tonly', expected ID|t|title"),
        ("17|t|Short\n17\t3\t99\tx\tDisease\tD1", "document 17: mention 'x': characters 3 to 99 are not in the text"),
        ("17|t|A\n17\t0\t1\tA\tX\t1\n\n18|t|B\n18\t0\t1\tB\tX\t1\n\n17|t|A\n17\t0\t1\tA\tX\t1", "has the same title"),
    ],
)
def test_errors(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "cdr.txt"
    path.write_text(line)
    with pytest.raises(UserError, match=message):
        convert(path, tmp_path / "out.json", CONVERTERS["pubtator"])
    assert not (tmp_path / "out.json").exists()


def test_unknown_format(path: Path) -> None:
    result = CliRunner().invoke(lmrc, ["data", "convert", str(path), "--from", "pubtater", "--out", "x.json"])
    assert "unknown format; did you mean pubtator?" in str(result.exception or result.output)
