"""Convert a made-up file with the command, build a corpus from the result, and describe it in short."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner

from lmrc.cli.main import lmrc
from lmrc.convert.convert import Conversion
from lmrc.convert.convert import convert as convert_files
from lmrc.convert.formats import format_named
from lmrc.corpus.corpus import Corpus


class Converted(NamedTuple):
    """Documents as they are in the output, and the account."""

    documents: list[dict[str, Any]]
    remarks: Counter[str]
    relations: list[str]


def converted(path: Path, source: str) -> Converted:
    """Return what a file is converted to, after `lmrc data convert` and `lmrc data build` have taken it."""
    out = path.parent / "converted.json"
    conversion = convert_files(path, out, format_named(source))
    content = out.read_text()
    run = CliRunner().invoke(lmrc, ["data", "convert", str(path), "--from", source, "--out", str(out)])
    assert run.exit_code == 0, run.output
    assert out.read_text() == content
    first, account = run.output.splitlines()
    assert first.startswith(f"{out}: {conversion.documents:,} documents, {conversion.entities:,} entities")
    assert account == conversion.account()
    documents = json.loads(content)
    return Converted(documents, +conversion.remarks, _build(out, conversion, documents))


def _build(out: Path, conversion: Conversion, documents: list[dict[str, Any]]) -> list[str]:
    """Build a corpus and return its relations; with no label there is no relation set."""
    number = sum(1 for _ in out.parent.glob("corpus-*"))
    corpus = out.parent / f"corpus-{number}"
    arguments = ["data", "build", str(out), "--out", str(corpus)]
    if conversion.relations is not None:
        arguments += ["--relations", str(conversion.relations)]
    run = CliRunner().invoke(lmrc, arguments)
    assert run.exit_code == 0, run.output or run.exception
    built = Corpus.open(corpus)
    assert [document.title for document in built] == [document["title"] for document in documents]
    return [] if conversion.relations is None else list(built.relations.ids)


def sentences(document: dict[str, Any]) -> list[str]:
    """Return the sentences, tokens separated by a space."""
    return [" ".join(tokens) for tokens in document["sents"]]


def entities(document: dict[str, Any]) -> list[list[str]]:
    """Return each mention as "type: its tokens". The tokens must be the name but for white space."""
    found = []
    for entity in document["vertexSet"]:
        found.append([])
        for mention in entity:
            start, end = mention["pos"]
            tokens = document["sents"][mention["sent_id"]][start:end]
            assert "".join(tokens) == "".join(mention["name"].split()), mention
            found[-1].append(f"{mention['type']}: {' '.join(tokens)}")
    return found


def triples(document: dict[str, Any]) -> list[tuple[int, str, int, list[int]]]:
    """Return the labels: head, relation, tail and evidence."""
    return [(label["h"], label["r"], label["t"], label["evidence"]) for label in document["labels"]]
