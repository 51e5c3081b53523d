"""Name the relations of candidates: corpus and candidates in, generations and predictions out."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from lmrc.common.errors import ConfigError
from lmrc.common.json_stream import replacing
from lmrc.config.schema import ClassifyConfig
from lmrc.corpus.candidates import Candidate, Candidates, write_candidates
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import candidate_pairs
from lmrc.corpus.predictions import Prediction, write_predictions
from lmrc.corpus.types import Document
from lmrc.inference.fingerprint import work_fingerprint
from lmrc.rc.decoding.base import BackendInputs, DecodingBackend, QueryResult
from lmrc.rc.decoding.factory import create_backend
from lmrc.rc.model.adapter import adapter_base
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.model.lora import load_tokenizer
from lmrc.rc.prompts.few_shot import Demonstration, demonstrated_tokens, demonstrations, few_shot_messages
from lmrc.rc.prompts.query_builder import Query, QueryBuilder, gold_pairs
from lmrc.rc.prompts.templates import Pair

GENERATIONS = "generations.jsonl"
PREDICTIONS = "predictions.json"
SCORES = "scores-of-all.json"
CANDIDATES = "candidates"
ANSWERS = "server-answers"

_PAIR = [("head", pa.int32()), ("tail", pa.int32())]
_TRIPLE = [*_PAIR, ("relation", pa.string())]
_UNKNOWN = pa.list_(pa.struct(_TRIPLE))
_TRIPLES = pa.list_(pa.struct([*_TRIPLE, ("score", pa.float64())]))
_GENERATION = pa.struct(
    [
        ("pairs", pa.list_(pa.struct(_PAIR))),
        ("answer", pa.string()),
        ("finished", pa.bool_()),
        ("none", pa.int64()),
        ("left_out", pa.list_(pa.int32())),
        ("failures", pa.list_(pa.struct([("kind", pa.string()), ("count", pa.int64())]))),
        ("unknown_relations", _UNKNOWN),
    ]
)
SCHEMA = pa.schema([("title", pa.string()), ("generations", pa.list_(_GENERATION)), ("triples", _TRIPLES)])


class ClassifyInference:
    """The relations of the candidates of `config.corpus`, as `lmrc.inference.protocol.Inference`.

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
        if config.rc is None:
            if not config.base:
                raise ConfigError("rc is none, so an LM without an adapter shall answer: name it in base")
            self._settings = AdapterMetadata(config.prompt, "bf16", self._corpus.relations.sha256)
            self._base = config.base
        else:
            self._settings = AdapterMetadata.read_for(config.rc, config.prompt)
            self._settings.check_corpus(config.rc, self._corpus)
            self._base = adapter_base(config.rc)
        self._check_backend()
        total = len(self._corpus)
        self.documents = total if config.documents is None else min(config.documents, total)
        if self._settings.prompt.kind == "rcp-llm" and self.documents < total:
            raise ConfigError(
                f"candidates are those of a whole corpus: leave out documents ({self.documents} of {total})"
            )
        if self._corpus.manifest.labelled_documents < total:
            for index in range(self.documents):
                # Here, where gold pairs are asked for and not known.
                self._pairs(index)
        asked = {name: getattr(config, name).model_dump(mode="json") for name in ("decode", "few_shot")}
        if config.few_shot.examples:
            # The same corpus may be given by another path when the work goes on from another folder.
            asked["few_shot"]["corpus"] = Corpus.open(config.few_shot.corpus).fingerprint
        if config.decode.backend == "openai":
            asked["server"] = config.server.model_dump(mode="json", include={"model", "endpoint", "seed", "body"})
        self.identity = work_fingerprint(
            config.rc,
            SCHEMA,
            corpus=self._corpus.fingerprint,
            candidates="gold" if self._candidates is None else self._candidates.manifest.fingerprint,
            base=self._base,
            prompt=self._settings.prompt.model_dump(mode="json"),
            documents=self.documents,
            **asked,
        )

    def _check_backend(self) -> None:
        decode, few_shot = self._config.decode, self._config.few_shot
        is_chat = self._config.server.endpoint == "chat"
        if decode.backend != "hf" and decode.mode != "free":
            who = {"openai": "a server", "vllm": "vLLM"}[decode.backend]
            raise ConfigError(
                f"{who} writes freely, it cannot answer in mode {decode.mode}: give --decode.mode free, or "
                "--decode.backend hf"
            )
        if decode.backend == "vllm" and self._settings.quantization is not None:
            raise ConfigError(
                f"{self._config.rc} was trained on a base in {self._settings.quantization}, which vLLM is not given: "
                "give --decode.backend hf"
            )
        if decode.backend == "openai" and decode.gpus_per_worker > 1:
            raise ConfigError("decode.gpus_per_worker holds an LM of ours; a server has its own: leave it out")
        if decode.backend != "openai" and few_shot.examples:
            raise ConfigError(
                "few_shot.examples are turns of a conversation with a server: give --decode.backend openai"
            )
        if decode.backend == "openai" and is_chat and self._settings.prompt.template is not None:
            raise ConfigError("a server puts messages into its own chat template: give --prompt.template none")
        if few_shot.examples and few_shot.corpus.resolve() == self._config.corpus.resolve():
            raise ConfigError(f"few_shot.corpus is {few_shot.corpus}, which is asked: give the training corpus")
        if few_shot.examples and not is_chat:
            raise ConfigError("few_shot.examples are turns of a conversation: give --server.endpoint chat")

    def _pairs(self, index: int) -> list[Pair]:
        """The pairs to ask for in document `index`."""
        if self._candidates is not None:
            return [(candidate.head, candidate.tail) for candidate in self._candidates[index]]
        document = self._corpus[index]
        return gold_pairs(document) if self._settings.prompt.kind == "rc" else candidate_pairs(len(document.entities))

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(str(self._config.rc) if self._config.rc is not None else self._base)

    @cached_property
    def _builder(self) -> QueryBuilder:
        relations, prompt = self._corpus.relations, self._settings.prompt
        before = demonstrated_tokens(self._demonstrations, self._tokenizer)
        return QueryBuilder(self._tokenizer, relations, prompt, self._config.decode.max_new_tokens, before)

    @cached_property
    def _demonstrations(self) -> list[Demonstration]:
        few = self._config.few_shot
        if not few.examples:
            return []
        return demonstrations(Corpus.open(few.corpus), self._settings.prompt.kind, few.examples, few.pairs, few.seed)

    @cached_property
    def _answering(self) -> DecodingBackend:
        shown = self._demonstrations
        return create_backend(
            BackendInputs(
                config=self._config,
                base=self._base,
                metadata=self._settings,
                tokenizer=self._tokenizer,
                relations=self._corpus.relations,
                shared_prefix=self._builder.beginning(),
                answer_folder=self._config.run.folder / self._config.run.name / ANSWERS,
                document_of=self._document,
                messages_of=lambda query: few_shot_messages(shown, query),
            )
        )

    def _document(self, query: Query) -> Document:
        return self._corpus[query.document]

    def load(self) -> None:
        """Load the LM, if any document has a pair to ask for.

        Raises:
            UserError: if the LM, its adapter or a package is missing or damaged, or they do not fit each other.
        """
        if any(self._pairs(index) for index in range(self.documents)):
            self._answering.load()

    def rows(self, documents: range) -> list[dict[str, Any]]:
        """For each document its title, the answers of the LM and the triples they say; decoded in batches.

        Raises UserError, naming the document, if a query would not fit.
        """
        rows: dict[int, dict[str, Any]] = {}
        queries: list[Query] = []
        for index in documents:
            document = self._corpus[index]
            rows[index] = {"title": document.title, "generations": [], "triples": []}
            queries += self._builder.build(index, document, self._pairs(index))
        if not queries:
            return list(rows.values())
        for answered in self._answering.answer(queries):
            row = rows[answered.query.document]
            row["generations"].append(_generation(answered))
            row["triples"] += [{**scored.triple._asdict(), "score": scored.score} for scored in answered.triples]
        return list(rows.values())

    def finish(self, rows: Iterator[dict[str, Any]]) -> dict[str, int]:
        """Write into the run folder GENERATIONS (one object a query: document, title, pairs, answer, finished,
        failures, unknown_relations, left_out: sentences that were not in the prompt) and PREDICTIONS (the submission
        format); in mode score those of at least `decode.threshold`, with all others in SCORES. An LM in the place of
        RCP writes CANDIDATES in their stead.

        Returns counts: documents, documents_without_pairs, queries, pairs, predictions, answers cut short
        (`unfinished`), pairs answered `none`, queries whose text was `shortened` and `sentences_left_out` of them, and
        the failures of `lmrc.rc.decoding.parsing.Parsed` by kind.

        Raises UserError where the folder cannot be written.
        """
        folder = self._config.run.folder / self._config.run.name
        counts = Counter(documents_without_pairs=0, queries=0, pairs=0, predictions=0, unfinished=0, none=0)
        counts.update(documents=self.documents, shortened=0, sentences_left_out=0)
        predictions: dict[Prediction, None] = {}
        titles: list[str] = []
        with replacing(folder / GENERATIONS) as file:
            for index, row in zip(range(self.documents), rows, strict=True):
                titles.append(row["title"])
                counts["documents_without_pairs"] += not row["generations"]
                for generation in row["generations"]:
                    shown = _shown(generation)
                    line = {"document": index, "title": row["title"], **shown}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    counts.update(queries=1, pairs=len(shown["pairs"]), none=generation["none"])
                    counts.update(shown["failures"], unfinished=not generation["finished"])
                    without = generation["left_out"]
                    counts.update(shortened=bool(without), sentences_left_out=len(without))
                predictions |= {Prediction(row["title"], **triple): None for triple in row["triples"]}
        counts["predictions"] = self._write(predictions, titles, folder)
        return dict(counts)

    def _write(self, found: dict[Prediction, None], titles: list[str], folder: Path) -> int:
        """Returns how many are predicted."""
        predicted = list(found)
        if self._config.decode.mode == "score":
            write_predictions(found, folder / SCORES)
            predicted = [one for one in found if (one.score or 0.0) >= self._config.decode.threshold]
        if self._settings.prompt.kind != "rcp-llm":
            write_predictions(predicted, folder / PREDICTIONS)
            return len(predicted)
        pairs: dict[str, list[Candidate]] = {title: [] for title in titles}
        for one in predicted:
            pairs[one.title].append(Candidate(one.head, one.tail, 1.0 if one.score is None else one.score))
        rows = [(title, sorted(of_title, key=lambda pair: (pair.head, pair.tail))) for title, of_title in pairs.items()]
        threshold = self._config.decode.threshold if self._config.decode.mode == "score" else 0.0
        # Left by an attempt that ended before the run was marked as done.
        shutil.rmtree(folder / CANDIDATES, ignore_errors=True)
        write_candidates(rows, folder / CANDIDATES, self._corpus.fingerprint, threshold)
        return len(predicted)


def _generation(answered: QueryResult) -> dict[str, Any]:
    """As a row carries it: of the types of SCHEMA."""
    return {
        "pairs": [{"head": head, "tail": tail} for head, tail in answered.query.pairs],
        "answer": answered.text,
        "finished": answered.finished,
        "none": answered.none,
        "left_out": list(answered.query.left_out),
        "failures": [{"kind": kind, "count": count} for kind, count in answered.failures.items()],
        "unknown_relations": [unknown._asdict() for unknown in answered.unknown],
    }


def _shown(generation: dict[str, Any]) -> dict[str, Any]:
    """As GENERATIONS shows it."""
    return {
        "pairs": [[pair["head"], pair["tail"]] for pair in generation["pairs"]],
        "answer": generation["answer"],
        "finished": generation["finished"],
        "failures": {failure["kind"]: failure["count"] for failure in generation["failures"]},
        "unknown_relations": [list(unknown.values()) for unknown in generation["unknown_relations"]],
        "left_out": generation["left_out"],
    }
