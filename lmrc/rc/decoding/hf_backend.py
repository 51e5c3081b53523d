"""The `hf` decoding backend: a transformers model in this process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from peft import PeftModel
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmrc.common.errors import ConfigError
from lmrc.config.schema import DecodeOptions, PromptOptions
from lmrc.corpus.relation_schema import RelationSchema
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document
from lmrc.rc.data.collate import collate
from lmrc.rc.decoding.base import BackendInputs, QueryResult, likelihood_result, read_answers, score_result
from lmrc.rc.decoding.generate import generate
from lmrc.rc.decoding.grammar import Grammar
from lmrc.rc.decoding.line_tokens import merges_newlines
from lmrc.rc.decoding.row_limit import RowLimit
from lmrc.rc.decoding.scoring import relation_scores
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.model.fused_norm import fuse_norms
from lmrc.rc.model.kv_cache import PrefixCache
from lmrc.rc.model.lora import load_adapter, load_base, own_gpus
from lmrc.rc.model.merge import merge_weights
from lmrc.rc.model.packed_attention import IMPLEMENTATION, packed_forward
from lmrc.rc.prompts.query_builder import Query, prompt_ids
from lmrc.rc.prompts.questions import encode_questions
from lmrc.rc.prompts.templates import PROMPTS
from lmrc.training.precision import inference_precision
from lmrc.training.task import to_device


def load_lm(
    base: str, adapter: Path | None, metadata: AdapterMetadata, gpus: int = 1, device: str | None = None
) -> PreTrainedModel | PeftModel:
    """Load the base LM and its adapter for inference.

    An adapter is merged into the base, unless the base is quantized.

    Args:
        base: name or folder of the base LM.
        adapter: folder of the adapter, or None for the base LM alone.
        metadata: gives the precision and quantization of training. bf16 is used only if the hardware supports it.
        gpus: number of GPUs to split the layers over, if there are any.
        device: where to load it instead, such as cpu.

    Raises:
        ConfigError: there is no such model, or it does not fit the adapter or the GPUs.
    """
    precision = inference_precision(metadata.precision, "the LM")
    devices = own_gpus(gpus) if device is None else [torch.device(device)]
    model = load_base(base, IMPLEMENTATION, precision, metadata.quantization, devices)
    if metadata.quantization is not None:
        return model if adapter is None else load_adapter(model, adapter)
    if adapter is not None:
        try:
            model = merge_weights(load_adapter(model, adapter))
        except ValueError as error:
            # Not in the pre-flight: it shows when the weights are added.
            raise ConfigError(f"{adapter} cannot be added to {base}: {error}") from error
    fuse_norms(model)
    return model


class LocalBackend:
    """`DecodingBackend` with a transformers model, loaded by `load` or at the first query."""

    def __init__(
        self,
        load: Callable[[], PreTrainedModel | PeftModel],
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptOptions,
        decode: DecodeOptions,
        relations: RelationSet,
        document_of: Callable[[Query], Document],
        shared_prefix: Sequence[int],
        schema: RelationSchema | None = None,
    ) -> None:
        """Keep the arguments.

        Args:
            load: loads the model.
            document_of: returns the document of a query.
            shared_prefix: token ids that all prompts start with.
            schema: restricts the answers of the grammar; by default to all relations.
        """
        self._load, self._tokenizer = load, tokenizer
        self._prompt, self._decode = prompt, decode
        self._relations, self._document_of = relations, document_of
        self._schema = schema
        self._prefix_cache = PrefixCache(shared_prefix)
        self._limit = RowLimit(decode.batch_size)

    @classmethod
    def create(cls, inputs: BackendInputs) -> LocalBackend:
        """Create the backend for a run of classify."""
        decode = inputs.config.decode
        return cls(
            lambda: load_lm(inputs.base, inputs.config.rc, inputs.metadata, decode.gpus_per_worker),
            inputs.tokenizer,
            inputs.metadata.prompt,
            decode,
            inputs.relations,
            inputs.document_of,
            inputs.shared_prefix,
            inputs.schema,
        )

    @cached_property
    def _model(self) -> PreTrainedModel | PeftModel:
        if self._decode.mode != "free":
            # Before the weights, which take minutes.
            merges_newlines(self._tokenizer)
        return self._load().eval()

    def load(self) -> None:
        """Load the model.

        Raises:
            UserError: the mode is not free, and the ids of an answer line depend on the next line.
        """
        _ = self._model

    def _grammar(self, query: Query) -> Grammar:
        document = self._document_of(query)
        return Grammar(query, document, self._relations, self._prompt.kind, self._tokenizer, self._schema)

    def answer(self, queries: Iterable[Query]) -> Iterator[QueryResult]:
        """Yield one result per query, in the order of the queries."""
        if PROMPTS[self._prompt.kind].asks_relations:
            yield from map(self._likelihood, queries)
            return
        if self._decode.mode == "score":
            for _, results in self._limit.run(queries, self._score, self._prefix_cache.clear):
                yield from results
            return
        generations = generate(
            self._model,
            self._tokenizer,
            queries,
            self._decode,
            self._grammar,
            self._prefix_cache,
            self._prompt.template,
            self._limit,
        )
        yield from read_answers(generations, self._document_of, self._relations, self._prompt, self._decode)

    @torch.inference_mode()
    def _likelihood(self, query: Query) -> QueryResult:
        """Return the probability of the tail's name in each line of a query, in a pass of its own.

        A query of a thousand tokens fills a GPU, and its scores do not depend on a batch.
        """
        example = encode_questions(query, self._tokenizer, self._prompt.template)
        assert example.questions is not None
        batch = to_device(dict(collate([example])), next(self._model.parameters()).device)
        logits = packed_forward(
            self._model, batch["input_ids"], batch["positions"], batch["layout"], batch["logit_positions"]
        ).float()
        log_probabilities = -functional.cross_entropy(logits, batch["targets"], reduction="none").double()
        names = torch.split(log_probabilities.cpu(), example.questions.name_tokens.tolist())
        scores = [math.exp(name.sum().item()) for name in names]
        return likelihood_result(query, scores, self._decode.threshold)

    @torch.inference_mode()
    def _score(self, queries: Sequence[Query]) -> list[QueryResult]:
        relations = PROMPTS[self._prompt.kind].answer_set(self._relations).relations
        prompts = [prompt_ids(query.prompt, self._tokenizer, self._prompt.template) for query in queries]
        grammars = [self._grammar(query) for query in queries]
        scores_by_query = relation_scores(self._model, prompts, grammars, self._prefix_cache)
        return [
            score_result(query, relations, scores, self._decode.threshold)
            for query, scores in zip(queries, scores_by_query, strict=True)
        ]
