"""Relation classification with the LM: reads a corpus and candidates, writes generations and predictions."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from lmrc.common.errors import ConfigError
from lmrc.common.files import sha256_of
from lmrc.common.json_stream import replacing
from lmrc.config.aliases import with_old_names
from lmrc.config.schema import ClassifyConfig, PromptOptions
from lmrc.corpus.candidates import Candidate, Candidates, write_candidates
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.predictions import Prediction, write_predictions
from lmrc.corpus.relation_schema import RelationSchema, entity_types
from lmrc.corpus.types import Document, Triple
from lmrc.fusion.inputs import SCORES, read_scores
from lmrc.inference.fingerprint import work_fingerprint
from lmrc.rc.answers import GENERATIONS, asked_pairs, check_answers, prompt_of
from lmrc.rc.decoding.base import BackendInputs, DecodingBackend, QueryResult
from lmrc.rc.decoding.factory import create_backend
from lmrc.rc.fused import FusedScores
from lmrc.rc.model.adapter import adapter_base
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.model.lora import load_tokenizer
from lmrc.rc.prompts.few_shot import Demonstration, demonstration_tokens, demonstrations, few_shot_messages
from lmrc.rc.prompts.query_builder import Query, QueryBuilder
from lmrc.rc.prompts.questions import QuestionBuilder, check_candidates, questions_about
from lmrc.rc.prompts.templates import PROMPTS, Pair

logger = logging.getLogger(__name__)

# Names of the files and folders in the run folder.
PREDICTIONS = "predictions.json"
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
    """Inference job (`lmrc.inference.protocol.Inference`) that predicts the relations of candidates.

    Without `config.candidates`, the kind of prompt decides whether gold pairs or all pairs are asked about.

    Attributes:
        identity: fingerprint of all inputs that determine the result.
    """

    schema = SCHEMA

    def __init__(self, config: ClassifyConfig) -> None:
        """Open and check the inputs. The LM is not loaded.

        Raises:
            UserError: if an input is missing, damaged or does not belong to the others.
        """
        self._config = config
        self._corpus = Corpus.open(config.corpus)
        self._candidates = None if config.candidates is None else Candidates.open(config.candidates)
        if self._candidates is not None:
            self._candidates.check(self._corpus)
        if not config.asks_lm:
            prompt = PromptOptions() if config.answers is None else prompt_of(config.answers)
            self._metadata = AdapterMetadata(prompt, "fp32", self._corpus.relations.sha256)
            self._base = ""
        elif config.rc is None:
            if not config.base:
                raise ConfigError("rc is none, so an LM without an adapter is used: name it in base")
            self._metadata = AdapterMetadata(config.prompt, "bf16", self._corpus.relations.sha256)
            self._base = config.base
        else:
            self._metadata = AdapterMetadata.read_for(config.rc, config.prompt)
            self._metadata.check_corpus(config.rc, self._corpus)
            self._base = adapter_base(config.rc)
        self._prompt = PROMPTS[self._metadata.prompt.kind]
        self._fused = (
            None
            if config.system == "rc"
            else FusedScores(config, self._corpus, self._candidates, self._metadata.prompt)
        )
        if config.asks_lm:
            self._check_backend()
            self._check_questions()
        self._schema = self._choose_schema() if config.asks_lm else None
        if self._fused is not None and not self._prompt.names_relations:
            raise ConfigError(
                f"system {config.system} needs an LM that names relations, but {config.rc or config.base} says Yes or "
                "No to a pair: give another --rc"
            )
        total = len(self._corpus)
        self.documents = total if config.documents is None else min(config.documents, total)
        if config.answers is not None and self._candidates is not None:
            self._answered = check_answers(config.answers, self._candidates, self._corpus)
            if self._answered < self.documents:
                raise ConfigError(
                    f"{config.answers} has answers for the first {self._answered} of {self.documents} documents: give "
                    f"--documents {self._answered}"
                )
        if not self._prompt.names_relations and self.documents < total:
            raise ConfigError(
                f"candidates must cover the whole corpus: leave out documents ({self.documents} of {total})"
            )
        if self._candidates is None and self._corpus.manifest.labelled_documents < total:
            for index in range(self.documents):
                # Raises now if gold pairs are needed and a document has no labels.
                self._pairs(index)
        options: dict[str, Any] = {
            name: with_old_names(name, getattr(config, name).model_dump(mode="json", exclude={"schema"}))
            for name in ("decode", "few_shot")
        }
        if self._schema is not None:
            options["relation_schema"] = self._schema.as_json()
        if config.few_shot.examples:
            # Not the path, which may differ if the run is resumed from another folder.
            options["few_shot"]["corpus"] = Corpus.open(config.few_shot.corpus).fingerprint
        if config.decode.backend == "openai":
            options["server"] = config.server.model_dump(mode="json", include={"model", "endpoint", "seed", "body"})
        if self._fused is not None:
            options["fused"] = self._fused.identity
        if config.answers is not None:
            options["answers"] = sha256_of(config.answers / SCORES)
        self.identity = work_fingerprint(
            config.rc if config.asks_lm else None,
            SCHEMA,
            corpus=self._corpus.fingerprint,
            candidates="gold" if self._candidates is None else self._candidates.manifest.fingerprint,
            base=self._base,
            prompt=with_old_names("prompt", self._metadata.prompt.model_dump(mode="json", exclude={"schema"})),
            documents=self.documents,
            **options,
        )

    def _check_questions(self) -> None:
        if not self._prompt.asks_relations:
            return
        if self._config.candidates is None:
            raise ConfigError(
                f"{self._config.rc} scores relations of candidates (prompt.kind likelihood): give --candidates"
            )
        check_candidates(self._config.candidates, self._corpus)
        if self._config.decode.mode != "score" or self._config.decode.backend == "openai":
            raise ConfigError(
                f"{self._config.rc} scores triples and writes no answers (prompt.kind likelihood): give "
                "--decode.mode score and --decode.backend hf or vllm"
            )

    def _check_backend(self) -> None:
        decode, few_shot = self._config.decode, self._config.few_shot
        is_chat = self._config.server.endpoint == "chat"
        if decode.backend == "openai" and decode.mode == "score":
            raise ConfigError(
                "mode score asks for thousands of probabilities, for which a server is too far away: give "
                "--decode.backend vllm or hf, or --decode.mode constrained"
            )
        if decode.backend == "openai" and decode.mode == "constrained" and is_chat:
            raise ConfigError(
                "mode constrained sends a vLLM server the token ids of the prompt: give --server.endpoint completions, "
                "or --decode.mode free"
            )
        if decode.backend == "vllm" and self._metadata.quantization is not None:
            raise ConfigError(
                f"{self._config.rc} was trained on a base in {self._metadata.quantization}, which is not supported "
                "with vLLM: give --decode.backend hf"
            )
        if decode.backend == "openai" and decode.gpus_per_worker > 1:
            raise ConfigError("decode.gpus_per_worker has no effect on a server, which has its own GPUs: leave it out")
        if decode.backend != "openai" and few_shot.examples:
            raise ConfigError(
                "few_shot.examples are turns of a conversation with a server: give --decode.backend openai"
            )
        if decode.backend == "openai" and is_chat and self._metadata.prompt.template is not None:
            raise ConfigError("a server applies its own chat template: give --prompt.template none")
        if few_shot.examples and few_shot.corpus.resolve() == self._config.corpus.resolve():
            raise ConfigError(f"few_shot.corpus is {few_shot.corpus}, the corpus to classify: give the training corpus")
        if few_shot.examples and not is_chat:
            raise ConfigError("few_shot.examples are turns of a conversation: give --server.endpoint chat")

    def _choose_schema(self) -> RelationSchema | None:
        """Return the schema that restricts the answers: the given one, or that of the adapter; None for all relations.

        Raises:
            UserError: the given schema cannot be read, or the answers name no relations.
        """
        decode = self._config.decode
        if decode.schema is not None:
            if not self._prompt.names_relations or self._prompt.asks_relations:
                raise ConfigError(
                    f"decode.schema says which relations an answer may name, but answers of prompt.kind "
                    f"{self._prompt.kind} name none: leave it out"
                )
            return RelationSchema.read(decode.schema, self._corpus.relations)
        if self._metadata.schema is not None and decode.mode == "free":
            logger.warning(f"mode free answers with any relation: the relation schema of {self._config.rc} is not used")
            return None
        return self._metadata.schema

    def _pairs(self, index: int) -> list[Pair]:
        """Return the pairs to ask about in a document of the corpus."""
        if self._fused is not None:
            return self._fused.pairs(index)
        if self._candidates is not None:
            return [(candidate.head, candidate.tail) for candidate in self._candidates[index]]
        return self._prompt.pairs(self._corpus[index])

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(str(self._config.rc) if self._config.rc is not None else self._base)

    def _queries(self, index: int) -> Iterator[Query]:
        """Yield the queries about a document of the corpus."""
        pairs = self._pairs(index)
        if not pairs:
            return  # in system encoder there is no tokenizer
        document = self._corpus[index]
        if self._prompt.asks_relations:
            assert self._candidates is not None
            asked = set(pairs)
            candidates = (pair for pair in self._candidates[index] if (pair.head, pair.tail) in asked)
            questions = questions_about(candidates, self._metadata.prompt)
            yield from self._questions.build(index, document, questions)
        else:
            yield from self._builder.build(index, document, pairs)

    def _answered_pairs(self, index: int) -> list[Pair]:
        """Return the pairs of a document whose answers are taken from an earlier run."""
        assert self._candidates is not None
        asked = set(asked_pairs(self._candidates[index], self._metadata.prompt))
        return [pair for pair in self._pairs(index) if pair in asked]

    @cached_property
    def _answers(self) -> dict[int, list[dict[str, Any]]]:
        """Return the triples of `config.answers` with the LM's scores, by document."""
        assert self._config.answers is not None and self._candidates is not None
        triples: dict[int, list[dict[str, Any]]] = {}
        for question, score in read_scores(self._config.answers / SCORES, self._candidates, self._answered).items():
            triple = Triple(question.head, question.tail, question.relation)
            triples.setdefault(question.document, []).append({**triple._asdict(), "score": score})
        return triples

    @cached_property
    def _questions(self) -> QuestionBuilder:
        return QuestionBuilder(self._tokenizer, self._corpus.relations, self._metadata.prompt)

    @cached_property
    def _builder(self) -> QueryBuilder:
        return QueryBuilder(
            self._tokenizer,
            self._corpus.relations,
            self._metadata.prompt,
            self._config.decode.max_new_tokens,
            demonstration_tokens(self._demonstrations, self._tokenizer),
        )

    @cached_property
    def _demonstrations(self) -> list[Demonstration]:
        few = self._config.few_shot
        if not few.examples:
            return []
        return demonstrations(Corpus.open(few.corpus), self._prompt.kind, few.examples, few.pairs, few.seed)

    @cached_property
    def _backend(self) -> DecodingBackend:
        shown = self._demonstrations
        return create_backend(
            BackendInputs(
                config=self._config,
                base=self._base,
                metadata=self._metadata,
                tokenizer=self._tokenizer,
                relations=self._corpus.relations,
                shared_prefix=(self._questions if self._prompt.asks_relations else self._builder).shared_prefix(),
                answer_folder=self._config.run.folder / self._config.run.name / ANSWERS,
                document_of=self._document,
                messages_of=lambda query: few_shot_messages(shown, query),
                schema=self._schema,
            )
        )

    def _document(self, query: Query) -> Document:
        return self._corpus[query.document]

    def load(self) -> None:
        """Load the LM, if any document has a pair to ask about.

        Raises:
            UserError: if the LM, its adapter or a package is missing or damaged, or they do not fit each other.
        """
        if self._config.asks_lm and any(self._pairs(index) for index in range(self.documents)):
            self._backend.load()

    def rows(self, documents: range) -> list[dict[str, Any]]:
        """Return one row per document: its title, the answers of the LM and the triples in them.

        Raises:
            UserError: if a query does not fit; the message names the document.
        """
        rows: dict[int, dict[str, Any]] = {}
        queries: list[Query] = []
        for index in documents:
            document = self._corpus[index]
            rows[index] = {"title": document.title, "generations": [], "triples": []}
            if self._config.answers is None:
                queries += self._queries(index)
            elif pairs := self._answered_pairs(index):
                asked = Query(index, document.title, tuple(pairs), "", None, 0)
                rows[index]["generations"].append(_to_row(QueryResult(asked, "", True, (), 0, Counter(), ())))
                rows[index]["triples"] += self._answers.get(index, [])
        for result in self._backend.answer(queries) if queries else ():
            row = rows[result.query.document]
            row["generations"].append(_to_row(result))
            row["triples"] += [{**scored.triple._asdict(), "score": scored.score} for scored in result.triples]
        if self._fused is not None:
            for index, row in rows.items():
                row["triples"] = self._fused.triples(index, row["triples"])
        return list(rows.values())

    def finish(self, rows: Iterator[dict[str, Any]]) -> dict[str, int | float]:
        """Write the results into the run folder.

        - GENERATIONS: one JSON object per query, with the fields document, title, pairs, answer, finished, failures,
          unknown_relations and left_out (sentences dropped from the prompt).
        - PREDICTIONS, in the submission format. In mode score, those with at least `decode.threshold`; all are in
          SCORES. In the systems encoder and fused, those with at least the fusion's threshold; all questions are in
          SCORES.
        - CANDIDATES instead of PREDICTIONS, if the answers name no relations.
        - RELIABILITY and CURVE of `lmrc.rc.fused`, in the systems encoder and fused, if the corpus has labels.

        Returns:
            Counts: documents, documents_without_pairs, queries, pairs, predictions, unfinished (answers cut off by a
            limit), none (pairs answered so), shortened (queries), sentences_left_out of these, and the failures of
            `lmrc.rc.decoding.parsing.Parsed` by kind; with a relation schema, also no_admissible_relation (pairs that
            are offered all relations, because none is admissible). In the systems encoder and fused, also questions,
            proposed_pairs, and asked_share: the share of these that the LM was asked about.

        Raises:
            UserError: if the folder cannot be written.
        """
        folder = self._config.run.folder / self._config.run.name
        counts = Counter(documents_without_pairs=0, queries=0, pairs=0, predictions=0, unfinished=0, none=0)
        counts.update(documents=self.documents, shortened=0, sentences_left_out=0)
        if self._schema is not None:
            counts["no_admissible_relation"] = 0
        predictions: dict[Prediction, None] = {}
        titles: list[str] = []
        with replacing(folder / GENERATIONS) as file:
            for index, row in zip(range(self.documents), rows, strict=True):
                titles.append(row["title"])
                counts["documents_without_pairs"] += not row["generations"]
                for generation in row["generations"]:
                    content = _to_json(generation)
                    line = {"document": index, "title": row["title"], **content}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    counts.update(queries=1, pairs=len(content["pairs"]), none=generation["none"])
                    counts.update(content["failures"], unfinished=not generation["finished"])
                    left_out = generation["left_out"]
                    counts.update(shortened=bool(left_out), sentences_left_out=len(left_out))
                if self._schema is not None:
                    counts["no_admissible_relation"] += self._count_unrestricted(self._schema, index, row)
                predictions |= {Prediction(row["title"], **triple): None for triple in row["triples"]}
        counts["predictions"] = self._write(predictions, titles, folder)
        return {**counts, **self._finish_fused(predictions, counts["pairs"], folder)}

    def _finish_fused(self, scored: dict[Prediction, None], asked: int, folder: Path) -> dict[str, int | float]:
        """Write and count what only the systems encoder and fused have; return the counts.

        Args:
            scored: all questions.
            asked: number of pairs that the LM was asked about.
        """
        if self._fused is None:
            return {}
        if self._corpus.manifest.labelled_documents == len(self._corpus):
            self._fused.write_curves([prediction.score or 0.0 for prediction in scored], self.documents, folder)
        proposed = self._fused.proposed(self.documents)
        share = asked / proposed if proposed else 0.0
        logger.info(
            f"{len(scored):,} questions; the LM was asked about {asked:,} of {proposed:,} proposed pairs "
            f"({100 * share:.1f} %); threshold {self._fused.threshold:.4g}"
        )
        return {"questions": len(scored), "proposed_pairs": proposed, "asked_share": share}

    def _count_unrestricted(self, schema: RelationSchema, index: int, row: dict[str, Any]) -> int:
        """Return the number of pairs of a document that have no admissible relation."""
        types = entity_types(self._corpus[index])
        pairs = [pair for generation in row["generations"] for pair in generation["pairs"]]
        return sum(not schema.admissible(types[pair["head"]], types[pair["tail"]]) for pair in pairs)

    def _write(self, scored: dict[Prediction, None], titles: list[str], folder: Path) -> int:
        """Write predictions or candidates. Return the number of predictions."""
        predicted = list(scored)
        threshold = 0.0
        if self._fused is not None or self._config.decode.mode == "score":
            threshold = self._config.decode.threshold if self._fused is None else self._fused.threshold
            write_predictions(scored, folder / SCORES)
            predicted = [prediction for prediction in scored if (prediction.score or 0.0) >= threshold]
        if self._prompt.names_relations:
            write_predictions(predicted, folder / PREDICTIONS)
            return len(predicted)
        candidates: dict[str, list[Candidate]] = {title: [] for title in titles}
        for prediction in predicted:
            score = 1.0 if prediction.score is None else prediction.score
            candidates[prediction.title].append(Candidate(prediction.head, prediction.tail, score))
        rows = [(title, sorted(pairs, key=lambda pair: (pair.head, pair.tail))) for title, pairs in candidates.items()]
        # An earlier attempt may have left it, if it ended before the run was marked as done.
        shutil.rmtree(folder / CANDIDATES, ignore_errors=True)
        write_candidates(rows, folder / CANDIDATES, self._corpus.fingerprint, threshold)
        return len(predicted)


def _to_row(result: QueryResult) -> dict[str, Any]:
    """Convert a result to an entry of the column generations of SCHEMA."""
    return {
        "pairs": [{"head": head, "tail": tail} for head, tail in result.query.pairs],
        "answer": result.text,
        "finished": result.finished,
        "none": result.none,
        "left_out": list(result.query.left_out),
        "failures": [{"kind": kind, "count": count} for kind, count in result.failures.items()],
        "unknown_relations": [unknown._asdict() for unknown in result.unknown],
    }


def _to_json(generation: dict[str, Any]) -> dict[str, Any]:
    """Convert an entry of the column generations to an object of the file GENERATIONS."""
    return {
        "pairs": [[pair["head"], pair["tail"]] for pair in generation["pairs"]],
        "answer": generation["answer"],
        "finished": generation["finished"],
        "failures": {failure["kind"]: failure["count"] for failure in generation["failures"]},
        "unknown_relations": [list(unknown.values()) for unknown in generation["unknown_relations"]],
        "left_out": generation["left_out"],
    }
