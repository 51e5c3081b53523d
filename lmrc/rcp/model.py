"""The relation candidate model: encoder, localized context pooling, bilinear classifier (equations 1 to 6)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lmrc.errors import UserError
from lmrc.rcp.attention import attention_rows, caught, last_self_attention
from lmrc.rcp.batching import Batch, collate
from lmrc.rcp.markers import EncodedDocument
from lmrc.rcp.pooling import pool_contexts, pool_entities
from lmrc.rcp.windows import Windows

# Our part of config.json, beside the encoder's own keys.
KEY = "relation_candidate_proposal"
_REMEDY = "give the folder that training wrote, such as runs/<name>/best"


def check_folder(folder: Path) -> None:
    """Raises UserError where no model was saved in `folder`; its weights are not looked at."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no relation candidate model (config.json is missing); {_REMEDY}")


class PairClassifier(nn.Module):
    """Equations 5 and 6. Gives the logit of P(relation), not of the P(NA) = 1 - P(relation) of equation 6."""

    def __init__(self, d: int) -> None:
        super().__init__()
        # W_s and W_c of both sides; the two W_c are one product. Together they are nn.Linear(2d, d) a side.
        self.head = nn.Linear(d, d)
        self.tail = nn.Linear(d, d)
        self.context = nn.Linear(d, 2 * d, bias=False)
        for parameter in (*self.head.parameters(), *self.tail.parameters(), *self.context.parameters()):
            nn.init.uniform_(parameter, -((2 * d) ** -0.5), (2 * d) ** -0.5)
        # z^T W z' sums d^2 products of |z| < 1: logits start around 1 at most, whatever d (nn.Bilinear's grow with
        # sqrt(d)).
        self.bilinear = nn.Linear(d, d, bias=False)
        nn.init.normal_(self.bilinear.weight, std=1 / d)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, entities: Tensor, contexts: Tensor, first: Tensor, second: Tensor, order: Tensor) -> Tensor:
        """Logits of ordered pairs.

        entities: [entities, d]; contexts: [unordered, d], of the pairs of entities (first, second), each [unordered];
        order: [pairs], which of (first, second) followed by (second, first) to return. Returns [pairs], float32.
        """
        context_head, context_tail = self.context(contexts).repeat(2, 1).chunk(2, dim=1)
        z_head = torch.tanh(self.head(entities).index_select(0, torch.cat([first, second])) + context_head)
        z_tail = torch.tanh(self.tail(entities).index_select(0, torch.cat([second, first])) + context_tail)
        with torch.autocast(entities.device.type, enabled=False):
            exact = torch.promote_types(z_head.dtype, torch.float32)
            logits = (z_head.to(exact) * self.bilinear(z_tail.to(exact))).sum(1) + self.bias
        ordered: Tensor = logits.index_select(0, order)
        return ordered


class RelationCandidateModel(nn.Module):
    """Which ordered entity pairs of a document have a relation: one logit of P(relation) a pair."""

    def __init__(self, encoder: PreTrainedModel, max_length: int = 1024) -> None:
        """`max_length`: most word pieces a document; see `self.max_length` for what two windows allow.

        Raises UserError where the encoder cannot give the attention of its last layer.
        """
        super().__init__()
        self.encoder = encoder
        # Nobody reads the pooled first token; parameters without gradients would disturb ZeRO.
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None
        attention = last_self_attention(encoder)
        # In a list, so that the layer is not registered a second time.
        self._last_attention = [attention]
        table = _position_embeddings(encoder)
        # RoBERTa numbers positions from its padding index + 1, and separates two texts by two tokens.
        padding = table.padding_idx
        self.windows = Windows(
            size=table.num_embeddings - (0 if padding is None else padding + 1), separators=1 if padding is None else 2
        )
        self.max_length = min(max_length, self.windows.longest)
        self.classifier = PairClassifier(encoder.config.hidden_size)

    @classmethod
    def from_encoder(cls, name: str, max_length: int = 1024) -> tuple[RelationCandidateModel, PreTrainedTokenizerBase]:
        """An untrained classifier on a pretrained encoder (folder, hub or embedded: name), and the encoder's tokenizer.

        Raises UserError where the encoder is not found or does not fit.
        """
        from lmrc.embedded import resolve

        source = resolve(name)
        try:
            config = AutoConfig.from_pretrained(source)
            # Dropout of attention weights rules out the fast attention kernels, and would drop pooled rows as well.
            config.attention_probs_dropout_prob = 0.0
            encoder = AutoModel.from_pretrained(source, config=config, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise UserError(
                f"model.encoder: cannot load {name!r} ({_first_line(error)}); give a folder with config.json, weights "
                "and tokenizer, a name on the Hugging Face hub (this machine must reach it or have it cached), or "
                "embedded:minilm"
            ) from error
        return cls(encoder, max_length), tokenizer

    @classmethod
    def load(cls, folder: Path) -> tuple[RelationCandidateModel, PreTrainedTokenizerBase]:
        """The model and tokenizer that `save` wrote, in evaluation mode. Raises UserError where they are not there."""
        check_folder(folder)
        try:
            config = AutoConfig.from_pretrained(folder)
            options = getattr(config, KEY, None)
            if options is None:
                raise UserError(
                    f"{folder}: config.json is not a relation candidate model's ({KEY!r} missing); {_REMEDY}"
                )
            model = cls(AutoModel.from_config(config, dtype=torch.float32), **options)
            model.load_state_dict(load_file(folder / "model.safetensors"))
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except UserError:
            raise
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{folder}: damaged relation candidate model ({_first_line(error)}); {_REMEDY}") from error
        return model.eval(), tokenizer

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, weights: dict[str, Tensor] | None = None) -> None:
        """Write config.json, model.safetensors and the tokenizer's files; `weights` in place of the model's own.

        Raises ValueError where `weights` are not those of the whole model.
        """
        own = self.state_dict()
        state = own if weights is None else weights
        wrong = [name for name in own.keys() | state.keys() if name not in state or name not in own]
        wrong += [
            name for name in own.keys() & state.keys() if own[name].shape != state[name].shape and own[name].numel()
        ]
        if wrong:
            raise ValueError(f"weights do not fit the relation candidate model: {', '.join(sorted(wrong))}")
        folder.mkdir(parents=True, exist_ok=True)
        setattr(self.encoder.config, KEY, {"max_length": self.max_length})
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as name:
            partial = Path(name)
            self.encoder.config.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            save_file(
                {name: value.detach().float().cpu().contiguous() for name, value in state.items()},
                partial / "model.safetensors",
                metadata={"format": "pt"},
            )
            # config.json last: a folder that has it has all.
            for file in sorted(partial.iterdir(), key=lambda file: file.name == "config.json"):
                file.replace(folder / file.name)

    def collate(self, documents: Sequence[EncodedDocument]) -> Batch:
        """One batch of CPU tensors for `forward`."""
        return collate(documents, self.windows, self.encoder.config.pad_token_id)

    def forward(self, batch: Batch) -> Tensor:
        """Logits of P(relation) of a batch of `collate`.

        Returns float32 [pairs]: for each document in turn its ordered pairs (h, t), h != t, sorted by (h, t).
        """
        with caught(self._last_attention[0]) as seen:
            hidden = self.encoder(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).last_hidden_state  # [windows, width, d]
        heads = self.encoder.config.num_attention_heads
        rows = attention_rows(seen["query"], seen["key"], batch["attention_mask"], batch["rows"], heads)
        rows = rows * batch["inside"][:, :, None, None]  # [windows, most markers, heads, width]

        openings, contexts = [], []
        window = mention = entity = pair = 0
        for document in batch["documents"]:
            windows = slice(window, window := window + document["windows"])
            mentions = slice(mention, mention := mention + document["mentions"])
            entities = slice(entity, entity := entity + document["entities"])
            pairs = slice(pair, pair := pair + document["pairs"] // 2)
            states, attention = self.windows.join(
                hidden[windows], rows[windows, : document["mentions"]], document["length"]
            )  # [length, d], [mentions, heads, length]
            openings.append(states.index_select(0, batch["markers"][mentions]))
            with torch.autocast(hidden.device.type, enabled=False):
                average = batch["average"][entities, mentions].to(attention.dtype)
                attention = (average @ attention.flatten(1)).view(document["entities"], heads, document["length"])
            first, second = batch["first"][pairs] - entities.start, batch["second"][pairs] - entities.start
            contexts.append(pool_contexts(states, attention, first, second))
        with torch.autocast(hidden.device.type, enabled=False):
            embeddings = pool_entities(torch.cat(openings), batch["mentions"], batch["present"])
        logits: Tensor = self.classifier(
            embeddings, torch.cat(contexts).to(embeddings.dtype), batch["first"], batch["second"], batch["order"]
        )
        return logits


def _position_embeddings(encoder: PreTrainedModel) -> nn.Embedding:
    try:
        table = encoder.get_submodule("embeddings.position_embeddings")
    except AttributeError:
        table = None
    if not isinstance(table, nn.Embedding):
        raise UserError(
            f"the encoder {type(encoder).__name__} has no table of positions, which tells how long a window is; "
            "choose a BERT- or RoBERTa-like encoder in model.encoder"
        )
    return table


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
