"""Name the relations of candidates: corpus and candidates in, generations and predictions out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from lmrc.config import ClassifyConfig
from lmrc.corpus.arrow import Corpus
from lmrc.corpus.candidates import Candidates
from lmrc.corpus.docred import candidate_pairs
from lmrc.engine.identity import identity
from lmrc.engine.precision import bf16_is_native
from lmrc.errors import UserError
from lmrc.evaluation.files import replacing
from lmrc.evaluation.predictions import Prediction, write_predictions
from lmrc.rc.decode import Generation, generate
from lmrc.rc.examples import Query, QueryBuilder, gold_pairs
from lmrc.rc.grammar import Grammar
from lmrc.rc.lora import adapter_base, load_adapter, load_base, load_tokenizer
from lmrc.rc.prompts import Pair
from lmrc.rc.settings import Settings
from lmrc.rc.triples import Parsed, parse

GENERATIONS = "generations.jsonl"
PREDICTIONS = "predictions.json"

_PAIR = [("head", pa.int32()), ("tail", pa.int32())]
_TRIPLES = pa.list_(pa.struct([*_PAIR, ("relation", pa.string())]))
_GENERATION = pa.struct(
    [
        ("pairs", pa.list_(pa.struct(_PAIR))),
        ("answer", pa.string()),
        ("finished", pa.bool_()),
        ("none", pa.int64()),
        ("failures", pa.list_(pa.struct([("kind", pa.string()), ("count", pa.int64())]))),
        ("unknown_relations", _TRIPLES),
    ]
)
SCHEMA = pa.schema([("title", pa.string()), ("generations", pa.list_(_GENERATION)), ("triples", _TRIPLES)])


class Classifying:
    """The relations of the candidates of `config.corpus`, as `lmrc.engine.inference.Inference`.

    Without `config.candidates` the pairs are the gold ones (`rc`), or all (`direct`).
    """

    schema = SCHEMA

    def __init__(self, config: ClassifyConfig) -> None:
        """Raises UserError where an input is missing, damaged or does not belong to the others. Loads no LM."""
        self._config = config
        self._corpus = Corpus.open(config.corpus)
        self._candidates = None if config.candidates is None else Candidates.open(config.candidates)
        if self._candidates is not None:
            self._candidates.check(self._corpus)
        self._settings = Settings.read(config.rc)
        if self._settings.relations_sha256 != self._corpus.relations.sha256:
            raise UserError(
                f"{config.rc} was trained with another relation set than that of {config.corpus}: "
                "build the corpus with the relations of the training corpus"
            )
        self._base = adapter_base(config.rc)
        total = len(self._corpus)
        self.documents = total if config.documents is None else min(config.documents, total)
        if self._corpus.manifest.labelled_documents < total:
            for index in range(self.documents):
                # Here, where gold pairs are asked for and not known.
                self._pairs(index)
        self.identity = identity(
            config.rc,
            SCHEMA,
            corpus=self._corpus.fingerprint,
            candidates="gold" if self._candidates is None else self._candidates.manifest.fingerprint,
            base=self._base,
            decode=config.decode.model_dump(mode="json"),
            documents=self.documents,
        )

    def _pairs(self, index: int) -> list[Pair]:
        """The pairs to ask for in document `index`."""
        if self._candidates is not None:
            return [(candidate.head, candidate.tail) for candidate in self._candidates[index]]
        document = self._corpus[index]
        return gold_pairs(document) if self._settings.prompt.kind == "rc" else candidate_pairs(len(document.entities))

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(str(self._config.rc))

    @cached_property
    def _model(self) -> PeftModel:
        """On a GPU where there is one."""
        precision = self._settings.precision
        if precision == "bf16" and not bf16_is_native():
            print("bf16 is only emulated on this machine, and slow: loading the LM in fp32", flush=True)
            precision = "fp32"
        base = load_base(self._base, self._settings.attn_implementation, precision)
        model: PeftModel = load_adapter(base, self._config.rc).to("cuda" if torch.cuda.is_available() else "cpu")
        return model

    def _grammar(self, query: Query) -> Grammar:
        document, kind = self._corpus[query.document], self._settings.prompt.kind
        return Grammar(query, document, self._corpus.relations, kind, self._tokenizer)

    def rows(self, documents: range) -> list[dict[str, Any]]:
        """For each document its title, the answers of the LM and the triples they say; decoded in batches.

        Raises UserError, naming the document, where a query would not fit; where a model is damaged or not to be had.
        """
        tokenizer, decode, relations = self._tokenizer, self._config.decode, self._corpus.relations
        builder = QueryBuilder(tokenizer, relations, self._settings.prompt, decode.max_new_tokens)
        rows: dict[int, dict[str, Any]] = {}
        queries: list[Query] = []
        for index in documents:
            document = self._corpus[index]
            rows[index] = {"title": document.title, "generations": [], "triples": []}
            queries += builder.build(index, document, self._pairs(index))
        if not queries:
            return list(rows.values())
        for generation in generate(self._model, tokenizer, queries, decode, self._grammar):
            query = generation.query
            document = self._corpus[query.document]
            parsed = parse(generation.text, document, query.pairs, relations, decode.min_name_score)
            rows[query.document]["generations"].append(_generation(generation, parsed))
            rows[query.document]["triples"] += [triple._asdict() for triple in parsed.triples]
        return list(rows.values())

    def finish(self, rows: Iterator[dict[str, Any]]) -> dict[str, int]:
        """Write into the run folder GENERATIONS (one object a query: document, title, pairs, answer, finished,
        failures, unknown_relations) and PREDICTIONS (the submission format).

        Returns counts: documents, documents_without_pairs, queries, pairs, predictions, answers cut short
        (`unfinished`), pairs answered `none`, and the failures of `lmrc.rc.triples.Parsed` by kind.

        Raises UserError where the folder cannot be written.
        """
        folder = self._config.run.folder / self._config.run.name
        counts = Counter(documents_without_pairs=0, queries=0, pairs=0, predictions=0, unfinished=0, none=0)
        counts["documents"] = self.documents
        predictions: dict[Prediction, None] = {}
        with replacing(folder / GENERATIONS) as file:
            for index, row in zip(range(self.documents), rows, strict=True):
                counts["documents_without_pairs"] += not row["generations"]
                for generation in row["generations"]:
                    shown = _shown(generation)
                    line = {"document": index, "title": row["title"], **shown}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    counts.update(queries=1, pairs=len(shown["pairs"]), none=generation["none"])
                    counts.update(shown["failures"], unfinished=not generation["finished"])
                predictions |= {Prediction(row["title"], **triple): None for triple in row["triples"]}
        write_predictions(predictions, folder / PREDICTIONS)
        counts["predictions"] = len(predictions)
        return dict(counts)


def _generation(generation: Generation, parsed: Parsed) -> dict[str, Any]:
    """As a row carries it: of the types of SCHEMA."""
    return {
        "pairs": [{"head": head, "tail": tail} for head, tail in generation.query.pairs],
        "answer": generation.text,
        "finished": generation.finished,
        "none": parsed.none,
        "failures": [{"kind": kind, "count": count} for kind, count in parsed.failures.items()],
        "unknown_relations": [unknown._asdict() for unknown in parsed.unknown],
    }


def _shown(generation: dict[str, Any]) -> dict[str, Any]:
    """As GENERATIONS shows it."""
    return {
        "pairs": [[pair["head"], pair["tail"]] for pair in generation["pairs"]],
        "answer": generation["answer"],
        "finished": generation["finished"],
        "failures": {failure["kind"]: failure["count"] for failure in generation["failures"]},
        "unknown_relations": [list(unknown.values()) for unknown in generation["unknown_relations"]],
    }
