"""PubTator: lines of CDR, GDA and BioRED become documents in DocRED's format, and nothing is dropped in silence."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.convert.convert import convert
from lmrc.convert.formats import FORMATS
from tests.convert.examples import converted, entities, sentences, triples

# Made up, with the forms of CDR: composite mentions with a seventh column, -1, CID.
CDR = """\
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

19|t|Nothing here
19|a|
"""

# Forms of GDA (genes that one name means, separated by ";") and BioRED (",", variants, a column for novelty).
BIORED = """\
18|t|GENE2 and GENE3
18|a|Bind V600E in Tumorosis.
18\t0\t5\tGENE2\tGeneOrGeneProduct\t2,3
18\t10\t15\tGene3\tGeneOrGeneProduct\t3
18\t21\t26\tV600E\tSequenceVariant\tp|DEL|439_443|
18\t30\t39\tTumorosis\tDiseaseOrPhenotypicFeature\tD004\t
18\tBind\t2\t3\tNovel
18\tBind\t2\t3\tNo
18\tBind\t2\t2\tNo
18\tAssociation\tp|DEL|439_443|\tD004\tNovel
18\tGDA\t2;3\tD004
"""


def write(tmp_path: Path, text: str, name: str = "file.txt") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_cdr(tmp_path: Path) -> None:
    (document,), remarks, relations = converted(write(tmp_path, CDR), "pubtator")
    assert relations == ["CID"]
    assert sentences(document) == [
        "Naloxine lowers pressure .",
        "Naloxine ( NLX ) was given .",
        "Ovarian and breast cancer grew , e . g . in rats .",
    ]
    assert entities(document) == [
        ["Chemical: Naloxine", "Chemical: Naloxine", "Chemical: NLX"],
        ["Disease: Ovarian and breast cancer"],
        ["Disease: Ovarian and breast cancer"],
        ["Species: rats"],
    ]
    assert triples(document) == [(0, "CID", 1, []), (0, "CID", 2, [])]
    assert remarks == {
        "mentions without an identifier, each now an entity": 1,
        "mentions of several concepts, each now in the entity of each": 1,
        "relations of an entity without a mention left out": 1,
        "documents without an entity left out": 1,
        "sentences, split by rule": 4,
    }


def test_biored_and_gda(tmp_path: Path) -> None:
    (document,), remarks, relations = converted(write(tmp_path, BIORED), "BioRED")
    assert relations == ["Association", "Bind", "GDA"]
    assert entities(document) == [
        ["GeneOrGeneProduct: GENE2"],
        ["GeneOrGeneProduct: GENE2", "GeneOrGeneProduct: GENE3"],
        ["SequenceVariant: V600E"],
        ["DiseaseOrPhenotypicFeature: Tumorosis"],
    ]
    assert [triple[:3] for triple in triples(document)] == [
        (0, "Bind", 1),
        (2, "Association", 3),
        (0, "GDA", 3),
        (1, "GDA", 3),
    ]
    assert remarks == {
        "mentions of several concepts, each now in the entity of each": 1,
        "mentions whose name is not the text at their offsets": 1,
        "repeated relations kept once": 1,
        "relations of an entity with itself left out": 1,
        "relations of several identifiers, now one of each": 1,
        "columns of relations behind the identifiers (novelty) left out": 4,
        "sentences, split by rule": 2,
    }


def test_an_identifier_of_two_types_is_told(tmp_path: Path) -> None:
    text = "5|t|Abc in mice\n5|a|\n5\t0\t3\tAbc\tGene\t10090\n5\t7\t11\tmice\tOrganism\t10090\n"
    (document,), remarks, _ = converted(write(tmp_path, text), "biored")
    assert entities(document) == [["Gene: Abc", "Organism: mice"]]
    assert remarks["mentions of another type than the first one with their identifier"] == 1


def test_pubtator_3(tmp_path: Path) -> None:
    text = (
        "5|t|BRAFF V600E\n5|a|Vemurix helps.\n5\t0\t5\tBRAFF\tGene\t673\n"
        "5\t6\t11\tV600E\tProteinMutation\ttmVar:p|SUB|V|600|E;HGVS:p.V600E;RS#:1\n"
        "5\t12\t19\tVemurix\tChemical\tMESH:C551\n5\tnegative_correlate\tChemical|MESH:C551\tGene|673\n"
    )
    (document,), remarks, _ = converted(write(tmp_path, text), "pubtator")
    assert entities(document) == [["Gene: BRAFF"], ["ProteinMutation: V600E"], ["Chemical: Vemurix"]]
    assert triples(document) == [(2, "negative_correlate", 0, [])]
    assert remarks == {"sentences, split by rule": 2}


def test_the_three_files_of_gda(tmp_path: Path) -> None:
    folder = tmp_path / "training_data"
    folder.mkdir()
    (folder / "abstracts.txt").write_text("71\nABC in tumorosis\nGlowitis and ABC.\n\n72\nNone\nNothing.\n\n")
    anns = "71\t0\t3\tABC\tGene\t12;13\n71\t7\t16\ttumorosis\tDisease\tD004\n71\t17\t25\tGlowitis\tDisease\tD005\n"
    (folder / "anns.txt").write_text(anns + "\n73\t0\t3\tXYZ\tGene\t1\n")
    (folder / "labels.csv").write_text("pmid,geneId,diseaseId,label\n71,12,D004,1\n71,13,D004,1\n71,12,D005,0\n")
    (document,), remarks, _ = converted(folder, "gda")
    assert document["title"] == "71"
    assert entities(document) == [["Gene: ABC"], ["Gene: ABC"], ["Disease: tumorosis"], ["Disease: Glowitis"]]
    assert triples(document) == [(0, "GDA", 2, []), (1, "GDA", 2, [])]
    assert remarks == {
        "pairs of no relation, which have no label": 1,
        "mentions of several concepts, each now in the entity of each": 1,
        "documents without an entity left out": 1,
        "lines of documents that are not there left out": 1,
        "sentences, split by rule": 4,
    }


def test_offsets_are_checked(tmp_path: Path) -> None:
    # The second is a character late, as after a lost one; the third ends at its last character; the last is nowhere.
    text = (
        "5|t|Abc and deoxy\n5|a|Then ghi.\n5\t0\t3\tAbc\tX\t1\n5\t9\t14\tdeoxy\tX\t2\n5\t19\t21\tghi\tX\t3\n"
        "5\t40\t44\tlost\tX\t4\n5\tr\t1\t2\n5\tr\t1\t3\n5\tr\t1\t4\n"
    )
    (document,), remarks, _ = converted(write(tmp_path, text), "pubtator")
    assert entities(document) == [["X: Abc"], ["X: deoxy"], ["X: ghi"]]
    assert len(document["labels"]) == 2
    assert remarks == {
        "mentions whose name is not the text at their offsets, moved to its nearest occurrence": 1,
        "mentions whose end is their last character, now the one behind it": 1,
        "mentions outside of the text left out": 1,
        "entities without a mention left out": 1,
        "relations of an entity without a mention left out": 1,
        "sentences, split by rule": 2,
    }


def test_lines_that_do_not_follow_their_document(tmp_path: Path) -> None:
    late = "17\tCID\tD009\tD003\n17\t0\t3\tNal\tX\t1\n"
    documents, remarks, _ = converted(write(tmp_path, CDR + BIORED + late), "pubtator")
    assert [document["title"] for document in documents] == ["17", "18"]
    assert remarks["mentions and relations apart from the text of their document left out"] == 2


def test_a_mention_that_crosses_the_end_of_the_title_joins_the_sentences(tmp_path: Path) -> None:
    text = "5|t|Breast\n5|a|cancer grew.\n5\t0\t13\tBreast cancer\tX\t1\n"
    (document,), remarks, _ = converted(write(tmp_path, text), "pubtator")
    assert sentences(document) == ["Breast cancer grew ."]
    assert remarks["sentences joined with the one before, as a mention is in both"] == 1


def test_a_part_of_a_word_is_a_token(tmp_path: Path) -> None:
    text = "5|t|antiABC1blocker\n5|a|x\n5\t4\t8\tABC1\tGene\t1\n"
    (document,), _, _ = converted(write(tmp_path, text), "pubtator")
    assert document["sents"][0] == ["anti", "ABC1", "blocker"]


def test_gzip_folder_and_repeated_titles(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.txt.gz").write_bytes(gzip.compress(CDR.encode()))
    (folder / "b.PubTator").write_text(CDR.replace("\n", "\r\n"))
    (folder / "notes.md").write_text("no data")
    documents, remarks, _ = converted(folder, "cdr")
    assert [document["title"] for document in documents] == ["17", "17 (2)"]
    assert documents[0]["vertexSet"] == documents[1]["vertexSet"]
    assert remarks["documents with the title of another one, numbered"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("17\tonly", r"file.txt: line 1 is '17\\tonly', expected ID\|t\|title"),
        ("17|t|Nobody\n", "no document with an entity, as PubTator: .*1 documents without an entity left out"),
    ],
)
def test_errors(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        convert(write(tmp_path, text), tmp_path / "out.json", FORMATS["pubtator"])
    assert not (tmp_path / "out.json").exists()
