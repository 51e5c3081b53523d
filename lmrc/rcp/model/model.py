"""The relation candidate model: encoder, localized context pooling and bilinear classifier (equations 1 to 6)."""

from __future__ import annotations

import json
import logging
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
from lmrc.rcp.data.type_markers import choose_type_markers, replace_opening_markers
from lmrc.rcp.data.windows import Windows
from lmrc.rcp.model.classifiers import CLASSIFIERS
from lmrc.rcp.model.losses import relation_loss
from lmrc.rcp.model.marker_attention import attention_rows
from lmrc.rcp.model.packed_encoder import PackedEncoder
from lmrc.rcp.model.pooling import pool_attention, pool_contexts, pool_entities
from lmrc.rcp.model.pretrained import KEY, load_pretrained
from lmrc.rcp.model.relation_head import RelationHead

logger = logging.getLogger(__name__)

# Ordered pairs of a document that are classified at once. Bounds the memory of documents with many entities.
BLOCK_PAIRS = 2**14
_REMEDY = "give the folder that training wrote, such as runs/<name>/best"


def check_folder(folder: Path) -> None:
    """Check that `folder` contains a saved model, without reading its weights.

    Raises:
        UserError: if it does not.
    """
    check_model(folder, "rcp")


def predicts_relations(folder: Path) -> bool:
    """Return True if the saved model in `folder` has a relation head."""
    return bool(predicted_relations(folder))


def predicted_relations(folder: Path) -> tuple[str, ...]:
    """Return the relation ids of the saved model in `folder`, in their order; none if it has no relation head."""
    options = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(KEY)
    return tuple(options.get("relations") or ()) if isinstance(options, dict) else ()


class RelationCandidateModel(nn.Module):
    """Classifier of ordered entity pairs: P(relation) of each pair of a document.

    Attributes:
        encoder: the pretrained encoder.
        classifier: the pair classifier, which converts its outputs to logits.
        relation_head: the relation head; None if the model only proposes pairs.
        relations: ids of the relations of the relation head, in its order.
        windows: window layout of the encoder.
        max_length: maximum number of word pieces per document.
        features: features besides the text.
        precision: precision of the training, which inference uses too.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        max_length: int = 1024,
        classifier: ClassifierKind = "bilinear",
        entity_types: Sequence[str] = (),
        sentence_distance: bool = False,
        type_markers: Mapping[str, int] | None = None,
        precision: ResolvedPrecision = "fp32",
        relations: Sequence[str] = (),
    ) -> None:
        """Create the model with a new classifier.

        Args:
            encoder: the encoder.
            max_length: maximum number of word pieces per document; lowered to what two windows hold.
            classifier: kind of the classifier.
            entity_types: entity types with an embedding.
            sentence_distance: if True, use sentence distances.
            type_markers: opening marker of each entity type (`choose_type_markers`); by default, `*` for all.
            precision: precision of the forward pass in training.
            relations: ids of the relations to predict; by default none, and there is no relation head.

        Raises:
            UserError: if the encoder does not provide the attention of its last layer.
        """
        super().__init__()
        self.encoder = encoder
        # The pooled [CLS] is not used, and parameters without gradients disturb ZeRO.
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None
        self._packed = PackedEncoder(encoder)
        self.windows = self._packed.windows
        self.max_length = min(max_length, self.windows.max_document_length)
        self.precision: ResolvedPrecision = precision
        self.features = Features(tuple(entity_types), sentence_distance, dict(type_markers or {}))
        self._classifier_kind: ClassifierKind = classifier
        self.classifier = CLASSIFIERS[classifier](encoder.config.hidden_size, self.features)
        self.relations = tuple(relations)
        # Created last, so that the other weights of a seed do not depend on it.
        self.relation_head = RelationHead(self.classifier.width, len(self.relations)) if self.relations else None

    @classmethod
    def from_encoder(
        cls,
        name: str,
        max_length: int = 1024,
        classifier: ClassifierKind = "bilinear",
        entity_types: Sequence[str] = (),
        sentence_distance: bool = False,
        marked_types: Sequence[str] = (),
        relations: Sequence[str] = (),
    ) -> tuple[RelationCandidateModel, PreTrainedTokenizerBase]:
        """Return a model to train, and its tokenizer.

        If `name` is a trained RCP model with a classifier of the same kind, the classifier is loaded too. Logs what
        was loaded, and the maximum length if it was lowered.

        Args:
            name: encoder: a folder, or a name on the hub or with the prefix embedded:.
            max_length: maximum number of word pieces per document.
            classifier: kind of the classifier.
            entity_types: entity types with an embedding.
            sentence_distance: if True, use sentence distances.
            marked_types: entity types with an opening marker of their own.
            relations: ids of the relations that the relation head predicts; by default there is none.

        Raises:
            UserError: if the encoder is not found, its weights do not fit, or it cannot read so many word pieces.
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
        windows = Windows.of(pretrained.encoder)
        longest = windows.fit(max_length)
        if longest < max_length:
            logger.info(
                f"model.max_length: {max_length} is lowered to {longest}, the word pieces that two windows of "
                f"{windows.size} positions hold"
            )
        type_markers = choose_type_markers(marked_types, tokenizer)
        model = cls(
            pretrained.encoder,
            longest,
            classifier,
            entity_types,
            sentence_distance,
            type_markers,
            relations=relations,
        )
        pretrained.init_new_layers(model.classifier, model.relation_head, model.options())
        return model, tokenizer

    @classmethod
    def load(cls, folder: Path) -> tuple[RelationCandidateModel, PreTrainedTokenizerBase]:
        """Return a saved model in evaluation mode, and its tokenizer.

        Raises:
            UserError: if the model is missing or damaged.
        """
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
        """Return the arguments of `__init__` that config.json stores for `load`."""
        return {
            "max_length": self.max_length,
            "classifier": self._classifier_kind,
            "entity_types": list(self.features.types),
            "sentence_distance": self.features.distance,
            "type_markers": dict(self.features.markers),
            "precision": self.precision,
            "relations": list(self.relations),
        }

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, weights: dict[str, Tensor] | None = None) -> None:
        """Write config.json, model.safetensors and the tokenizer's files.

        Args:
            folder: folder for the files.
            tokenizer: the tokenizer.
            weights: state dict to write; by default, that of the model.

        Raises:
            ValueError: if names or shapes of `weights` differ from the model's.
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
            # safetensors writes files that only their owner can read.
            (partial / "model.safetensors").chmod((partial / "config.json").stat().st_mode)
            # config.json is last, so a folder that contains it is complete.
            for file in sorted(partial.iterdir(), key=lambda file: file.name == "config.json"):
                file.replace(folder / file.name)

    def collate(self, documents: Sequence[EncodedDocument]) -> Batch:
        """Return a batch of CPU tensors for `forward`."""
        if self.features.markers:
            documents = [replace_opening_markers(document, self.features.markers) for document in documents]
        features = {name: torch.from_numpy(array) for name, array in self.features.batch_arrays(documents).items()}
        return {**collate(documents, self.windows, self.windows.first_position), **features}

    def forward(self, batch: Batch) -> Tensor:
        """Return the outputs of all layers for each pair; `split_outputs` separates them.

        Args:
            batch: a batch of `collate`, with "relations" (from `relation_targets`) to train the relation head.

        Returns:
            Outputs, float32 [pairs, outputs]: the ordered pairs (h, t) of each document, sorted by (h, t). With a
            relation head, the classifier's columns are followed by the pair's loss of the relation head if the batch
            has "relations", and else by the logits of the relations.
        """
        shapes: list[DocumentShape] = batch["shapes"]
        window_lengths = [length for shape in shapes for length in shape.window_lengths]
        hidden, query, key = self._packed(batch["input_ids"], batch["position_ids"], window_lengths)
        # Cast once for all windows: half precision is too coarse for attention rows.
        dtype = torch.promote_types(query.dtype, torch.float32)
        query, key = query.index_select(0, batch["marker_tokens"]).to(dtype), key.to(dtype)
        num_rows = [shape.num_mentions for shape in shapes for _ in shape.window_lengths]
        windows = zip(
            torch.split(hidden, window_lengths),
            torch.split(key, window_lengths),
            torch.split(query, num_rows),
            torch.split(batch["marker_mask"], num_rows),
            strict=True,
        )
        num_mentions = [shape.num_mentions for shape in shapes]
        columns = batch["marker_positions"], batch["mention_entity"], batch["mention_weight"].to(dtype)
        mentions = zip(*(torch.split(column, num_mentions) for column in columns), strict=True)

        marker_states, document_states, attentions = [], [], []
        for shape, (positions, mention_entity, mention_weight) in zip(shapes, mentions, strict=True):
            parts, part_rows = [], []
            for _ in shape.window_lengths:
                states, keys, queries, mask = next(windows)
                rows = attention_rows(queries, keys, self._packed.num_heads)
                parts.append(states)
                part_rows.append(rows if len(shape.window_lengths) == 1 else rows * mask[None, :, None])
            states, rows = self.windows.merge(parts, part_rows, shape.length)
            marker_states.append(states.index_select(0, positions))
            attentions.append(pool_attention(rows, mention_entity, mention_weight, shape.num_entities))
            document_states.append(states)
        with torch.autocast(hidden.device.type, enabled=False):
            embeddings = pool_entities(torch.cat(marker_states), batch["entity_mentions"], batch["entity_mention_mask"])

        num_entities = [shape.num_entities for shape in shapes]
        entities = torch.split(embeddings, num_entities)
        types = torch.split(batch["types"], num_entities) if self.features.types else [None] * len(shapes)
        documents = zip(document_states, attentions, entities, types, Pairs.of(batch), strict=True)
        outputs = torch.cat([self._classify(*document) for document in documents])
        return outputs.index_select(0, batch["pair_indices"])

    def split_outputs(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits of P(relation), [pairs], and those of each relation, [pairs, relations], if predicted."""
        if self.relation_head is None:
            return self.classifier.logits(outputs), None
        count = len(self.relations)
        return self.classifier.logits(outputs[:, :-count]), outputs[:, -count:]

    def _classify(
        self, states: Tensor, attention: Tensor, entities: Tensor, types: Tensor | None, pairs: Pairs
    ) -> Tensor:
        """Return the outputs of a document: all pairs (a, b), then all (b, a), [2 * pairs, outputs].

        Args:
            states: hidden states, [length, d].
            attention: attention of the entities, [length, entities, heads].
            entities: entity embeddings, [entities, d].
            types: type indices, [entities].
            pairs: the pairs a < b.
        """

        def classify_block(heads: slice, pairs: Pairs) -> Tensor:
            first, second = pairs.first, pairs.second
            contexts = pool_contexts(states, attention, heads, first, second)
            outputs: Tensor
            outputs, projections = self.classifier(entities, contexts, first, second, types, pairs.distances)
            if self.relation_head is None:
                return outputs
            logits = self.relation_head(*projections)
            if pairs.relations is not None:
                with torch.autocast(states.device.type, enabled=False):
                    logits = relation_loss(logits, pairs.relations).unsqueeze(2)
            return torch.cat([outputs, logits], 2)

        count = len(entities)
        step = max(1, BLOCK_PAIRS // max(count, 1))
        if count <= step:
            return classify_block(slice(0, count), pairs).flatten(0, 1)
        # Blocks of pairs (a, b) by entity a, each recomputed in the backward pass to bound its memory too.
        blocks = []
        for start in range(0, count, step):
            stop = min(start + step, count)
            block = pairs[_pairs_before(start, count) : _pairs_before(stop, count)]
            blocks.append(checkpoint(classify_block, slice(start, stop), block, use_reentrant=False))
        return torch.cat(blocks, 1).flatten(0, 1)


def _pairs_before(entity: int, num_entities: int) -> int:
    """Return the number of pairs a < b with a < `entity`."""
    return entity * num_entities - entity * (entity + 1) // 2


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
