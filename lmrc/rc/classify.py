"""Name the relations of candidates: corpus and candidates in, generations and predictions out."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from tqdm import tqdm

from lmrc.config import ClassifyConfig
from lmrc.corpus.arrow import Corpus
from lmrc.corpus.candidates import Candidates
from lmrc.corpus.docred import candidate_pairs
from lmrc.engine.precision import bf16_is_native
from lmrc.errors import RunError, UserError
from lmrc.evaluation.predictions import Prediction, write_predictions
from lmrc.rc.decode import Generation, generate
from lmrc.rc.examples import Query, QueryBuilder, gold_pairs
from lmrc.rc.grammar import Grammar
from lmrc.rc.lora import adapter_base, load_adapter, load_base, load_tokenizer
from lmrc.rc.prompts import Kind, Pair
from lmrc.rc.settings import Settings
from lmrc.rc.triples import Parsed, parse

GENERATIONS = "generations.jsonl"
PREDICTIONS = "predictions.json"
_SECONDS_BETWEEN_LINES = 60.0


def run(config: ClassifyConfig) -> dict[str, int]:
    """Ask the LM about the candidates of a corpus, in this process.

    Without `config.candidates` the pairs are the gold ones (`rc`), or all (`direct`). Writes into the run folder
    GENERATIONS (one object a query: title, pairs, answer, finished, failures) and PREDICTIONS (the submission format).

    Returns counts: documents, documents_without_pairs, queries, pairs, predictions, answers cut short (`unfinished`),
    pairs answered `none`, and the failures of `lmrc.rc.triples.Parsed` by kind.

    Raises UserError where an input is missing, damaged or does not belong to the others.
    """
    corpus = Corpus.open(config.corpus)
    candidates = None if config.candidates is None else Candidates.open(config.candidates)
    if candidates is not None:
        candidates.check(corpus)
    settings = Settings.read(config.rc)
    if settings.relations_sha256 != corpus.relations.sha256:
        raise UserError(
            f"{config.rc} was trained with another relation set than that of {config.corpus}: "
            "build the corpus with the relations of the training corpus"
        )
    base_name = adapter_base(config.rc)
    tokenizer = load_tokenizer(str(config.rc))
    precision = settings.precision
    if precision == "bf16" and not bf16_is_native():
        print("bf16 is only emulated on this machine, and slow: loading the LM in fp32", flush=True)
        precision = "fp32"
    base = load_base(base_name, settings.attn_implementation, precision)
    model = load_adapter(base, config.rc).to("cuda" if torch.cuda.is_available() else "cpu")

    counts: Counter[str] = Counter(documents_without_pairs=0, queries=0, pairs=0, predictions=0, unfinished=0, none=0)
    counts["documents"] = len(corpus) if config.documents is None else min(config.documents, len(corpus))
    builder = QueryBuilder(tokenizer, corpus.relations, settings.prompt, config.decode.max_new_tokens)
    # All queries before the first answer: what does not fit is refused at once, and the time left is known.
    queries: list[Query] = []
    for index in range(counts["documents"]):
        pairs = _pairs(corpus, candidates, index, settings.prompt.kind)
        counts["documents_without_pairs"] += not pairs
        queries += builder.build(index, corpus[index], pairs)

    def grammar_of(query: Query) -> Grammar:
        return Grammar(query, corpus[query.document], corpus.relations, settings.prompt.kind, tokenizer)

    folder = config.run.folder / config.run.name
    predictions: dict[Prediction, None] = {}
    temporary = folder / (GENERATIONS + ".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            for generation in _progress(generate(model, tokenizer, queries, config.decode, grammar_of), len(queries)):
                query = generation.query
                document = corpus[query.document]
                parsed = parse(generation.text, document, query.pairs, corpus.relations, config.decode.min_name_score)
                file.write(json.dumps(_row(generation, parsed), ensure_ascii=False) + "\n")
                file.flush()
                predictions |= {Prediction(query.title, *triple): None for triple in parsed.triples}
                counts.update(queries=1, pairs=len(query.pairs), unfinished=not generation.finished, none=parsed.none)
                counts.update(parsed.failures)
        temporary.replace(folder / GENERATIONS)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror or error}): mend that and start again") from error
    write_predictions(predictions, folder / PREDICTIONS)
    counts["predictions"] = len(predictions)
    return dict(counts)


def _pairs(corpus: Corpus, candidates: Candidates | None, index: int, kind: Kind) -> list[Pair]:
    """The pairs to ask for in document `index`."""
    if candidates is not None:
        return [(candidate.head, candidate.tail) for candidate in candidates[index]]
    document = corpus[index]
    return gold_pairs(document) if kind == "rc" else candidate_pairs(len(document.entities))


def _row(generation: Generation, parsed: Parsed) -> dict[str, object]:
    return {
        "document": generation.query.document,
        "title": generation.query.title,
        "pairs": generation.query.pairs,
        "answer": generation.text,
        "finished": generation.finished,
        "failures": dict(parsed.failures),
        "unknown_relations": parsed.unknown,
    }


def _progress(generations: Iterable[Generation], total: int) -> Iterator[Generation]:
    """The same, with a bar on a terminal and a line a minute elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(generations, total=total, desc="classify", unit="query")
        return
    begin = said = time.monotonic()
    for done, generation in enumerate(generations, start=1):
        yield generation
        now = time.monotonic()
        if now - said >= _SECONDS_BETWEEN_LINES:
            said = now
            left = (now - begin) / done * (total - done) / 60
            print(f"classify: {done:,} of {total:,} queries, about {left:.0f} min left", file=sys.stderr, flush=True)
