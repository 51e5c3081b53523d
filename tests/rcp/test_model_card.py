from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lmrc.config.schema import RcpConfig
from lmrc.corpus.corpus import Manifest
from lmrc.rcp.model_card import model_card
from tests.rcp import tiny
from tests.rcp.conftest import MakeCorpus


def manifest(make_corpus: MakeCorpus, name: str, documents: int) -> Manifest:
    return make_corpus(
        name, [tiny.document(20, [1, 2, 1], seed=n, labels=((0, 1),)) for n in range(documents)]
    ).manifest


def test_card_has_data_scores_and_commands(make_corpus: MakeCorpus) -> None:
    train, dev = manifest(make_corpus, "train", 3), manifest(make_corpus, "dev", 2)
    config = RcpConfig.model_validate({"model": {"encoder": "roberta-large"}})
    scores = {"precision": 71.234, "recall": 55.5, "f1": 62.4, "average_precision": 68.0, "best_f1": 63.0}
    card = model_card(config, train, dev, scores, 1022)
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == "roberta-large"
    assert "| precision at 0.5 | 71.23 |" in card
    assert "| train | `train.json` | `000000000000…` | 3 | 3 | 18 |" in card
    assert "| dev | `dev.json` | `000000000000…` | 2 | 2 | 12 |" in card
    assert "30 epochs, 4 examples per optimizer step, as train.batch_size says; " in card
    assert "learning rates 3e-05 (encoder) and 0.0001 (new layers), warm-up 0.06, seed 66" in card
    assert "python launch/propose.py --rcp FOLDER" in card
    assert "Classifier: bilinear; documents up to 1022 word pieces." in card
    assert "None" not in card and "relation head" not in card


def test_card_lists_options_beyond_the_paper(make_corpus: MakeCorpus) -> None:
    train = manifest(make_corpus, "train", 1)
    model = {"entity_types": True, "type_markers": True, "sentence_distance": True}
    config = RcpConfig.model_validate({"model": model, "train": {"relation_weight": 0.1, "positive_weight": 2.0}})
    card = model_card(config, train, train, {"f1": 62.4, "relation_f1": 51.236}, 1022)
    assert "documents up to 1022 word pieces; entity types; typed entity markers; sentence distances." in card
    assert "seed 66, weight 2 of pairs with a relation, weight 0.1 of the relation head's loss." in card
    assert "Its relation head also names the relations of each pair, 1 in all, without an LM" in card
    assert "| best F1 over thresholds of triples (pair and relation), by the relation head | 51.24 |" in card
    assert "at least 3 times between two entity types" not in card
    train_options = {"relation_weight": 0.1, "schema_minimum": 3}
    card = model_card(RcpConfig.model_validate({"train": train_options}), train, train, {}, 1022)
    assert "Only relations that were seen at least 3 times between two entity types" in card


def test_folders_are_not_base_models_and_missing_scores_are_stated(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = manifest(make_corpus, "train", 1)
    (tmp_path / "runs" / "best").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for encoder in ("/models/mine", "./mine", "embedded:minilm", "runs/best"):
        config = RcpConfig.model_validate({"model": {"encoder": encoder}})
        card = model_card(config, train, train, {}, 1022)
        assert "base_model" not in card
        assert "Not evaluated." in card
