"""Relations outside the set, which an LM that writes freely names, aligned to the set (appendix B, figure 3).

Each is taken for the relation of the set whose name is the most similar, by cosine of the embeddings of a sentence
encoder (SBERT: the mean of the last layer over the tokens), if it is at least `theta`; else its triple is left away.
"""

from __future__ import annotations

import json
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
from lmrc.pretrained.weights import POOLER, load_model
from lmrc.rc.predict import GENERATIONS, PREDICTIONS

ALIGNED = "predictions-aligned.json"
"""Where a run folder keeps its predictions with the aligned ones."""
THETAS = tuple(step / 20 for step in range(21))
_BATCH = 64
_LONGEST = 256
"""Word pieces of a text that are read, as SBERT does with all-MiniLM-L6-v2."""


class SentenceEncoder:
    """Embeds texts with a folder, hub or embedded: name of a BERT-like sentence encoder that pools by the mean."""

    def __init__(self, name: str) -> None:
        """On a GPU where there is one. Raises UserError where there is no such model, or its weights do not fit it."""
        from lmrc.pretrained.packaged import resolve

        source = resolve(name)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(source)
            model = load_model(AutoModel, source, f"sentence encoder {name}", optional=POOLER, dtype=torch.float32)
        except UserError:
            raise
        except (OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"no sentence encoder could be loaded from {name!r} ({reason}): give a folder with a transformers "
                "model, a name on the hub that this machine can reach, or embedded:minilm"
            ) from error
        self._model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [texts, hidden], each of length 1."""
        # Texts of like length together, so that there is little padding.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            tokens = self._tokenizer(
                [texts[index] for index in batch],
                padding=True,
                truncation=True,
                max_length=_LONGEST,
                return_tensors="pt",
            ).to(self._model.device)
            mask = tokens["attention_mask"][:, :, None]
            hidden = self._model(**tokens).last_hidden_state * mask
            mean = hidden.sum(1) / mask.sum(1)
            found[batch] = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
        return found


class Nearest(NamedTuple):
    """The relation of the set that is the most similar, and its cosine similarity."""

    relation: str
    similarity: float


def nearest_relations(texts: Sequence[str], relations: RelationSet, encoder: SentenceEncoder) -> dict[str, Nearest]:
    """The nearest relation of each text; of equally near ones the first of the set."""
    if not texts:
        return {}
    similarity = encoder.embed(texts) @ encoder.embed(relations.names).T
    best = similarity.argmax(1)
    return {
        # Equal texts have 1, whatever the last bits say.
        text: Nearest(relations.ids[place], round(float(row[place]), 6))
        for text, place, row in zip(texts, best, similarity, strict=True)
    }


class OutOfSet(NamedTuple):
    """A triple of an answer, with its relation as it was written."""

    title: str
    head: int
    tail: int
    relation: str


@dataclass(frozen=True)
class Alignment:
    """The predictions of a run, and what its answers say with relations outside the set."""

    predictions: Sequence[Prediction]
    unknown: Sequence[OutOfSet]
    nearest: dict[str, Nearest]

    def aligned(self, theta: float) -> dict[Prediction, None]:
        """The triples outside the set whose relation is at least `theta` similar to one of it, each once."""
        found = ((one, self.nearest[one.relation]) for one in self.unknown)
        return {
            Prediction(one.title, one.head, one.tail, near.relation): None
            for one, near in found
            if near.similarity >= theta
        }

    @cached_property
    def _known(self) -> set[tuple[str, int, int, str]]:
        return {(one.title, one.head, one.tail, one.relation) for one in self.predictions}

    def at(self, theta: float) -> list[Prediction]:
        """The predictions, and behind them the aligned triples that are new."""
        new = (one for one in self.aligned(theta) if (one.title, one.head, one.tail, one.relation) not in self._known)
        return [*self.predictions, *new]

    def sweep(self, gold: Gold, thetas: Iterable[float] = THETAS) -> list[Aligned]:
        """Precision, recall and F1 in percent for each theta."""
        chosen = list(thetas)
        triples = Triples.of(gold, [Predictions.of(self.at(theta)) for theta in chosen])
        wanted = int(triples.gold.sum())
        counts = (Counts(int((row & triples.gold).sum()), int(row.sum()), wanted) for row in triples.predicted)
        return [
            Aligned(theta, each.precision, each.recall, each.f1) for theta, each in zip(chosen, counts, strict=True)
        ]


def read_alignment(run: Path, relations: RelationSet, encoder: SentenceEncoder) -> Alignment:
    """What a classify run answered outside of `relations`. Raises UserError where its files are missing or damaged."""
    path = run / GENERATIONS
    if not path.is_file() or not (run / PREDICTIONS).is_file():
        raise UserError(
            f"{run} has not both {GENERATIONS} and {PREDICTIONS}: relations outside the set are those of a run of "
            "classify in mode free, give its folder"
        )
    unknown: list[OutOfSet] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                unknown += [OutOfSet(row["title"], *triple) for triple in row["unknown_relations"]]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: line {number} is damaged ({error!r}); classify again") from error
    texts = list(dict.fromkeys(one.relation for one in unknown))
    return Alignment(read_predictions(run / PREDICTIONS), unknown, nearest_relations(texts, relations, encoder))


def align_runs(
    runs: Sequence[Path], gold: Path | None, relations: Path | None, theta: float, encoder: str
) -> tuple[Path, ...]:
    """`align` each run against the documents `gold` (with their `relations`, where these are a file), and say so.

    Returns the files of the predictions with the aligned ones. Raises UserError as `align`, and without `gold`.
    """
    if gold is None:
        raise UserError("--align sweeps its threshold against gold documents: give --gold")
    documents = read_gold(gold, None if relations is None else read_relations(relations))
    model = SentenceEncoder(encoder)
    for run in runs:
        print(align(run, documents, theta, model), flush=True)
    return tuple(run / ALIGNED for run in runs)


def align(run: Path, gold: Gold, theta: float, encoder: SentenceEncoder) -> str:
    """Write into the run folder ALIGNED, its predictions with those aligned from `theta` on, and the SWEEP over theta
    against `gold`, for figure 3. Returns what was aligned, in words.

    Raises UserError where the run is none, or its folder cannot be written.
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
        f"set; aligned from similarity {theta:g} on they add {len(predictions) - len(alignment.predictions):,} to "
        f"{len(alignment.predictions):,} predictions\n"
        f"{run / SWEEP}: F1 over theta, {best.f1:.2f} at best, at theta {best.theta:g}"
    )
