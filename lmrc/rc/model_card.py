"""Model card of an adapter: its task, training data, options, scores and use."""

from __future__ import annotations

import json
from collections.abc import Mapping

from lmrc.config.schema import RcConfig
from lmrc.corpus.corpus import Manifest
from lmrc.corpus.data_table import data_table
from lmrc.rc.prompts.templates import PROMPTS


def model_card(config: RcConfig, train: Manifest, dev: Manifest, scores: Mapping[str, float]) -> str:
    """Return the README.md of a trained adapter.

    Args:
        scores: scores on the dev corpus; empty if it was not evaluated.
    """
    settings, lora, prompt = config.train, config.lora, config.prompt
    front: dict[str, object] = {"library_name": "peft", "tags": ["relation-extraction", "docre", "lora"]}
    if ":" not in config.model.base and not config.model.base.startswith(("/", ".")):
        front["base_model"] = config.model.base
    measured = "Not measured."
    if scores:
        rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in scores.items())
        measured = f"On the gold answers of `{dev.source}`:\n\n| score | |\n|---|---|\n{rows}"
    schema = "" if prompt.schema is None else " Answers name relations that its relation schema admits."
    needed = " --decode.mode score" if PROMPTS[prompt.kind].asks_relations else ""
    return f"""---
{json.dumps(front, indent=2)}
---

# LoRA adapter for {config.model.base}

{PROMPTS[prompt.kind].summary}{schema}

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
$ python launch/classify.py --rc FOLDER --corpus CORPUS --candidates CANDIDATES{needed}
```

`FOLDER` is the folder of this file. `lmrc.json` holds the relations and the prompt options.
"""
