"""The model card beside an adapter: what it is, what it was trained on and how, how good it is, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from lmrc.config.schema import RcConfig
from lmrc.corpus.corpus import Manifest
from lmrc.corpus.data_table import data_table

KINDS = {
    "rc": "Names the relations of entity pairs that have one, stage 2 of LMRC (arXiv 2408.13889).",
    "direct": "Names the relations of all entity pairs, or None (arXiv 2408.13889, section 2).",
    "rcp-llm": "Says Yes or No to entity pairs, in place of the classifier of LMRC (arXiv 2408.13889, table 5).",
}


def model_card(config: RcConfig, train: Manifest, dev: Manifest, scores: Mapping[str, float]) -> str:
    """Return README.md of a trained adapter; `scores` are those of dev, empty if it was not measured."""
    settings, lora, prompt = config.train, config.lora, config.prompt
    front: dict[str, object] = {"library_name": "peft", "tags": ["relation-extraction", "docre", "lora"]}
    if ":" not in config.model.base and not config.model.base.startswith(("/", ".")):
        front["base_model"] = config.model.base
    measured = "Not measured."
    if scores:
        rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in scores.items())
        measured = f"On the answers for `{dev.source}`:\n\n| score | |\n|---|---|\n{rows}"
    return f"""---
{json.dumps(front, indent=2)}
---

# LoRA adapter for {config.model.base}

{KINDS[prompt.kind]}

## Data

{data_table(train, dev)}

## Training

{settings.epochs} epochs, {settings.batch_sentence}; learning rate {settings.learning_rate:g}, warm-up \
{settings.warmup:g}, seed {config.run.seed}. LoRA of rank {lora.r}, alpha {lora.alpha}, dropout {lora.dropout:g} on \
{", ".join(lora.targets)}; prompt `{prompt.kind}`, at most {prompt.max_length} tokens.
Every option is in `config.yaml` of the run.

## Scores

{measured}

## Use

```console
$ python launch/classify.py --rc FOLDER --corpus CORPUS --candidates CANDIDATES
```

`FOLDER` is the folder of this file. `lmrc.json` holds the relations and the form of the prompt.
"""
