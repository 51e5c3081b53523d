"""BioC in JSON and XML, with the infons of BioRED, CDR and PubTator's web service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmrc.common.errors import UserError
from lmrc.convert.convert import convert
from lmrc.convert.formats import FORMATS
from tests.convert.examples import converted, entities, sentences, triples


def annotation(id: str, text: str, start: int, **infons: str) -> dict[str, Any]:
    return {"id": id, "text": text, "infons": infons, "locations": [{"offset": start, "length": len(text)}]}


# Made up, with the forms of BioRED.
BIORED = {
    "source": "PubTator",
    "infons": {},
    "documents": [
        {
            "id": "18",
            "passages": [
                {
                    "offset": 0,
                    "infons": {"type": "title"},
                    "text": "GENE2 in tumorosis.",
                    "annotations": [
                        annotation("0", "GENE2", 0, type="GeneOrGeneProduct", identifier="2,3"),
                        annotation("1", "tumorosis", 9, type="DiseaseOrPhenotypicFeature", identifier="D004"),
                    ],
                    "relations": [],
                },
                {
                    "offset": 20,
                    "infons": {"type": "abstract"},
                    "text": "Mice with V600E had it.",
                    "annotations": [
                        annotation("2", "Mice", 20, type="OrganismTaxon", identifier="-"),
                        annotation("3", "V600E", 30, type="SequenceVariant", identifier="p|SUB|V|600|E"),
                        annotation("4", "it", 99, type="DiseaseOrPhenotypicFeature", identifier="D004"),
                    ],
                    "relations": [],
                },
            ],
            "relations": [
                {"id": "R0", "infons": {"entity1": "D004", "entity2": "2", "type": "Association", "novel": "Novel"}},
                {"id": "R1", "infons": {"entity1": "p|SUB|V|600|E", "entity2": "D004", "type": "Bind", "novel": "No"}},
                {"id": "R2", "infons": {"type": "Bind"}, "nodes": []},
            ],
        }
    ],
}
CDR = """<?xml version='1.0' encoding='UTF-8'?>
<!DOCTYPE collection SYSTEM 'BioC.dtd'>
<collection><source/><date/><key>x.key</key><document><id>17</id>
<passage><infon key="type">title</infon><offset>0</offset><text>Naloxine &amp; rats.</text>
<annotation id="0"><infon key="type">Chemical</infon><infon key="MESH">D009</infon>
<location offset="0" length="8"/><text>Naloxine</text></annotation></passage>
<passage><infon key="type">abstract</infon><offset>17</offset><text>Renal and hepatic failure.</text>
<annotation id="1"><infon key="CompositeRole">CompositeMention</infon><infon key="type">Disease</infon>
<infon key="MESH">D051|D048</infon><location offset="17" length="25"/>
<text>Renal and hepatic failure</text></annotation></passage>
<relation id="R0"><infon key="relation">CID</infon><infon key="Chemical">D009</infon><infon key="Disease">D051</infon>
</relation></document></collection>
"""


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("source", ["bioc", "biored"])
def test_biored(tmp_path: Path, source: str) -> None:
    (document,), remarks, relations = converted(write(tmp_path / "Train.BioC.JSON", BIORED), source)
    assert relations == ["Association", "Bind"]
    assert document["title"] == "18"
    assert sentences(document) == ["GENE2 in tumorosis .", "Mice with V600E had it ."]
    assert entities(document) == [
        ["GeneOrGeneProduct: GENE2"],
        ["GeneOrGeneProduct: GENE2"],
        ["DiseaseOrPhenotypicFeature: tumorosis", "DiseaseOrPhenotypicFeature: it"],
        ["OrganismTaxon: Mice"],
        ["SequenceVariant: V600E"],
    ]
    assert [triple[:3] for triple in triples(document)] == [(2, "Association", 0), (4, "Bind", 2)]
    assert remarks == {
        "mentions without an identifier, each now an entity": 1,
        "mentions of several concepts, each now in the entity of each": 1,
        "mentions whose name is not the text at their offsets, moved to its nearest occurrence": 1,
        "novelty of relations left out": 2,
        "relations that have not two arguments left out": 1,
        "sentences, split by rule": 2,
    }


@pytest.mark.parametrize("source", ["bioc", "cdr"])
def test_cdr_in_xml(tmp_path: Path, source: str) -> None:
    (document,), remarks, _ = converted(write(tmp_path / "CDR.BioC.xml", CDR), source)
    assert (document["title"], sentences(document)) == ("17", ["Naloxine & rats .", "Renal and hepatic failure ."])
    failure = ["Disease: Renal and hepatic failure"]
    assert entities(document) == [["Chemical: Naloxine"], failure, failure]
    assert triples(document) == [(0, "CID", 1, [])]
    assert remarks["mentions of several concepts, each now in the entity of each"] == 1


def test_export_of_pubtator(tmp_path: Path) -> None:
    gene = annotation("1", "BRAFF", 0, type="Gene", identifier="673")
    drug = annotation("2", "Vemurix", 15, type="Chemical", identifier="MESH:C551")
    infons = {"type": "negative_correlate", "score": "0.9", "role1": {"identifier": "MESH:C551"}, "role2": "Gene|673"}
    passage = {"offset": 0, "text": "BRAFF stops by Vemurix.", "annotations": [gene, drug]}
    content = {"id": "5", "passages": [passage], "relations": [{"infons": infons, "nodes": [{"refid": "9"}]}]}
    for form in ({"PubTator3": [content]}, content, [content]):
        (document,), remarks, _ = converted(write(tmp_path / "a.json", form), "bioc")
        assert triples(document) == [(1, "negative_correlate", 0, [])]
        assert remarks == {"sentences, split by rule": 1}


def test_sentences_discontinuous_mentions_and_nodes(tmp_path: Path) -> None:
    split = annotation("T2", "kinase B", 8, type="protein")
    split["locations"] = [{"offset": 8, "length": 6}, {"offset": 21, "length": 1}]
    first = {"offset": 0, "text": "A binds kinase. ", "annotations": [annotation("T1", "A", 0, type="protein")]}
    second = {
        "offset": 16,
        "text": "It is B.",
        "annotations": [split],
        "relations": [
            {"infons": {"type": "PPI"}, "nodes": [{"refid": "T1", "role": "a"}, {"refid": "T2", "role": "b"}]}
        ],
    }
    content = {"documents": [{"id": "A1", "passages": [{"offset": 0, "sentences": [first, second]}]}]}
    (document,), remarks, _ = converted(write(tmp_path / "a.json", content), "bioc")
    # No sentence holds both parts, so that the longer one stays.
    assert (sentences(document), entities(document)) == (
        ["A binds kinase .", "It is B ."],
        [["protein: A"], ["protein: kinase"]],
    )
    assert triples(document) == [(0, "PPI", 1, [])]
    assert remarks["discontinuous mentions over several sentences, now their longest part"] == 1


def test_passages_that_overlap_keep_their_mentions(tmp_path: Path) -> None:
    passages = [
        {"offset": 0, "text": "A long title", "annotations": []},
        {"offset": 5, "text": "Ada left", "annotations": [annotation("1", "Ada", 5, type="P")]},
    ]
    (document,), remarks, _ = converted(write(tmp_path / "a.json", {"documents": [{"passages": passages}]}), "bioc")
    assert document["title"] == "document 0"
    assert (sentences(document), entities(document)) == (["A long title", "Ada left"], [["P: Ada"]])
    assert remarks == {"mentions without an identifier, each now an entity": 1, "sentences, split by rule": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<collection><document>", "a.xml: is not valid XML"),
        ("<collection/>", "no document with an entity, as BioC"),
        ('{"documents": [{"id": "1"}]}', "document 0: passages is missing; it has id"),
        ('{"documents": [7]}', "document 0 is a whole number, expected an object with passages"),
        (
            '{"documents": [{"passages": [{"offset": "x", "text": "a"}]}]}',
            "offset of a passage is text, expected a whole",
        ),
    ],
)
def test_errors(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        convert(write(tmp_path / "a.xml", content), tmp_path / "out.json", FORMATS["bioc"])
