"""The relation candidate model: encoder, localized context pooling, bilinear classifier (equations 1 to 6)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lmrc.common.errors import UserError
from lmrc.common.input_checks import check_model
from lmrc.config.schema import ClassifierKind, ResolvedPrecision
from lmrc.rcp.data.collate import Batch, DocumentShape, Pairs, collate
from lmrc.rcp.data.features import Features
from lmrc.rcp.data.tokenization import EncodedDocument
from lmrc.rcp.data.type_markers import marked, type_words
from lmrc.rcp.data.windows import Windows
from lmrc.rcp.model.classifiers import CLASSIFIERS
from lmrc.rcp.model.dropout import replace_dropout
from lmrc.rcp.model.marker_attention import attention_rows
from lmrc.rcp.model.packed_encoder import PackedEncoder
from lmrc.rcp.model.pooling import pool_attention, pool_contexts, pool_entities
from lmrc.rcp.model.pretrained import KEY, load_pretrained
from lmrc.rcp.model.recompute import replace_activations
from lmrc.rcp.model.relation_head import AuxiliaryRelationHead
from lmrc.training.distributed import say

# Pairs of one document that are classified at once: what bounds the memory of documents with many entities.
BLOCK_PAIRS = 2**14
_REMEDY = "give the folder that training wrote, such as runs/<name>/best"


def check_folder(folder: Path) -> None:
    """Check that a model was saved in `folder`, without reading its weights. Raises UserError if none was."""
    check_model(folder, "rcp")


class RelationCandidateModel(nn.Module):
    """Which ordered entity pairs of a document have a relation: one logit of P(relation) a pair."""

    def __init__(
        self,
        encoder: PreTrainedModel,
        max_length: int = 1024,
        classifier: ClassifierKind = "bilinear",
        entity_types: Sequence[str] = (),
        sentence_distance: bool = False,
        type_markers: Mapping[str, int] | None = None,
        precision: ResolvedPrecision = "fp32",
    ) -> None:
        """`max_length`: most word pieces a document; see `self.max_length` for what two windows allow.

        `entity_types`: those it learns an embedding of; `sentence_distance`: whether it looks at distances;
        `type_markers`: the word pieces that open mentions of each type (`type_words`); none: `*`.

        `precision`: that of the forward pass in training, for whoever proposes to do likewise.

        Raises UserError where the encoder cannot give the attention of its last layer.
        """
        super().__init__()
        self.encoder = encoder
        # Nobody reads the pooled first token; parameters without gradients would disturb ZeRO.
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None
        replace_dropout(encoder)
        replace_activations(encoder)
        self._packed = PackedEncoder(encoder)
        self.windows = self._packed.windows
        self.max_length = min(max_length, self.windows.longest)
        self.kind: ClassifierKind = classifier
        self.precision: ResolvedPrecision = precision
        self.features = Features(tuple(entity_types), sentence_distance, dict(type_markers or {}))
        self.classifier = CLASSIFIERS[classifier](encoder.config.hidden_size, self.features)
        # There only while training, and never saved.
        self.relation_head: AuxiliaryRelationHead | None = None

    @classmethod
    def from_encoder(
        cls,
        name: str,
        max_length: int = 1024,
        classifier: ClassifierKind = "bilinear",
        entity_types: Sequence[str] = (),
        sentence_distance: bool = False,
        marked_types: Sequence[str] = (),
    ) -> tuple[RelationCandidateModel, PreTrainedTokenizerBase]:
        """Return the model that a training starts from, and its tokenizer.

        The classifier is new, unless `name` is a model that `save` wrote: then it is taken too if it is of this kind.
        Prints what was taken, and the `max_length` if the encoder reads less.

        Args:
            name: the encoder: a folder, a hub or embedded: name.
            max_length: most word pieces of a document.
            classifier: kind of the classifier.
            entity_types: those it has an embedding of.
            sentence_distance: whether it looks at distances.
            marked_types: those whose mentions are opened by a word of their own.

        Raises:
            UserError: if the encoder is not found, its weights do not fit it, or it cannot read so many word pieces.
        """
        from lmrc.pretrained.packaged import resolve

        source = resolve(name)
        try:
            pretrained = load_pretrained(source, name)
            tokenizer = AutoTokenizer.from_pretrained(source)
        except UserError:
            raise
        except (OSError, ValueError) as error:
            # Not in the pre-flight: the weights are read at the start; the pre-flight looks for the files.
            raise UserError(
                f"model.encoder: cannot load {name!r} ({_first_line(error)}); give a folder with config.json, weights "
                "and tokenizer, a name on the Hugging Face hub (this machine must reach it or have it cached), or "
                "embedded:minilm"
            ) from error
        words = type_words(marked_types, tokenizer)
        windows = Windows.of(pretrained.encoder)
        longest = windows.fit(max_length)
        if longest < max_length:
            say(
                f"model.max_length: {max_length} is lowered to {longest}, which is what two windows of this encoder's "
                f"{windows.size} positions hold"
            )
        model = cls(pretrained.encoder, longest, classifier, entity_types, sentence_distance, words)
        pretrained.start(model.classifier, model.options())
        return model, tokenizer

    @classmethod
    def load(cls, folder: Path) -> tuple[RelationCandidateModel, PreTrainedTokenizerBase]:
        """The model and tokenizer that `save` wrote, in evaluation mode. Raises UserError where they are not there."""
        check_folder(folder)
        try:
            config = AutoConfig.from_pretrained(folder)
            options = getattr(config, KEY, None)
            if options is None:
                # Not in the pre-flight: the weights are read at the start; the pre-flight looks for the files.
                raise UserError(
                    f"{folder}: config.json is not a relation candidate model's ({KEY!r} missing); {_REMEDY}"
                )
            model = cls(AutoModel.from_config(config, dtype=torch.float32), **options)
            model.load_state_dict(load_file(folder / "model.safetensors"))
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except UserError:
            raise
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            # Not in the pre-flight: the weights are read at the start; the pre-flight looks for the files.
            raise UserError(f"{folder}: damaged relation candidate model ({_first_line(error)}); {_REMEDY}") from error
        return model.eval(), tokenizer

    def options(self) -> dict[str, Any]:
        """Return what `load` gives to `__init__` again, as config.json keeps it."""
        return {
            "max_length": self.max_length,
            "classifier": self.kind,
            "entity_types": list(self.features.types),
            "sentence_distance": self.features.distance,
            "type_markers": dict(self.features.markers),
            "precision": self.precision,
        }

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, weights: dict[str, Tensor] | None = None) -> None:
        """Write config.json, model.safetensors and the tokenizer's files; `weights` in place of the model's own.

        Without those of the relation task. Raises ValueError where `weights` are not those of the whole model.
        """
        own = _lasting(self.state_dict())
        state = own if weights is None else _lasting(weights)
        wrong = [name for name in own.keys() | state.keys() if name not in state or name not in own]
        wrong += [
            name for name in own.keys() & state.keys() if own[name].shape != state[name].shape and own[name].numel()
        ]
        if wrong:
            raise ValueError(f"weights do not fit the relation candidate model: {', '.join(sorted(wrong))}")
        folder.mkdir(parents=True, exist_ok=True)
        setattr(self.encoder.config, KEY, self.options())
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
        if self.features.markers:
            documents = [marked(document, self.features.markers) for document in documents]
        features = {name: torch.from_numpy(array) for name, array in self.features.arrays(documents).items()}
        return {**collate(documents, self.windows, self.windows.first_position), **features}

    def forward(self, batch: Batch) -> Tensor:
        """What the classifier says of a batch of `collate`; `self.classifier` turns it into a loss or into logits.

        Returns float32 [pairs, outputs]: for each document in turn its ordered pairs (h, t), h != t, sorted by (h, t).
        Where the batch has "relations" (of `relation_targets`) a last column is the pair's loss of `relation_head`.
        """
        layout: list[DocumentShape] = batch["layout"]
        sizes = [width for document in layout for width in document.windows]
        hidden, query, key = self._packed(batch["input_ids"], batch["position_ids"], sizes)
        windows = iter(zip(torch.split(hidden, sizes), torch.split(key, sizes), strict=True))
        rows = [document.mentions for document in layout for _ in document.windows]
        queries = torch.split(query.index_select(0, batch["rows"]), rows)
        wanted = iter(zip(queries, torch.split(batch["inside"], rows), strict=True))
        mentions = [document.mentions for document in layout]
        markers, owners, shares = (torch.split(batch[name], mentions) for name in ("markers", "owner", "share"))

        openings, states, attentions = [], [], []
        for number, document in enumerate(layout):
            parts, attention = [], []
            for _ in document.windows:
                part, keys = next(windows)
                own, inside = next(wanted)
                found = attention_rows(own, keys, self._packed.heads)
                parts.append(part)
                attention.append(found if len(document.windows) == 1 else found * inside[None, :, None])
            whole, joined = self.windows.join(parts, attention, document.length)
            openings.append(whole.index_select(0, markers[number]))
            attentions.append(pool_attention(joined, owners[number], shares[number], document.entities))
            states.append(whole)
        with torch.autocast(hidden.device.type, enabled=False):
            embeddings = pool_entities(torch.cat(openings), batch["mentions"], batch["present"])

        orders = torch.split(batch["order"], [2 * document.unordered for document in layout])
        counts = [document.entities for document in layout]
        entities = torch.split(embeddings, counts)
        types = torch.split(batch["types"], counts) if self.features.types else [None] * len(counts)
        documents = zip(states, attentions, entities, types, Pairs.of(batch), strict=True)
        outputs = [
            self._classify(*document).index_select(0, order) for document, order in zip(documents, orders, strict=True)
        ]
        return torch.cat(outputs)

    def _classify(
        self, states: Tensor, attention: Tensor, entities: Tensor, types: Tensor | None, pairs: Pairs
    ) -> Tensor:
        """One document: outputs of all pairs (a, b), and then of all (b, a).

        states: [length, d]; attention: [length, entities, heads]; entities: [entities, d]; types: [entities]. Returns
        [2 * pairs, outputs].
        """

        def block(heads: slice, pairs: Pairs) -> Tensor:
            first, second = pairs.first, pairs.second
            contexts = pool_contexts(states, attention, heads, first, second).to(entities.dtype)
            outputs: Tensor
            outputs, sides = self.classifier(entities, contexts, first, second, types, pairs.distances)
            if self.relation_head is None or pairs.relations is None:
                return outputs
            return torch.cat([outputs, self.relation_head(*sides, pairs.relations).unsqueeze(2)], 2)

        count = len(entities)
        step = max(1, BLOCK_PAIRS // max(count, 1))
        if count <= step:
            return block(slice(0, count), pairs).flatten(0, 1)
        # The pairs (a, b) of the entities a in turn, so many that memory stays bounded, in the backward pass too.
        blocks = []
        for start in range(0, count, step):
            stop = min(start + step, count)
            part = pairs.part(slice(_pairs_before(start, count), _pairs_before(stop, count)))
            blocks.append(checkpoint(block, slice(start, stop), part, use_reentrant=False))
        return torch.cat(blocks, 1).flatten(0, 1)


def _pairs_before(entity: int, entities: int) -> int:
    """Number of pairs a < b with a < `entity`."""
    return entity * entities - entity * (entity + 1) // 2


def _lasting(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not name.startswith("relation_head.")}


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
