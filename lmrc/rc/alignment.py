"""Alignment of unknown relations, which an LM may name in free decoding, to the relation set (appendix B, figure 3).

An unknown relation is replaced by the relation of the set with the most similar name. The similarity is the cosine of
sentence embeddings (SBERT: the mean of the last layer over the tokens). If it is below `theta`, the triple is dropped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from lmrc.common.errors import UserError
from lmrc.common.json_stream import replacing
from lmrc.corpus.predictions import Prediction, Predictions, read_predictions, write_predictions
from lmrc.corpus.relations import RelationSet, read_relations
from lmrc.evaluation.metrics.gold_table import Gold, read_gold
from lmrc.evaluation.metrics.registry import Counts
from lmrc.evaluation.metrics.triple_table import Triples
from lmrc.evaluation.plots.read_curves import SWEEP, Aligned
from lmrc.pretrained.packaged import resolve
from lmrc.pretrained.weights import POOLER, load_model
from lmrc.rc.answers import GENERATIONS
from lmrc.rc.model.adapter import first_line
from lmrc.rc.predict import PREDICTIONS

logger = logging.getLogger(__name__)

# File in the run folder: its predictions and the aligned ones.
ALIGNED = "predictions-aligned.json"
THETAS = tuple(step / 20 for step in range(21))
_BATCH_SIZE = 64
# Maximum number of word pieces of a text, as SBERT has it for all-MiniLM-L6-v2.
_MAX_LENGTH = 256


class SentenceEncoder:
    """BERT-like sentence encoder with mean pooling."""

    def __init__(self, name: str) -> None:
        """Load the encoder, onto a GPU if there is one.

        Args:
            name: a folder, a hub name or an embedded: name.

        Raises:
            UserError: if there is no such model, or its weights do not match its config.
        """
        source = resolve(name)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(source)
            model = load_model(AutoModel, source, f"sentence encoder {name}", optional=POOLER, dtype=torch.float32)
        except UserError:
            raise
        except (OSError, ValueError) as error:
            raise UserError(
                f"no sentence encoder could be loaded from {name!r} ({first_line(error)}): give a folder with a "
                "transformers model, a name on the hub that this machine can reach, or embedded:minilm"
            ) from error
        self._model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings, each normalized to length 1, float32 [texts, hidden]."""
        # Sort by length, so that there is little padding.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        embeddings = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(order), _BATCH_SIZE):
            batch = order[start : start + _BATCH_SIZE]
            tokens = self._tokenizer(
                [texts[index] for index in batch],
                padding=True,
                truncation=True,
                max_length=_MAX_LENGTH,
                return_tensors="pt",
            ).to(self._model.device)
            mask = tokens["attention_mask"][:, :, None]
            hidden = self._model(**tokens).last_hidden_state * mask
            mean = hidden.sum(1) / mask.sum(1)
            embeddings[batch] = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
        return embeddings


class Nearest(NamedTuple):
    """The most similar relation of the set (its id), and the cosine similarity."""

    relation: str
    similarity: float


def nearest_relations(texts: Sequence[str], relations: RelationSet, encoder: SentenceEncoder) -> dict[str, Nearest]:
    """Return the most similar relation of the set for each text. If several are equally similar, take the first."""
    if not texts:
        return {}
    similarity = encoder.embed(texts) @ encoder.embed(relations.names).T
    best = similarity.argmax(1)
    return {
        # Rounded, so that equal texts have a similarity of exactly 1.
        text: Nearest(relations.ids[index], round(float(row[index]), 6))
        for text, index, row in zip(texts, best, similarity, strict=True)
    }


class OutOfSet(NamedTuple):
    """A triple of an answer whose relation is not in the set; `relation` is the text of the answer."""

    title: str
    head: int
    tail: int
    relation: str


@dataclass(frozen=True)
class Alignment:
    """Predictions of a run, and its triples with unknown relations.

    Attributes:
        nearest: the most similar relation of the set for each unknown relation.
    """

    predictions: Sequence[Prediction]
    unknown: Sequence[OutOfSet]
    nearest: dict[str, Nearest]

    @cached_property
    def _known(self) -> set[tuple[str, int, int, str]]:
        return {(known.title, known.head, known.tail, known.relation) for known in self.predictions}

    def at(self, theta: float) -> list[Prediction]:
        """Return the predictions, then the new triples whose similarity is at least `theta`, each once."""
        aligned: dict[Prediction, None] = {}
        for title, head, tail, text in self.unknown:
            relation, similarity = self.nearest[text]
            if similarity >= theta and (title, head, tail, relation) not in self._known:
                aligned[Prediction(title, head, tail, relation)] = None
        return [*self.predictions, *aligned]

    def sweep(self, gold: Gold, thetas: Iterable[float] = THETAS) -> list[Aligned]:
        """Return precision, recall and F1 in percent for each theta."""
        thetas = list(thetas)
        triples = Triples.of(gold, [Predictions.of(self.at(theta)) for theta in thetas])
        gold_count = int(triples.gold.sum())
        counts = (Counts(int((row & triples.gold).sum()), int(row.sum()), gold_count) for row in triples.predicted)
        return [
            Aligned(theta, count.precision, count.recall, count.f1) for theta, count in zip(thetas, counts, strict=True)
        ]


def read_alignment(run: Path, relations: RelationSet, encoder: SentenceEncoder) -> Alignment:
    """Read the predictions and the unknown relations of a classify run.

    Raises:
        UserError: if its files are missing or damaged.
    """
    path = run / GENERATIONS
    if not path.is_file() or not (run / PREDICTIONS).is_file():
        raise UserError(
            f"{run} must contain {GENERATIONS} and {PREDICTIONS}: give the folder of a classify run in mode free, "
            "because only free decoding names unknown relations"
        )
    unknown: list[OutOfSet] = []
    with path.open(encoding="utf-8") as file:
        for line_number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                unknown += [OutOfSet(row["title"], *triple) for triple in row["unknown_relations"]]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: line {line_number} is damaged ({error!r}); classify again") from error
    texts = list(dict.fromkeys(triple.relation for triple in unknown))
    return Alignment(read_predictions(run / PREDICTIONS), unknown, nearest_relations(texts, relations, encoder))


def align_runs(
    runs: Sequence[Path], gold: Path | None, relations: Path | None, theta: float, encoder: str
) -> tuple[Path, ...]:
    """Align each run (see `align`) and log a summary.

    Args:
        gold: gold documents, for the sweep over theta.
        relations: relation set of the gold documents; by default that of DocRED.
        theta: minimum similarity.

    Returns:
        The files with predictions and aligned predictions.

    Raises:
        UserError: if `gold` is missing, or as `align`.
    """
    if gold is None:
        raise UserError("--align needs gold documents for the sweep over its threshold: give --gold")
    documents = read_gold(gold, None if relations is None else read_relations(relations))
    model = SentenceEncoder(encoder)
    for run in runs:
        logger.info(align(run, documents, theta, model))
    return tuple(run / ALIGNED for run in runs)


def align(run: Path, gold: Gold, theta: float, encoder: SentenceEncoder) -> str:
    """Write ALIGNED (predictions, with those aligned at `theta`) and SWEEP (scores per theta) into the run folder.

    Returns:
        A summary for the console.

    Raises:
        UserError: if `run` is not a classify run, or its folder cannot be written.
    """
    alignment = read_alignment(run, gold.relations, encoder)
    points = alignment.sweep(gold)
    predictions = alignment.at(theta)
    write_predictions(predictions, run / ALIGNED)
    with replacing(run / SWEEP) as file:
        file.write(json.dumps([asdict(point) for point in points], indent=1) + "\n")
    best = max(points, key=lambda point: point.f1)
    return (
        f"{run / ALIGNED}: {len(alignment.unknown):,} triples name {len(alignment.nearest):,} relations outside the "
        f"set; aligned at theta {theta:g}, they add {len(predictions) - len(alignment.predictions):,} to "
        f"{len(alignment.predictions):,} predictions\n"
        f"{run / SWEEP}: F1 per theta; the best is {best.f1:.2f} at theta {best.theta:g}"
    )
