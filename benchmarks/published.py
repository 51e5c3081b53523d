"""Baseline: the structure of the published code of ATLOP, on which LMRC's first stage builds.

It computes and stores eager attention in every layer, and loops over entities and mentions in Python. Each ordered pair
has its own copies of both embeddings and attentions. The grouped bilinear form multiplies outer products, 49,152
numbers per pair, by a matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmrc.corpus.docred import candidate_pairs
from lmrc.rcp.data.tokenization import EncodedDocument

EMBEDDING = 768
BLOCK = 64
WINDOW = 512
Positions = list[list[int]]


class PublishedModel(nn.Module):
    """Two logits, of "no relation" and "some relation", for each ordered pair."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.config = encoder.config
        self.encoder = encoder
        encoder.set_attn_implementation("eager")
        encoder.pooler = None
        d = encoder.config.hidden_size
        self.head_extractor = nn.Linear(2 * d, EMBEDDING)
        self.tail_extractor = nn.Linear(2 * d, EMBEDDING)
        self.bilinear = nn.Linear(EMBEDDING * BLOCK, 2)

    @property
    def _separators(self) -> int:
        return 1 if self.config.model_type == "bert" else 2

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [documents, length, d] and the last layer's attention [documents, heads, length, length].

        Documents above 512 word pieces are two windows of 512, put together afterwards.
        """
        length = input_ids.shape[1]
        if length <= WINDOW:
            output = self.encoder(input_ids=input_ids, attention_mask=attention_mask, output_attentions=True)
            return output.last_hidden_state, output.attentions[-1]
        closing = self._separators
        ids, masks, windows = [], [], []
        lengths = attention_mask.sum(1).cpu().numpy().astype(int).tolist()
        for document, own in enumerate(lengths):
            if own <= WINDOW:
                ids.append(input_ids[document, :WINDOW])
                masks.append(attention_mask[document, :WINDOW])
                windows.append(1)
            else:
                ids.append(
                    torch.cat(
                        [input_ids[document, : WINDOW - closing], input_ids[document, own - 1 : own].repeat(closing)]
                    )
                )
                ids.append(torch.cat([input_ids[document, :1], input_ids[document, own - WINDOW + 1 : own]]))
                masks += [attention_mask[document, :WINDOW], attention_mask[document, own - WINDOW : own]]
                windows.append(2)
        output = self.encoder(input_ids=torch.stack(ids), attention_mask=torch.stack(masks), output_attentions=True)
        sequence, attention = output.last_hidden_state, output.attentions[-1]
        all_states, all_attention, at = [], [], 0
        for number, own in zip(windows, lengths, strict=True):
            if number == 1:
                all_states.append(F.pad(sequence[at], (0, 0, 0, length - WINDOW)))
                all_attention.append(F.pad(attention[at], (0, length - WINDOW, 0, length - WINDOW)))
            else:
                first, last = WINDOW - closing, own - WINDOW + 1
                states_1 = F.pad(sequence[at][:first], (0, 0, 0, length - first))
                mask_1 = F.pad(attention_mask.new_ones(first), (0, length - first))
                attention_1 = F.pad(attention[at][:, :first, :first], (0, length - first, 0, length - first))
                states_2 = F.pad(sequence[at + 1][1:], (0, 0, last, length - own))
                mask_2 = F.pad(attention_mask.new_ones(WINDOW - 1), (last, length - own))
                attention_2 = F.pad(attention[at + 1][:, 1:, 1:], (last, length - own, last, length - own))
                mask = mask_1 + mask_2 + 1e-10
                both = attention_1 + attention_2
                all_states.append((states_1 + states_2) / mask.unsqueeze(-1))
                all_attention.append(both / (both.sum(-1, keepdim=True) + 1e-10))
            at += number
        return torch.stack(all_states), torch.stack(all_attention)

    def pairs(
        self, sequence: Tensor, attention: Tensor, entities: Sequence[Positions], pairs: Sequence[list[list[int]]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Head embeddings, contexts and tail embeddings of all ordered pairs, each [pairs, d]."""
        heads, length = attention.shape[1], attention.shape[2]
        all_heads, all_tails, all_contexts = [], [], []
        for document in range(len(entities)):
            embeddings, attentions = [], []
            for mentions in entities[document]:
                found, rows = [], []
                for start in mentions:
                    if start < length:
                        found.append(sequence[document, start])
                        rows.append(attention[document, :, start])
                if found:
                    embeddings.append(torch.logsumexp(torch.stack(found), dim=0))
                    attentions.append(torch.stack(rows).mean(0))
                else:
                    embeddings.append(torch.zeros(sequence.shape[-1]).to(sequence))
                    attentions.append(torch.zeros(heads, length).to(attention))
            entity_embeddings = torch.stack(embeddings)
            entity_attention = torch.stack(attentions)
            both = torch.tensor(pairs[document], dtype=torch.long, device=sequence.device)
            all_heads.append(torch.index_select(entity_embeddings, 0, both[:, 0]))
            all_tails.append(torch.index_select(entity_embeddings, 0, both[:, 1]))
            head_attention = torch.index_select(entity_attention, 0, both[:, 0])
            tail_attention = torch.index_select(entity_attention, 0, both[:, 1])
            shared = (head_attention * tail_attention).mean(1)
            shared = shared / (shared.sum(1, keepdim=True) + 1e-5)
            all_contexts.append(torch.einsum("ld,rl->rd", sequence[document], shared.to(sequence)))
        return torch.cat(all_heads), torch.cat(all_contexts), torch.cat(all_tails)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Logits [pairs, 2] of a batch of `published_batch`."""
        sequence, attention = self.encode(batch["input_ids"], batch["attention_mask"])
        heads, contexts, tails = self.pairs(sequence, attention, batch["entities"], batch["pairs"])
        z_head = torch.tanh(self.head_extractor(torch.cat([heads, contexts.to(heads)], dim=1)))
        z_tail = torch.tanh(self.tail_extractor(torch.cat([tails, contexts.to(tails)], dim=1)))
        blocks_head = z_head.view(-1, EMBEDDING // BLOCK, BLOCK)
        blocks_tail = z_tail.view(-1, EMBEDDING // BLOCK, BLOCK)
        outer = (blocks_head.unsqueeze(3) * blocks_tail.unsqueeze(2)).view(-1, EMBEDDING * BLOCK)
        logits: Tensor = self.bilinear(outer)
        return logits


def published_batch(documents: Sequence[EncodedDocument], padding: int) -> dict[str, Any]:
    """Return a batch of the published `collate_fn`: padded, with lists of entities and pairs."""
    longest = max(len(document.input_ids) for document in documents)
    ids = [document.input_ids.tolist() + [padding] * (longest - len(document.input_ids)) for document in documents]
    mask = [[1.0] * len(document.input_ids) + [0.0] * (longest - len(document.input_ids)) for document in documents]
    return {
        "input_ids": torch.tensor(ids, dtype=torch.long),
        "attention_mask": torch.tensor(mask, dtype=torch.float),
        "entities": [[list(mentions) for mentions in document.marker_positions] for document in documents],
        "pairs": [[list(pair) for pair in candidate_pairs(document.num_entities)] for document in documents],
    }


def published_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of one-hot targets [pairs, 2], averaged as the published code does."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets)
