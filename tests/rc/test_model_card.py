from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lmrc.config.schema import RcConfig
from lmrc.corpus.corpus import Manifest, write_corpus
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.rc.model_card import model_card


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_corpus(synthetic.generate(3, 1), tmp_path / "c", synthetic.RELATIONS, "train.json", "0" * 64)


def test_card_names_base_data_batch_and_scores(manifest: Manifest) -> None:
    config = RcConfig.model_validate({"train": {"global_batch_size": 8}})
    card = model_card(config, manifest, manifest, {"loss": 0.51234, "token_accuracy": 81.5})
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == "meta-llama/Llama-2-13b-chat-hf"
    assert "| train | `train.json` | `000000000000…` | 3 | " in card
    assert "8 epochs, 8 examples per optimizer step, more than train.batch_size 4" in card
    assert "no longer the paper's batch; learning rate 0.0001, warm-up 100, seed 66." in card
    assert "| loss | 0.5123 |" in card
    assert "Names the relations of entity pairs that have one" in card


def test_card_without_hub_name_and_scores(manifest: Manifest) -> None:
    config = RcConfig.model_validate({"model": {"base": "./mine"}, "prompt": {"kind": "direct"}})
    card = model_card(config, manifest, manifest, {})
    assert "base_model" not in card and "Not measured." in card
    assert "4 examples per optimizer step, as train.batch_size says" in card


def test_card_says_how_the_adapter_is_used(manifest: Manifest) -> None:
    config = RcConfig.model_validate({"prompt": {"kind": "likelihood"}})
    card = model_card(config, manifest, manifest, {})
    assert "--candidates CANDIDATES --decode.mode score\n" in card and "schema" not in card
    config = RcConfig.model_validate({"prompt": {"schema": "schema.json"}})
    card = model_card(config, manifest, manifest, {})
    assert "Answers name relations that its relation schema admits." in card and "--decode.mode" not in card
