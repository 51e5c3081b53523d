"""Predict relations as a reader would try first: from the types of the two entities, and from a bag of words.

    python benchmarks/study/baselines.py type_prior|bag_of_words --train CORPUS --corpus CORPUS --candidates FOLDER \
        --out FILE [--seed 66]

Both learn from the training corpus alone. `lmrc score` reads what they write. If FILE is RUNS/NAME/predictions.json,
RUNS/NAME becomes a run folder: `lmrc score RUNS/NAME` then knows the corpus, and summary.py what it took.
Without --candidates the pairs are the gold pairs of the corpus, as in `launch/classify.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import yaml
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import SGDClassifier

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import UserError
from lmrc.corpus.candidates import Candidates
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.predictions import Prediction, write_predictions
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Mention
from lmrc.runs.events import History

SYSTEMS = ("type_prior", "bag_of_words")

# Found on every fifth document of the 992, learning from the others.
FEATURES = 1 << 18
ALPHA = 1e-6
EPOCHS = 10

FOLDS = 3
THRESHOLDS = tuple(threshold / 100 for threshold in range(5, 65, 5))

Types = tuple[str, str]
Probabilities = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Pair(NamedTuple):
    """An ordered pair of entities of a document, with its relations if they are known."""

    document: Document
    head: int
    tail: int
    relations: tuple[str, ...] = ()

    @property
    def types(self) -> Types:
        """Return the types of the first mention of head and tail."""
        return self.document.entities[self.head][0].type, self.document.entities[self.tail][0].type


def gold_pairs(document: Document) -> list[Pair]:
    """Return the pairs that have a relation, by (head, tail).

    Raises:
        UserError: the document has no labels.
    """
    if document.labels is None:
        raise UserError(f"{document.title!r} has no labels: give labeled documents, or --candidates for the pairs")
    relations: dict[tuple[int, int], list[str]] = {}
    for label in document.labels:
        relations.setdefault((label.head, label.tail), []).append(label.relation)
    return [Pair(document, *pair, tuple(found)) for pair, found in sorted(relations.items())]


def proposed_pairs(corpus: Corpus, candidates: Candidates | None) -> tuple[list[Pair], float]:
    """Return the pairs to name, and the share of them that are expected to have a relation.

    The share is the mean probability of the candidates, so that no label is read. It is 1 for gold pairs.
    """
    if candidates is None:
        return [pair for document in corpus for pair in gold_pairs(document)], 1.0
    candidates.check(corpus)
    rows = [(document, candidate) for document, row in zip(corpus, candidates, strict=True) for candidate in row]
    related = float(np.mean([candidate.probability for _, candidate in rows])) if rows else 1.0
    return [Pair(document, candidate.head, candidate.tail) for document, candidate in rows], related


def type_prior(training: Iterable[Document], pairs: Iterable[Pair]) -> Iterator[Prediction]:
    """Predict the relation that most training triples between these two types have, the first seen of equal ones.

    The score is the relation's share of these triples. Pairs of types without a training triple get no prediction.
    """
    counts: dict[Types, Counter[str]] = {}
    for document in training:
        for pair in gold_pairs(document):
            counts.setdefault(pair.types, Counter()).update(pair.relations)
    best = {types: (found.most_common(1)[0], found.total()) for types, found in counts.items()}
    for pair in pairs:
        if pair.types in best:
            (relation, count), total = best[pair.types]
            yield Prediction(pair.document.title, pair.head, pair.tail, relation, count / total)


def features(pair: Pair) -> list[str]:
    """Return the features of a pair, each once.

    They are the two types, the words of both entities, the words of all sentences that mention both, and the words
    between the closest mentions with the order of these mentions, alone and with the types.
    """
    document = pair.document
    head, tail = document.entities[pair.head], document.entities[pair.tail]
    types = ">".join(pair.types)
    found = [f"head type {pair.types[0]}", f"tail type {pair.types[1]}", f"types {types}"]
    for name, entity in (("head", head), ("tail", tail)):
        found += [f"{name} {word}" for mention in entity for word in mention.name.lower().split()]
    shared = sorted({mention.sentence for mention in head} & {mention.sentence for mention in tail})
    found += [f"sentence {word.lower()}" for sentence in shared for word in document.sentences[sentence]]
    found.append("one sentence" if shared else "two sentences")
    order, words = between(document, head, tail)
    found += [f"{start}{order} {word}" for word in words for start in ("", types)]
    return list(dict.fromkeys(found))


def between(document: Document, head: Sequence[Mention], tail: Sequence[Mention]) -> tuple[str, list[str]]:
    """Return which of the closest mentions is first, "<" or ">", and the words between them in lower case."""
    starts = np.cumsum([0, *map(len, document.sentences)]).tolist()
    words = [word.lower() for sentence in document.sentences for word in sentence]
    spans = [
        [(starts[mention.sentence] + mention.start, starts[mention.sentence] + mention.end) for mention in entity]
        for entity in (head, tail)
    ]
    first, second = min(product(*spans), key=lambda pair: abs(pair[0][0] - pair[1][0]))
    return ("<", words[first[1] : second[0]]) if first < second else (">", words[second[1] : first[0]])


@dataclass(frozen=True)
class LogLinear:
    """A logistic regression per relation, on hashed features.

    Attributes:
        relations: relations that the training pairs have.
        weights: `[features, relations]`.
        bias: `[relations]`.
    """

    relations: tuple[str, ...]
    weights: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, pairs: Sequence[Pair], relations: RelationSet, seed: int) -> LogLinear:
        """Learn from pairs with their relations by SGD. Equal seeds give equal weights."""
        rows = _hashed(pairs)
        seen = {relation for pair in pairs for relation in pair.relations}
        kept = tuple(relation for relation in relations.ids if relation in seen)
        weights, bias = np.zeros((FEATURES, len(kept))), np.zeros(len(kept))
        for column, relation in enumerate(kept):
            has_relation = [relation in pair.relations for pair in pairs]
            if all(has_relation):
                # A regression needs two classes.
                bias[column] = np.inf
                continue
            model = SGDClassifier(loss="log_loss", alpha=ALPHA, max_iter=EPOCHS, tol=None, random_state=seed)
            model.fit(rows, has_relation)
            weights[:, column], bias[column] = model.coef_[0], model.intercept_[0]
        return cls(kept, weights, bias)

    def probabilities(self, pairs: Sequence[Pair]) -> Probabilities:
        """Return the probability that a pair has a relation, `[pairs, relations]`."""
        if not pairs:
            return np.zeros((0, len(self.relations)))
        log_odds = _hashed(pairs) @ self.weights + self.bias
        probabilities: Probabilities = np.exp(-np.logaddexp(0.0, -log_odds))
        return probabilities

    def predict(self, pairs: Sequence[Pair], threshold: float) -> Iterator[Prediction]:
        """Predict all relations whose probability, the score, is at least `threshold`."""
        probabilities = self.probabilities(pairs)
        for row, column in np.argwhere(probabilities >= threshold).tolist():
            document, head, tail, _ = pairs[row]
            yield Prediction(document.title, head, tail, self.relations[column], float(probabilities[row, column]))


def _hashed(pairs: Sequence[Pair]) -> Any:
    """Return the hashed features as a sparse matrix, `[pairs, FEATURES]`, with rows of length 1."""
    vectorizer = HashingVectorizer(analyzer=features, n_features=FEATURES, alternate_sign=False, binary=True)
    return vectorizer.transform(pairs)


def training_pairs(document: Document, related: float, rng: random.Random) -> list[Pair]:
    """Return the gold pairs, and so many random other pairs that the share `related` of all has a relation."""
    gold = gold_pairs(document)
    with_relation = {(pair.head, pair.tail) for pair in gold}
    others = [pair for pair in permutations(range(len(document.entities)), 2) if pair not in with_relation]
    wanted = len(others) if related <= 0 else round(len(gold) * (1 - related) / related)
    drawn = sorted(rng.sample(others, min(wanted, len(others))))
    return gold + [Pair(document, *pair) for pair in drawn]


def choose_threshold(by_document: Sequence[Sequence[Pair]], relations: RelationSet, seed: int) -> float:
    """Return the threshold with the best F1 by cross-validation over training documents; the lowest of equal ones.

    Raises:
        UserError: there are fewer documents than folds.
    """
    if len(by_document) < FOLDS:
        raise UserError(f"--train has {len(by_document)} documents, expected at least {FOLDS} for cross-validation")
    correct, predicted = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS))
    gold = sum(len(pair.relations) for pairs in by_document for pair in pairs)
    for fold in range(FOLDS):
        held = [pair for pairs in by_document[fold::FOLDS] for pair in pairs]
        rest = [pair for index, pairs in enumerate(by_document) if index % FOLDS != fold for pair in pairs]
        model = LogLinear.fit(rest, relations, seed)
        probabilities = model.probabilities(held)
        is_gold: Flags = np.array(
            [[relation in pair.relations for relation in model.relations] for pair in held], dtype=np.bool_
        ).reshape(probabilities.shape)
        for index, threshold in enumerate(THRESHOLDS):
            chosen = probabilities >= threshold
            correct[index] += (chosen & is_gold).sum()
            predicted[index] += chosen.sum()
    return THRESHOLDS[int(np.argmax(2 * correct / np.maximum(predicted + gold, 1)))]


def bag_of_words(
    training: Corpus, pairs: Sequence[Pair], related: float, seed: int
) -> tuple[Iterator[Prediction], float]:
    """Return the predictions of a log-linear model over words, and its threshold.

    Args:
        related: share of `pairs` that is expected to have a relation. The training pairs have the same share.
        seed: draws the training pairs without a relation, and orders the steps of SGD.
    """
    rng = random.Random(seed)
    by_document = [training_pairs(document, related, rng) for document in training]
    threshold = choose_threshold(by_document, training.relations, seed)
    model = LogLinear.fit([pair for row in by_document for pair in row], training.relations, seed)
    return model.predict(pairs, threshold), threshold


def predict(system: str, train: Path, corpus: Path, candidates: Path | None, out: Path, seed: int) -> dict[str, Any]:
    """Write the predictions of a system; return what is written to DONE.

    Raises:
        UserError: an input is missing, damaged or does not belong to the others, or `out` cannot be written.
    """
    started = time.monotonic()
    training, asked = Corpus.open(train), Corpus.open(corpus)
    pairs, related = proposed_pairs(asked, None if candidates is None else Candidates.open(candidates))
    result: dict[str, Any] = {"documents": len(asked), "pairs": len(pairs), "expected_related": related}
    if system == "type_prior":
        predictions = list(type_prior(training, pairs))
    else:
        found, result["threshold"] = bag_of_words(training, pairs, related, seed)
        predictions = list(found)
    write_predictions(predictions, out)
    return {**result, "predictions": len(predictions), "seconds": time.monotonic() - started}


def run(system: str, train: Path, corpus: Path, candidates: Path | None, out: Path, seed: int) -> dict[str, Any]:
    """Do the same as `predict`; a finished run only returns its result.

    Raises:
        UserError: as `predict`, or the run folder has another config.
    """
    if out.name != "predictions.json":
        return predict(system, train, corpus, candidates, out, seed)
    paths: Mapping[str, Path | None] = {"training": train, "corpus": corpus, "candidates": candidates}
    config = {"baseline": system, "seed": seed} | {
        name: None if path is None else str(path.absolute()) for name, path in paths.items()
    }
    folder = out.parent
    if (folder / "config.yaml").is_file():
        before = yaml.safe_load((folder / "config.yaml").read_text())
        if before != config:
            raise UserError(f"{folder} is a run with other options, {before}: give another --out, or remove the folder")
    if (folder / "DONE").is_file():
        result: dict[str, Any] = json.loads((folder / "DONE").read_text())
        return result
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    History(folder).add("started", job=f"local-{os.getpid()}")
    result = predict(system, train, corpus, candidates, out, seed)
    write_atomically(folder / "DONE", json.dumps(result, indent=2) + "\n")
    History(folder).add("finished")
    return result


def main() -> None:
    """Write the predictions, and print what DONE holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("--train", type=Path, required=True, help="training corpus")
    parser.add_argument("--corpus", type=Path, required=True, help="corpus to predict relations in")
    parser.add_argument("--candidates", type=Path, help="pairs, of a run of propose; by default the gold pairs")
    parser.add_argument("--out", type=Path, required=True, help="file of predictions")
    parser.add_argument("--seed", type=int, default=66)
    options = parser.parse_args()
    try:
        result = run(**vars(options))
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None
    print(json.dumps(result))


if __name__ == "__main__":
    main()
