"""The formats that `lmrc data convert --from` knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lmrc.common.errors import UserError, nearest
from lmrc.convert import brat, conllu, docbin, dwie, nyt, plain_text, pubtator, scierc, tacred
from lmrc.convert.biomedical import bioc
from lmrc.corpus.types import Document

# Yields the documents of a file. A label's relation is its name in the file. The counter takes how often something was
# not carried over as it stands, by a phrase for the user, such as "repeated relations kept once".
Reader = Callable[[Path, Counter[str]], Iterator[Document]]


@dataclass(frozen=True)
class Format:
    """A format of annotated documents.

    Attributes:
        read: Its reader.
        content: What a file holds, for messages.
        suffixes: Ends of the names of its files in a folder, in lower case and without .gz.
    """

    read: Reader
    content: str
    suffixes: tuple[str, ...]


FORMATS = {
    "pubtator": Format(pubtator.read, "PubTator: abstracts and mentions by PMID", (".txt", ".pubtator", ".data")),
    "bioc": Format(bioc.read, "BioC: passages with annotations, in JSON or XML", (".json", ".jsonl", ".xml")),
    "scierc": Format(scierc.read, "objects with sentences, ner, relations and clusters", (".json", ".jsonl")),
    "dwie": Format(dwie.read, "objects with content, mentions, concepts and relations", (".json", ".jsonl")),
    "tacred": Format(tacred.read, "objects with token, subj_start, obj_start and relation", (".json", ".jsonl")),
    "nyt": Format(
        nyt.read, "sentences with sentText and relationMentions, or text and triple_list", (".json", ".jsonl", ".sent")
    ),
    "brat": Format(brat.read, "standoff annotations .ann beside texts .txt", (".ann",)),
    "conllu": Format(conllu.read, "CoNLL-U with Entity= or Coref= in the last column", (".conllu", ".conllup")),
    "docbin": Format(docbin.read, "a DocBin of spaCy", (".spacy",)),
    "text": Format(plain_text.read, "plain text, or JSON with texts and mentions", (".txt", ".json", ".jsonl")),
}

# Other names of the formats: data sets and tools.
ALIASES = {
    "bc5cdr": "pubtator",
    "biored": "pubtator",
    "cdr": "pubtator",
    "casrel": "nyt",
    "conll-u": "conllu",
    "corefud": "conllu",
    "duie": "nyt",
    "dygie": "scierc",
    "gda": "pubtator",
    "opennre": "nyt",
    "retacred": "tacred",
    "spacy": "docbin",
    "spert": "scierc",
    "standoff": "brat",
    "tacrev": "tacred",
    "webnlg": "nyt",
}


def format_named(name: str) -> Format:
    """Return the format of a name, in any case.

    Raises:
        UserError: There is none; the message suggests one.
    """
    key = ALIASES.get(name.lower(), name.lower())
    if key not in FORMATS:
        raise UserError(f"--from {name}: unknown format; {nearest(key, [*FORMATS, *ALIASES])}")
    return FORMATS[key]
