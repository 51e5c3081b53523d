"""Files of all formats, read by other programs or by strict parsers."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import networkx as nx
import pytest

from lmrc.common.errors import UserError
from lmrc.export.entities import EntityIds
from lmrc.export.formats import format_of, graph_writer
from lmrc.export.lines import ResultLines, read_results
from lmrc.export.neo4j import relationship_type
from lmrc.export.result import ExtractedDocument
from lmrc.export.turtle import literal, relation_iri
from tests.export.examples import result


def write(out: Path, format: str, *results: ExtractedDocument, merge: bool = False) -> Path:
    with graph_writer(out, format, EntityIds(merge)) as writer:
        for found in results or (result(),):
            writer.write(found)
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def test_formats_by_name() -> None:
    names = ["a.json", "a.JSONL", "a.csv", "a.ttl", "a.graphml"]
    assert [format_of(Path(name), None) for name in names] == ["json", "jsonl", "csv", "turtle", "graphml"]
    assert format_of(Path("a.json"), "neo4j") == "neo4j"
    assert format_of(Path("-"), None) == "jsonl"
    with pytest.raises(UserError, match="--out - writes lines of JSON: give a file for --format csv"):
        format_of(Path("-"), "csv")
    with pytest.raises(UserError, match=r"--out a\.xml: the end of its name tells no format .*\.graphml"):
        format_of(Path("a.xml"), None)


def test_csv(tmp_path: Path) -> None:
    first, second = rows(write(tmp_path / "a.csv", "csv"))
    assert first == {
        "document": "one", "head_id": "d0-e0", "head": 'A "x" <&>', "head_type": "PER", "relation": "P19",
        "relation_name": "place of birth", "tail_id": "d0-e1", "tail": "C\\D", "tail_type": "LOC", "score": "0.75",
        "head_spans": "0-9;41-47", "tail_spans": "23-26", "evidence": 'A "x" <&>, was born in C\\D; the Bo.',
    }  # fmt: skip
    assert second["relation_name"] == 'works "for", <x> & y'


def test_neo4j(tmp_path: Path) -> None:
    title = "a\nb"
    folder = write(tmp_path / "graph", "neo4j", result(title), result("two"), merge=True)
    nodes, edges = rows(folder / "nodes.csv"), rows(folder / "relationships.csv")
    assert [(node["name"], node["type"], node[":LABEL"]) for node in nodes] == [
        ('A "x" <&>', "PER", "Entity;PER"),
        ("C\\D", "LOC", "Entity;LOC"),
        ("Bo", "", "Entity"),
    ]
    ids = [node[":ID"] for node in nodes]
    assert [(edge[":START_ID"], edge[":TYPE"], edge[":END_ID"]) for edge in edges] == [
        (ids[0], "PLACE_OF_BIRTH", ids[1]),
        (ids[0], "WORKS_FOR_X_Y", ids[2]),
    ] * 2
    assert [float(edge["score:double"]) for edge in edges] == [0.75, 0.5] * 2
    # A line a row: the import refuses line ends in fields by default.
    assert len((folder / "relationships.csv").read_text().splitlines()) == 5
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file: --format neo4j writes a folder"):
        write(tmp_path / "file", "neo4j")
    assert relationship_type("\u4e2d / 3") == "\u4e2d_3"
    assert relationship_type("--") == "RELATED"


def test_graphml(tmp_path: Path) -> None:
    bell = replace(result().triples[0], head_name="bell\x07 \uffff")
    more = replace(result("two"), triples=(bell,))
    graph = nx.read_graphml(write(tmp_path / "a.graphml", "graphml", result('<"t">'), more), force_multigraph=True)
    assert isinstance(graph, nx.MultiDiGraph)
    assert graph.nodes["d0-e0"] == {"name": 'A "x" <&>', "type": "PER"}
    assert graph.nodes["d1-e0"]["name"] == "bell\ufffd \ufffd"
    found = graph.edges["d0-e0", "d0-e1", "t0"]
    assert (found["relation"], found["score"], found["document"], found["head_spans"]) == (
        "P19",
        0.75,
        '<"t">',
        "0-9;41-47",
    )
    assert graph.edges["d0-e0", "d0-e2", "t1"]["relation_name"] == 'works "for", <x> & y'
    assert (graph.number_of_nodes(), graph.number_of_edges()) == (5, 3)
    merged = nx.read_graphml(write(tmp_path / "b.graphml", "graphml", result(), result("two"), merge=True))
    # Two edges of two documents between each of two pairs.
    assert (merged.number_of_nodes(), merged.number_of_edges()) == (3, 4)


def test_an_empty_graph_is_valid(tmp_path: Path) -> None:
    empty = replace(result(), triples=())
    assert len(nx.read_graphml(write(tmp_path / "a.graphml", "graphml", empty))) == 0
    assert statements(write(tmp_path / "a.ttl", "turtle", empty)) == []
    assert rows(write(tmp_path / "a.csv", "csv", empty)) == []


NASTY = (
    'say "x", \\ and \'y\'', "two\nlines\r\nand\ttabs\rhere", "\U0001d518\U0001f600 non-BMP",
    "\u05e9\u05dc\u05d5\u05dd \u202ertl\u202c",
    "<&>]]>&amp;", "=1+1", "@cmd", "-2", ",;|\t", "\u2028\u2029\x85", "<urn:x> .", "{%s}", "\u4e2d\u6587",
)  # fmt: skip


def nasty() -> ExtractedDocument:
    """Return a result whose names, types, relations and title are hard to write."""
    base = result().triples[0]
    names = [*NASTY, NASTY[0]]
    triples = tuple(
        replace(
            base,
            **{"head": number, "head_name": names[number], "head_type": names[number]},
            **{"tail": number + 1, "tail_name": names[number + 1], "tail_type": names[number + 1]},
            relation=names[number],
            relation_name=names[number],
            evidence=(),
        )
        for number in range(len(NASTY))
    )
    return replace(result(NASTY[1]), triples=triples)


def test_nasty_names_in_csv(tmp_path: Path) -> None:
    written = write(tmp_path / "a.csv", "csv", nasty())
    found = rows(written)
    for key in ("head", "head_type", "relation", "relation_name"):
        assert [row[key] for row in found] == list(NASTY)
    assert {row["document"] for row in found} == {NASTY[1]}


def test_nasty_names_in_graphml(tmp_path: Path) -> None:
    root = ElementTree.parse(write(tmp_path / "a.graphml", "graphml", nasty())).getroot()
    space = "{http://graphml.graphdrawing.org/xmlns}"
    assert root.tag == f"{space}graphml"
    edges = [{data.get("key"): data.text for data in edge} for edge in root.iter(f"{space}edge")]
    assert [edge["relation_name"] for edge in edges] == list(NASTY)
    assert {edge["document"] for edge in edges} == {NASTY[1]}
    nodes = {node.get("id"): {data.get("key"): data.text for data in node} for node in root.iter(f"{space}node")}
    assert [nodes[f"d0-e{number}"]["name"] for number in range(len(NASTY))] == list(NASTY)
    # Every end of an edge is a node, and every key is declared.
    declared = {key.get("id") for key in root.iter(f"{space}key")}
    assert all({edge.get("source"), edge.get("target")} <= nodes.keys() for edge in root.iter(f"{space}edge"))
    assert {data.get("key") for data in root.iter(f"{space}data")} <= declared


def test_nasty_names_in_neo4j(tmp_path: Path) -> None:
    folder = write(tmp_path / "graph", "neo4j", nasty(), merge=True)
    for name in ("nodes.csv", "relationships.csv"):
        content = (folder / name).read_bytes().decode()
        assert len(content.split("\r\n")) == len(rows(folder / name)) + 2
        assert not set("\n\r") & set(content.replace("\r\n", ""))
    nodes, edges = rows(folder / "nodes.csv"), rows(folder / "relationships.csv")
    assert [node["name"] for node in nodes] == [" ".join(name.split()) for name in NASTY]
    assert all(node[":LABEL"].count(";") == bool(node["type"]) for node in nodes)
    assert {edge[":START_ID"] for edge in edges} == {node[":ID"] for node in nodes}
    assert all(re.fullmatch(r"\w+", edge[":TYPE"]) for edge in edges)


def test_nasty_names_in_turtle(tmp_path: Path) -> None:
    found = statements(write(tmp_path / "a.ttl", "turtle", nasty()))
    label = "http://www.w3.org/2000/01/rdf-schema#label"
    labels = {subject: value for subject, predicate, value in found if predicate == label}
    assert [labels[f"urn:lmrc:entity:d0-e{number}"] for number in range(len(NASTY))] == list(NASTY)
    relations = {subject: value for subject, value in labels.items() if subject.startswith("urn:lmrc:relation:")}
    assert {unquote(subject.removeprefix("urn:lmrc:relation:")) for subject in relations} == {*NASTY}
    kinds = {value for _, _, value in found if value.startswith("urn:lmrc:type:")}
    assert {unquote(kind.removeprefix("urn:lmrc:type:")) for kind in kinds} == {*NASTY}


def test_nasty_names_in_lines(tmp_path: Path) -> None:
    with ResultLines(tmp_path / "a.jsonl", "k") as lines:
        lines.write(nasty())
    content = (tmp_path / "a.jsonl").read_text(encoding="utf-8")
    assert len(content.splitlines()) == 1  # splitlines takes \u2028 and \x85 for line ends
    assert list(read_results(tmp_path / "a.jsonl")) == [nasty()]
    assert [triple["head_name"] for triple in json.loads(content)["triples"]] == list(NASTY)


def test_merging_is_by_name_and_type_in_every_format(tmp_path: Path) -> None:
    # A leading article, white space and case do not count.
    other = replace(result("two"), triples=(replace(result().triples[0], head_name='The "X"  <&>'),))
    graph = ElementTree.parse(write(tmp_path / "a.graphml", "graphml", result(), other, merge=True)).getroot()
    assert len(list(graph.iter("{http://graphml.graphdrawing.org/xmlns}node"))) == 3
    found = rows(write(tmp_path / "a.csv", "csv", result(), other, merge=True))
    # Each row has the name as its document has it, and the id that the documents share.
    assert [row["head"] for row in found] == ['A "x" <&>', 'A "x" <&>', 'The "X"  <&>']
    (head,) = {row["head_id"] for row in found}
    triples = statements(write(tmp_path / "a.ttl", "turtle", result(), other, merge=True))
    assert {subject for subject, predicate, _ in triples if predicate.endswith("direct/P19")} == {
        f"urn:lmrc:entity:{head}"
    }


# The part of Turtle's grammar (https://www.w3.org/TR/turtle/#sec-grammar) that the writer uses: IRIREF, PrefixedName
# with a plain local name, "a", STRING_LITERAL_QUOTE, and a datatype.
IRI = r"<[^\x00-\x20<>\"{}|^`\\]*>"
NAME = r"[a-z]+:[A-Za-z][A-Za-z0-9]*"
STRING = r'"(?:[^\x22\x5C\x0A\x0D]|\\[tbnrf"\'\\]|\\u[0-9A-F]{4})*"'
TERM = re.compile(rf"({IRI}|{NAME}|a(?= )|{STRING}(?:\^\^{NAME})?)(?: |$)")
UNESCAPED = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f"}


def statements(path: Path) -> list[tuple[str, str, str]]:
    """Return the triples of a file with all prefixes resolved and strings unescaped. Fail if it is not valid."""
    prefixes: dict[str, str] = {}
    found = []
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    for line in lines:
        assert line.endswith(" ."), line
        if match := re.fullmatch(r"@prefix ([a-z]+): <([^<>\s]*)> \.", line):
            prefixes[match[1]] = match[2]
            continue
        terms, at = [], 0
        while at < len(line) - 2:
            match = TERM.match(line, at)
            assert match, line[at:]
            terms.append(resolved(match[1], prefixes))
            at = match.end()
        assert len(terms) == 3, line
        found.append((terms[0], terms[1], terms[2]))
    return found


def resolved(term: str, prefixes: dict[str, str]) -> str:
    if term == "a":
        return "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
    if term.startswith("<"):
        assert re.fullmatch(r"<[a-z]+:\S+>", term), term  # absolute
        return term[1:-1]
    if term.startswith('"'):
        text = term.rpartition('"')[0][1:]
        return re.sub(
            r"\\(u([0-9A-F]{4})|.)", lambda m: chr(int(m[2], 16)) if m[2] else UNESCAPED.get(m[1], m[1]), text
        )
    prefix, _, name = term.partition(":")
    return prefixes[prefix] + name


def test_turtle(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ttl", "turtle", result('t\n"\\\x01'), result("two"))
    found = statements(path)
    birth, works = "http://www.wikidata.org/prop/direct/P19", "urn:lmrc:relation:works%20for"
    a, c, b = (f"urn:lmrc:entity:d0-e{index}" for index in range(3))
    label = "http://www.w3.org/2000/01/rdf-schema#label"
    assert {(a, birth, c), (a, works, b)} <= {*found}
    assert (a, label, 'A "x" <&>') in found and (c, label, "C\\D") in found
    assert (works, label, 'works "for", <x> & y') in found
    assert sum(subject == birth for subject, *_ in found) == 1
    rdf = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    first = {predicate: value for subject, predicate, value in found if subject == "urn:lmrc:statement:0"}
    assert first == {
        f"{rdf}type": f"{rdf}Statement", f"{rdf}subject": a, f"{rdf}predicate": birth, f"{rdf}object": c,
        "urn:lmrc:score": "0.75", "urn:lmrc:document": 't\n"\\\x01', "urn:lmrc:headSpans": "0-9;41-47",
        "urn:lmrc:tailSpans": "23-26", "urn:lmrc:evidence": 'A "x" <&>, was born in C\\D; the Bo.',
    }  # fmt: skip
    # An entity without a type has no statement about it.
    assert not any(subject == b and predicate == f"{rdf}type" for subject, predicate, _ in found)
    assert '"0.75"^^xsd:double' in path.read_text()


def test_turtle_in_rdflib(tmp_path: Path) -> None:
    rdflib = pytest.importorskip("rdflib")
    path = write(tmp_path / "a.ttl", "turtle", result('t\n"\\\x01'))
    graph = rdflib.Graph().parse(path, format="turtle")
    assert {tuple(map(str, triple)) for triple in graph} == {*statements(path)}


def test_iris_and_literals() -> None:
    assert [relation_iri(id) for id in ("P1", "P0", "P19x", "a<b>\n")] == [
        "wdt:P1",
        "<urn:lmrc:relation:P0>",
        "<urn:lmrc:relation:P19x>",
        "<urn:lmrc:relation:a%3Cb%3E%0A>",
    ]
    assert literal("\u4e2d\x00\x7f\t") == '"\u4e2d\\u0000\\u007F\\t"'


def test_a_failed_extraction_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "a.ttl"
    out.write_text("before")

    def fail() -> None:
        with graph_writer(out, "turtle", EntityIds(merge=False)) as writer:
            writer.write(result())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]
