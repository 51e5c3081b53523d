"""Benchmark of preprocessing: documents per second of the published code and of RCP, and 100,000 documents at once.

Both process the same documents alternately on a core. The published code is a rendering of ATLOP's `prepro.py`, on
which LMRC's first stage builds. RCP tokenizes the corpus into an empty cache, as in a first training, and then reads
every document with its targets.

    python benchmarks/preprocess.py --documents redocred_dev.json [--scale 100000] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.docred import read_documents, to_json
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.corpus.types import Document
from lmrc.pretrained.packaged import resolve
from lmrc.rcp.data.dataset import EncodedCorpus, load_or_build_dataset
from lmrc.rcp.data.tokenization import DocumentTokenizer

MAX_LENGTH = 1024
SYNTHETIC = 500


def published(samples: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Return the features of ATLOP's `read_docred`, with a class "relation" instead of 96 relations."""
    features = []
    for sample in samples:
        entities = sample["vertexSet"]
        entity_start, entity_end = [], []
        for entity in entities:
            for mention in entity:
                entity_start.append((mention["sent_id"], mention["pos"][0]))
                entity_end.append((mention["sent_id"], mention["pos"][1] - 1))
        pieces: list[str] = []
        piece_of = []
        for i, sentence in enumerate(sample["sents"]):
            new_map = {}
            for j, word in enumerate(sentence):
                of_word = tokenizer.tokenize(word)
                if (i, j) in entity_start:
                    of_word = ["*", *of_word]
                if (i, j) in entity_end:
                    of_word = [*of_word, "*"]
                new_map[j] = len(pieces)
                pieces.extend(of_word)
            new_map[len(sentence)] = len(pieces)
            piece_of.append(new_map)

        train_triple: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for label in sample.get("labels", ()):
            pair = (label["h"], label["t"])
            train_triple.setdefault(pair, []).append({"relation": label["r"], "evidence": label["evidence"]})
        entity_pos = [
            [(piece_of[m["sent_id"]][m["pos"][0]], piece_of[m["sent_id"]][m["pos"][1]]) for m in entity]
            for entity in entities
        ]
        relations = [[0, 1] for _ in train_triple]
        pairs = [[head, tail] for head, tail in train_triple]
        for head in range(len(entities)):
            for tail in range(len(entities)):
                if head != tail and [head, tail] not in pairs:
                    relations.append([1, 0])
                    pairs.append([head, tail])
        ids = tokenizer.convert_tokens_to_ids(pieces[: MAX_LENGTH - 2])
        input_ids = [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
        features.append(
            {
                "input_ids": input_ids,
                "entity_pos": entity_pos,
                "labels": relations,
                "hts": pairs,
                "title": sample["title"],
            }
        )
    return features


def ours(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, processes: int = 1) -> EncodedCorpus:
    """Tokenize a corpus into an empty cache, and read every document once."""
    with _variable("LMRC_CACHE", tempfile.mkdtemp(prefix="cache-", dir=corpus.folder.parent)):
        examples = load_or_build_dataset(corpus, DocumentTokenizer(tokenizer, MAX_LENGTH), processes)
    for index in range(len(examples)):
        examples[index].targets()
    return examples


def check(features: Sequence[dict[str, Any]], examples: EncodedCorpus) -> None:
    """Compare both results.

    Raises:
        ValueError: if they differ.
    """
    for index, feature in enumerate(features):
        example = examples[index]
        count = len(feature["entity_pos"])
        pairs = [(head, tail) for head in range(count) for tail in range(count) if head != tail]
        related = {tuple(pair) for pair, label in zip(feature["hts"], feature["labels"], strict=True) if label[1]}
        markers = tuple(
            tuple(start + 1 for start, _ in entity if start + 1 < MAX_LENGTH - 1) for entity in feature["entity_pos"]
        )
        if (
            example.document.input_ids.tolist() != feature["input_ids"]
            or example.document.marker_positions != markers
            or example.targets().tolist() != [pair in related for pair in pairs]
        ):
            raise ValueError(f"{feature['title']}: the two sides differ")


def measure(documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, rounds: int = 3) -> dict[str, float]:
    """Return documents per second of both on a core, the medians of alternating rounds."""
    samples = [to_json(document) for document in documents]
    seconds: dict[str, list[float]] = {"published": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder, _one_core():
        write_corpus(documents, Path(folder) / "corpus", DOCRED, "documents", "0" * 64)
        for _ in range(rounds):
            begun = time.perf_counter()
            features = published(samples, tokenizer)
            between = time.perf_counter()
            examples = ours(Corpus.open(Path(folder) / "corpus"), tokenizer)
            seconds["published"].append(between - begun)
            seconds["ours"].append(time.perf_counter() - between)
        check(features, examples)
    plain, fast = (len(documents) / statistics.median(times) for times in seconds.values())
    return {
        "documents": len(documents),
        "published_documents_per_second": plain,
        "documents_per_second": fast,
        "preprocess_ratio": fast / plain,
    }


def many(documents: Sequence[Document], count: int) -> Iterator[Document]:
    """Yield `count` documents: copies with their own titles and, as in real documents, new words.

    Every fourth of the words that occur once in `documents` is another word in each copy.
    """
    counts = Counter(word for document in documents for sentence in document.sentences for word in sentence)
    unique = [word for word, occurrences in counts.items() if occurrences == 1]
    replaced = set(unique[::4])
    for index in range(count):
        copy, original = divmod(index, len(documents))
        document = documents[original]
        suffix = "".join(chr(ord("a") + int(digit)) for digit in str(copy))
        sentences = tuple(
            tuple(word + suffix if word in replaced else word for word in sentence) for sentence in document.sentences
        )
        yield dataclasses.replace(document, title=f"{document.title} {copy}", sentences=sentences)


def scale(documents: Sequence[Document], count: int) -> dict[str, float]:
    """Return seconds and memory of `count` documents on 2 processes, and the memory of a fifth of them."""
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for size in (max(1, count // 5), count):
            corpus = Path(folder) / str(size)
            write_corpus(many(documents, size), corpus, DOCRED, "documents", "0" * 64)
            # A separate process, so that the memory of this one does not count.
            command = [sys.executable, __file__, "--encode", str(corpus)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(done.stdout))
    return {
        "scale_documents": count,
        "scale_seconds": results[1]["seconds"],
        "scale_megabytes": results[1]["megabytes"],
        "fifth_megabytes": results[0]["megabytes"],
    }


def encode(corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Return the seconds to tokenize and read every document once, and the peak memory."""
    with _memory() as megabytes:
        begun = time.perf_counter()
        ours(corpus, tokenizer, processes=2)
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, "megabytes": max(megabytes)}


@contextmanager
def _memory() -> Iterator[list[float]]:
    """While active, record the resident memory of this process and its children in MB, ten times per second."""
    samples: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            children = [
                child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()
            ]
            pages = 0
            for process in ("self", *children):
                with suppress(OSError):  # the process has ended
                    pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
            samples.append(pages * resource.getpagesize() / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield samples
    finally:
        ended.set()
        watcher.join()


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _one_core() -> Iterator[None]:
    """While active, run on a single core, without threads of the tokenizer."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        with _variable("TOKENIZERS_PARALLELISM", "false"):
            yield
    finally:
        os.sched_setaffinity(0, before)


def main() -> int:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, help="documents in DocRED's format (default: synthetic ones)")
    parser.add_argument("--tokenizer", default="embedded:minilm", help="folder, hub or embedded: name")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side")
    parser.add_argument("--scale", type=int, default=0, help="documents to tokenize with 2 processes; 0: none")
    parser.add_argument("--json", type=Path, help="file for the measurements")
    parser.add_argument("--encode", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(resolve(options.tokenizer))
    if options.encode:
        print(json.dumps(encode(Corpus.open(options.encode), tokenizer)))
        return 0
    if options.documents:
        documents = list(read_documents(options.documents, DOCRED))
    else:
        documents = list(synthetic.generate(SYNTHETIC, seed=0))
    figures = measure(documents, tokenizer, options.rounds)
    if options.scale:
        figures |= scale(documents, options.scale)
        print(
            f"{options.scale:,} documents on 2 processes: {figures['scale_seconds']:.1f} s, at most "
            f"{figures['scale_megabytes']:.0f} MB in all; a fifth of them: {figures['fifth_megabytes']:.0f} MB"
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(
        f"{len(documents)} documents on one core: published style {figures['published_documents_per_second']:.0f} per "
        f"second, ours {figures['documents_per_second']:.0f}: {figures['preprocess_ratio']:.1f} x"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
