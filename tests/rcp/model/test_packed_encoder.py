from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    CamembertConfig,
    Data2VecTextConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ErnieConfig,
    LongformerConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaPreLayerNormConfig,
    XLMRobertaConfig,
)

from lmrc.common.errors import UserError
from lmrc.rcp.data.tokenization import EncodedDocument
from lmrc.rcp.model.model import RelationCandidateModel
from tests.rcp import reference, tiny

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


@pytest.mark.parametrize(
    "config",
    [
        ElectraConfig(**SIZES, embedding_size=8, max_position_embeddings=30),
        XLMRobertaConfig(**SIZES, max_position_embeddings=32, pad_token_id=1),
        CamembertConfig(**SIZES, max_position_embeddings=32, pad_token_id=1),
        Data2VecTextConfig(**SIZES, max_position_embeddings=32, pad_token_id=1),
        RobertaPreLayerNormConfig(**SIZES, max_position_embeddings=32, pad_token_id=1),
        ErnieConfig(**SIZES, max_position_embeddings=30),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("length", [25, 45])
@torch.no_grad()
def test_other_encoders_of_the_family(config: PretrainedConfig, length: int) -> None:
    """Compare one and two windows with the reference implementation."""
    torch.manual_seed(0)
    encoder: PreTrainedModel = AutoModel.from_config(config).double().eval()
    twin = copy.deepcopy(encoder)
    model = RelationCandidateModel(encoder).double().eval()
    torch.nn.init.normal_(model.classifier.bilinear.weight, std=0.5)
    markers = ((1, 9, length - 3), (4,), (), (7, 20))
    ids = np.random.default_rng(1).integers(5, 40, length, dtype=np.int32)
    mentions = np.array([3, 1, 1, 2], dtype=np.int32)
    document = EncodedDocument(ids, markers, 1, ("MISC",) * 4, np.zeros(7, dtype=np.int32), mentions)
    actual = model.classifier.logits(model(model.collate([document])))
    hidden, attention = reference.encode(twin, ids.tolist(), model.windows.size, model.windows.separators)
    weights = dict(model.state_dict())
    expected = reference.logits(
        weights, reference.project(weights, hidden, attention, [list(positions) for positions in markers])
    )
    assert torch.allclose(actual, torch.tensor(list(expected.values()), dtype=torch.float64), atol=1e-9)
    assert actual.std() > 1e-4


@pytest.mark.parametrize(
    "config",
    [
        # No layers `query` and `key`; relative positions in the scores; attention in a sliding window.
        DistilBertConfig(vocab_size=40, dim=16, n_layers=2, n_heads=4, hidden_dim=24),
        DebertaV2Config(**SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"], max_position_embeddings=32),
        LongformerConfig(**SIZES, attention_window=[4, 4], max_position_embeddings=66, pad_token_id=1),
    ],
    ids=lambda config: config.model_type,
)
def test_encoders_without_last_layer_attention_are_rejected(config: object) -> None:
    encoder: PreTrainedModel = AutoModel.from_config(config)
    with pytest.raises(UserError, match="does not give the attention of its last layer"):
        RelationCandidateModel(encoder)


def test_encoder_with_other_attention_scale_is_rejected() -> None:
    """Change the scale, so that scores are not query key^T / sqrt(head size)."""
    encoder = tiny.encoder("bert")
    encoder.get_submodule("encoder.layer.1.attention.self").scaling = 1.0
    with pytest.raises(UserError, match="does not give the attention of its last layer"):
        RelationCandidateModel(encoder)
