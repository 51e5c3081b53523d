"""The model card beside the weights: what the model is, what it was trained on, how good it is, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lmrc.config.schema import RcpConfig
from lmrc.corpus.corpus import Manifest
from lmrc.corpus.data_table import data_table

# Of `measure.binary_scores`, in the order of the table.
SCORES = {
    "precision": "precision at 0.5",
    "recall": "recall at 0.5",
    "f1": "F1 at 0.5",
    "average_precision": "average precision",
    "best_f1": "best F1 over thresholds",
}


def model_card(config: RcpConfig, train: Manifest, dev: Manifest, scores: Mapping[str, float], max_length: int) -> str:
    """Return README.md of a trained model.

    Args:
        config: what it was trained with.
        train: the training corpus.
        dev: the corpus it was measured on.
        scores: those of dev in percent; empty if it was not measured.
        max_length: word pieces of a document that it reads, which may be fewer than the config asks for.
    """
    settings = config.train
    front = {"library_name": "lmrc-suite", "tags": ["relation-extraction", "docre", "candidate-proposal"]}
    encoder = config.model.encoder
    # A folder is no name on the hub.
    if ":" not in encoder and not encoder.startswith(("/", ".")) and not Path(encoder).is_dir():
        front["base_model"] = encoder
    rows = "\n".join(f"| {name} | {scores[key]:.2f} |" for key, name in SCORES.items() if key in scores)
    measured = (
        f"On `{dev.source}`, percent of ordered pairs:\n\n| score | |\n|---|---|\n{rows}" if rows else "Not measured."
    )
    looks = [f"Classifier: {config.model.classifier}", f"documents up to {max_length} word pieces"]
    looks += ["types of entities"] if config.model.entity_types else []
    looks += ["markers of their types"] if config.model.type_markers else []
    looks += ["distances in sentences"] if config.model.sentence_distance else []
    further = f", pairs with a relation of weight {settings.positive_weight:g}" if settings.positive_weight != 1 else ""
    if settings.relation_weight:
        further += f", relations as a further task of weight {settings.relation_weight:g}"
    return f"""---
{json.dumps(front, indent=2)}
---

# Relation Candidate Proposal on {config.model.encoder}

Says which ordered pairs of a document's entities have any relation: P(relation) of each pair, stage 1 of LMRC (arXiv
2408.13889). {"; ".join(looks)}.

## Data

{data_table(train, dev)}

## Training

{settings.epochs} epochs, {settings.batch_sentence}; learning rates {settings.learning_rate:g} \
(encoder) and {settings.classifier_learning_rate:g} (new layers), warm-up {settings.warmup:g}, \
seed {config.run.seed}{further}.
Every option is in `config.yaml` of the run.

```console
$ python launch/rcp.py --config config.yaml
```

## Scores

{measured}

## Use

```console
$ python launch/propose.py --rcp FOLDER --corpus CORPUS --threshold f1
```

```python
from pathlib import Path
from lmrc.rcp.model.model import RelationCandidateModel

model, tokenizer = RelationCandidateModel.load(Path("FOLDER"))
```

`FOLDER` is the folder of this file. `calibration.json` holds dev's precision-recall curve, from which `--threshold f1`
and `--threshold recall=0.9` choose.
"""
