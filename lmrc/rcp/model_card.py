"""Model card (README.md) of a trained model: data, training options, dev scores and usage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lmrc.config.schema import RcpConfig
from lmrc.corpus.corpus import Manifest
from lmrc.corpus.data_table import data_table

# Scores of an evaluation (`lmrc.rcp.task.RcpTask.evaluate`), in the order of the table.
SCORES = {
    "precision": "precision at 0.5",
    "recall": "recall at 0.5",
    "f1": "F1 at 0.5",
    "average_precision": "average precision",
    "best_f1": "best F1 over thresholds",
    "relation_f1": "best F1 over thresholds of triples (pair and relation), by the relation head",
}

RELATION_HEAD = """
Its relation head also names the relations of each pair, {count} in all, without an LM: `lmrc propose` writes their
log-odds beside each candidate, and the triples that reach the threshold in `calibration.json` to `predictions.json`.
"""
SCHEMA = """Only relations that were seen at least {minimum} times between two entity types in training are named.
"""


def model_card(config: RcpConfig, train: Manifest, dev: Manifest, scores: Mapping[str, float], max_length: int) -> str:
    """Return README.md of a trained model.

    Args:
        config: options of the training.
        train: manifest of the training corpus.
        dev: manifest of the dev corpus.
        scores: dev scores in percent; empty if the model was not evaluated.
        max_length: word pieces per document that the model reads, which may be fewer than in the config.
    """
    settings = config.train
    front = {"library_name": "lmrc-suite", "tags": ["relation-extraction", "docre", "candidate-proposal"]}
    encoder = config.model.encoder
    # base_model must be a name on the hub.
    if ":" not in encoder and not encoder.startswith(("/", ".")) and not Path(encoder).is_dir():
        front["base_model"] = encoder
    rows = "\n".join(f"| {name} | {scores[key]:.2f} |" for key, name in SCORES.items() if key in scores)
    dev_scores = (
        f"On `{dev.source}`, percent of ordered pairs:\n\n| score | |\n|---|---|\n{rows}" if rows else "Not evaluated."
    )
    details = [f"Classifier: {config.model.classifier}", f"documents up to {max_length} word pieces"]
    details += ["entity types"] if config.model.entity_types else []
    details += ["typed entity markers"] if config.model.type_markers else []
    details += ["sentence distances"] if config.model.sentence_distance else []
    extra = f", weight {settings.positive_weight:g} of pairs with a relation" if settings.positive_weight != 1 else ""
    if settings.relation_weight:
        extra += f", weight {settings.relation_weight:g} of the relation head's loss"
    relations = RELATION_HEAD.format(count=len(train.relations)) if settings.relation_weight else ""
    if settings.schema_minimum:
        relations += SCHEMA.format(minimum=settings.schema_minimum)
    return f"""---
{json.dumps(front, indent=2)}
---

# Relation Candidate Proposal on {config.model.encoder}

Predicts P(relation) for each ordered pair of a document's entities: stage 1 of LMRC (arXiv 2408.13889).
{"; ".join(details)}.
{relations}
## Data

{data_table(train, dev)}

## Training

{settings.epochs} epochs, {settings.batch_sentence}; learning rates {settings.learning_rate:g} \
(encoder) and {settings.classifier_learning_rate:g} (new layers), warm-up {settings.warmup:g}, \
seed {config.run.seed}{extra}.
Every option is in `config.yaml` of the run.

```console
$ python launch/rcp.py --config config.yaml
```

## Scores

{dev_scores}

## Use

```console
$ python launch/propose.py --rcp FOLDER --corpus CORPUS --threshold f1
```

```python
from pathlib import Path
from lmrc.rcp.model.model import RelationCandidateModel

model, tokenizer = RelationCandidateModel.load(Path("FOLDER"))
```

`FOLDER` is the folder of this file. `calibration.json` contains the precision-recall curve on dev, which
`--threshold f1` and `--threshold recall=0.9` use.
"""
